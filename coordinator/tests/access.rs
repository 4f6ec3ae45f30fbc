//! Who may do what, on one host: tokens, namespaces, what is hidden, what is written down, what is kept.
#![allow(clippy::unwrap_used)] // a test that can't go on fails here

#[path = "kit/door.rs"]
mod door;
mod kit;

use door::{Guarded, Header, Someone, create, entry, job, list, put, who};
use espalier_proto::v1;
use kit::{hello, until};
use std::path::Path;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use v1::who_am_i_response::Role;
use v1::worker_message::Message;

async fn connect(node: &Guarded) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    endpoint.connect().await.unwrap()
}

/// A coordinator with these tokens and an audit log.
async fn guarded(directory: &Path, tokens: &[String], more: &[&str]) -> Guarded {
    let file = |name: &str| directory.join(name).display().to_string();
    let (token_file, audit) = (file("tokens.yaml"), file("audit.jsonl"));
    put(Path::new(&token_file), &tokens.concat());
    let flags = ["--token-file", &token_file, "--audit-log", &audit];
    Guarded::start(directory, &[&flags[..], more].concat()).await
}

// Promise: on one host, where nothing was set, everybody may do everything, and is told so.
#[tokio::test]
async fn nobody_is_asked_by_default() {
    let directory = tempfile::tempdir().unwrap();
    let node = Guarded::start(directory.path(), &[]).await;
    let channel = connect(&node).await;
    for header in [Header::none(), Header::bearer("esp_whatever")] {
        let me = who(&Someone::new(&channel, header)).await.unwrap();
        assert_eq!((me.name.as_str(), me.role()), ("anonymous", Role::Admin));
        assert_eq!((me.method.as_str(), me.namespaces.len()), ("none", 0));
    }
    drop(channel);
    node.stop().await;
}

// Promise: callers see what is in their namespaces, also by list and filter, and are told who they are;
// of workers they see which are busy, not with what.
#[tokio::test]
async fn callers_see_their_namespaces() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = [
        entry("root", "admin", ""),
        entry("sam", "submitter", "  namespaces: [vision, speech]\n"),
        entry("w", "worker", ""),
    ];
    let node = guarded(directory.path(), &tokens, &[]).await;
    let channel = connect(&node).await;
    let with = |token: &str| Someone::new(&channel, Header::bearer(token));
    let (root, sam) = (with("esp_root"), with("esp_sam"));
    let me = who(&sam).await.unwrap();
    assert_eq!((me.name.as_str(), me.role()), ("sam", Role::Submitter));
    assert_eq!(me.namespaces, ["vision", "speech"]);
    for (name, namespace) in [("a", "text"), ("b", "vision"), ("c", "speech")] {
        create(&root, job(name, namespace)).await.unwrap();
    }
    let names = async |someone: &Someone, namespace: &str| {
        let request = v1::ListJobsRequest {
            namespace: namespace.to_owned(),
            ..Default::default()
        };
        let found = someone.jobs().list_jobs(request).await.unwrap();
        let jobs = found.into_inner().jobs.into_iter();
        jobs.map(|job| job.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&root, "").await, ["a", "b", "c"]);
    assert_eq!(names(&root, "text").await, ["a"]);
    assert_eq!(names(&sam, "").await, ["b", "c"]);
    assert_eq!(names(&sam, "speech").await, ["c"]);
    assert!(names(&sam, "text").await.is_empty());

    // The first job of the queue gets the worker: a, which sam may not see.
    let (reports, outbound) = mpsc::channel(4);
    let message = Some(Message::Hello(hello("w")));
    reports.send(v1::WorkerMessage { message }).await.unwrap();
    let mut worker = with("esp_w").workers();
    let orders = worker.connect(ReceiverStream::new(outbound)).await.unwrap();
    let used_by = async |someone: &Someone| {
        let request = v1::GetWorkerRequest { name: "w".into() };
        let found = someone.cluster().get_worker(request).await.ok()?;
        let job = found.into_inner().devices.first()?.job.clone();
        (!job.is_empty()).then_some(job)
    };
    assert_eq!(
        until("a placed job", async || used_by(&root).await).await,
        "a"
    );
    assert_eq!(used_by(&sam).await.unwrap(), "(hidden)");
    drop((orders, reports, worker, root, sam, channel));
    node.stop().await;
}

// Promise: what changes something is written down with who, what and how it ended; what only reads is
// not, unless that is asked for; no token is ever written.
#[tokio::test]
async fn changes_are_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let node = guarded(directory.path(), &[entry("root", "admin", "")], &[]).await;
    let channel = connect(&node).await;
    let root = Someone::new(&channel, Header::bearer("esp_root"));
    create(&root, job("a", "text")).await.unwrap();
    assert!(create(&root, job("a", "text")).await.is_err());
    list(&root).await.unwrap();
    let text = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["call"], "/espalier.v1.JobService/CreateJob");
    assert_eq!(lines[0]["object"], "a");
    assert_eq!(lines[0]["principal"], "root");
    assert_eq!(lines[0]["role"], "admin");
    assert_eq!(lines[0]["code"], "OK");
    assert_eq!(lines[1]["code"], "ALREADY_EXISTS");
    assert!(!text.contains("esp_"));
    drop((root, channel));
    node.stop().await;
}

// Promise: of jobs that have ended the newest are kept; one that has not ended is never forgotten.
#[tokio::test]
async fn old_jobs_are_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let node = Guarded::start(directory.path(), &["--max-ended-jobs", "1"]).await;
    let channel = connect(&node).await;
    let someone = Someone::new(&channel, Header::none());
    for name in ["waits", "a", "b", "c"] {
        create(&someone, job(name, "default")).await.unwrap();
    }
    for name in ["b", "a", "c"] {
        let request = v1::CancelJobRequest { name: name.into() };
        someone.jobs().cancel_job(request).await.unwrap();
    }
    let left = until("two jobs", async || {
        let jobs = list(&someone).await.ok()?.jobs;
        (jobs.len() == 2).then_some(jobs)
    });
    let left: Vec<String> = left.await.into_iter().map(|job| job.name).collect();
    assert_eq!(left, ["waits", "c"]);
    drop((someone, channel));
    node.stop().await;
}
