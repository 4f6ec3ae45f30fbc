use super::cache::Cache;
use super::remote::{Remote, Variables};
use super::{Error, What};
use espalier_spec::JobSpec;
use espalier_spec::job::Descriptions;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutPayload};
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

const BODY: &[u8] = b"{\"text\": \"a\", \"label\": 1}\n";
const GO_ON: fn() -> bool = || false;

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn put(store: &InMemory, key: &str, body: &'static [u8]) {
    let payload = PutPayload::from_static(body);
    runtime()
        .block_on(store.put(&Key::from(key), payload))
        .unwrap();
}

fn fetch(dir: &Path, store: &Arc<InMemory>, key: &str, what: What) -> Result<PathBuf, Error> {
    let remote = Remote::of(Arc::<InMemory>::clone(store), key);
    let brought = runtime().block_on(Cache::new(dir, &GO_ON).bring(&remote, what));
    brought.map(|(path, _)| path)
}

fn bring_with(spec: &JobSpec, cache: &Cache<'_>, variables: &Variables) -> Result<JobSpec, Error> {
    super::bring_with(spec, cache, variables).map(|brought| brought.spec)
}

fn names(dir: &Path, ending: &str) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(ending)).count()
}

fn job(train: &str) -> JobSpec {
    serde_json::from_value(serde_json::json!({
        "name": "job",
        "backbone": {"path": "file:///mo%64el"},
        "tasks": [{"name": "task", "head": "single_label", "data": {"train": train, "test": train}}]
    }))
    .unwrap()
}

fn s3(endpoint: &str, more: &[(&str, &str)]) -> Variables {
    let keys = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "the-id"),
        ("AWS_SECRET_ACCESS_KEY", "the-secret"),
    ];
    let all = keys.iter().chain(more);
    Variables::of(all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn said(train: &str, variables: &Variables, parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path(), &GO_ON);
    let error = bring_with(&job(train), &cache, variables).unwrap_err();
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part}: {message}");
    }
    for secret in ["the-id", "the-secret", "signature"] {
        assert!(!message.contains(secret), "{message}");
    }
}

// Promise: a file is fetched once, again when the store has another one, and what a dead worker left
// over is not taken for it.
#[test]
fn a_file_is_kept_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    put(&store, "a/train.jsonl", BODY);
    let first = fetch(dir.path(), &store, "a/train.jsonl", What::File).unwrap();
    assert_eq!(first.file_name().unwrap(), "train.jsonl");
    assert_eq!(fs::read(&first).unwrap(), BODY);
    // Had it been fetched again, this would be gone.
    fs::write(&first, "kept").unwrap();
    let again = fetch(dir.path(), &store, "a/train.jsonl", What::File).unwrap();
    assert_eq!(
        (&again, fs::read(&again).unwrap()),
        (&first, b"kept".to_vec())
    );

    let entry = first.parent().unwrap();
    let part = PathBuf::from(format!("{}.part", entry.display()));
    fs::rename(entry, &part).unwrap();
    fs::write(part.join("other.jsonl"), "half").unwrap();
    let whole = fetch(dir.path(), &store, "a/train.jsonl", What::File).unwrap();
    assert_eq!(fs::read(&whole).unwrap(), BODY);
    assert!(!whole.with_file_name("other.jsonl").exists());

    put(&store, "a/train.jsonl", b"new");
    let other = fetch(dir.path(), &store, "a/train.jsonl", What::File).unwrap();
    assert_ne!(other, first);
    assert_eq!(fs::read(&other).unwrap(), b"new");
    assert_eq!(names(dir.path(), ".part"), 0);
}

// Promise: a model is all files right below its prefix but weights for other programs, and the prompt that
// it has learned, without which it would be another; a prefix without a config.json is none.
#[test]
fn a_prefix_is_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    for key in [
        "m/config.json",
        "m/model.safetensors",
        "m/x.bin",
        "m/deep/b.json",
        "m/prompt/adapter_config.json",
        "m/prompt/adapter_model.safetensors",
        "m/prompt/adapter_model.bin",
    ] {
        put(&store, key, BODY);
    }
    let model = fetch(dir.path(), &store, "m", What::Directory).unwrap();
    assert_eq!(names(&model, ""), 3);
    let prompt = model.join("prompt");
    assert_eq!(names(&prompt, ""), 2);
    assert_eq!(fs::read(prompt.join("adapter_config.json")).unwrap(), BODY);
    assert_eq!(fs::read(model.join("config.json")).unwrap(), BODY);
    let none = fetch(dir.path(), &store, "m/deep", What::Directory).unwrap_err();
    assert!(none.to_string().contains("config.json"), "{none}");
}

// Promise: a model whose fetch was stopped goes on with the file that was not whole: those before it are not
// fetched again.
#[test]
fn a_stopped_fetch_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    for key in ["m/config.json", "m/model.safetensors"] {
        put(&store, key, BODY);
    }
    let parts = || {
        let entries = fs::read_dir(dir.path()).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path().join("config.json"));
        paths.find(|path| path.is_file())
    };
    let stop = || parts().is_some();
    let remote = Remote::of(Arc::<InMemory>::clone(&store), "m");
    let cache = Cache::new(dir.path(), &stop);
    let bring = cache.bring(&remote, What::Directory);
    let error = runtime().block_on(bring).unwrap_err();
    assert!(matches!(error, Error::Stopped), "{error}");
    assert_eq!(
        (names(dir.path(), ".part"), names(dir.path(), ".new")),
        (1, 0)
    );
    // Had it been fetched again, this would be gone.
    let kept = vec![b'x'; BODY.len()];
    fs::write(parts().unwrap(), &kept).unwrap();
    let model = fetch(dir.path(), &store, "m", What::Directory).unwrap();
    assert_eq!(fs::read(model.join("config.json")).unwrap(), kept);
    assert_eq!(fs::read(model.join("model.safetensors")).unwrap(), BODY);
    assert_eq!(
        (names(dir.path(), ".part"), names(dir.path(), ".new")),
        (0, 0)
    );
}

// Promise: whatever file a job names may be a URL, those of classes too.
#[test]
fn files_of_classes_are_brought() {
    let mut spec = job("file:///train.jsonl");
    spec.tasks[0].zero_shot = serde_json::from_value(serde_json::json!({
        "descriptions": "file:///of%20words.csv", "vectors": "file:///of%20numbers.csv"
    }))
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path(), &GO_ON);
    let local = bring_with(&spec, &cache, &s3("", &[])).unwrap();
    let zero_shot = local.tasks[0].zero_shot.as_ref().unwrap();
    let words = Descriptions::File("/of words.csv".to_owned());
    assert_eq!(zero_shot.descriptions, words);
    assert_eq!(zero_shot.vectors.as_deref(), Some("/of numbers.csv"));
}

/// A server that gives the same bytes for every path but `/none`, `/denied` and `/broken`, and counts how
/// often; as an S3 server and as an HTTP server. What lies at `/swapped` changes before it is sent;
/// at `/signed` and `/headless` there is no HEAD.
struct Server {
    url: String,
    sent: Arc<AtomicUsize>,
}

impl Server {
    fn start(header: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), header, &count);
            }
        });
        Self { url, sent }
    }
}

fn answer(mut stream: TcpStream, header: &str, sent: &AtomicUsize) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let header = match request.starts_with("GET") && path.contains("swapped") {
        true => "Last-Modified: Fri, 02 Jan 2026 03:04:06 GMT\r\n",
        false => header,
    };
    let is_head = request.starts_with("HEAD");
    let status = match path {
        path if path.contains("signed") && is_head => "403 Forbidden",
        path if path.contains("headless") && is_head => "405 Method Not Allowed",
        path if path.contains("none") => "404 Not Found",
        path if path.contains("denied") => "403 Forbidden",
        path if path.contains("broken") => "503 Service Unavailable",
        _ => "200 OK",
    };
    let body = match status {
        "200 OK" => BODY,
        _ => &[],
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{header}Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    if request.starts_with("GET") && !body.is_empty() {
        sent.fetch_add(1, Ordering::SeqCst);
        // Who asks only what the file is may have gone by now.
        let _ = stream.write_all(body);
    }
}

const STEADY: &str = "ETag: \"1\"\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n";

// Promise: workers of one host that want a file at once fetch it once and read it whole, by HTTP and by
// S3; file:// is a path.
#[test]
fn a_file_is_fetched_once_for_all() {
    for scheme in ["http", "s3"] {
        let server = Server::start(STEADY);
        let dir = tempfile::tempdir().unwrap();
        let url = match scheme {
            "http" => format!("{}/x/train.jsonl?signature=1", server.url),
            _ => "s3://bucket/x/train.jsonl".to_owned(),
        };
        let barrier = Barrier::new(2);
        let local = || {
            barrier.wait();
            let variables = s3(&server.url, &[("AWS_ALLOW_HTTP", "true")]);
            let cache = Cache::new(dir.path(), &GO_ON);
            bring_with(&job(&url), &cache, &variables).unwrap()
        };
        let (one, two) = thread::scope(|scope| {
            let other = scope.spawn(local);
            (local(), other.join().unwrap())
        });
        assert_eq!(one, two);
        assert_eq!(server.sent.load(Ordering::SeqCst), 1, "{scheme}");
        assert_eq!(one.backbone.path, "/model");
        let data = &one.tasks[0].data;
        assert_eq!(data.train.paths(), data.test.as_ref().unwrap().paths());
        let path = Path::new(&data.train.paths()[0]);
        assert_eq!(path.file_name().unwrap(), "train.jsonl");
        assert_eq!(fs::read(path).unwrap(), BODY);
    }
}

// Promise: a server that says nothing by which a change could be seen is asked each time.
#[test]
fn without_a_sign_of_change_nothing_is_trusted() {
    let server = Server::start("");
    let dir = tempfile::tempdir().unwrap();
    let url = format!("{}/train.jsonl", server.url);
    let cache = Cache::new(dir.path(), &GO_ON);
    let one = bring_with(&job(&url), &cache, &s3("", &[])).unwrap();
    let two = bring_with(&job(&url), &cache, &s3("", &[])).unwrap();
    assert_eq!(one, two);
    assert_eq!(server.sent.load(Ordering::SeqCst), 2);
}

// Promise: of a store without ETags, too, bytes that took the place of others of the same size are not kept
// under the name of those.
#[test]
fn a_file_that_is_swapped_is_not_kept() {
    let server = Server::start("Last-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n");
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path(), &GO_ON);
    let url = |name: &str| format!("{}/{name}.jsonl", server.url);
    let error = bring_with(&job(&url("swapped")), &cache, &s3("", &[])).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    bring_with(&job(&url("calm")), &cache, &s3("", &[])).unwrap();
}

// Promise: a URL that is signed for GET alone and a server that knows no HEAD give their files, once for each
// version.
#[test]
fn a_file_without_a_head_is_fetched() {
    let server = Server::start(STEADY);
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path(), &GO_ON);
    for name in ["signed", "headless"] {
        let url = format!("{}/{name}.jsonl?signature=1", server.url);
        let one = bring_with(&job(&url), &cache, &s3("", &[])).unwrap();
        let path = one.tasks[0].data.train.paths()[0].clone();
        assert_eq!(fs::read(&path).unwrap(), BODY);
        // Had it been fetched again, this would be gone.
        fs::write(&path, "kept").unwrap();
        let two = bring_with(&job(&url), &cache, &s3("", &[])).unwrap();
        assert_eq!(one, two);
        assert_eq!(fs::read(&path).unwrap(), b"kept");
    }
}

// Promise: workers that fetch the same version say the same of it, wherever they keep it and whatever they
// call its server; those that fetch another one, or none, say something else.
#[test]
fn a_version_is_told() {
    let old = Server::start(STEADY);
    let new = Server::start("ETag: \"2\"\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n");
    let unsure = Server::start("");
    let told = |train: &str, endpoint: &str| {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), &GO_ON);
        let variables = s3(endpoint, &[("AWS_ALLOW_HTTP", "true")]);
        let brought = super::bring_with(&job(train), &cache, &variables).unwrap();
        brought.fetched
    };
    let s3_url = "s3://bucket/x/train.jsonl";
    let first = told(s3_url, &old.url);
    assert!(!first.is_empty());
    let other_name = old.url.replace("127.0.0.1", "localhost");
    assert_eq!(told(s3_url, &other_name), first);
    assert_ne!(told(s3_url, &new.url), first);
    let plain = format!("{}/train.jsonl", unsure.url);
    assert_eq!(told(&plain, ""), told(&plain, ""));
    assert_eq!(told("file:///train.jsonl", ""), "");
}

// Promise: what can go wrong names the URL and what to do, and no key and no signature.
#[test]
fn errors_name_the_url() {
    let server = Server::start(STEADY);
    let here = s3(&server.url, &[("AWS_ALLOW_HTTP", "true")]);
    said(
        "s3://bucket/none.jsonl",
        &here,
        &["s3://bucket/none.jsonl", "bucket and the key"],
    );
    said(
        "s3://bucket/denied.jsonl",
        &here,
        &["denied", "AWS_SECRET_ACCESS_KEY", &server.url],
    );
    let http = |path: &str| format!("{}/{path}.jsonl?signature=1", server.url);
    said(&http("none"), &here, &["/none.jsonl", "check the address"]);
    said(
        &http("denied"),
        &here,
        &["/denied.jsonl", "has not expired"],
    );
    said(
        "s3://b/a.jsonl",
        &Variables::of(std::iter::empty()),
        &["s3://b/a.jsonl", "AWS_ACCESS_KEY_ID"],
    );
    said("s3://b/a.jsonl", &s3(&server.url, &[]), &["AWS_ALLOW_HTTP"]);
    said("gs://b/a.jsonl", &here, &["gs://b/a.jsonl", "s3://"]);
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gone = s3(&format!("http://{port}"), &[("AWS_ALLOW_HTTP", "true")]);
    said(
        "s3://b/a.jsonl",
        &gone,
        &["s3://b/a.jsonl", "refused", "AWS_ENDPOINT_URL"],
    );
}

// Promise: a job that is told to stop stops fetching and leaves nothing of a file behind.
#[test]
fn a_job_that_is_told_to_stop_stops() {
    let server = Server::start(STEADY);
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path(), &|| true);
    let url = format!("{}/train.jsonl", server.url);
    let error = bring_with(&job(&url), &cache, &s3("", &[])).unwrap_err();
    assert!(matches!(error, Error::Stopped), "{error}");
    assert_eq!(names(dir.path(), ".part"), 0);
}

// Promise: a job outlives an outage of its store, and ends at once where nothing would be different the next
// time; only a full disk is called one.
#[test]
fn an_outage_is_no_end() {
    let server = Server::start(STEADY);
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path(), &GO_ON);
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let asked = [
        (format!("{}/broken.jsonl", server.url), true),
        (format!("http://{port}/gone.jsonl"), true),
        (format!("{}/none.jsonl", server.url), false),
        (format!("{}/denied.jsonl", server.url), false),
    ];
    for (url, passes) in asked {
        let error = bring_with(&job(&url), &cache, &s3("", &[])).unwrap_err();
        let failure = error.failure();
        assert_eq!(
            (failure.code.as_str(), failure.retryable),
            ("fetch", passes),
            "{error}"
        );
    }
    let url = "http://host/a".to_owned();
    assert!(Error::Changed { url: url.clone() }.failure().retryable);
    let (found, expected) = (1, 2);
    let cut = Error::Cut {
        url,
        found,
        expected,
    };
    assert!(cut.failure().retryable);
    for (kind, code, advice) in [
        (ErrorKind::StorageFull, "disk_full", "make room"),
        (ErrorKind::QuotaExceeded, "disk_full", "make room"),
        (ErrorKind::PermissionDenied, "fetch", "may write there"),
    ] {
        let failure = Error::cache(dir.path())(kind.into()).failure();
        assert_eq!((failure.code.as_str(), failure.retryable), (code, false));
        assert!(failure.message.contains(advice), "{}", failure.message);
    }
}
