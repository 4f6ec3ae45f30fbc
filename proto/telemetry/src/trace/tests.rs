use super::*;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::collections::BTreeMap;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response};

const UID: &str = "0190f1a2-1111-4222-8333-444455556666";

/// A collector that passes on what it gets.
struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, tonic::Status> {
        self.0.send(request.into_inner()).unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

// Promise: a collector gets one trace per job, named by its uid, and in it a tree of job, generation,
// step and exchange, and of what an operator did, whoever of them was sent first and by whichever process.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_a_tree() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut requests) = mpsc::unbounded_channel();
    let server = Server::builder()
        .add_service(TraceServiceServer::new(Collector(sender)))
        .serve_with_incoming(TcpIncoming::from(listener));
    let server = tokio::spawn(server);

    let coordinator = Traces::start(&endpoint, "espalier-coordinator", "a").unwrap();
    let worker = Traces::start(&endpoint, "espalier-worker", "b").unwrap();
    let operator = Traces::start(&endpoint, "espalier-operator", "c").unwrap();
    let of = Of {
        uid: UID,
        generation: 2,
    };
    let step = StepSpan {
        rank: 1,
        step: 100,
        times: (at(10), at(11)),
        exchange: Some((at(10), at(10))),
        exposed_seconds: 0.25,
        bytes: 4096,
    };
    worker.step(of, &step);
    operator.act(UID, "toy", "Pause", (at(3), at(4)), Some("away".to_owned()));
    coordinator.generation(of, "toy", (at(5), at(20)), "lost a worker".to_owned(), true);
    coordinator.job(UID, "toy", (at(1), at(30)), "succeeded", None);
    let ended = tokio::task::spawn_blocking(move || {
        worker.end();
        coordinator.end();
        operator.end();
    });
    ended.await.unwrap();

    let mut spans: BTreeMap<String, Span> = BTreeMap::new();
    let mut services = Vec::new();
    while spans.len() < 5 {
        let got = tokio::time::timeout(Duration::from_secs(20), requests.recv()).await;
        for resource in got.unwrap().unwrap().resource_spans {
            services.push(format!("{:?}", resource.resource));
            let all = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            spans.extend(all.map(|span| (span.name.clone(), span)));
        }
    }
    let named = |service: &str| services.iter().any(|text| text.contains(service));
    assert!(
        named("espalier-coordinator") && named("espalier-worker") && named("espalier-operator"),
        "{services:?}"
    );
    let uid = uuid::Uuid::parse_str(UID).unwrap();
    assert!(spans.values().all(|span| span.trace_id == uid.as_bytes()));
    assert!(spans["job"].parent_span_id.is_empty(), "{:?}", spans["job"]);
    for (child, parent) in [
        ("generation", "job"),
        ("step", "generation"),
        ("exchange", "step"),
        ("act", "job"),
    ] {
        assert_eq!(
            spans[child].parent_span_id, spans[parent].span_id,
            "{child}"
        );
    }
    let second = 1_000_000_000;
    assert_eq!(spans["step"].start_time_unix_nano, 10 * second);
    assert_eq!(spans["step"].end_time_unix_nano, 11 * second);
    let failed = spans["generation"].status.clone().unwrap();
    assert_eq!(failed.message, "lost a worker");
    let act = format!("{:?}", spans["act"]);
    assert!(act.contains("Pause") && act.contains("away"), "{act}");
    server.abort();
}

// Promise: ids depend on what they name and on nothing else, and differ where that does.
#[test]
fn ids_are_derived() {
    let trace = trace_id(UID);
    assert_eq!(trace, trace_id(&UID.to_uppercase()));
    let mut ids = std::collections::BTreeSet::new();
    for words in [
        &[1][..],
        &[2, 1],
        &[2, 2],
        &[3, 1, 5, 0],
        &[3, 1, 0, 5],
        &[4, 1, 5, 0],
    ] {
        assert!(ids.insert(span_id(trace, words)), "{words:?}");
    }
    assert!(ids.insert(span_id(trace_id("no uuid"), &[1])));
    assert_ne!(trace_id("no uuid"), trace_id("no uuid either"));
}

// Promise: an address is checked when it is read.
#[test]
fn endpoints() {
    for good in ["http://localhost:4317", "https://collector.example:4317"] {
        assert_eq!(endpoint(good).as_deref(), Ok(good));
    }
    for bad in ["", "localhost:4317", "ftp://a:1", "http://a b"] {
        assert!(
            endpoint(bad).unwrap_err().contains("http://HOST:4317"),
            "{bad}"
        );
    }
}
