//! Secrets of generations: who is told one, that whoever leads next tells the same, and that none is shown.

use crate::kit::etcd::Server;
use crate::kit::{Node, Worker, config_with, hello, until};
use espalier_coordinator::Config;
use espalier_proto::v1;
use std::path::Path;

const JOB: &str = "secret";

/// Starts a job on one worker; what that was told.
async fn started(node: &Node) -> (v1::Job, v1::Start) {
    let mut worker = Worker::join(node, hello("w")).await;
    let job = node.create(JOB).await;
    worker.prepare().await;
    (job, worker.started().await)
}

/// What the worker is told by a coordinator that took over from the one that started the job.
async fn told_again(node: &Node, (job, start): &(v1::Job, v1::Start)) -> v1::Start {
    let running = v1::RunningJob {
        job: JOB.into(),
        job_uid: job.uid.clone(),
        generation: start.generation,
        step: 0,
        ranks: vec![0],
    };
    let hello = v1::Hello {
        running: vec![running],
        ..hello("w")
    };
    Worker::join(node, hello).await.started().await
}

fn alone(directory: &Path, how: &str) -> Config {
    config_with(directory, &["--data-plane", how])
}

// Promise: a secret has 32 bytes, a restarted coordinator tells the same one, one with another data directory
// another; neither a message nor a job that is shown shows it.
#[tokio::test]
async fn a_restart_tells_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let config = alone(directory.path(), "encrypted");
    let node = Node::configured(&config).await;
    let first = started(&node).await;
    node.stop().await;
    assert_eq!(first.1.secret.len(), 32);
    let shown = format!("{:?}", first.1);
    assert!(shown.contains(JOB) && shown.contains("32 bytes"), "{shown}");
    let bytes = format!("{:?}", first.1.secret);
    assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");

    let node = Node::configured(&config).await;
    let again = told_again(&node, &first).await;
    assert!(again.secret == first.1.secret);
    node.stop().await;

    let other = tempfile::tempdir().unwrap();
    let node = Node::configured(&alone(other.path(), "encrypted")).await;
    assert!(started(&node).await.1.secret != first.1.secret);
    node.stop().await;
}

// Promise: ranks of one host, and those of a cluster that was told to speak plain text, are told none.
#[tokio::test]
async fn plain_text_has_no_secret() {
    for more in [&[][..], &["--data-plane", "plain"][..]] {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::configured(&config_with(directory.path(), more)).await;
        assert_eq!(started(&node).await.1.secret, Vec::<u8>::new(), "{more:?}");
        node.stop().await;
    }
}

// Promise: another coordinator of the cluster, with its own data directory, tells the same.
#[tokio::test]
async fn whoever_leads_tells_the_same() {
    let etcd = Server::start().await;
    let store = format!("etcd:{}", etcd.url());
    let flags = ["--store", store.as_str(), "--data-plane", "encrypted"];
    let lead = async |directory: &Path| {
        let node = Node::configured(&config_with(directory, &flags)).await;
        let leads = async || {
            let answer = node.cluster().get_cluster(v1::GetClusterRequest {}).await;
            answer.ok().map(drop)
        };
        until("the lead", leads).await;
        node
    };
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let node = lead(one.path()).await;
    let first = started(&node).await;
    node.stop().await;
    let node = lead(two.path()).await;
    let again = told_again(&node, &first).await;
    assert_eq!(first.1.secret.len(), 32);
    assert!(again.secret == first.1.secret);
    node.stop().await;
}
