//! A token that the page was given becomes a cookie that its scripts can't read.

use super::gateway::{read, require_json};
use super::refusal::{Refusal, answer};
use crate::access::Access;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use espalier_proto::{ApiError, ErrorKind};
use serde::Deserialize;
use std::pin::Pin;
use std::sync::Arc;

/// Whether a token is somebody's; the error says why not.
pub(crate) type Check = Arc<dyn Fn(String) -> Checked + Send + Sync>;
/// What a [`Check`] finds out.
pub(crate) type Checked = Pin<Box<dyn Future<Output = Result<(), ApiError>> + Send>>;

/// Asks what stands before everything that is served.
pub(crate) fn check(access: Arc<Access>) -> Check {
    Arc::new(move |token| {
        let access = access.clone();
        Box::pin(async move { access.authenticate_patiently(&token).await.map(drop) })
    })
}

/// Name of the cookie.
const COOKIE: &str = "espalier_session";
/// Largest body of a log-in.
const BODY: usize = 16 << 10;
/// Longest token: browsers drop longer cookies.
const TOKEN: usize = 3800;

/// What sessions are made with.
pub(super) struct Sessions {
    /// None: nobody is asked for a token.
    pub(super) check: Option<Check>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogIn {
    token: String,
}

/// `POST /api/session`.
pub(super) async fn log_in(State(sessions): State<Arc<Sessions>>, request: Request) -> Response {
    let session = sessions.open(request).await;
    session.unwrap_or_else(IntoResponse::into_response)
}

/// `DELETE /api/session`.
pub(super) async fn log_out(request: Request) -> Response {
    with_cookie(request.headers(), "", "; Max-Age=0").unwrap_or_else(IntoResponse::into_response)
}

impl Sessions {
    async fn open(&self, request: Request) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let body = read(&parts.headers, body, BODY).await?;
        // What was sent is not repeated: it may be a token.
        let LogIn { token } = serde_json::from_slice(&body).map_err(|_| {
            let message = r#"the body must be {"token": "..."}"#;
            ApiError::new(ErrorKind::InvalidArgument, "MALFORMED_JSON", message)
        })?;
        let Some(check) = &self.check else {
            let message = "this coordinator asks nobody for a token";
            let reason = "AUTHENTICATION_OFF";
            return Err(ApiError::new(ErrorKind::FailedPrecondition, reason, message).into());
        };
        let fits =
            |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\');
        if token.is_empty() || token.len() > TOKEN || !token.bytes().all(fits) {
            let rule =
                format!("must be 1 to {TOKEN} visible ASCII characters but none of `\" , ; \\`");
            return Err(ApiError::field("token", rule).into());
        }
        check(token.clone()).await?;
        with_cookie(&parts.headers, &token, "")
    }
}

/// An empty answer that sets the cookie.
fn with_cookie(headers: &HeaderMap, token: &str, more: &str) -> Result<Response, Refusal> {
    // The browser knows whether its page came over TLS, whatever stands between.
    let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
    let secure = origin.is_some_and(|origin| origin.starts_with(b"https://"));
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{more}");
    let mut cookie = HeaderValue::try_from(cookie)
        .map_err(|_| ApiError::field("token", "can't be kept in a cookie"))?;
    cookie.set_sensitive(true);
    let mut response = answer(StatusCode::OK, b"{}".to_vec());
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

/// Whether a request comes with the cookie.
pub(super) fn has_cookie(headers: &HeaderMap) -> bool {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'));
    pairs.any(|pair| pair.split('=').next().unwrap_or_default().trim() == COOKIE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use axum::body::Body;

    fn sessions() -> Sessions {
        let check: Check = Arc::new(|token| {
            Box::pin(async move {
                let error = ApiError::new(ErrorKind::Unauthenticated, "TOKEN_UNKNOWN", "who?");
                if token == "right" { Ok(()) } else { Err(error) }
            })
        });
        Sessions { check: Some(check) }
    }

    fn request(body: &str, origin: &str) -> Request {
        axum::http::Request::post("/api/session")
            .header("content-type", "application/json")
            .header("origin", origin)
            .body(Body::from(body.to_owned()))
            .unwrap()
    }

    async fn log_in(body: &str, origin: &str) -> Response {
        let session = sessions().open(request(body, origin)).await;
        session.unwrap_or_else(IntoResponse::into_response)
    }

    // Promise: a right token becomes a cookie that scripts and other sites can't use, and that leaves no
    // encrypted page in plain text.
    #[tokio::test]
    async fn a_token_becomes_a_cookie() {
        let response = log_in(r#"{"token": "right"}"#, "http://here").await;
        assert_eq!(response.status(), StatusCode::OK);
        let expected = "espalier_session=right; Path=/; HttpOnly; SameSite=Strict";
        assert_eq!(response.headers()["set-cookie"], expected);
        let response = log_in(r#"{"token": "right"}"#, "https://here").await;
        assert_eq!(
            response.headers()["set-cookie"],
            format!("{expected}; Secure")
        );
        let response = log_out(request("", "http://here")).await;
        let cleared = "espalier_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0";
        assert_eq!(response.headers()["set-cookie"], cleared);
    }

    // Promise: a wrong token sets nothing and is not repeated; nor is one that would break the header.
    #[tokio::test]
    async fn wrong_tokens() {
        for (body, status) in [
            (r#"{"token": "wrong"}"#, StatusCode::UNAUTHORIZED),
            (r#"{"token": "a; Domain=evil"}"#, StatusCode::BAD_REQUEST),
            (r#"{"token": "wrong\r\nx: y"}"#, StatusCode::BAD_REQUEST),
            (r#"{"token": ""}"#, StatusCode::BAD_REQUEST),
            (r#"{"token": wrong}"#, StatusCode::BAD_REQUEST),
            (r#"{"name": "wrong"}"#, StatusCode::BAD_REQUEST),
        ] {
            let response = log_in(body, "http://here").await;
            assert_eq!(response.status(), status, "{body}");
            assert!(!response.headers().contains_key("set-cookie"), "{body}");
            let said = axum::body::to_bytes(response.into_body(), 10_000)
                .await
                .unwrap();
            assert!(!String::from_utf8_lossy(&said).contains("wrong"), "{body}");
        }
    }

    // Promise: the cookie is found among others, by its whole name.
    #[test]
    fn cookies() {
        let with = |cookie: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", HeaderValue::from_static(cookie));
            has_cookie(&headers)
        };
        assert!(with("a=b; espalier_session=x"));
        assert!(!with("a=espalier_session; espalier_session2=x"));
    }
}
