//! How a process is, for kubelet and Prometheus: `/healthz`, `/readyz`, `/metrics` and
//! `grpc.health.v1` on a port of its own, in plain text. Nothing here is secret, nothing steers. Nobody is asked who
//! they are: who can reach the port is the network's to say, and how much of it callers hold is bounded.
//!
//! It lives as long as it answers: liveness never waits for peers. The gRPC service "" is liveness;
//! [`READY`] is readiness.

use crate::guests::{Guests, Limits};
use crate::text::Format;
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// Name of the health service that says whether a process is ready.
pub const READY: &str = "ready";
/// How often readiness is told to who watches it over gRPC.
const LOOK: Duration = Duration::from_millis(500);
/// Requests that one connection may have open.
const CALLS: u32 = 16;
/// Silence after which a client of HTTP/2 is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whose status is told.
pub trait Subject: Send + Sync + 'static {
    /// Whether it can do what it is for; else why not, in a sentence.
    ///
    /// # Errors
    /// What it waits for.
    fn ready(&self) -> Result<(), String>;

    /// Its metrics.
    fn metrics(&self, format: Format) -> impl Future<Output = String> + Send;
}

/// Why there is no status port.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on --status-listen {address}: {source}; choose another address")]
pub struct StatusError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub source: std::io::Error,
}

/// Listens on the status port.
///
/// # Errors
/// The address is in use or none of this host's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, StatusError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| StatusError { address, source })
}

/// `/metrics` alone, for a port that serves more.
pub fn metrics<S: Subject>(subject: Arc<S>) -> Router {
    let answer = move |headers: HeaderMap| {
        let subject = Arc::clone(&subject);
        async move {
            let accept = headers.get(header::ACCEPT);
            let format = Format::accepted(accept.and_then(|value| value.to_str().ok()));
            let text = subject.metrics(format).await;
            ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
        }
    };
    Router::new().route("/metrics", get(answer))
}

fn router<S: Subject>(subject: Arc<S>) -> Router {
    let asked = Arc::clone(&subject);
    let ready = move || {
        let ready = asked.ready();
        async move {
            match ready {
                Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            }
        }
    };
    metrics(subject)
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
}

/// Serves the status port until `end` completes. What `health` says of other services is told, too.
///
/// # Errors
/// The server failed.
pub async fn serve<S: Subject>(
    listener: TcpListener,
    subject: Arc<S>,
    health: HealthReporter,
    end: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let service = HealthServer::new(HealthService::from_health_reporter(health.clone()));
    let routes = Routes::from(router(Arc::clone(&subject))).add_service(service);
    let server = Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(CALLS)
        .timeout(PATIENCE)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(Guests::new(listener, Limits::default()), end);
    tokio::select! {
        served = server => served,
        () = tell(subject.as_ref(), &health) => Ok(()),
    }
}

/// Says over gRPC, for ever, whether it is ready.
async fn tell<S: Subject>(subject: &S, health: &HealthReporter) {
    let mut pause = tokio::time::interval(LOOK);
    loop {
        pause.tick().await;
        let status = match subject.ready() {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        health.set_service_status(READY, status).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    #[derive(Default)]
    struct Toy(AtomicBool);

    impl Subject for Toy {
        fn ready(&self) -> Result<(), String> {
            match self.0.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err("waits for a word".to_owned()),
            }
        }

        async fn metrics(&self, format: Format) -> String {
            let mut text = Text::new(format);
            text.gauge("toy", "A toy.").sample(&[], 1);
            text.end()
        }
    }

    async fn get(address: SocketAddr, path: &str, accept: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    // Promise: it lives from the first answer on, is ready when its subject is and says why not before,
    // and tells its metrics in the format that is asked for; over HTTP/1.1 and over gRPC.
    #[tokio::test]
    async fn a_status_port() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = bind(address).await.unwrap_err().to_string();
        assert!(taken.contains("--status-listen"), "{taken}");
        let subject = Arc::new(Toy::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let end = async move {
            let _ = stopped.await;
        };
        let served = serve(listener, Arc::clone(&subject), HealthReporter::new(), end);
        let server = tokio::spawn(served);

        let alive = get(address, "/healthz", "*/*").await;
        assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
        let waits = get(address, "/readyz", "*/*").await;
        assert!(waits.starts_with("HTTP/1.1 503"), "{waits}");
        assert!(waits.contains("waits for a word"), "{waits}");
        let metrics = get(address, "/metrics", "application/openmetrics-text").await;
        assert!(metrics.contains("toy 1\n# EOF\n"), "{metrics}");
        assert!(
            metrics.contains("application/openmetrics-text"),
            "{metrics}"
        );
        let odd = get(address, "/secret", "*/*").await;
        assert!(odd.starts_with("HTTP/1.1 404"), "{odd}");

        subject.0.store(true, Ordering::Relaxed);
        let ready = get(address, "/readyz", "*/*").await;
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        let endpoint = format!("http://{address}");
        let channel = tonic::transport::Endpoint::new(endpoint).unwrap();
        let mut client = HealthClient::new(channel.connect().await.unwrap());
        let watch = |service: &str| {
            let service = service.to_owned();
            let mut client = client.clone();
            async move {
                let request = HealthCheckRequest { service };
                client.watch(request).await.unwrap().into_inner()
            }
        };
        let alive = watch("").await.message().await.unwrap().unwrap();
        assert_eq!(alive.status, 1);
        let mut told = watch(READY).await;
        while told.message().await.unwrap().unwrap().status != 1 {}
        let request = HealthCheckRequest {
            service: "other".to_owned(),
        };
        let unknown = client.check(request).await.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound);
        drop((told, client));
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
