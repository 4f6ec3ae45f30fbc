//! Messages: protobuf to the vocabulary, as the coordinator and the workers read what the network brings.

use espalier_proto::convert::{checked_job, milestone, plan_from_wire};
use espalier_proto::{Wire, time, v1};
use espalier_spec::JobId;
use espalier_spec::plan::{Profile, Seat};
use espalier_spec::recovery::{Recovery, Restore};
use espalier_spec::report::{Checkpoint, Evaluation, Failure, Progress};
use prost::Message;

/// Any bytes are read or refused, as every message that carries more than names. What was read can be written.
pub fn target(bytes: &[u8]) {
    if let Ok(request) = v1::CreateJobRequest::decode(bytes) {
        job(request.spec);
    }
    if let Ok(message) = v1::WorkerMessage::decode(bytes) {
        report(message);
    }
    if let Ok(message) = v1::CoordinatorMessage::decode(bytes) {
        order(message);
    }
    if let Ok(answer) = v1::Job::decode(bytes) {
        job(answer.spec);
        plan(answer.plan);
        part::<Progress>(answer.progress);
        for recovery in answer.recoveries {
            part::<Recovery>(Some(recovery));
        }
        for moment in [answer.create_time, answer.end_time].iter().flatten() {
            let _ = time::millis(moment);
        }
    }
}

fn job(spec: Option<v1::JobSpec>) {
    // What was accepted once is accepted again, such as by the worker that it is sent on to.
    if let Some(Ok(spec)) = spec.map(checked_job) {
        let again = checked_job(spec.to_wire());
        assert!(again.is_ok(), "{again:?}");
    }
}

fn plan(plan: Option<v1::Plan>) {
    if let Some(plan) = plan {
        let _ = plan_from_wire(&JobId("fuzz".to_owned()), plan);
    }
}

fn part<T: Wire>(message: Option<T::Message>) {
    if let Some(Ok(value)) = message.map(T::from_wire) {
        let _ = value.to_wire();
    }
}

fn report(message: v1::WorkerMessage) {
    use v1::worker_message::Message as Report;
    match message.message {
        Some(Report::Prepared(prepared)) => part::<Profile>(prepared.profile),
        Some(Report::Progress(report)) => part::<Progress>(report.progress),
        Some(Report::Evaluation(report)) => part::<Evaluation>(report.evaluation),
        Some(Report::Checkpoint(report)) => part::<Checkpoint>(report.checkpoint),
        Some(Report::Milestone(report)) => {
            let _ = milestone(report.milestone());
        }
        Some(Report::Stopped(stopped)) => {
            if let Some(v1::stopped::Outcome::Failure(failure)) = stopped.outcome {
                part::<Failure>(Some(failure));
            }
        }
        Some(Report::Logs(lines)) => {
            for moment in lines.lines.iter().filter_map(|line| line.time.as_ref()) {
                let _ = time::millis(moment);
            }
        }
        _ => {}
    }
}

fn order(message: v1::CoordinatorMessage) {
    use v1::coordinator_message::Message as Order;
    match message.message {
        Some(Order::Welcome(welcome)) => {
            if let Some(interval) = &welcome.heartbeat_interval {
                let seconds = time::seconds(interval);
                assert!(!seconds.is_nan());
            }
        }
        Some(Order::Prepare(prepare)) => {
            job(prepare.spec);
            for seat in prepare.seats {
                part::<Seat>(Some(seat));
            }
        }
        Some(Order::Start(start)) => {
            plan(start.plan);
            part::<Checkpoint>(start.resume);
            part::<Restore>(start.restore);
        }
        _ => {}
    }
}
