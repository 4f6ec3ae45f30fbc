//! What a refused caller is answered, and what the refusal is counted as.

use espalier_proto::{ApiError, ErrorKind};
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::json;
use tonic::Status;
use tonic::body::Body;

/// Reasons of refusals, and what each is counted as.
const REASONS: [(&str, &str); 23] = [
    ("NO_CREDENTIALS", "no_credentials"),
    ("TOKEN_UNKNOWN", "token_unknown"),
    ("TOKEN_INVALID", "token_invalid"),
    ("TOKEN_EXPIRED", "token_expired"),
    ("TOKEN_EARLY", "token_early"),
    ("TOKEN_FOREIGN", "token_foreign"),
    ("KEYS_AWAY", "keys_away"),
    ("ROLE_DENIED", "role_denied"),
    ("CERTIFICATE_VOID", "certificate_void"),
    ("ACCESS_CHANGED", "access_changed"),
    ("NAMESPACE_DENIED", "namespace_denied"),
    ("NAME_UNAVAILABLE", "name_unavailable"),
    ("CROSS_SITE", "cross_site"),
    ("FOREIGN_NAME", "foreign_name"),
    ("NO_ORIGIN", "no_origin"),
    ("WRONG_WORKER", "wrong_worker"),
    ("CALLER_UNKNOWN", "caller_unknown"),
    ("TOO_FAST", "too_fast"),
    ("TOO_MANY_CALLS", "too_many_calls"),
    ("TOO_MANY_CALLER_WATCHES", "too_many_caller_watches"),
    ("TOO_MANY_WATCHES", "too_many_watches"),
    ("JOB_TOO_LARGE", "job_too_large"),
    ("HELLO_EXPECTED", "hello_expected"),
];

/// What an error is counted as; none: it refuses nobody, it is an answer.
pub(super) fn counted(error: &ApiError) -> Option<&'static str> {
    // gRPC's own: the message is larger than --max-message-bytes.
    if error.kind == ErrorKind::OutOfRange && error.reason.is_empty() {
        return Some("message_too_large");
    }
    let known = REASONS.iter().find(|(reason, _)| *reason == error.reason);
    known.map(|(_, counted)| *counted)
}

/// The answer: a status in headers alone for callers of gRPC, JSON for all others.
pub(super) fn answer(error: ApiError, is_grpc: bool) -> Response<Body> {
    if is_grpc {
        return Status::from(error).into_http();
    }
    let status = match error.kind {
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = Response::new(Body::new(Full::<Bytes>::from(json(&error))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// An error for those who speak JSON.
pub(super) fn json(error: &ApiError) -> String {
    json!({"error": {
        "code": error.kind.as_str(),
        "message": error.message,
        "reason": error.reason,
        "metadata": error.metadata,
        "violations": [],
    }})
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: each kind of client reads the refusal in its own words.
    #[test]
    fn answers() {
        let error = || {
            ApiError::new(
                ErrorKind::PermissionDenied,
                "ROLE_DENIED",
                "only admins may",
            )
        };
        let response = answer(error(), true);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert!(response.headers().contains_key("grpc-status-details-bin"));
        let response = answer(error(), false);
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(counted(&error()), Some("role_denied"));
        let answered = ApiError::new(ErrorKind::NotFound, "JOB_NOT_FOUND", "");
        assert_eq!(counted(&answered), None);
    }
}
