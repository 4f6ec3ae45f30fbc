//! The gRPC services as JSON over HTTP: the same calls, in this process and as the same caller.
//!
//! What stands before the services, above all who calls, is in the extensions of the request and goes
//! with it. A stream is answered with one message a line, and ends with an error as its last line if
//! it breaks.

use super::refusal::{self, Refusal, answer};
use super::{media_type, site};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use espalier_proto::json::{Method, Raw, Services};
use espalier_proto::{ApiError, ErrorKind};
use http_body_util::LengthLimitError;
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_stream::StreamExt;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;

/// How long the body of a call may take to come.
const BODY: Duration = Duration::from_secs(30);
/// After so long without a message a stream has an empty line: a client that has vanished is found out,
/// and one that is there knows that it is not forgotten.
const BEAT: Duration = Duration::from_secs(15);

/// Passes calls on.
pub(super) struct Gateway {
    pub(super) services: Services,
    /// The gRPC services, as they are before anything stands before them.
    pub(super) grpc: Router,
    pub(super) max_body: usize,
}

/// `POST /api/SERVICE/METHOD`.
pub(super) async fn call(
    State(gateway): State<Arc<Gateway>>,
    Path((service, method)): Path<(String, String)>,
    request: Request,
) -> Response {
    // Who may call is decided by the path as it was written: one that is written otherwise is no call.
    if request.uri().path() != format!("/api/{service}/{method}") {
        return Refusal::from(unknown(&service, &method)).into_response();
    }
    let answered = gateway.call(&service, &method, request).await;
    answered.unwrap_or_else(IntoResponse::into_response)
}

fn unknown(service: &str, method: &str) -> ApiError {
    let message = format!(
        "there is no call {service}/{method}; those of JobService and ClusterService are in \
         espalier/v1/job.proto and cluster.proto"
    );
    ApiError::new(ErrorKind::NotFound, "METHOD_UNKNOWN", message)
}

impl Gateway {
    async fn call(
        &self,
        service: &str,
        method: &str,
        request: Request,
    ) -> Result<Response, Refusal> {
        let Some(method) = self.services.method(service, method).cloned() else {
            return Err(unknown(service, method).into());
        };
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        site::require_origin(&parts.headers)?;
        let body = read(&parts.headers, body, self.max_body).await?;
        let message = method.request(&body)?;
        let request = tonic::Request::from_parts(MetadataMap::new(), parts.extensions, message);
        let path = method.path().parse::<PathAndQuery>().map_err(|error| {
            let message = format!("{} is no path: {error}; this is a bug", method.path());
            ApiError::new(ErrorKind::Internal, "ODD_PATH", message)
        })?;
        // The services limit what they answer themselves. A router is always ready.
        let mut grpc = Grpc::new(self.grpc.clone()).max_decoding_message_size(usize::MAX);
        if method.streams() {
            let answers = grpc.server_streaming(request, path, Raw).await?;
            return Ok(lines(method, answers.into_inner()));
        }
        let message = grpc.unary(request, path, Raw).await?.into_inner();
        Ok(answer(StatusCode::OK, method.answer(&message)?))
    }
}

/// A stream of messages as lines.
fn lines(method: Method, answers: Streaming<Bytes>) -> Response {
    let mut beat = interval_at(Instant::now() + BEAT, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut over = false;
    let lines = answers.timeout_repeating(beat).map_while(move |answer| {
        if over {
            return None;
        }
        let mut line = match answer {
            Err(_quiet) => Vec::new(),
            Ok(answer) => {
                let json = answer
                    .map_err(ApiError::from)
                    .and_then(|message| method.answer(&message));
                over = json.is_err();
                json.unwrap_or_else(|error| refusal::body(&error))
            }
        };
        line.push(b'\n');
        Some(Ok::<_, Infallible>(line))
    });
    let mut response = answer(StatusCode::OK, Vec::new());
    *response.body_mut() = Body::from_stream(lines);
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/x-ndjson");
    headers.insert(header::CONTENT_TYPE, kind);
    // Proxies that collect answers before they pass them on would make a watch useless.
    let at_once = HeaderName::from_static("x-accel-buffering");
    headers.insert(at_once, HeaderValue::from_static("no"));
    response
}

/// Refuses bodies of another type: foreign pages can send those without asking.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    if media_type(headers).is_some_and(|kind| kind == "application/json") {
        return Ok(());
    }
    let error = ApiError::new(
        ErrorKind::InvalidArgument,
        "NOT_JSON",
        "calls need `content-type: application/json`",
    );
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error))
}

/// The body of a call.
pub(super) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Refusal> {
    let too_large = || {
        let error = ApiError::new(
            ErrorKind::ResourceExhausted,
            "BODY_TOO_LARGE",
            format!("the body is larger than {limit} bytes, the most that this coordinator takes"),
        )
        .with("limit", limit);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    let told = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error))
            if error
                .source()
                .is_some_and(|cause| cause.is::<LengthLimitError>()) =>
        {
            Err(too_large())
        }
        Ok(Err(error)) => {
            let message = format!("the body broke off: {error}");
            Err(ApiError::new(ErrorKind::InvalidArgument, "BODY_BROKEN", message).into())
        }
        Err(_) => {
            let error = ApiError::new(
                ErrorKind::DeadlineExceeded,
                "BODY_TOO_SLOW",
                format!("the body did not come within {BODY:?}"),
            );
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, error))
        }
    }
}
