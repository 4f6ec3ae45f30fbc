//! What browsers and programs without gRPC get on the same port: the page, calls as JSON, series.

mod http;

use self::http::{Answer, call, open, send};
use crate::kit::{Node, Worker, config_with, hello, soon, until};
use espalier_proto::{ApiError, ErrorKind, v1};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use v1::worker_message::Message;

const JSON: (&str, &str) = ("content-type", "application/json");

fn spec(name: &str) -> Value {
    json!({
        "name": name,
        "backbone": { "path": "/models/small" },
        "tasks": [{
            "name": "topic",
            "head": "SINGLE_LABEL",
            "data": { "train": ["/data/topic.csv"] },
        }],
    })
}

fn error(status: u16, code: &str, reason: &str) -> (u16, String, String) {
    (status, code.to_owned(), reason.to_owned())
}

// Promise: a call as JSON is the call, and its answer has every field.
#[tokio::test]
async fn calls() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let at = node.address;
    let created = call(at, "JobService/CreateJob", json!({ "spec": spec("a") })).await;
    assert_eq!(created.status, 200, "{created:?}");
    assert_eq!(created.headers["content-type"], "application/json");
    assert_eq!(created.headers["cache-control"], "no-store");
    let job = created.json();
    assert_eq!(
        (&job["name"], &job["state"]),
        (&json!("a"), &json!("QUEUED"))
    );
    assert_eq!(
        (&job["generation"], &job["exportPath"]),
        (&json!("0"), &json!(""))
    );
    assert_eq!(job.get("plan"), None);
    assert_eq!(node.job("a").await.uid, job["uid"].as_str().unwrap());
    let listed = call(at, "JobService/ListJobs", json!({ "states": ["QUEUED"] })).await;
    assert_eq!(listed.json()["jobs"][0]["uid"], job["uid"]);
    // No body at all is the empty request.
    let cluster = send(at, "POST /api/ClusterService/GetCluster", &[JSON], b"").await;
    assert_eq!(cluster.json()["activeJobs"], json!(1));
    assert_eq!(cluster.json()["freeRanks"], json!(0));
    node.stop().await;
}

// Promise: a stream is one message a line as things happen, and ends when the job has.
#[tokio::test]
async fn streams() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    node.create("a").await;
    let body = br#"{"name": "a"}"#;
    let mut watch = open(node.address, "POST /api/JobService/WatchJob", &[JSON], body).await;
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains("QUEUED") {
        let read = soon("the first event", watch.read_buf(&mut bytes))
            .await
            .unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&bytes));
    }
    let cancelled = call(node.address, "JobService/CancelJob", json!({ "name": "a" })).await;
    assert_eq!(cancelled.status, 200);
    soon("the end", watch.read_to_end(&mut bytes))
        .await
        .unwrap();
    let answer = Answer::parse(&bytes);
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let lines = answer.lines();
    assert_eq!(lines[0]["event"]["sequence"], json!("1"));
    assert_eq!(lines[lines.len() - 1]["event"]["state"], json!("CANCELLED"));
    // What is refused before the stream begins is an answer as any other.
    let missing = call(node.address, "JobService/WatchJob", json!({ "name": "b" })).await;
    assert_eq!(missing.error(), error(404, "NOT_FOUND", "JOB_NOT_FOUND"));
    node.stop().await;
}

// Promise: a stream that breaks says why in its last line.
#[tokio::test]
async fn a_broken_stream_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    node.create("a").await;
    let body = br#"{"name": "a"}"#;
    let mut watch = open(node.address, "POST /api/JobService/WatchJob", &[JSON], body).await;
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains("QUEUED") {
        let read = soon("the first event", watch.read_buf(&mut bytes))
            .await
            .unwrap();
        assert!(read > 0);
    }
    node.stop().await;
    soon("the end", watch.read_to_end(&mut bytes))
        .await
        .unwrap();
    let lines = Answer::parse(&bytes).lines();
    let error = &lines[lines.len() - 1]["error"];
    assert_eq!(error["code"], json!("UNAVAILABLE"), "{lines:?}");
    assert_eq!(error["reason"], json!("COORDINATOR_STOPPING"));
}

// Promise: errors keep their code, reason, metadata and every bad field, and have the status of the code.
#[tokio::test]
async fn errors() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let at = node.address;
    let missing = call(at, "JobService/GetJob", json!({ "name": "none" })).await;
    assert_eq!(missing.error(), error(404, "NOT_FOUND", "JOB_NOT_FOUND"));
    assert_eq!(
        missing.json()["error"]["metadata"],
        json!({ "job": "none" })
    );
    node.create("a").await;
    let twice = call(at, "JobService/CreateJob", json!({ "spec": spec("a") })).await;
    assert_eq!(twice.error(), error(409, "ALREADY_EXISTS", "JOB_EXISTS"));
    let request = json!({ "spec": { "name": "b" }, "requestId": "no uuid" });
    let bad = call(at, "JobService/CreateJob", request).await;
    assert_eq!(
        bad.error(),
        error(400, "INVALID_ARGUMENT", "INVALID_FIELDS")
    );
    let violations = bad.json()["error"]["violations"].clone();
    let fields: Vec<_> = violations
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["field"].clone())
        .collect();
    assert_eq!(fields[..2], [json!("request_id"), json!("backbone")]);
    assert!(
        violations[0]["description"]
            .as_str()
            .unwrap()
            .contains("UUID")
    );
    node.stop().await;
}

// Promise: what is no call is refused with the reason, and does nothing.
#[tokio::test]
async fn what_is_no_call() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let at = node.address;
    for method in [
        "JobService/Unheard",
        "WorkerService/Connect",
        "Other/GetJob",
        "JobService/getjob",
        // Another way to write a call, which who may call was not asked about.
        "JobService/%47etJob",
        "JobService/GetJo%62",
    ] {
        let answer = call(at, method, json!({})).await;
        assert_eq!(
            answer.error(),
            error(404, "NOT_FOUND", "METHOD_UNKNOWN"),
            "{method}"
        );
    }
    for body in ["{", "[]", "{\"nmae\": \"a\"}", "\u{0}", "{} x"] {
        let answer = send(at, "POST /api/JobService/GetJob", &[JSON], body.as_bytes()).await;
        let expected = error(400, "INVALID_ARGUMENT", "MALFORMED_JSON");
        assert_eq!(answer.error(), expected, "{body}");
    }
    let get = send(at, "GET /api/JobService/ListJobs", &[], b"").await;
    assert_eq!(
        get.error(),
        error(405, "INVALID_ARGUMENT", "METHOD_NOT_ALLOWED")
    );
    assert_eq!(get.headers["allow"], "POST");
    let nothing = send(at, "GET /other", &[], b"").await;
    assert_eq!(nothing.error(), error(404, "NOT_FOUND", "PATH_UNKNOWN"));
    assert_eq!(nothing.headers["x-content-type-options"], "nosniff");
    let session = send(at, "POST /api/session", &[JSON], br#"{"token": "x"}"#).await;
    let off = error(400, "FAILED_PRECONDITION", "AUTHENTICATION_OFF");
    assert_eq!(session.error(), off);
    node.stop().await;
}

// Promise: a body that is too large is refused, before it is read where its length is told.
#[tokio::test]
async fn huge_bodies() {
    let directory = tempfile::tempdir().unwrap();
    let limits = ["--max-message-bytes=65536", "--max-job-bytes=65536"];
    let config = config_with(directory.path(), &limits);
    let node = Node::configured(&config).await;
    let headers = [JSON, ("content-length", "10000000000")];
    let told = send(node.address, "POST /api/JobService/GetJob", &headers, b"").await;
    assert_eq!(
        told.error(),
        error(413, "RESOURCE_EXHAUSTED", "BODY_TOO_LARGE")
    );
    // Just small enough is looked at.
    let mut body = br#"{"name": ""}"#.to_vec();
    body.resize(65_536, b' ');
    let fits = send(node.address, "POST /api/JobService/GetJob", &[JSON], &body).await;
    assert_eq!(
        fits.error(),
        error(400, "INVALID_ARGUMENT", "INVALID_FIELDS")
    );
    node.stop().await;
}

// Promise: no page but the coordinator's own can do anything here, whatever way it tries; what it tried has
// not happened.
#[tokio::test]
async fn other_sites_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    node.create("a").await;
    let at = node.address;
    let own = format!("http://{at}");
    let port = at.port();
    let (evil, evil_host) = (
        format!("http://evil.example:{port}"),
        format!("evil.example:{port}"),
    );
    let cookie = ("cookie", "a=b; espalier_session=secret");
    type Attempt<'a> = (&'a [(&'a str, &'a str)], (u16, String, String));
    let attempts: [Attempt; 7] = [
        (
            &[JSON, ("origin", "http://evil.example")],
            error(403, "PERMISSION_DENIED", "CROSS_SITE"),
        ),
        (
            &[JSON, ("origin", "null")],
            error(403, "PERMISSION_DENIED", "CROSS_SITE"),
        ),
        // A name of the site's own that points to this host.
        (
            &[
                JSON,
                ("origin", evil.as_str()),
                ("host", evil_host.as_str()),
            ],
            error(403, "PERMISSION_DENIED", "FOREIGN_NAME"),
        ),
        (
            &[JSON, cookie],
            error(403, "PERMISSION_DENIED", "NO_ORIGIN"),
        ),
        // What a page may send without asking first.
        (
            &[("content-type", "text/plain")],
            error(415, "INVALID_ARGUMENT", "NOT_JSON"),
        ),
        (
            &[("content-type", "application/x-www-form-urlencoded")],
            error(415, "INVALID_ARGUMENT", "NOT_JSON"),
        ),
        (&[], error(415, "INVALID_ARGUMENT", "NOT_JSON")),
    ];
    let line = "POST /api/JobService/CancelJob";
    for (headers, expected) in attempts {
        let answer = send(at, line, headers, br#"{"name": "a"}"#).await;
        assert_eq!(answer.error(), expected, "{headers:?}");
    }
    // A browser asks first whether it may; nobody says yes.
    let ask = [
        ("origin", "http://evil.example"),
        ("access-control-request-method", "POST"),
    ];
    let asked = send(at, "OPTIONS /api/JobService/CancelJob", &ask, b"").await;
    assert_eq!(asked.status, 403);
    assert!(
        asked
            .headers
            .keys()
            .all(|name| !name.starts_with("access-control-"))
    );
    // The gRPC services take no plain text either: a frame of CancelJob, as a page could send it.
    let frame = [&[0_u8, 0, 0, 0, 3, 0x0a, 1][..], &b"a"[..]].concat();
    let plain = [("content-type", "text/plain")];
    let grpc = "POST /espalier.v1.JobService/CancelJob";
    let forged = send(at, grpc, &plain, &frame).await;
    assert_eq!(forged.error(), error(415, "INVALID_ARGUMENT", "NOT_GRPC"));
    assert_eq!(node.job("a").await.state(), v1::job::State::Queued);
    // The page itself may.
    let allowed = send(
        at,
        line,
        &[JSON, cookie, ("origin", own.as_str())],
        br#"{"name": "a"}"#,
    )
    .await;
    assert_eq!(allowed.json()["state"], json!("CANCELLED"));
    node.stop().await;
}

// Promise: the page comes with headers that keep others out of it, and is sent once only.
#[tokio::test]
async fn the_page() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let page = send(node.address, "GET /", &[], b"").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers["cache-control"], "no-cache");
    assert_eq!(page.headers["referrer-policy"], "same-origin");
    let policy = &page.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let start = String::from_utf8_lossy(&page.body[..15]).to_lowercase();
    assert_eq!(start, "<!doctype html>");
    let tag = page.headers["etag"].clone();
    let listed = format!("\"other\", {tag}");
    for known in [tag.as_str(), listed.as_str(), "*"] {
        let again = send(node.address, "GET /", &[("if-none-match", known)], b"").await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{known}");
        assert_eq!(again.headers["etag"], tag);
    }
    let stale = send(
        node.address,
        "GET /",
        &[("if-none-match", "\"other\"")],
        b"",
    )
    .await;
    assert_eq!(stale.status, 200);
    node.stop().await;
}

async fn report(worker: &Worker, start: &v1::Start, step: u64) {
    let progress = v1::Progress {
        step,
        total_steps: 100,
        learning_rate: 0.5,
        losses: [("topic".to_owned(), step as f64)].into(),
        ..Default::default()
    };
    worker
        .say(Message::Progress(v1::ProgressReport {
            job: start.job.clone(),
            generation: start.generation,
            progress: Some(progress),
        }))
        .await;
}

async fn losses(node: &Node) -> Option<v1::Series> {
    let request = v1::GetJobSeriesRequest {
        name: "a".into(),
        series: vec!["loss/".into()],
        ..Default::default()
    };
    let answer = node.jobs().get_job_series(request).await.unwrap();
    answer.into_inner().series.into_iter().next()
}

// Promise: a job's figures are there as series as soon as they are reported, also as JSON and after a
// restart; evaluations are among them; a deleted job's are gone.
#[tokio::test]
async fn series() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let mut worker = Worker::join(&node, hello("w")).await;
    let uid = node.create("a").await.uid;
    worker.prepare().await;
    let start = worker.started().await;
    for step in [1, 2, 3] {
        report(&worker, &start, step).await;
        let seen = until("the step in the series", async || {
            let series = losses(&node).await?;
            (series.steps.last() == Some(&step)).then_some(series)
        });
        let seen = seen.await;
        assert_eq!(seen.steps, (1..=step).collect::<Vec<_>>());
        assert_eq!(seen.means.last(), Some(&(step as f64)));
    }
    let scores = v1::TaskScores {
        metrics: [("accuracy".to_owned(), 0.75)].into(),
        ..Default::default()
    };
    let evaluation = v1::Evaluation {
        step: 3,
        split: "validation".into(),
        tasks: [("topic".to_owned(), scores)].into(),
        ..Default::default()
    };
    worker
        .say(Message::Evaluation(v1::EvaluationReport {
            job: "a".into(),
            generation: start.generation,
            evaluation: Some(evaluation),
        }))
        .await;
    let name = "validation/topic/accuracy";
    let at = node.address;
    let request = json!({ "name": "a", "series": [name, "loss/topic"], "fromStep": 2 });
    let answer = until("the evaluation", async || {
        let answer = call(at, "JobService/GetJobSeries", request.clone())
            .await
            .json();
        (answer["series"].as_array()?.len() == 2).then_some(answer)
    });
    let answer = answer.await;
    assert_eq!(answer["lastStep"], json!("3"));
    let loss = json!({
        "name": "loss/topic", "steps": ["2", "3"], "means": [2.0, 3.0], "lows": [], "highs": [],
    });
    assert_eq!(answer["series"][0], loss);
    assert_eq!(answer["series"][1]["means"], json!([0.75]));
    worker.finish(&start).await;
    until("the end of the job", async || {
        (node.job("a").await.state() == v1::job::State::Succeeded).then_some(())
    })
    .await;
    let before = losses(&node).await;
    node.stop().await;

    let node = Node::start(directory.path()).await;
    assert_eq!(losses(&node).await, before);
    let file = directory
        .path()
        .join("series")
        .join(format!("{uid}.series"));
    assert!(file.exists());
    let delete = v1::DeleteJobRequest { name: "a".into() };
    node.jobs().delete_job(delete).await.unwrap();
    assert!(!file.exists());
    let request = v1::GetJobSeriesRequest {
        name: "a".into(),
        ..Default::default()
    };
    let gone = node.jobs().get_job_series(request).await.unwrap_err();
    assert_eq!(ApiError::from(gone).kind, ErrorKind::NotFound);
    node.stop().await;
}
