//! Counts calls: a layer over everything that is served, gRPC and HTTP alike.
//!
//! A call's code is known when its answer has ended: gRPC says it last. Its time is that until the
//! answer began, so that a stream which is open for hours is no slow call.

use super::Metrics;
use espalier_telemetry::Histogram;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tower::{Layer, Service};

/// Where calls go that ask for nothing that exists, so that strangers can't invent labels.
const OTHER: &str = "other";
/// Services that come with gRPC.
const COMMON: [(&str, &[&str]); 3] = [
    ("grpc.health.v1.Health", &["Check", "List", "Watch"]),
    (
        "grpc.reflection.v1.ServerReflection",
        &["ServerReflectionInfo"],
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection",
        &["ServerReflectionInfo"],
    ),
];

/// What is called: a service and its method; of plain HTTP the service is `http`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Method {
    pub(super) service: String,
    pub(super) method: String,
}

impl Method {
    fn new(service: &str, method: &str) -> Self {
        Self {
            service: service.to_owned(),
            method: method.to_owned(),
        }
    }
}

/// What became of the calls of a method.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Whose answer has not ended.
    pub(super) open: u64,
    /// Until the answer began.
    pub(super) seconds: Histogram,
    /// Ended ones, by code.
    pub(super) codes: BTreeMap<String, u64>,
}

/// Counts the calls of what is below it.
#[derive(Clone, Debug)]
pub struct CallsLayer {
    metrics: Arc<Metrics>,
    known: Arc<BTreeSet<Method>>,
}

impl CallsLayer {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let own = espalier_proto::methods();
        let own = own
            .iter()
            .map(|(service, method)| Method::new(service, method));
        let common = COMMON.iter().flat_map(|(service, methods)| {
            methods
                .iter()
                .map(move |method| Method::new(service, method))
        });
        Self {
            metrics,
            known: Arc::new(own.chain(common).collect()),
        }
    }

    fn method(&self, path: &str, grpc: bool) -> Method {
        if !grpc {
            let place = match path {
                "/metrics" => "metrics",
                path if path.starts_with("/api/") => "api",
                _ => "page",
            };
            return Method::new("http", place);
        }
        let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let asked = parts.map(|(service, method)| Method::new(service, method));
        asked
            .filter(|asked| self.known.contains(asked))
            .unwrap_or_else(|| Method::new(OTHER, OTHER))
    }
}

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Calls<S> {
    inner: S,
    layer: CallsLayer,
}

impl<S, A, B> Service<Request<A>> for Calls<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<Counted<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let kind = request.headers().get(http::header::CONTENT_TYPE);
        let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let method = self.layer.method(request.uri().path(), grpc);
        let mut call = Call::begin(self.layer.metrics.clone(), method);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            call.began();
            if grpc {
                call.code = code(answer.headers());
            } else {
                call.code = Some(answer.status().as_u16().to_string());
            }
            Ok(answer.map(|body| Counted { body, call }))
        })
    }
}

/// The code that headers or trailers name, by its name.
fn code(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("grpc-status")?;
    let code = tonic::Code::from_bytes(text.as_bytes());
    // `InvalidArgument`, as the rest of gRPC writes it: INVALID_ARGUMENT.
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    Some(name)
}

/// A call that is under way; counted when it is dropped.
#[derive(Debug)]
struct Call {
    metrics: Arc<Metrics>,
    method: Method,
    begun: Instant,
    /// None: the caller left before the end.
    code: Option<String>,
}

impl Call {
    fn begin(metrics: Arc<Metrics>, method: Method) -> Self {
        metrics.live().calls.entry(method.clone()).or_default().open += 1;
        Self {
            metrics,
            method,
            begun: Instant::now(),
            code: None,
        }
    }

    fn began(&self) {
        let time = self.begun.elapsed().as_secs_f64();
        if let Some(counts) = self.metrics.live().calls.get_mut(&self.method) {
            counts.seconds.observe(time);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code.take().unwrap_or_else(|| "CANCELLED".to_owned());
        if let Some(counts) = self.metrics.live().calls.get_mut(&self.method) {
            counts.open = counts.open.saturating_sub(1);
            *counts.codes.entry(code).or_default() += 1;
        }
    }
}

/// An answer whose end is waited for.
#[derive(Debug)]
pub struct Counted<B> {
    body: B,
    call: Call,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(code) = code(trailers)
        {
            self.call.code = Some(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: labels are methods that exist, whatever strangers ask for.
    #[test]
    fn strangers_invent_no_labels() {
        let layer = CallsLayer::new(Arc::default());
        let name = |path: &str, grpc| {
            let method = layer.method(path, grpc);
            format!("{} {}", method.service, method.method)
        };
        let known = name("/espalier.v1.JobService/CreateJob", true);
        assert_eq!(known, "espalier.v1.JobService CreateJob");
        let health = name("/grpc.health.v1.Health/Check", true);
        assert_eq!(health, "grpc.health.v1.Health Check");
        for odd in ["/espalier.v1.JobService/Steal", "/a/b", "/a/b/c", "x", ""] {
            assert_eq!(name(odd, true), "other other", "{odd}");
        }
        assert_eq!(name("/metrics", false), "http metrics");
        assert_eq!(name("/api/JobService/GetJob", false), "http api");
        assert_eq!(
            name("/espalier.v1.JobService/CreateJob", false),
            "http page"
        );
    }

    // Promise: codes are named as gRPC names them.
    #[test]
    fn codes_have_their_names() {
        let named = |number: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", number.parse().unwrap());
            code(&headers)
        };
        assert_eq!(named("0").as_deref(), Some("OK"));
        assert_eq!(named("3").as_deref(), Some("INVALID_ARGUMENT"));
        assert_eq!(named("16").as_deref(), Some("UNAUTHENTICATED"));
        assert_eq!(named("99").as_deref(), Some("UNKNOWN"));
        assert_eq!(code(&HeaderMap::new()), None);
    }
}
