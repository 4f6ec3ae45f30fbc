//! The live page, and what it talks to, on the port of the gRPC services.
//!
//! | path | file |
//! | --- | --- |
//! | `GET /` and the page's parts | `assets.rs` |
//! | `POST /api/SERVICE/METHOD` | `gateway.rs`: the same services as JSON |
//! | `/api/session` | `session.rs`: a token becomes a cookie |
//!
//! `site.rs` answers no pages but this coordinator's own; `refusal.rs` is what errors look like.
//! Nothing here decides who may do what: callers go with their requests to the services.

mod assets;
mod gateway;
mod refusal;
mod session;
mod site;

pub(crate) use session::{Check, check};
pub(crate) use site::Site;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use espalier_proto::json::{JsonError, Services};
use espalier_proto::{ApiError, ErrorKind};
use gateway::Gateway;
use refusal::Refusal;
use std::sync::Arc;
use tonic::Status;
use tonic::service::Routes;

/// The services that the gateway speaks to. Workers have no business with JSON.
const SERVICES: [&str; 2] = ["JobService", "ClusterService"];

/// Headers of everything but gRPC: nothing is loaded from elsewhere, and nobody frames the page.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
         object-src 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// What the page needs to know.
pub(crate) struct Page {
    /// Whose requests from browsers are answered.
    pub(crate) site: Site,
    /// Largest body of a call, in bytes.
    pub(crate) max_body: usize,
    /// Whether a token is one; none: nobody is asked for any.
    pub(crate) check: Option<Check>,
}

/// The gRPC services with the page beside them.
///
/// # Errors
///
/// The protos of this binary are broken.
pub(crate) fn beside(grpc: Routes, page: Page) -> Result<Routes, JsonError> {
    let grpc = grpc.into_axum_router();
    let gateway = Arc::new(Gateway {
        services: Services::new(&SERVICES)?,
        grpc: grpc.clone(),
        max_body: page.max_body,
    });
    let sessions = Arc::new(session::Sessions { check: page.check });
    let calls = Router::new().route(
        "/api/{service}/{method}",
        post(gateway::call).fallback(only_post).with_state(gateway),
    );
    let session = Router::new().route(
        "/api/session",
        post(session::log_in)
            .delete(session::log_out)
            .fallback(only_post)
            .with_state(sessions),
    );
    let pages = assets::router()
        .merge(calls)
        .merge(session)
        .layer(map_response(secured));
    let all = grpc
        .reset_fallback()
        .route_layer(from_fn(only_grpc))
        .merge(pages)
        .fallback(unknown)
        .layer(from_fn_with_state(page.site, site::guard));
    Ok(Routes::from(all))
}

/// Adds the headers of everything that browsers read.
async fn secured(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        let name = HeaderName::from_static(name);
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// Lets nothing but gRPC through to the gRPC services: a foreign page may send them a form or plain
/// text without asking, but never this content type.
async fn only_grpc(request: Request, next: Next) -> Response {
    if is_grpc(request.headers()) {
        return next.run(request).await;
    }
    let error = ApiError::new(
        ErrorKind::InvalidArgument,
        "NOT_GRPC",
        "this path takes `content-type: application/grpc`; for JSON, call /api/SERVICE/METHOD",
    );
    let refused = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error);
    secured(refused.into_response()).await
}

/// Answers paths that nothing is behind, to each client in its own words.
async fn unknown(request: Request) -> Response {
    if is_grpc(request.headers()) {
        return Status::unimplemented("").into_http();
    }
    let error = ApiError::new(
        ErrorKind::NotFound,
        "PATH_UNKNOWN",
        format!(
            "there is nothing at {}; the page is at /, calls are at /api/SERVICE/METHOD",
            request.uri().path()
        ),
    );
    secured(Refusal::from(error).into_response()).await
}

async fn only_post() -> Response {
    let error = ApiError::new(
        ErrorKind::InvalidArgument,
        "METHOD_NOT_ALLOWED",
        "calls of the API are POST requests",
    );
    let mut response = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error).into_response();
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

fn is_grpc(headers: &HeaderMap) -> bool {
    media_type(headers)
        .is_some_and(|kind| kind == "application/grpc" || kind.starts_with("application/grpc+"))
}

/// The content type without its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = value.split(';').next().unwrap_or_default();
    Some(kind.trim().to_ascii_lowercase())
}
