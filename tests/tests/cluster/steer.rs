//! The queue and what people can do to a job.

use espalier_proto::v1;
use espalier_proto::v1::job::State;
use espalier_proto::v1::watch_job_response::Update;
use espalier_tests::{Cluster, job};
use serde_json::{Value, json};

fn small(cluster: &Cluster, name: &str, steps: u64) -> Value {
    let mut spec = job(name, cluster.toy(), steps);
    spec["resources"] = json!({"ranks": 1});
    spec
}

// Promise: cancel ends a running job for good; a second cancel and a job of the same name are
// refused with exit code 6 and a sentence that names the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_and_conflicts() {
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    let spec = small(&cluster, "long", 1_000_000);
    cluster.submit(&spec).unwrap();
    cluster
        .until(
            "long",
            0,
            |update| matches!(update, Update::Progress(p) if p.step > 0),
        )
        .await
        .unwrap();
    let again = cluster
        .cli(&["submit", &cluster.job_file(&spec).unwrap()])
        .unwrap();
    assert_eq!(again.code, 6, "{}", again.said());
    assert!(again.said().contains("long"), "{}", again.said());

    assert_eq!(cluster.cli(&["cancel", "long"]).unwrap().code, 0);
    cluster.wait_for("long", State::Cancelled).await.unwrap();
    let twice = cluster.cli(&["cancel", "long"]).unwrap();
    assert_eq!(twice.code, 6, "{}", twice.said());
    assert!(twice.said().contains("long"), "{}", twice.said());
}

// Promise: two jobs share two workers at once; a third waits, and of two that wait the one of
// higher priority is placed first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_and_priority() {
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    cluster.worker("b", 1).await.unwrap();
    for name in ["one", "two"] {
        cluster.submit(&small(&cluster, name, 1_000_000)).unwrap();
        cluster.wait_for(name, State::Running).await.unwrap();
    }
    cluster.submit(&small(&cluster, "low", 20)).unwrap();
    let mut high = small(&cluster, "high", 20);
    high["priority"] = json!(5);
    cluster.submit(&high).unwrap();
    for name in ["low", "high"] {
        let waiting = cluster.job(name).await.unwrap();
        assert_eq!(waiting.state(), State::Queued, "{}", waiting.state_reason);
    }
    assert_eq!(cluster.cli(&["cancel", "one"]).unwrap().code, 0);
    let high = cluster.wait_for("high", State::Succeeded).await.unwrap();
    let low = cluster.wait_for("low", State::Succeeded).await.unwrap();
    let start = |job: &v1::Job| job.start_time.map(|t| (t.seconds, t.nanos)).unwrap();
    assert!(start(&high) < start(&low));
    let two = cluster.job("two").await.unwrap();
    assert_eq!(
        two.state(),
        State::Running,
        "the others' comings and goings do not touch it"
    );
}

// Promise: a job that needs more ranks than exist waits, says how many it needs and how many there
// are, holds up nobody, and runs when they come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_ranks() {
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    let mut wide = small(&cluster, "wide", 10);
    wide["resources"] = json!({"ranks": 2});
    cluster.submit(&wide).unwrap();
    let waiting = cluster.job("wide").await.unwrap();
    assert_eq!(waiting.state(), State::Queued);
    let reason = &waiting.state_reason;
    assert!(
        reason.contains("needs 2") && reason.contains("has 1"),
        "{reason}"
    );
    cluster.submit(&small(&cluster, "narrow", 10)).unwrap();
    cluster.wait_for("narrow", State::Succeeded).await.unwrap();
    cluster.worker("b", 1).await.unwrap();
    cluster.wait_for("wide", State::Succeeded).await.unwrap();
}
