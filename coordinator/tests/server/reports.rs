//! Reports that last: acknowledged once they are durable, told again after a lost stream, counted once.

use crate::kit::{Node, Worker, config, events, hello, to_end, until};
use espalier_coordinator::serve;
use espalier_proto::v1;
use std::path::Path;
use v1::coordinator_message::Message as Order;
use v1::job::State;
use v1::job_event::Detail;
use v1::worker_message::Message;

fn evaluation(start: &v1::Start) -> Message {
    let scores = v1::TaskScores {
        samples: 9,
        loss: 0.1 + 0.2,
        ..Default::default()
    };
    let evaluation = v1::Evaluation {
        step: 8,
        split: "validation".into(),
        tasks: [("topic".to_owned(), scores)].into(),
        selection: 0.5,
        best: true,
    };
    Message::Evaluation(v1::EvaluationReport {
        job: start.job.clone(),
        generation: start.generation,
        evaluation: Some(evaluation),
    })
}

fn checkpoint(start: &v1::Start) -> Message {
    let checkpoint = v1::Checkpoint {
        step: 8,
        path: "/checkpoints/8".into(),
        best: true,
    };
    Message::Checkpoint(v1::CheckpointReport {
        job: start.job.clone(),
        generation: start.generation,
        checkpoint: Some(checkpoint),
    })
}

fn end(start: &v1::Start) -> Message {
    Message::Stopped(v1::Stopped {
        job: start.job.clone(),
        generation: start.generation,
        outcome: Some(v1::stopped::Outcome::ExportPath("/exports/done".into())),
    })
}

/// A job that trains on one worker, and its uid.
async fn training(node: &Node) -> (Worker, v1::Start, String) {
    let uid = node.create("kept").await.uid;
    let hello = Message::Hello(hello("w"));
    let mut worker = Worker::open(node, hello).await.unwrap();
    let Order::Welcome(welcome) = worker.order().await else {
        panic!("no welcome")
    };
    assert!(welcome.acknowledges);
    worker.prepare().await;
    let start = worker.started().await;
    (worker, start, uid)
}

/// The next stream of the same process: what it has not been acknowledged the end of, it says that it runs.
async fn again(node: &Node, start: &v1::Start, uid: &str) -> Worker {
    let running = v1::RunningJob {
        job: start.job.clone(),
        job_uid: uid.to_owned(),
        generation: start.generation,
        step: 8,
        ranks: vec![0],
    };
    let hello = v1::Hello {
        running: vec![running],
        ..hello("w")
    };
    Worker::join(node, hello).await
}

/// Waits until all reports up to this one are acknowledged, whatever is ordered meanwhile.
async fn acknowledged(worker: &mut Worker, sequence: u64) {
    loop {
        if let Order::Acknowledged(acknowledged) = worker.order().await {
            assert!(acknowledged.sequence <= sequence);
            if acknowledged.sequence == sequence {
                return;
            }
        }
    }
}

/// That the job came to its end in its first generation, and how often an evaluation and a checkpoint were told.
async fn told(node: &Node) -> (usize, usize) {
    let all = events(to_end(node.watch("kept", 0).await).await);
    let job = node.job("kept").await;
    assert_eq!((job.state(), job.generation), (State::Succeeded, 1));
    let is = |kind: fn(&Detail) -> bool| {
        let details = all.iter().filter_map(|event| event.detail.as_ref());
        details.filter(|detail| kind(detail)).count()
    };
    (
        is(|detail| matches!(detail, Detail::Evaluation(_))),
        is(|detail| matches!(detail, Detail::Checkpoint(_))),
    )
}

// Promise: what was on its way when a stream broke is told again and counts once, whether it had come or not; the
// end of a job is not lost with the stream, nor are its ranks.
#[tokio::test]
async fn a_lost_stream_loses_no_report() {
    for had_come in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::start(directory.path()).await;
        let (mut worker, start, uid) = training(&node).await;
        worker.say_numbered(1, evaluation(&start)).await;
        acknowledged(&mut worker, 1).await;
        if had_come {
            worker.say_numbered(2, end(&start)).await;
            until("the end of the job", async || {
                let state = node.job("kept").await.state();
                (state == State::Succeeded).then_some(())
            })
            .await;
        }
        // It never reads that its report was taken.
        drop(worker);

        let mut worker = again(&node, &start, &uid).await;
        worker.say_numbered(1, evaluation(&start)).await;
        worker.say_numbered(2, end(&start)).await;
        acknowledged(&mut worker, 2).await;
        assert_eq!(told(&node).await, (1, 0), "had come: {had_come}");
        node.stop().await;
    }
}

// Promise: a coordinator that takes over is told again what the one before it did not come to acknowledge: what that
// one took makes no second event, what it never heard of counts.
#[tokio::test]
async fn the_next_coordinator_is_told_again() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let (mut worker, start, uid) = training(&node).await;
    worker.say_numbered(1, evaluation(&start)).await;
    worker.say_numbered(2, checkpoint(&start)).await;
    acknowledged(&mut worker, 2).await;
    node.stop().await;
    drop(worker);

    let node = Node::start(directory.path()).await;
    let mut worker = again(&node, &start, &uid).await;
    worker.say_numbered(1, evaluation(&start)).await;
    worker.say_numbered(2, checkpoint(&start)).await;
    worker.say_numbered(3, end(&start)).await;
    acknowledged(&mut worker, 3).await;
    assert_eq!(told(&node).await, (1, 1));
    node.stop().await;
}

async fn quick(directory: &Path) -> Node {
    let mut config = config(directory);
    config.heartbeat_interval = "50ms".parse().unwrap();
    let store = serve::open_store(&config).await.unwrap();
    Node::with(&config, store).await
}

// Promise: ranks whose end is still to be told are not taken for lost, however late that comes after the Hello.
#[tokio::test]
async fn an_end_may_come_late() {
    let directory = tempfile::tempdir().unwrap();
    let node = quick(directory.path()).await;
    let (worker, start, uid) = training(&node).await;
    drop(worker);
    let mut worker = again(&node, &start, &uid).await;
    // Three heartbeats are over.
    until("the worker to be out of sight", async || {
        let request = v1::GetWorkerRequest { name: "w".into() };
        let worker = node.cluster().get_worker(request).await.unwrap();
        let state = worker.into_inner().state();
        (state == v1::worker::State::Unreachable).then_some(())
    })
    .await;
    worker.say_numbered(1, end(&start)).await;
    acknowledged(&mut worker, 1).await;
    assert_eq!(told(&node).await, (0, 0));
    node.stop().await;
}
