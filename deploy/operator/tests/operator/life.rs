//! The life of a resource, from its creation to its end.

use crate::kit::{Worker, hello};
use crate::stage::Stage;
use espalier_operator::resource::{FINALIZER, State};
use espalier_proto::v1::coordinator_message::Message as Order;
use espalier_proto::v1::worker_message::Message;
use espalier_proto::v1::{self, stopped::Outcome};
use serde_json::json;

async fn stop(worker: &mut Worker, start: &v1::Start) {
    let order = worker.order().await;
    assert!(matches!(order, Order::Stop(_)), "{order:?}");
    worker
        .say(Message::Stopped(v1::Stopped {
            job: start.job.clone(),
            generation: start.generation,
            outcome: Some(Outcome::Ordered(v1::stopped::StoppedAsOrdered {})),
        }))
        .await;
}

/// Waits until the coordinator's job is in a state.
async fn job_is(stage: &Stage, name: &str, state: v1::job::State) {
    crate::kit::until("the job's state", async || {
        let job = stage.job(name).await?;
        (job.state() == state).then_some(())
    })
    .await;
}

// Promise: a resource becomes a job of its namespace, follows it to its end, and says so in its status, its
// conditions and its events.
#[tokio::test]
async fn from_creation_to_success() {
    let stage = Stage::start().await;
    let operator = stage.operator();
    stage.create("a");
    stage.settle(&operator, "a").await;
    let resource = stage.resource("a").unwrap();
    assert_eq!(
        resource.metadata.finalizers,
        Some(vec![FINALIZER.to_owned()])
    );
    let job = stage.job("a").await.unwrap();
    assert_eq!(job.spec.unwrap().namespace, "team");
    assert_eq!(stage.status("a").state, Some(State::Queued));
    assert_eq!(stage.status("a").job_uid, Some(job.uid));
    let mut worker = Worker::join(&stage.node, hello("w")).await;
    worker.prepare().await;
    let start = worker.started().await;
    worker.progress(&start, 7).await;
    job_is(&stage, "a", v1::job::State::Running).await;
    crate::kit::until("progress", async || {
        stage.job("a").await?.progress.map(|_| ())
    })
    .await;
    stage.settle(&operator, "a").await;
    let status = stage.status("a");
    assert_eq!(status.state, Some(State::Running));
    assert_eq!((status.step, status.total_steps), (Some(7), Some(1000)));
    assert_eq!(stage.condition("a", "Running").0, "True");
    worker.finish(&start).await;
    job_is(&stage, "a", v1::job::State::Succeeded).await;
    stage.settle(&operator, "a").await;
    let status = stage.status("a");
    assert_eq!(status.state, Some(State::Succeeded));
    assert_eq!(status.export_path, "/exports/done");
    assert!(status.completion_time.is_some());
    assert_eq!(stage.condition("a", "Complete").0, "True");
    let events = stage
        .api
        .with(|store| store.list(|key| key.resource == "events"));
    let said: Vec<&str> = events.iter().filter_map(|e| e["reason"].as_str()).collect();
    for reason in ["Pending", "Queued", "Running", "Succeeded"] {
        assert!(said.contains(&reason), "{reason}: {said:?}");
    }
    stage.node.stop().await;
}

// Promise: suspension pauses a job with a checkpoint, and its end resumes it.
#[tokio::test]
async fn suspension_of_a_running_job() {
    let stage = Stage::start().await;
    let operator = stage.operator();
    stage.create("a");
    stage.settle(&operator, "a").await;
    let mut worker = Worker::join(&stage.node, hello("w")).await;
    worker.prepare().await;
    let start = worker.started().await;
    worker.progress(&start, 1).await;
    job_is(&stage, "a", v1::job::State::Running).await;
    stage.edit("a", json!({ "suspend": true }));
    stage.settle(&operator, "a").await;
    assert_eq!(stage.status("a").state, Some(State::Pausing));
    worker.checkpoint(&start, 2).await;
    stop(&mut worker, &start).await;
    job_is(&stage, "a", v1::job::State::Paused).await;
    stage.settle(&operator, "a").await;
    assert_eq!(stage.status("a").state, Some(State::Paused));
    assert_eq!(stage.condition("a", "Suspended").0, "True");
    stage.edit("a", json!({ "suspend": false }));
    stage.settle(&operator, "a").await;
    assert_ne!(stage.status("a").state, Some(State::Paused));
    stage.node.stop().await;
}

// Promise: a resource that is deleted while its job runs goes only when the ranks have stopped and the
// coordinator has forgotten the job.
#[tokio::test]
async fn deletion_of_a_running_job() {
    let stage = Stage::start().await;
    let operator = stage.operator();
    stage.create("a");
    stage.settle(&operator, "a").await;
    let mut worker = Worker::join(&stage.node, hello("w")).await;
    worker.prepare().await;
    let start = worker.started().await;
    worker.progress(&start, 1).await;
    job_is(&stage, "a", v1::job::State::Running).await;
    stage.delete("a");
    stage.settle(&operator, "a").await;
    assert!(stage.resource("a").is_some());
    assert_eq!(stage.status("a").state, Some(State::Cancelling));
    stop(&mut worker, &start).await;
    job_is(&stage, "a", v1::job::State::Cancelled).await;
    stage.settle(&operator, "a").await;
    assert!(stage.resource("a").is_none());
    assert!(stage.job("a").await.is_none());
    stage.node.stop().await;
}

// Promise: a change before the job ran takes its place, and one that comes too late is refused.
#[tokio::test]
async fn changes_of_the_job() {
    let stage = Stage::start().await;
    let operator = stage.operator();
    stage.create("a");
    stage.settle(&operator, "a").await;
    stage.edit("a", json!({ "job": { "seed": 7 } }));
    stage.settle(&operator, "a").await;
    let job = stage.job("a").await.unwrap();
    assert_eq!(job.spec.unwrap().seed, 7);
    assert_eq!(stage.status("a").job_uid, Some(job.uid.clone()));
    let mut worker = Worker::join(&stage.node, hello("w")).await;
    worker.prepare().await;
    let start = worker.started().await;
    worker.progress(&start, 1).await;
    job_is(&stage, "a", v1::job::State::Running).await;
    stage.edit("a", json!({ "job": { "seed": 8 } }));
    stage.settle(&operator, "a").await;
    let refused = ("True".to_owned(), "Refused".to_owned());
    assert_eq!(stage.condition("a", "SpecChanged"), refused);
    assert_eq!(stage.job("a").await.unwrap().uid, job.uid);
    stage.node.stop().await;
}

// Promise: what the coordinator refuses is said in the resource, with every field that is wrong.
#[tokio::test]
async fn a_malformed_job() {
    let stage = Stage::start().await;
    let operator = stage.operator();
    stage.create("a");
    stage.edit("a", json!({ "job": { "training": { "batch_size": 0 } } }));
    stage.settle(&operator, "a").await;
    let status = stage.status("a");
    assert_eq!(status.state, Some(State::Rejected));
    assert!(
        status.reason.contains("spec.job.training.batch_size"),
        "{}",
        status.reason
    );
    assert!(stage.job("a").await.is_none());
    stage.delete("a");
    stage.settle(&operator, "a").await;
    assert!(stage.resource("a").is_none());
    stage.node.stop().await;
}

// Promise: an ended job goes with its resource when its time is over.
#[tokio::test]
async fn expiry() {
    let stage = Stage::start().await;
    let operator = stage.operator();
    stage.create("a");
    stage.settle(&operator, "a").await;
    let name = "team-a".to_owned();
    let request = v1::CancelJobRequest { name };
    stage.node.jobs().cancel_job(request).await.unwrap();
    stage.settle(&operator, "a").await;
    assert_eq!(stage.status("a").state, Some(State::Cancelled));
    stage.edit("a", json!({ "ttlSecondsAfterFinished": 0 }));
    stage.settle(&operator, "a").await;
    assert!(stage.resource("a").is_none());
    assert!(stage.job("a").await.is_none());
    stage.node.stop().await;
}
