//! The status of a resource: one state, and what follows from it.

use super::World;
use crate::resource::{State, TrainingJobStatus};
use crate::scale::workers_wanted;
use espalier_proto::{time, v1};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Most characters of a condition's message that are kept; Kubernetes allows 32768.
const LONGEST: usize = 4096;

/// The condition that says what is in the way of an act.
pub(super) const HINDERED: &str = "Hindered";

/// The condition of a type.
#[must_use]
pub fn condition<'a>(status: &'a TrainingJobStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|known| known.type_ == kind)
}

/// A status being written.
pub(super) struct Draft {
    before: TrainingJobStatus,
    pub(super) status: TrainingJobStatus,
    generation: Option<i64>,
    now: Timestamp,
    devices_per_worker: u32,
}

impl Draft {
    pub(super) fn new(world: &World) -> Self {
        let before = world.resource.status.clone().unwrap_or_default();
        let (namespace, name) = world.resource.key();
        let mut status = before.clone();
        status.job_name = crate::names::job_name(&namespace, &name);
        status.observed_generation = world.resource.metadata.generation;
        Self {
            before,
            status,
            generation: world.resource.metadata.generation,
            now: world.now,
            devices_per_worker: world.devices_per_worker,
        }
    }

    /// The status as it was: not worth a write.
    pub(super) fn unchanged(self) -> TrainingJobStatus {
        self.before
    }

    /// The status with all that follows from its state.
    pub(super) fn done(mut self) -> TrainingJobStatus {
        if let Some(state) = self.status.state {
            self.follow(state);
        }
        self.status
    }

    /// A state that is not the coordinator's.
    pub(super) fn state(&mut self, state: State, reason: &str) {
        self.status.state = Some(state);
        self.status.reason = short(reason);
        if matches!(state, State::Pending | State::Suspended) {
            self.status.workers_wanted = Some(0);
            self.set("Accepted", "Unknown", state.as_str(), reason);
        }
    }

    /// The job was refused; `word` says why for programs.
    pub(super) fn reject(&mut self, word: &str, reason: &str) {
        self.state(State::Rejected, reason);
        self.status.workers_wanted = Some(0);
        self.set("Accepted", "False", word, reason);
    }

    /// The job has ended without the coordinator's word.
    pub(super) fn finish(&mut self, state: State, reason: &str, when: Timestamp) {
        self.state(state, reason);
        self.status.workers_wanted = Some(0);
        self.status.completion_time = Some(whole_seconds(when));
    }

    /// The coordinator can't be asked: what is known stays.
    pub(super) fn away(&mut self, word: &str, why: &str) {
        self.say_once("CoordinatorReachable", "False", word, why);
    }

    /// The coordinator answers, but did not do what it was asked for; `word` is the act.
    pub(super) fn hindered(&mut self, word: &str, why: &str) {
        self.say_once(HINDERED, "True", word, why);
    }

    /// The coordinator does not let the operator do what it must.
    pub(super) fn forbidden(&mut self, why: &str) {
        let message = format!("the coordinator refuses the operator: {why}");
        self.set("CoordinatorReachable", "False", "Forbidden", &message);
    }

    /// The coordinator answers.
    pub(super) fn reachable(&mut self) {
        let message = "the coordinator answers";
        self.set("CoordinatorReachable", "True", "Answered", message);
    }

    /// The job as the coordinator has it.
    pub(super) fn mirror(&mut self, job: &v1::Job) {
        self.reachable();
        let state = state_of(job);
        self.status.job_name.clone_from(&job.name);
        self.status.job_uid = Some(job.uid.clone());
        self.status.state = Some(state);
        self.status.reason = short(match &job.failure {
            Some(failure) if state == State::Failed => &failure.message,
            _ => &job.state_reason,
        });
        if let Some(progress) = &job.progress {
            self.status.step = Some(number(progress.step));
            self.status.total_steps = Some(number(progress.total_steps));
        }
        self.status.export_path.clone_from(&job.export_path);
        self.status.workers_wanted = Some(i64::from(workers_wanted(job, self.devices_per_worker)));
        self.status.completion_time = match &job.end_time {
            Some(end) if state.is_final() => timestamp(end),
            _ if state.is_final() => self
                .status
                .completion_time
                .take()
                .or_else(|| Some(whole_seconds(self.now))),
            _ => None,
        };
        let message = format!("job {} was submitted", job.name);
        self.set("Accepted", "True", "Submitted", &message);
    }

    /// `spec.job` is what the job is.
    pub(super) fn same(&mut self) {
        if condition(&self.status, "SpecChanged").is_some() {
            let message = "spec.job is what was submitted";
            self.set("SpecChanged", "False", "Unchanged", message);
        }
    }

    /// `spec.job` was changed in time.
    pub(super) fn replaced(&mut self) {
        self.state(State::Pending, "gives way to the changed job");
        self.status.completion_time = None;
        let message = "spec.job was changed before the job ran: the changed one takes its place";
        self.set("SpecChanged", "True", "Replacing", message);
    }

    /// `spec.job` was changed too late.
    pub(super) fn refused(&mut self, how: &str, ended: bool) {
        let when = if ended {
            "after the job had ended"
        } else {
            "while the job was under way"
        };
        let message = format!(
            "spec.job was changed {when}, which has no effect: {how}; change it back, or delete the resource \
             and create it anew"
        );
        self.set("SpecChanged", "True", "Refused", &message);
    }

    /// The conditions that follow from the state.
    fn follow(&mut self, state: State) {
        let reason = self.status.reason.clone();
        let word = state.as_str();
        let says = |holds: bool| if holds { "True" } else { "False" };
        let running = state == State::Running;
        let suspended = matches!(state, State::Suspended | State::Paused);
        let failed = matches!(state, State::Failed | State::Cancelled | State::Lost);
        self.set("Running", says(running), word, &reason);
        self.set("Suspended", says(suspended), word, &reason);
        self.set("Complete", says(state == State::Succeeded), word, &reason);
        self.set("Failed", says(failed), word, &reason);
    }

    /// Keeps the first message: each try may fail in its own way, and every write would be news that brings the
    /// next try at once.
    fn say_once(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let said = condition(&self.before, kind)
            .filter(|said| said.status == status && said.reason == reason)
            .map(|said| said.message.clone());
        self.set(kind, status, reason, said.as_deref().unwrap_or(message));
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let since = condition(&self.before, kind).filter(|before| before.status == status);
        let since = since.map(|before| before.last_transition_time.clone());
        let new = Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: short(message),
            last_transition_time: since.unwrap_or_else(|| whole_seconds(self.now)),
            observed_generation: self.generation,
        };
        let known = self.status.conditions.iter_mut().find(|c| c.type_ == kind);
        match known {
            Some(known) => *known = new,
            None => self.status.conditions.push(new),
        }
    }
}

/// Nothing is left to be done: nothing is in the way any more.
pub(super) fn unhindered(status: &mut TrainingJobStatus, now: Timestamp) {
    let mut known = status.conditions.iter_mut();
    let known = known.find(|known| known.type_ == HINDERED && known.status == "True");
    if let Some(known) = known {
        "False".clone_into(&mut known.status);
        "Done".clone_into(&mut known.reason);
        "nothing is left to be done".clone_into(&mut known.message);
        known.last_transition_time = whole_seconds(now);
    }
}

/// The state that a job's stands for.
pub(super) fn state_of(job: &v1::Job) -> State {
    use v1::job::State as Wire;
    match job.state() {
        // One that this version does not know is no end: it is looked at again.
        Wire::Unspecified | Wire::Queued => State::Queued,
        Wire::Preparing => State::Preparing,
        Wire::Running => State::Running,
        Wire::Pausing => State::Pausing,
        Wire::Paused => State::Paused,
        Wire::Cancelling => State::Cancelling,
        Wire::Succeeded => State::Succeeded,
        Wire::Failed => State::Failed,
        Wire::Cancelled => State::Cancelled,
    }
}

/// Times of Kubernetes have whole seconds: what is written must be what is read.
fn whole_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn timestamp(wire: &time::Timestamp) -> Option<Time> {
    Timestamp::from_second(wire.seconds).ok().map(Time)
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn short(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let begin: String = text.chars().take(LONGEST - 1).collect();
    format!("{begin}…")
}
