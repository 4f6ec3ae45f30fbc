//! What Prometheus and kubelet see of a coordinator.

use crate::kit::{Node, Worker, config_with, hello, soon, until};
use espalier_proto::v1;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn get(address: SocketAddr, path: &str) -> String {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    soon("an answer", asked).await
}

/// Waits until a scrape holds this line.
async fn shows(address: SocketAddr, line: &str) -> String {
    let look = async || {
        let text = get(address, "/metrics").await;
        text.lines().any(|found| found == line).then_some(text)
    };
    until(line, look).await
}

// Promise: the main port and the status port show the same numbers: calls by how they ended, the queue,
// workers, a job while it runs and not after it.
#[tokio::test]
async fn a_scrape() {
    let directory = tempfile::tempdir().unwrap();
    let config = config_with(directory.path(), &["--status-listen", "127.0.0.1:0"]);
    let node = Node::configured(&config).await;
    let status = node.status.unwrap();
    assert!(get(status, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(status, "/readyz").await.starts_with("HTTP/1.1 200"));

    node.create("first").await;
    let request = v1::GetJobRequest {
        name: "nobody".into(),
    };
    node.jobs().get_job(request).await.unwrap_err();
    for address in [status, node.address] {
        let created = "espalier_api_calls_total{service=\"espalier.v1.JobService\",\
                       method=\"CreateJob\",code=\"OK\"} 1";
        shows(address, created).await;
        let missed = "espalier_api_calls_total{service=\"espalier.v1.JobService\",\
                      method=\"GetJob\",code=\"NOT_FOUND\"} 1";
        let text = shows(address, missed).await;
        for line in [
            "espalier_leader 1",
            "espalier_queue_depth 1",
            "espalier_jobs{state=\"queued\"} 1",
            "espalier_jobs{state=\"running\"} 0",
            "espalier_ranks 0",
            "espalier_job_generation{job_name=\"first\",job_namespace=\"default\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.contains("text/plain; version=0.0.4"), "{text}");
    }

    let mut worker = Worker::join(&node, hello("w")).await;
    worker.prepare().await;
    let start = worker.started().await;
    worker.progress(&start, 7).await;
    let step = "espalier_job_step{job_name=\"first\",job_namespace=\"default\"} 7";
    let text = shows(node.address, step).await;
    assert!(
        text.contains("espalier_workers{state=\"ready\"} 1\n"),
        "{text}"
    );
    assert!(text.contains("espalier_ranks_free 0\n"), "{text}");
    worker.finish(&start).await;
    let text = shows(node.address, "espalier_jobs{state=\"succeeded\"} 1").await;
    assert!(!text.contains("espalier_job_step{"), "{text}");
    drop(worker);
    node.stop().await;
}

// Promise: a status port that is taken is an error that names its flag, not a coordinator without one.
#[tokio::test]
async fn a_status_port_that_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = config_with(directory.path(), &["--status-listen", &address]);
    let listener = espalier_coordinator::serve::bind(config.listen)
        .await
        .unwrap();
    let started = espalier_coordinator::start_configured(&config, listener).await;
    let error = started.unwrap_err().to_string();
    assert!(error.contains("--status-listen"), "{error}");
    assert!(error.contains(&address), "{error}");
}
