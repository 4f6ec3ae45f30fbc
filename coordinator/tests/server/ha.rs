//! Several coordinators on one etcd: who leads, what survives, what a stale leader can do.

use crate::kit::etcd::{Server, elect};
use crate::kit::{Node, Worker, config_with, events, hello, soon, spec, to_end, until};
use espalier_coordinator::Config;
use espalier_coordinator::etcd::{Keys, delete};
use espalier_proto::v1::cluster_service_client::ClusterServiceClient;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::{ApiError, ErrorKind, v1};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use v1::coordinator_message::Message as Order;
use v1::worker_message::Message;

const REQUEST: &str = "7f1d6a0e-52f4-4b0e-9f2c-1d8a3c5b7e90";

/// A coordinator process that does not outlive its test.
struct Process {
    child: Child,
    address: String,
    channel: Channel,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    async fn start(directory: &Path, name: &str, etcd: &Server) -> Self {
        let (data, ready) = (
            directory.join(name),
            directory.join(format!("{name}.ready")),
        );
        let child = Command::new(env!("CARGO_BIN_EXE_espalier-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--lease-ttl", "1s"])
            .args(["--store", &format!("etcd:{}", etcd.url())])
            .arg("--data-dir")
            .arg(data)
            .arg("--ready-file")
            .arg(&ready)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let read = async || std::fs::read_to_string(&ready).ok();
        let address = format!("http://{}", until("the ready file", read).await.trim());
        let endpoint = Endpoint::new(address.clone()).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self {
            child,
            address,
            channel,
        }
    }

    fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    async fn leads(&self) -> bool {
        let mut cluster = ClusterServiceClient::new(self.channel.clone());
        let answer = cluster.get_cluster(v1::GetClusterRequest {}).await;
        answer.is_ok()
    }

    async fn health(&self, service: &str) -> i32 {
        let mut health = HealthClient::new(self.channel.clone());
        let request = HealthCheckRequest {
            service: service.into(),
        };
        health.check(request).await.unwrap().into_inner().status
    }
}

/// Waits until one leads: its place.
async fn leader(of: &[Process]) -> usize {
    until("an election", async || {
        for (place, process) in of.iter().enumerate() {
            if process.leads().await {
                return Some(place);
            }
        }
        None
    })
    .await
}

async fn submit(jobs: &mut JobServiceClient<Channel>, name: &str) -> Result<v1::Job, ApiError> {
    let request = v1::CreateJobRequest {
        spec: Some(spec(name)),
        request_id: REQUEST.into(),
        validate_only: false,
    };
    match jobs.create_job(request).await {
        Ok(job) => Ok(job.into_inner()),
        Err(status) => Err(ApiError::from(status)),
    }
}

// Promise: when the leader is killed another one takes over with all that was acknowledged, a
// request that is sent again does nothing twice, and those that do not lead say who does.
#[tokio::test]
async fn another_one_takes_over() {
    let etcd = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for name in ["a", "b", "c"] {
        all.push(Process::start(directory.path(), name, &etcd).await);
    }
    let mut job = None;
    for round in 0..2 {
        let first = leader(&all).await;
        let found = submit(&mut all[first].jobs(), "kept").await.unwrap();
        let uid = found.uid.clone();
        assert_eq!(job.get_or_insert(found).uid, uid, "round {round}");
        for (place, other) in all.iter().enumerate().filter(|(place, _)| *place != first) {
            let address = &all[first].address;
            let named = until("the leader's name", async || {
                let error = submit(&mut other.jobs(), "other").await.unwrap_err();
                assert_eq!(error.kind, ErrorKind::Unavailable, "{place}: {error}");
                assert_eq!(error.reason, "NOT_LEADER", "{place}");
                error
                    .metadata
                    .get("leader")
                    .cloned()
                    .filter(|l| l == address)
            });
            named.await;
            assert_eq!(other.health("").await, 1, "it answers");
            assert_eq!(other.health("espalier.v1.JobService").await, 2);
        }
        assert_eq!(all[first].health("espalier.v1.JobService").await, 1);
        // SIGKILL: it can say nothing to anyone.
        drop(all.remove(first));
    }
    let last = leader(&all).await;
    let mut client = all[last].jobs();
    let list = client.list_jobs(v1::ListJobsRequest::default()).await;
    let jobs = list.unwrap().into_inner().jobs;
    assert_eq!(jobs.len(), 1);
    let job = job.unwrap();
    assert_eq!(
        (jobs[0].uid.as_str(), jobs[0].last_sequence),
        (job.uid.as_str(), job.last_sequence)
    );
}

fn among(directory: &Path, etcd: &Server, ttl: &str) -> Config {
    let store = format!("etcd:{}", etcd.url());
    config_with(directory, &["--store", &store, "--lease-ttl", ttl])
}

async fn get(node: &Node, name: &str) -> Result<v1::Job, ApiError> {
    let request = v1::GetJobRequest { name: name.into() };
    match node.jobs().get_job(request).await {
        Ok(job) => Ok(job.into_inner()),
        Err(status) => Err(ApiError::from(status)),
    }
}

async fn leads(node: &Node) {
    let leads = async || {
        let answer = node.cluster().get_cluster(v1::GetClusterRequest {}).await;
        answer.ok().map(drop)
    };
    until("the lead", leads).await;
}

// Promise: a leader that was replaced without noticing acknowledges nothing any more and ends its
// streams; what it was asked meanwhile is not done. Elected again, it tells workers a higher term.
#[tokio::test]
async fn a_stale_leader_can_not_write() {
    let etcd = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    // So long a time to live that it does not notice by itself within this test's first part.
    let node = Node::configured(&among(directory.path(), &etcd, "12s")).await;
    leads(&node).await;
    node.create("kept").await;
    let hello = Message::Hello(hello("w"));
    let mut worker = Worker::open(&node, hello.clone()).await.unwrap();
    let Order::Welcome(before) = worker.order().await else {
        panic!("no welcome")
    };

    let (client, keys) = (etcd.etcd(), Keys::new("default"));
    let other = elect(&client, &keys, "http://elsewhere:1").await;
    assert!(u64::try_from(other).unwrap() > before.term);
    let error = submit(&mut node.jobs(), "lost").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    let told = until("where the leader is", async || {
        let error = get(&node, "kept").await.err()?;
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        error.metadata.get("leader").cloned()
    });
    assert_eq!(told.await, "http://elsewhere:1");
    // Orders may still come; then the stream ends, with UNAVAILABLE or without a word.
    let ends = async { while let Ok(Some(_)) = worker.try_order().await {} };
    soon("the end of the stream", ends).await;

    let (from, end) = keys.lead();
    client
        .txn(Vec::new(), vec![delete(&from, &end)])
        .await
        .unwrap();
    leads(&node).await;
    assert!(get(&node, "kept").await.is_ok());
    let lost = get(&node, "lost").await.unwrap_err();
    assert_eq!(lost.kind, ErrorKind::NotFound);
    let mut worker = Worker::open(&node, hello).await.unwrap();
    let Order::Welcome(after) = worker.order().await else {
        panic!("no welcome")
    };
    assert!(after.term > u64::try_from(other).unwrap());
    assert_eq!(after.cluster, before.cluster);
    node.stop().await;
}

// Promise: without its store the API says UNAVAILABLE, the process lives on, and all is as before
// once the store is back; watchers go on where they were.
#[tokio::test]
async fn an_outage_of_the_store() {
    let mut etcd = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let node = Node::configured(&among(directory.path(), &etcd, "1s")).await;
    leads(&node).await;
    let job = node.create("kept").await;
    etcd.kill();
    let error = until("the outage", async || get(&node, "kept").await.err()).await;
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    let error = submit(&mut node.jobs(), "late").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");

    etcd.restart().await;
    leads(&node).await;
    assert_eq!(get(&node, "kept").await.unwrap().uid, job.uid);
    let cancel = v1::CancelJobRequest {
        name: "kept".into(),
    };
    node.jobs().cancel_job(cancel).await.unwrap();
    let stream = node.watch("kept", job.last_sequence).await;
    let news = events(to_end(stream).await);
    assert_eq!(news[0].sequence, job.last_sequence + 1);
    submit(&mut node.jobs(), "late").await.unwrap();
    node.stop().await;
}

// Promise: a coordinator that is told to stop leaves the lead, so that the next one needs not wait.
#[tokio::test]
async fn a_leader_that_stops_resigns() {
    let etcd = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    // Longer than this test may take: only a resignation lets another one lead.
    let long = "10m";
    let first = Node::configured(&among(&directory.path().join("a"), &etcd, long)).await;
    leads(&first).await;
    first.stop().await;
    let found = etcd.etcd().get(&Keys::new("default").who()).await.unwrap();
    assert!(found.is_none());
    let second = Node::configured(&among(&directory.path().join("b"), &etcd, long)).await;
    leads(&second).await;
    second.stop().await;
}

// Promise: what keeps a coordinator from starting is named with what to do.
#[tokio::test]
async fn what_is_in_the_way() {
    let etcd = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let node = Node::configured(&among(directory.path(), &etcd, "1s")).await;
    node.stop().await;
    let store = format!("etcd:{}", etcd.url());
    let flags = ["--store", &store, "--cluster", "another"];
    let config = config_with(directory.path(), &flags);
    let listener = espalier_coordinator::serve::bind(config.listen)
        .await
        .unwrap();
    let error = espalier_coordinator::start_configured(&config, listener)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("--data-dir"), "{error}");
}
