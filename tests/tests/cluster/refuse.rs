//! What is refused before anything runs.

use espalier_proto::v1;
use espalier_proto::v1::worker_message::Message;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_tests::{Cluster, binary, espalier, job};
use std::fs;
use std::process::Command;

// Promise: a worker of another version is refused with both versions named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_another_version() {
    let cluster = Cluster::start().unwrap();
    let hello = v1::WorkerMessage {
        message: Some(Message::Hello(v1::Hello {
            name: "stranger".into(),
            version: "9.9.9".into(),
            host: "elsewhere".into(),
            devices: vec!["cpu".into()],
            instance: "1".into(),
            ..Default::default()
        })),
        sequence: 0,
    };
    let mut client = WorkerServiceClient::new(cluster.channel().await.unwrap());
    let status = match client.connect(tokio_stream::once(hello)).await {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    let said = status.message();
    assert!(
        said.contains("9.9.9") && said.contains(env!("CARGO_PKG_VERSION")),
        "{said}"
    );
}

// Promise: a port in use ends the coordinator with 1, naming the address; a coordinator that is not
// there ends a command with 4, naming its address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses() {
    let mut cluster = Cluster::start().unwrap();
    let output = Command::new(binary("espalier-coordinator").unwrap())
        .args(["--listen", cluster.address(), "--data-dir"])
        .arg(cluster.dir().join("second"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(cluster.address()), "{said}");

    cluster.kill_coordinator();
    let run = cluster.cli(&["get"]).unwrap();
    assert_eq!(run.code, 4, "{}", run.said());
    assert!(run.stderr.contains(cluster.address()), "{}", run.stderr);
}

// Promise: a job file with a slip is refused offline with 1, the field's name and a suggestion; one
// that is no YAML with its line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_files() {
    let cluster = Cluster::start().unwrap();
    let mut spec = job("slip", cluster.toy(), 10);
    spec["training"]["bach_size"] = 8.into();
    let file = cluster.job_file(&spec).unwrap();
    for verb in ["validate", "submit"] {
        let run = cluster.cli(&[verb, &file]).unwrap();
        assert_eq!(run.code, 1, "{}", run.said());
        let said = run.said();
        assert!(
            said.contains("bach_size") && said.contains("batch_size"),
            "{said}"
        );
    }
    let path = cluster.dir().join("broken.yaml");
    fs::write(&path, "name: x\ntasks: [\n  {name: a\n").unwrap();
    let run = espalier(cluster.dir(), &["validate", "broken.yaml"], "").unwrap();
    assert_eq!(run.code, 1, "{}", run.said());
    assert!(run.said().contains("broken.yaml:"), "{}", run.said());

    let mut missing = job("missing", cluster.toy(), 10);
    missing["tasks"][0]["data"]["train"] = "nowhere.jsonl".into();
    let file = cluster.job_file(&missing).unwrap();
    // The workers may have the file, as behind a port-forward.
    let run = cluster.cli(&["submit", &file, "--dry-run"]).unwrap();
    assert_eq!(run.code, 0, "{}", run.said());
    assert!(run.said().contains("nowhere.jsonl"), "{}", run.said());
    // Those of the folder's own cluster, which `espalier up` names there, see the same files.
    let place = cluster.dir().join(".espalier/cluster");
    fs::create_dir_all(&place).unwrap();
    let up = serde_json::json!({
        "pid": 1, "server": cluster.url(), "ready": true, "processes": []
    });
    fs::write(place.join("up.json"), up.to_string()).unwrap();
    let lock = fs::File::create(place.join("lock")).unwrap();
    lock.lock().unwrap();
    let run = cluster.cli(&["submit", &file]).unwrap();
    assert_eq!(run.code, 3, "{}", run.said());
    assert!(run.said().contains("nowhere.jsonl"), "{}", run.said());
}
