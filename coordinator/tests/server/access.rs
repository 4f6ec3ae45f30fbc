//! Who may do what, on one host: tokens, namespaces, what is hidden, what is written down, what is kept.

use crate::door::{Guarded, Header, Someone, create, entry, job, list, now, put, who};
use crate::kit::{hello, said, soon, to_end, until};
use espalier_proto::{ApiError, ErrorKind, time, v1};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
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

/// What the audit log holds.
fn audit(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("audit.jsonl")).unwrap()
}

/// The error that a stream ends with.
async fn end<T>(mut stream: Streaming<T>) -> ApiError {
    loop {
        match soon("the end", stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
            Err(status) => return ApiError::from(&status),
        }
    }
}

/// Sends a request over HTTP/1 that is the connection's last.
async fn post(node: &Guarded, path: &str, more: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-type: application/json\r\n\
         {more}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// The rest of what comes.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = soon("the rest", stream.read_to_end(&mut bytes)).await;
    read.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

// Promise: what is open ends when its caller's token is taken out of the file, expires, or means something
// else: with the reason, for callers of gRPC, of JSON and for workers, counted and written down; what is
// somebody else's goes on.
#[tokio::test]
async fn open_calls_end_with_their_token() {
    let directory = tempfile::tempdir().unwrap();
    let root = entry("root", "admin", "");
    let over = time::timestamp((now() + 8) * 1000);
    let short = entry("short", "viewer", &format!("  expires: {over}\n"));
    let tokens = [
        root.clone(),
        short.clone(),
        entry("gone", "viewer", ""),
        entry("less", "viewer", ""),
        entry("w", "worker", ""),
    ];
    let node = guarded(directory.path(), &tokens, &[]).await;
    let channel = connect(&node).await;
    let with = |token: &str| Someone::new(&channel, Header::bearer(token));
    let mut waits = job("a", "text");
    // More than there are: it waits for all of this test.
    waits.resources = Some(v1::Resources {
        ranks: Some(2),
        ..Default::default()
    });
    create(&with("esp_root"), waits).await.unwrap();
    let watch = async |token: &str| {
        let request = v1::WatchJobRequest {
            name: "a".into(),
            after_sequence: 0,
        };
        let opened = with(token).jobs().watch_job(request).await;
        opened.unwrap().into_inner()
    };
    let kept = watch("esp_root").await;
    let (gone, less) = (watch("esp_gone").await, watch("esp_less").await);
    let lasting = watch("esp_short").await;
    let (reports, outbound) = mpsc::channel(4);
    let first = said(Message::Hello(hello("w")));
    reports.send(first).await.unwrap();
    let mut worker = with("esp_w").workers();
    let orders = worker.connect(ReceiverStream::new(outbound)).await.unwrap();
    let bearer = "authorization: Bearer esp_gone\r\n";
    let body = r#"{"name": "a"}"#;
    let mut page = post(&node, "/api/JobService/WatchJob", bearer, body).await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("QUEUED") {
        let read = soon("an event", page.read_buf(&mut seen)).await.unwrap();
        assert!(read > 0);
    }

    let fewer = entry("less", "viewer", "  namespaces: [text]\n");
    let left = [root, short, fewer].concat();
    put(&directory.path().join("tokens.yaml"), &left);
    for (what, ended) in [
        ("a watch", end(gone).await),
        ("a worker's stream", end(orders.into_inner()).await),
    ] {
        assert_eq!(ended.kind, ErrorKind::Unauthenticated, "{what}");
        assert_eq!(ended.reason, "TOKEN_UNKNOWN", "{what}");
    }
    let said = rest(page).await;
    assert!(said.contains("TOKEN_UNKNOWN"), "{said}");
    assert_eq!(node.metrics.refusals("token_unknown"), 3);
    let changed = end(less).await;
    assert_eq!(changed.kind, ErrorKind::Unavailable, "it may come again");
    assert_eq!(changed.reason, "ACCESS_CHANGED");
    // The worker's end is taken up by the cluster, though its own side is still open.
    until("the worker's absence", async || {
        let request = v1::GetWorkerRequest { name: "w".into() };
        let found = with("esp_root").cluster().get_worker(request).await.ok()?;
        (found.into_inner().state() != v1::worker::State::Ready).then_some(())
    })
    .await;
    assert_eq!(end(lasting).await.reason, "TOKEN_EXPIRED");
    let text = audit(directory.path());
    for word in [
        r#""principal":"gone""#,
        r#""principal":"w""#,
        "ACCESS_CHANGED",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let request = v1::CancelJobRequest { name: "a".into() };
    let root = with("esp_root");
    root.jobs().cancel_job(request).await.unwrap();
    assert!(!to_end(kept).await.is_empty());
    drop((reports, worker, root, channel));
    node.stop().await;
}

// Promise: who guesses tokens where the page logs in is counted, written down, and slowed.
#[tokio::test]
async fn guesses_at_the_page() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = [entry("root", "admin", "")];
    let node = guarded(directory.path(), &tokens, &["--max-rate", "2"]).await;
    let guess = async |token: &str| {
        let body = format!(r#"{{"token": "{token}"}}"#);
        rest(post(&node, "/api/session", "", &body).await).await
    };
    let right = guess("esp_root").await;
    assert!(right.starts_with("HTTP/1.1 200"), "{right}");
    let wrong = guess("esp_x").await;
    assert!(wrong.starts_with("HTTP/1.1 401"), "{wrong}");
    assert_eq!(node.metrics.refusals("token_unknown"), 1);
    let text = audit(directory.path());
    assert!(text.contains("/api/session") && text.contains("TOKEN_UNKNOWN"));
    assert!(!text.contains("esp_"), "{text}");
    let mut slowed = false;
    for _ in 0..1000 {
        slowed |= guess("esp_x").await.starts_with("HTTP/1.1 429");
        if slowed {
            break;
        }
    }
    assert!(slowed);
    node.stop().await;
}

// Promise: of a name that another team's job has, a caller learns that it can't have it and nothing else; an
// admin of one namespace who drains a worker sees no name of another's job.
#[tokio::test]
async fn names_of_others_are_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = [
        entry("root", "admin", ""),
        entry("sam", "submitter", "  namespaces: [vision]\n"),
        entry("ann", "admin", "  namespaces: [vision]\n"),
        entry("w", "worker", ""),
    ];
    let node = guarded(directory.path(), &tokens, &[]).await;
    let channel = connect(&node).await;
    let with = |token: &str| Someone::new(&channel, Header::bearer(token));
    create(&with("esp_root"), job("a", "text")).await.unwrap();
    let refused = create(&with("esp_sam"), job("a", "vision")).await;
    let refused = ApiError::from(&refused.unwrap_err());
    assert_eq!(refused.kind, ErrorKind::PermissionDenied);
    assert_eq!(refused.reason, "NAME_UNAVAILABLE");
    for word in ["text", "exist", "queued", "waits"] {
        assert!(!refused.message.contains(word), "{refused}");
    }
    assert_eq!(node.metrics.refusals("name_unavailable"), 1);
    create(&with("esp_sam"), job("b", "vision")).await.unwrap();
    let twice = create(&with("esp_sam"), job("b", "vision")).await;
    assert_eq!(ApiError::from(&twice.unwrap_err()).reason, "JOB_EXISTS");

    let (reports, outbound) = mpsc::channel(4);
    let first = said(Message::Hello(hello("w")));
    reports.send(first).await.unwrap();
    let mut worker = with("esp_w").workers();
    let orders = worker.connect(ReceiverStream::new(outbound)).await.unwrap();
    let drain = async |token: &str| {
        let request = v1::DrainWorkerRequest { name: "w".into() };
        let drained = with(token).cluster().drain_worker(request).await.ok()?;
        let job = drained.into_inner().devices.first()?.job.clone();
        (!job.is_empty()).then_some(job)
    };
    let used_by = async || {
        let request = v1::GetWorkerRequest { name: "w".into() };
        let found = with("esp_root").cluster().get_worker(request).await.ok()?;
        let job = found.into_inner().devices.first()?.job.clone();
        (job == "a").then_some(())
    };
    until("a placed job", used_by).await;
    assert_eq!(drain("esp_ann").await.unwrap(), "(hidden)");
    drop((orders, reports, worker, channel));
    node.stop().await;
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
    let first = said(Message::Hello(hello("w")));
    reports.send(first).await.unwrap();
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
