//! Two coordinators on one etcd: workers and commands follow the one that leads.

use espalier_proto::v1;
use espalier_proto::v1::cluster_service_client::ClusterServiceClient;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::watch_job_response::Update;
use espalier_tests::{PATIENCE, Toy, binary, espalier, job};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tonic::transport::Endpoint;

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: PathBuf, args: &[OsString], log: &Path) -> Process {
    let child = Command::new(&program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(log).unwrap())
        .spawn();
    Process(child.unwrap_or_else(|error| panic!("{}: {error}", program.display())))
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// An etcd on free ports, and its address.
fn etcd(dir: &Path) -> (Process, String) {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.espalier/etcd/usr/bin/etcd");
    let program = match std::env::var_os("ESPALIER_ETCD") {
        Some(named) => named.into(),
        None if fetched.is_file() => fetched,
        None => "etcd".into(),
    };
    let url = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let (client, peer) = (url(), url());
    let mut args = words(&["--listen-client-urls", &client]);
    args.extend(words(&["--advertise-client-urls", &client]));
    args.extend(words(&["--listen-peer-urls", &peer]));
    args.extend(words(&["--initial-advertise-peer-urls", &peer]));
    args.extend(words(&["--initial-cluster", &format!("default={peer}")]));
    args.extend(["--data-dir".into(), dir.join("etcd").into_os_string()]);
    (start(program, &args, &dir.join("etcd.log")), client)
}

/// A coordinator and its address.
async fn coordinator(dir: &Path, name: &str, etcd: &str) -> (Process, String) {
    let ready = dir.join(format!("{name}.ready"));
    let mut args = words(&[
        "--listen",
        "127.0.0.1:0",
        "--store",
        &format!("etcd:{etcd}"),
    ]);
    args.extend(["--data-dir".into(), dir.join(name).into_os_string()]);
    args.extend(["--ready-file".into(), ready.clone().into_os_string()]);
    let log = dir.join(format!("{name}.log"));
    let process = start(binary("espalier-coordinator").unwrap(), &args, &log);
    let address = within("the ready file", async || fs::read_to_string(&ready).ok()).await;
    (process, format!("http://{}", address.trim()))
}

/// Looks again and again until there is something to see.
async fn within<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// Address of the one that leads.
async fn leader(addresses: &[String]) -> String {
    within("an election", async || {
        for address in addresses {
            let endpoint = Endpoint::from_shared(address.clone()).unwrap();
            let Ok(channel) = endpoint.connect().await else {
                continue;
            };
            let mut client = ClusterServiceClient::new(channel);
            let answer = client.get_cluster(v1::GetClusterRequest {}).await;
            if answer.is_ok() {
                return Some(address.clone());
            }
        }
        None
    })
    .await
}

// Promise: training goes on when the leader is killed, the worker reports to the next one, and who
// watches sees every event once and hears nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_during_a_job() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy::write(&dir.path().join("toy")).unwrap();
    let (_etcd, store) = etcd(dir.path());
    let mut processes = Vec::new();
    let mut addresses = Vec::new();
    for name in ["a", "b"] {
        let (process, address) = coordinator(dir.path(), name, &store).await;
        processes.push(process);
        addresses.push(address);
    }
    let all = addresses.join(",");
    let mut args = words(&[
        "run",
        "--coordinator",
        &all,
        "--name",
        "w",
        "--threads",
        "1",
    ]);
    args.extend([
        "--data-dir".into(),
        dir.path().join("data").into_os_string(),
    ]);
    let log = dir.path().join("w.log");
    let _worker = start(binary("espalier-worker").unwrap(), &args, &log);

    let mut spec = job("kept", &toy, 400);
    spec["resources"] = json!({"ranks": 1});
    let file = dir.path().join("kept.yaml");
    fs::write(&file, spec.to_string()).unwrap();
    let file = file.display().to_string();
    let run = espalier(dir.path(), &["--server", &all, "submit", &file], "").unwrap();
    assert_eq!(run.code, 0, "{}", run.said());
    let (folder, servers) = (dir.path().to_owned(), all.clone());
    let watching = tokio::task::spawn_blocking(move || {
        espalier(
            &folder,
            &["--server", &servers, "watch", "kept", "-o", "json"],
            "",
        )
        .unwrap()
    });

    let first = leader(&addresses).await;
    let channel = Endpoint::from_shared(first.clone())
        .unwrap()
        .connect()
        .await;
    let mut jobs = JobServiceClient::new(channel.unwrap());
    let request = v1::WatchJobRequest {
        name: "kept".to_owned(),
        after_sequence: 0,
    };
    let mut stream = jobs.watch_job(request).await.unwrap().into_inner();
    loop {
        let update = tokio::time::timeout(PATIENCE, stream.message()).await;
        let update = update.unwrap().unwrap().unwrap().update;
        if matches!(update, Some(Update::Progress(progress)) if progress.step > 0) {
            break;
        }
    }
    let place = addresses.iter().position(|a| *a == first).unwrap();
    drop(processes.remove(place));

    let watched = tokio::time::timeout(PATIENCE, watching).await;
    let run = watched.expect("the job did not end").unwrap();
    assert_eq!(run.code, 0, "{}", run.said());
    assert!(!run.said().contains("connection is lost"), "{}", run.said());
    let events: Vec<u64> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|line| line["event"]["sequence"].as_u64())
        .collect();
    let last = *events.last().unwrap();
    assert_eq!(events, (1..=last).collect::<Vec<_>>());
    let run = espalier(dir.path(), &["--server", &all, "get", "-o", "json"], "").unwrap();
    assert_eq!(run.code, 0, "{}", run.said());
    assert!(run.stdout.contains("kept"), "{}", run.said());
}
