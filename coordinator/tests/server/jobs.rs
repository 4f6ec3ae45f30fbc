//! A job's whole life over real gRPC: clients on one side, a worker's stream on the other.

use crate::kit::{Node, Worker, events, hello, soon, to_end};
use espalier_proto::{ApiError, ErrorKind, v1};
use v1::job::State;
use v1::watch_job_response::Update;
use v1::worker_message::Message;

// Promise: a submitted job is prepared, started, watched and finished; every event is numbered
// without gaps and comes once.
#[tokio::test]
async fn a_job_runs_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let created = node.create("first").await;
    assert_eq!(created.state(), State::Queued);
    assert!(!created.state_reason.is_empty());
    let whole = node.watch("first", 0).await;
    let mut live = node.watch("first", created.last_sequence).await;

    let mut worker = Worker::join(&node, hello("w")).await;
    let prepare = worker.prepare().await;
    assert_eq!(
        (prepare.job.as_str(), prepare.job_uid),
        ("first", created.uid.clone())
    );
    let training = prepare.spec.unwrap().training.unwrap();
    assert_eq!(
        training.batch_size, 32,
        "workers get every default filled in"
    );
    let start = worker.started().await;
    assert_eq!(start.plan.as_ref().unwrap().blocks[0].ends, [90]);
    assert_eq!(start.addresses[0].address, "127.0.0.1:1");

    worker.progress(&start, 7).await;
    loop {
        let update = soon("progress", live.message()).await.unwrap().unwrap();
        if let Some(Update::Progress(progress)) = update.update {
            assert_eq!((progress.step, progress.total_steps), (7, 1000));
            break;
        }
    }
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
    worker
        .say(Message::Evaluation(v1::EvaluationReport {
            job: "first".into(),
            generation: start.generation,
            evaluation: Some(evaluation.clone()),
        }))
        .await;
    worker.checkpoint(&start, 8).await;
    worker.log("first", "a line").await;
    worker.finish(&start).await;

    let seen = events(to_end(whole).await);
    let job = node.job("first").await;
    assert_eq!(job.state(), State::Succeeded);
    assert_eq!(job.export_path, "/exports/done");
    assert_eq!(job.evaluations, [evaluation]);
    assert_eq!(job.checkpoint.unwrap().step, 8);
    let numbers: Vec<u64> = seen.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=job.last_sequence).collect::<Vec<_>>());
    assert_eq!(seen.last().unwrap().state(), State::Succeeded);

    // Promise: a broken watch is resumed without gap or repetition.
    let rest = events(to_end(node.watch("first", 2).await).await);
    assert_eq!(rest, seen[2..]);
    // The last progress may come once more; it is no event.
    let none = events(to_end(node.watch("first", job.last_sequence).await).await);
    assert!(none.is_empty(), "{none:?}");
    let request = v1::WatchJobRequest {
        name: "first".into(),
        after_sequence: 1000,
    };
    let error = ApiError::from(node.jobs().watch_job(request).await.unwrap_err());
    assert_eq!(error.kind, ErrorKind::OutOfRange);
    assert_eq!(
        error.metadata["last_sequence"],
        job.last_sequence.to_string()
    );

    // Promise: an ended job can't be cancelled, and can be deleted with its log.
    let request = v1::CancelJobRequest {
        name: "first".into(),
    };
    let error = ApiError::from(node.jobs().cancel_job(request).await.unwrap_err());
    assert_eq!(
        (error.kind, error.reason.as_str()),
        (ErrorKind::FailedPrecondition, "WRONG_JOB_STATE")
    );
    assert_eq!(tail(&node, "first").await, ["a line"]);
    let request = v1::DeleteJobRequest {
        name: "first".into(),
    };
    node.jobs().delete_job(request).await.unwrap();
    let again = node.create("first").await;
    assert_ne!(again.uid, created.uid);
    assert!(tail(&node, "first").await.is_empty());
    node.stop().await;
}

async fn tail(node: &Node, job: &str) -> Vec<String> {
    let request = v1::TailJobLogsRequest {
        name: job.into(),
        tail: 10,
        follow: false,
    };
    let stream = node
        .jobs()
        .tail_job_logs(request)
        .await
        .unwrap()
        .into_inner();
    to_end(stream)
        .await
        .into_iter()
        .map(|line| line.text)
        .collect()
}

// Promise: what was acknowledged survives a restart: jobs, their events, request ids and logs; a
// worker that went on meanwhile is taken up in the same generation and not disturbed.
#[tokio::test]
async fn a_restart_takes_up_its_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let request = v1::CreateJobRequest {
        spec: Some(crate::kit::spec("long")),
        request_id: "0191d2a4-8b1f-7000-8000-000000000001".into(),
        validate_only: false,
    };
    let created = node
        .jobs()
        .create_job(request.clone())
        .await
        .unwrap()
        .into_inner();
    let mut worker = Worker::join(&node, hello("w")).await;
    worker.prepare().await;
    let start = worker.started().await;
    worker.log("long", "before").await;
    worker.checkpoint(&start, 5).await;
    let mut watch = node.watch("long", 0).await;
    loop {
        let update = soon("the checkpoint", watch.message())
            .await
            .unwrap()
            .unwrap();
        if let Some(Update::Event(event)) = update.update
            && event
                .detail
                .is_some_and(|d| matches!(d, v1::job_event::Detail::Checkpoint(_)))
        {
            break;
        }
    }
    let before = node.job("long").await;
    assert_eq!(before.state(), State::Running);
    node.stop().await;
    // The worker and the watcher are told to come back, not that anything failed.
    let ended = ApiError::from(worker.try_order().await.unwrap_err());
    assert_eq!(
        (ended.kind, ended.reason.as_str()),
        (ErrorKind::Unavailable, "COORDINATOR_STOPPING")
    );

    let node = Node::start(directory.path()).await;
    let after = node.job("long").await;
    assert_eq!(
        (after.state(), after.generation),
        (State::Running, before.generation)
    );
    assert_eq!(
        (&after.plan, &after.checkpoint),
        (&before.plan, &before.checkpoint)
    );
    assert_eq!(after.last_sequence, before.last_sequence);
    let same = node.jobs().create_job(request).await.unwrap().into_inner();
    assert_eq!(
        same.uid, created.uid,
        "the same request id gives the same job"
    );
    assert_eq!(tail(&node, "long").await, ["before"]);

    let running = v1::RunningJob {
        job: "long".into(),
        job_uid: created.uid,
        generation: start.generation,
        step: 6,
        ranks: vec![0],
    };
    let worker = Worker::join(
        &node,
        v1::Hello {
            running: vec![running],
            ..hello("w")
        },
    )
    .await;
    let watch = node.watch("long", after.last_sequence).await;
    worker.finish(&start).await;
    let rest = events(to_end(watch).await);
    assert_eq!(rest.last().unwrap().state(), State::Succeeded);
    assert_eq!(rest[0].sequence, after.last_sequence + 1);
    node.stop().await;
}

// Promise: a cancelled job's worker is stopped, and its ranks go to the next job.
#[tokio::test]
async fn cancel_gives_the_ranks_to_the_next_job() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let mut worker = Worker::join(&node, hello("w")).await;
    node.create("one").await;
    worker.prepare().await;
    let start = worker.started().await;
    assert_eq!(node.create("two").await.state(), State::Queued);
    let request = v1::CancelJobRequest { name: "one".into() };
    let job = node.jobs().cancel_job(request).await.unwrap().into_inner();
    assert_eq!(job.state(), State::Cancelling);
    let order = worker.order().await;
    let v1::coordinator_message::Message::Stop(stop) = order else {
        panic!("{order:?}")
    };
    assert_eq!(
        (stop.generation, stop.mode()),
        (start.generation, v1::stop::Mode::Abort)
    );
    let ordered = v1::stopped::StoppedAsOrdered {};
    worker
        .say(Message::Stopped(v1::Stopped {
            job: "one".into(),
            generation: start.generation,
            outcome: Some(v1::stopped::Outcome::Ordered(ordered)),
        }))
        .await;
    assert_eq!(worker.prepare().await.job, "two");
    assert_eq!(node.job("one").await.state(), State::Cancelled);
    node.stop().await;
}

// Promise: a job that goes on from memory is told the snapshot and its providers; what the incident
// cost is in the job and in an event.
#[tokio::test]
async fn a_recovery_is_told_to_clients() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let mut worker = Worker::join(&node, hello("w")).await;
    node.create("moved").await;
    worker.prepare().await;
    let start = worker.started().await;
    assert_eq!(start.restore, None);
    worker.progress(&start, 7).await;
    let ordered = v1::stopped::StoppedAsOrdered {};
    worker
        .say(Message::Stopped(v1::Stopped {
            job: "moved".into(),
            generation: start.generation,
            outcome: Some(v1::stopped::Outcome::Ordered(ordered)),
        }))
        .await;
    worker.held = vec![v1::HeldSnapshot { rank: 0, step: 5 }];
    worker.prepare().await;
    let start = worker.started().await;
    let restore = start.restore.clone().unwrap();
    assert_eq!((restore.step, restore.providers), (5, vec![0]));
    use v1::milestone_report::Milestone;
    for milestone in [
        Milestone::Connected,
        Milestone::Restored,
        Milestone::FirstStep,
    ] {
        worker
            .say(Message::Milestone(v1::MilestoneReport {
                job: "moved".into(),
                generation: start.generation,
                milestone: milestone.into(),
                step: 5 + u64::from(milestone == Milestone::FirstStep),
            }))
            .await;
    }
    worker.finish(&start).await;
    let told = events(to_end(node.watch("moved", 0).await).await);
    let recoveries = told.into_iter().filter_map(|event| match event.detail {
        Some(v1::job_event::Detail::Recovery(recovery)) => Some(recovery),
        _ => None,
    });
    let recoveries: Vec<v1::Recovery> = recoveries.collect();
    let job = node.job("moved").await;
    assert_eq!(job.recoveries, recoveries);
    let [recovery] = recoveries.as_slice() else {
        panic!("{recoveries:?}")
    };
    assert_eq!(recovery.generation, 2);
    assert_eq!(recovery.cause(), v1::recovery::Cause::Drain);
    assert_eq!(recovery.source(), v1::recovery::Source::Snapshot);
    assert_eq!((recovery.from_step, recovery.replayed_steps), (5, 2));
    assert!(recovery.first_step_time.is_some());
    assert!(
        job.goodput
            .is_some_and(|share| (0.0..=1.0).contains(&share))
    );
    node.stop().await;
}

// Promise: a watcher that does not read holds up nobody.
#[tokio::test]
async fn a_slow_watcher_blocks_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    node.create("busy").await;
    let _slow = node.watch("busy", 0).await;
    let mut worker = Worker::join(&node, hello("w")).await;
    worker.prepare().await;
    let start = worker.started().await;
    for step in 1..=2000 {
        soon("a report", worker.progress(&start, step)).await;
    }
    worker.finish(&start).await;
    let seen = events(to_end(node.watch("busy", 0).await).await);
    assert_eq!(seen.last().unwrap().state(), State::Succeeded);
    node.stop().await;
}

// Promise: `follow` sends lines as they come and ends with the job.
#[tokio::test]
async fn logs_are_followed_to_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    node.create("chatty").await;
    let mut worker = Worker::join(&node, hello("w")).await;
    worker.prepare().await;
    let start = worker.started().await;
    worker.log("chatty", "one").await;
    let request = v1::TailJobLogsRequest {
        name: "chatty".into(),
        tail: 0,
        follow: true,
    };
    let mut lines = node
        .jobs()
        .tail_job_logs(request)
        .await
        .unwrap()
        .into_inner();
    let line = soon("a line", lines.message()).await.unwrap().unwrap();
    assert_eq!((line.text.as_str(), line.worker.as_str()), ("one", "w"));
    worker.log("chatty", "two").await;
    worker.finish(&start).await;
    let rest: Vec<_> = to_end(lines)
        .await
        .into_iter()
        .map(|line| line.text)
        .collect();
    assert_eq!(rest, ["two"]);
    node.stop().await;
}
