//! What errors look like to those who speak JSON.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use espalier_proto::{ApiError, ErrorKind};
use serde_json::json;
use tonic::Status;

/// An error as an answer.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: ApiError,
}

impl Refusal {
    /// With another status than that of the error's code.
    pub(super) fn new(status: StatusCode, error: ApiError) -> Self {
        Self { status, error }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self {
            status: status(error.kind),
            error,
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::from(ApiError::from(status))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = answer(self.status, body(&self.error));
        // For what stands before everything: it counts refusals and writes them down.
        response.extensions_mut().insert(Status::from(self.error));
        response
    }
}

/// An answer in JSON, which nobody keeps.
pub(super) fn answer(status: StatusCode, json: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let never = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, never);
    response
}

/// The JSON of an error.
pub(super) fn body(error: &ApiError) -> Vec<u8> {
    let violations = error
        .violations
        .iter()
        .map(|violation| json!({ "field": violation.field, "description": violation.message }));
    let error = json!({
        "error": {
            "code": error.kind.as_str(),
            "message": error.message,
            "reason": error.reason,
            "metadata": error.metadata,
            "violations": violations.collect::<Vec<_>>(),
        }
    });
    error.to_string().into_bytes()
}

/// The status of a code, as google.rpc.Code says.
fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::OutOfRange | ErrorKind::FailedPrecondition => {
            StatusCode::BAD_REQUEST
        }
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::Aborted => StatusCode::CONFLICT,
        ErrorKind::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // 499, which has no name: the client closed the request.
        ErrorKind::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        ErrorKind::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Internal | ErrorKind::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
