//! Requests that browsers make for other sites' pages are refused.
//!
//! Browsers say which page a POST comes from (`Origin`); programs don't. A page of another site is
//! refused by that. A site may also make its own name point to this host; where the coordinator serves
//! this host alone, it therefore answers pages only under names that are this host's.

use super::refusal::Refusal;
use super::session;
use crate::access::has_bearer;
use crate::config::Config;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use espalier_proto::{ApiError, ErrorKind};
use std::net::IpAddr;

/// Whose pages are answered.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Names, besides addresses, under which the page may be opened; none: any.
    names: Option<Vec<String>>,
}

impl Site {
    /// As the settings say.
    pub(crate) fn of(config: &Config) -> Self {
        let advertised = config
            .advertise
            .as_ref()
            .and_then(|at| at.parse::<Uri>().ok());
        let advertised = advertised.and_then(|uri| Some(uri.host()?.to_owned()));
        let own = ["localhost".to_owned()].into_iter().chain(advertised);
        Self {
            names: config.listen.ip().is_loopback().then(|| own.collect()),
        }
    }

    fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or_default();
        // HTTP/2 has the host in the address.
        let host = match headers.get(header::HOST) {
            Some(host) => host.to_str().unwrap_or_default(),
            None => uri.authority().map(Authority::as_str).unwrap_or_default(),
        };
        let page = ["http://", "https://"]
            .into_iter()
            .find_map(|scheme| origin.strip_prefix(scheme));
        if host.is_empty() || !page.is_some_and(|page| page.eq_ignore_ascii_case(host)) {
            return Err(denied(
                "CROSS_SITE",
                format!("a page of {origin} may not call the coordinator at {host}"),
            ));
        }
        let (Some(names), Ok(host)) = (&self.names, host.parse::<Authority>()) else {
            return match &self.names {
                None => Ok(()),
                Some(_) => Err(denied("CROSS_SITE", format!("{host} is no name of a host"))),
            };
        };
        let host = host.host().trim_start_matches('[').trim_end_matches(']');
        let known = names.iter().any(|name| name.eq_ignore_ascii_case(host));
        if known || host.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        Err(denied(
            "FOREIGN_NAME",
            format!(
                "the coordinator serves this host alone, and {host} is no name of it; open the page by its \
                 address or as localhost, or pass --advertise http://{host}:PORT"
            ),
        ))
    }
}

/// Stands before everything.
pub(super) async fn guard(State(site): State<Site>, request: Request, next: Next) -> Response {
    match site.check(request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// Refuses what a cookie alone stands for unless it says which page it comes from.
pub(super) fn require_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let by_cookie = session::has_cookie(headers) && !has_bearer(headers);
    if by_cookie && !headers.contains_key(header::ORIGIN) {
        return Err(denied(
            "NO_ORIGIN",
            "a call with a cookie needs the header `origin`, which browsers send; programs send \
             `authorization: Bearer TOKEN` instead",
        )
        .into());
    }
    Ok(())
}

fn denied(reason: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::PermissionDenied, reason, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use clap::Parser;

    fn check(flags: &[&str], origin: Option<&str>, host: &str) -> Result<(), String> {
        let flags = std::iter::once("espalier-coordinator").chain(flags.iter().copied());
        let site = Site::of(&Config::try_parse_from(flags).unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let checked = site.check(&headers, &Uri::from_static("/"));
        checked.map_err(|error| error.reason)
    }

    // Promise: the coordinator's own page is answered, and no other; programs are not asked.
    #[test]
    fn pages() {
        let refused = |reason: &str| Err(reason.to_owned());
        let here = "127.0.0.1:7443";
        assert_eq!(check(&[], None, "any.example"), Ok(()));
        for (origin, host) in [
            ("http://127.0.0.1:7443", here),
            ("https://127.0.0.1:7443", here),
            ("http://LocalHost:7443", "localhost:7443"),
            ("http://[::1]:7443", "[::1]:7443"),
        ] {
            assert_eq!(check(&[], Some(origin), host), Ok(()), "{origin}");
        }
        for origin in [
            "http://127.0.0.1:8000",
            "http://evil.example",
            "http://127.0.0.1:7443.evil.example",
            "null",
            "",
            "file://",
        ] {
            let found = check(&[], Some(origin), here);
            assert_eq!(found, refused("CROSS_SITE"), "{origin}");
        }
    }

    // Promise: a cookie counts only with word of the page that it comes from, whatever else is sent beside it;
    // a token in the header counts alone.
    #[test]
    fn cookies() {
        let check = |more: &[(header::HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, "espalier_session=a".parse().unwrap());
            for (name, value) in more {
                headers.insert(name, value.parse().unwrap());
            }
            require_origin(&headers).is_ok()
        };
        assert!(!check(&[]));
        assert!(!check(&[(header::AUTHORIZATION, "Basic YTph")]));
        assert!(check(&[(header::AUTHORIZATION, "Bearer b")]));
        assert!(check(&[(header::ORIGIN, "http://here")]));
    }

    // Promise: a name that somebody made point to this host opens nothing on it; where other hosts are
    // served, names are the network's business.
    #[test]
    fn names() {
        let evil = ("http://evil.example:7443", "evil.example:7443");
        let found = check(&[], Some(evil.0), evil.1);
        assert_eq!(found, Err("FOREIGN_NAME".to_owned()));
        let named = ["--advertise", "http://train.example:7443"];
        let own = ("http://train.example:7443", "train.example:7443");
        assert_eq!(check(&named, Some(own.0), own.1), Ok(()));
        assert!(check(&named, Some(evil.0), evil.1).is_err());
        let open = ["--listen", "0.0.0.0:7443"];
        assert_eq!(check(&open, Some(own.0), own.1), Ok(()));
        assert!(check(&open, Some(evil.0), own.1).is_err());
    }
}
