//! The same job ends with the same bytes, whatever happens on the way.

use espalier_proto::v1::job::State;
use espalier_proto::v1::job_event::Detail;
use espalier_proto::v1::watch_job_response::Update;
use espalier_tests::{Cluster, job};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What a job leaves that must not depend on timing, topology or accidents.
#[derive(Debug, PartialEq)]
struct Model {
    backbone: Vec<u8>,
    heads: Vec<u8>,
}

impl Model {
    fn read(export: &str) -> Self {
        let read = |name: &str| fs::read(Path::new(export).join(name)).unwrap();
        Self {
            backbone: read("model.safetensors"),
            heads: read("heads.safetensors"),
        }
    }

    /// Fails with the name of what differs, not with megabytes.
    fn same(&self, other: &Self, what: &str) {
        assert!(
            self.backbone == other.backbone,
            "{what}: model.safetensors differs"
        );
        assert!(
            self.heads == other.heads,
            "{what}: heads.safetensors differs"
        );
    }
}

const STEPS: u64 = 400;

fn spec(cluster: &Cluster, name: &str) -> Value {
    let mut spec = job(name, cluster.toy(), STEPS);
    spec["resources"] = json!({"ranks": 2, "shards": 2});
    spec
}

async fn finish(cluster: &Cluster, name: &str) -> Model {
    let done = cluster.wait_for(name, State::Succeeded).await.unwrap();
    Model::read(&done.export_path)
}

async fn undisturbed(cluster: &Cluster) -> Model {
    cluster.submit(&spec(cluster, "calm")).unwrap();
    finish(cluster, "calm").await
}

async fn two_workers() -> Cluster {
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    cluster.worker("b", 1).await.unwrap();
    cluster
}

// Promise: a job run twice gives the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twice() {
    let cluster = two_workers().await;
    let first = undisturbed(&cluster).await;
    cluster.submit(&spec(&cluster, "again")).unwrap();
    finish(&cluster, "again").await.same(&first, "a second run");
}

// Promise: one rank that computes both shards ends where two ranks do, but for the rounding of
// float32 sums that are taken in another order (norm of the gradient, rows of word embeddings).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_shards_on_one_rank() {
    let cluster = two_workers().await;
    let mut losses = Vec::new();
    for (name, ranks) in [("pair", 2), ("alone", 1)] {
        let mut spec = job(name, cluster.toy(), 20);
        spec["resources"] = json!({"ranks": ranks, "shards": 2});
        cluster.submit(&spec).unwrap();
        let done = cluster.wait_for(name, State::Succeeded).await.unwrap();
        let test = done.evaluations.iter().find(|e| e.split == "test").unwrap();
        let tasks = ["topic", "mentions", "amount"];
        losses.push(tasks.map(|task| test.tasks[task].loss));
    }
    for (pair, alone) in losses[0].iter().zip(losses[1]) {
        let far = (pair - alone).abs() / pair.abs();
        assert!(far < 1e-5, "losses {pair} and {alone}");
    }
}

// Promise: a paused job holds no ranks and a checkpoint; resumed, it ends with the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_and_resume() {
    let cluster = two_workers().await;
    let calm = undisturbed(&cluster).await;
    cluster.submit(&spec(&cluster, "paused")).unwrap();
    cluster.checkpoint("paused", 0).await.unwrap();
    assert_eq!(cluster.cli(&["pause", "paused"]).unwrap().code, 0);
    let paused = cluster.wait_for("paused", State::Paused).await.unwrap();
    let step = paused.checkpoint.unwrap().step;
    assert!(step > 0 && step < STEPS, "paused at step {step}");
    assert_eq!(cluster.cli(&["resume", "paused"]).unwrap().code, 0);
    finish(&cluster, "paused")
        .await
        .same(&calm, "after a pause");
}

// Promise: kill -9 of the coordinator stops no training; restarted, it takes the job up again in
// the same generation, and the job ends with the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_dies() {
    let mut cluster = two_workers().await;
    let calm = undisturbed(&cluster).await;
    cluster.submit(&spec(&cluster, "orphan")).unwrap();
    cluster.checkpoint("orphan", 0).await.unwrap();
    cluster.kill_coordinator();
    cluster.start_coordinator().unwrap();
    finish(&cluster, "orphan")
        .await
        .same(&calm, "after the coordinator's death");
    let job = cluster.job("orphan").await.unwrap();
    assert_eq!(job.generation, 1, "the job was adopted, not started again");
}

// Promise: kill -9 of a worker costs at most the steps since the checkpoint: when a worker of its
// name is back, the job goes on in generation 2 and ends with the same bytes; of the steps that count,
// every sample is accounted for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_dies() {
    let mut cluster = two_workers().await;
    let calm = undisturbed(&cluster).await;
    cluster.submit(&spec(&cluster, "robbed")).unwrap();
    cluster.checkpoint("robbed", 0).await.unwrap();
    cluster.kill_worker("b");
    cluster.worker("b", 1).await.unwrap();
    finish(&cluster, "robbed")
        .await
        .same(&calm, "after a worker's death");
    let job = cluster.job("robbed").await.unwrap();
    assert_eq!(job.generation, 2);
    let audit = cluster.cli(&["audit", "robbed"]).unwrap();
    assert_eq!(audit.code, 0, "{}", audit.said());
}

// Promise: ranks that keep only their own parameters train the same bytes as ranks that keep them
// all, also when one is killed and its rows and slices are read back from the checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_dies_with_its_part_of_the_model() {
    let mut cluster = two_workers().await;
    let calm = undisturbed(&cluster).await;
    let mut spec = spec(&cluster, "parts");
    spec["exchange"] = json!({"sharding": "full"});
    cluster.submit(&spec).unwrap();
    cluster.checkpoint("parts", 0).await.unwrap();
    cluster.kill_worker("b");
    cluster.worker("b", 1).await.unwrap();
    finish(&cluster, "parts")
        .await
        .same(&calm, "with full sharding, after a worker's death");
    let job = cluster.job("parts").await.unwrap();
    assert_eq!(job.generation, 2);
}

// Promise: four ranks end with the same bytes on one worker, on two, and when a worker comes and is
// killed on the way: the job takes it in by itself, and goes on without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_come_and_go() {
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    let elastic = |cluster: &Cluster, name: &str| {
        let mut spec = job(name, cluster.toy(), 600);
        spec["resources"] = json!({"ranks": 4, "workers": {"min": 1, "max": 2}});
        spec
    };
    cluster.submit(&elastic(&cluster, "alone")).unwrap();
    let alone = finish(&cluster, "alone").await;
    cluster.submit(&elastic(&cluster, "changing")).unwrap();
    cluster.checkpoint("changing", 0).await.unwrap();
    cluster.worker("b", 1).await.unwrap();
    let second = |update: &Update| {
        let Update::Event(event) = update else {
            return false;
        };
        let plan = match &event.detail {
            Some(Detail::Plan(plan)) => plan,
            _ => return false,
        };
        plan.seats.iter().any(|seat| seat.worker == "b")
    };
    cluster.until("changing", 0, second).await.unwrap();
    cluster.kill_worker("b");
    finish(&cluster, "changing")
        .await
        .same(&alone, "after a worker came and died");
    cluster.worker("b", 1).await.unwrap();
    cluster.submit(&elastic(&cluster, "pair")).unwrap();
    finish(&cluster, "pair")
        .await
        .same(&alone, "on two workers");
}
