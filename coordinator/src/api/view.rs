//! The machine's views as messages.

use espalier_core::{
    Detail, DeviceView, JobEvent, JobState, JobView, Time, WorkerState, WorkerView,
};
use espalier_proto::convert::plan_to_wire;
use espalier_proto::{Wire, time, v1};

/// A job.
pub(super) fn job(view: &JobView) -> v1::Job {
    v1::Job {
        name: view.name.0.clone(),
        uid: view.uid.clone(),
        spec: Some(view.spec.to_wire()),
        state: state(view.state).into(),
        state_reason: view.state_reason.clone(),
        create_time: Some(moment(view.create_time)),
        start_time: view.start_time.map(moment),
        end_time: view.end_time.map(moment),
        generation: view.generation.0,
        plan: view.plan.as_ref().map(plan_to_wire),
        progress: view.progress.as_ref().map(Wire::to_wire),
        evaluations: view.evaluations.iter().map(Wire::to_wire).collect(),
        checkpoint: view.checkpoint.as_ref().map(Wire::to_wire),
        export_path: view.export_path.clone().unwrap_or_default(),
        failure: view.failure.as_ref().map(Wire::to_wire),
        last_sequence: view.last_sequence,
        recoveries: view.recoveries.iter().map(Wire::to_wire).collect(),
        goodput: view.goodput,
    }
}

/// Something that happened to a job.
pub(super) fn event(event: &JobEvent) -> v1::JobEvent {
    use v1::job_event::Detail as Wired;
    let detail = event.detail.as_ref().map(|detail| match detail {
        Detail::Plan(plan) => Wired::Plan(plan_to_wire(plan)),
        Detail::Evaluation(evaluation) => Wired::Evaluation(evaluation.to_wire()),
        Detail::Checkpoint(checkpoint) => Wired::Checkpoint(checkpoint.to_wire()),
        Detail::Failure(failure) => Wired::Failure(failure.to_wire()),
        Detail::Recovery(recovery) => Wired::Recovery(recovery.to_wire()),
    });
    v1::JobEvent {
        sequence: event.sequence,
        time: Some(moment(event.time)),
        state: state(event.state).into(),
        message: event.message.clone(),
        detail,
    }
}

/// A worker.
pub(super) fn worker(view: &WorkerView) -> v1::Worker {
    use v1::worker::State;
    let state = match view.state {
        WorkerState::Ready => State::Ready,
        WorkerState::Draining => State::Draining,
        WorkerState::Unreachable => State::Unreachable,
        WorkerState::Gone => State::Gone,
    };
    v1::Worker {
        name: view.name.0.clone(),
        state: state.into(),
        state_reason: view.state_reason.clone(),
        version: view.version.clone(),
        devices: view.devices.iter().map(device).collect(),
        host: view.host.clone(),
        create_time: Some(moment(view.create_time)),
        heartbeat_time: Some(moment(view.heartbeat_time)),
    }
}

fn device(view: &DeviceView) -> v1::worker::Device {
    let (job, rank) = match &view.used_by {
        Some((job, rank)) => (job.0.clone(), rank.0),
        None => Default::default(),
    };
    v1::worker::Device {
        index: view.index,
        name: view.name.clone(),
        job,
        rank,
        ranks: view.ranks.iter().map(|rank| rank.0).collect(),
    }
}

/// A job's state as a message's.
pub(super) fn state(state: JobState) -> v1::job::State {
    use v1::job::State;
    match state {
        JobState::Queued => State::Queued,
        JobState::Preparing => State::Preparing,
        JobState::Running => State::Running,
        JobState::Pausing => State::Pausing,
        JobState::Paused => State::Paused,
        JobState::Cancelling => State::Cancelling,
        JobState::Succeeded => State::Succeeded,
        JobState::Failed => State::Failed,
        JobState::Cancelled => State::Cancelled,
    }
}

/// A message's state as a job's; none if it is no state.
pub(super) fn known_state(number: i32) -> Option<JobState> {
    use v1::job::State;
    Some(match State::try_from(number).ok()? {
        State::Unspecified => return None,
        State::Queued => JobState::Queued,
        State::Preparing => JobState::Preparing,
        State::Running => JobState::Running,
        State::Pausing => JobState::Pausing,
        State::Paused => JobState::Paused,
        State::Cancelling => JobState::Cancelling,
        State::Succeeded => JobState::Succeeded,
        State::Failed => JobState::Failed,
        State::Cancelled => JobState::Cancelled,
    })
}

/// A moment as a timestamp.
pub(super) fn moment(moment: Time) -> espalier_proto::time::Timestamp {
    time::timestamp(moment.0)
}
