//! The page's files, in this binary: nothing is read from disk or loaded from elsewhere.

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// One file of the page.
struct Asset {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

impl Asset {
    const fn new(path: &'static str, kind: &'static str, bytes: &'static [u8]) -> Self {
        Self { path, kind, bytes }
    }
}

/// Every file: where it is served, its type, its bytes.
const ASSETS: &[Asset] = &[
    Asset::new("/", HTML, include_bytes!("assets/index.html")),
    Asset::new(
        "/page.css",
        "text/css; charset=utf-8",
        include_bytes!("assets/page.css"),
    ),
    Asset::new(
        "/favicon.svg",
        "image/svg+xml",
        include_bytes!("assets/favicon.svg"),
    ),
    Asset::new("/actions.js", SCRIPT, include_bytes!("assets/actions.js")),
    Asset::new("/affinity.js", SCRIPT, include_bytes!("assets/affinity.js")),
    Asset::new("/api.js", SCRIPT, include_bytes!("assets/api.js")),
    Asset::new("/chart.js", SCRIPT, include_bytes!("assets/chart.js")),
    Asset::new("/charts.js", SCRIPT, include_bytes!("assets/charts.js")),
    Asset::new("/dom.js", SCRIPT, include_bytes!("assets/dom.js")),
    Asset::new("/evidence.js", SCRIPT, include_bytes!("assets/evidence.js")),
    Asset::new("/format.js", SCRIPT, include_bytes!("assets/format.js")),
    Asset::new("/hands.js", SCRIPT, include_bytes!("assets/hands.js")),
    Asset::new("/job.js", SCRIPT, include_bytes!("assets/job.js")),
    Asset::new("/link.js", SCRIPT, include_bytes!("assets/link.js")),
    Asset::new("/live.js", SCRIPT, include_bytes!("assets/live.js")),
    Asset::new("/logs.js", SCRIPT, include_bytes!("assets/logs.js")),
    Asset::new("/main.js", SCRIPT, include_bytes!("assets/main.js")),
    Asset::new("/overview.js", SCRIPT, include_bytes!("assets/overview.js")),
    Asset::new("/phases.js", SCRIPT, include_bytes!("assets/phases.js")),
    Asset::new("/plan.js", SCRIPT, include_bytes!("assets/plan.js")),
    Asset::new("/pyramid.js", SCRIPT, include_bytes!("assets/pyramid.js")),
    Asset::new("/ring.js", SCRIPT, include_bytes!("assets/ring.js")),
    Asset::new("/scale.js", SCRIPT, include_bytes!("assets/scale.js")),
    Asset::new("/series.js", SCRIPT, include_bytes!("assets/series.js")),
    Asset::new("/session.js", SCRIPT, include_bytes!("assets/session.js")),
    Asset::new("/spec.js", SCRIPT, include_bytes!("assets/spec.js")),
    Asset::new("/steps.js", SCRIPT, include_bytes!("assets/steps.js")),
    Asset::new("/theme.js", SCRIPT, include_bytes!("assets/theme.js")),
    Asset::new("/timeline.js", SCRIPT, include_bytes!("assets/timeline.js")),
];

/// Serves the files.
pub(super) fn router() -> Router {
    let mut router = Router::new();
    for asset in ASSETS {
        let tag = tag(asset.bytes);
        let serve = move |headers: HeaderMap| async move { respond(asset, &tag, &headers) };
        router = router.route(asset.path, get(serve));
    }
    router
}

/// A file, or word that the browser has it already. Browsers ask each time: after an upgrade the page is
/// the new one.
fn respond(asset: &'static Asset, tag: &str, headers: &HeaderMap) -> Response {
    let mut known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|tags| tags.to_str().ok())
        .flat_map(|tags| tags.split(','))
        .map(|known| known.trim().trim_start_matches("W/"));
    let mut response = if known.any(|known| known == "*" || known == tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        asset.bytes.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    let each_time = HeaderValue::from_static("no-cache");
    headers.insert(header::CACHE_CONTROL, each_time);
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// A tag that other bytes do not have: FNV-1a of 64 bits, and the length.
fn tag(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("\"{sum:016x}-{:x}\"", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: the page loads nothing from elsewhere and has no code in its text, which its policy would
    // refuse.
    #[test]
    fn nothing_from_elsewhere() {
        for asset in ASSETS {
            let text = String::from_utf8_lossy(asset.bytes);
            for word in [
                "src=\"http",
                "src=\"//",
                "@import",
                "url(http",
                " onclick=",
                "<style",
            ] {
                assert!(!text.contains(word), "{}: {word}", asset.path);
            }
            assert!(!text.contains("<script>"), "{}", asset.path);
            assert!(!asset.bytes.is_empty());
        }
    }
}
