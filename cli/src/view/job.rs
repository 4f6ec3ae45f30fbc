//! A job, its events and its log lines.

use super::{Moment, unreadable};
use crate::error::Result;
use espalier_proto::convert::plan_from_wire;
use espalier_proto::v1::{self, job::State, job_event::Detail};
use espalier_proto::{Wire, time};
use espalier_spec::balancer::Class;
use espalier_spec::plan::Plan;
use espalier_spec::report::{Affinity, Checkpoint, Evaluation, Failure, Progress};
use espalier_spec::{JobId, JobSpec};
use serde::Serialize;

/// All states a job can be in, in the order of its life.
pub(crate) const STATES: [State; 9] = [
    State::Queued,
    State::Preparing,
    State::Running,
    State::Pausing,
    State::Paused,
    State::Cancelling,
    State::Succeeded,
    State::Failed,
    State::Cancelled,
];

/// A state's name in answers: that of the protocol.
pub(crate) fn state_name(state: State) -> &'static str {
    state.as_str_name()
}

/// A job.
#[derive(Debug, Serialize)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) uid: String,
    #[serde(serialize_with = "as_name")]
    pub(crate) state: State,
    pub(crate) state_reason: String,
    pub(crate) create_time: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_time: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) end_time: Option<Moment>,
    pub(crate) generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<Progress>,
    pub(crate) evaluations: Vec<Evaluation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<Checkpoint>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) export_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<Failure>,
    pub(crate) last_sequence: u64,
    pub(crate) spec: Option<JobSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Plan>,
}

fn as_name<S: serde::Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str_name())
}

fn moment(timestamp: Option<u64>) -> Option<Moment> {
    timestamp.map(Moment)
}

/// Reads an optional part of an answer.
fn part<T: Wire>(message: Option<T::Message>, what: &str) -> Result<Option<T>> {
    message
        .map(T::from_wire)
        .transpose()
        .map_err(|violations| unreadable(what, &violations))
}

impl Job {
    /// Reads the coordinator's answer.
    ///
    /// # Errors
    /// The answer comes from a version that this one can't read.
    pub(crate) fn read(job: v1::Job) -> Result<Self> {
        let state = job.state();
        let what = format!("job {}", job.name);
        let id = JobId(job.name.clone());
        let plan = job
            .plan
            .map(|plan| plan_from_wire(&id, plan))
            .transpose()
            .map_err(|violations| unreadable(&what, &violations))?;
        let evaluations: Result<Vec<Evaluation>> = job
            .evaluations
            .into_iter()
            .map(|message| evaluation(message, &what))
            .collect();
        Ok(Self {
            name: job.name,
            uid: job.uid,
            state,
            state_reason: job.state_reason,
            create_time: moment(job.create_time.as_ref().map(time::millis)),
            start_time: moment(job.start_time.as_ref().map(time::millis)),
            end_time: moment(job.end_time.as_ref().map(time::millis)),
            generation: job.generation,
            progress: part(job.progress, &what)?,
            evaluations: evaluations?,
            checkpoint: part(job.checkpoint, &what)?,
            export_path: job.export_path,
            failure: part(job.failure, &what)?,
            last_sequence: job.last_sequence,
            spec: part(job.spec, &what)?,
            plan,
        })
    }

    /// How its tasks' gradients relate, if that was reported.
    pub(crate) fn affinity(&self) -> Option<&Affinity> {
        self.progress.as_ref()?.affinity.as_ref()
    }

    /// Whether its balancer looks at the tasks' gradients, not at losses alone.
    pub(crate) fn is_balanced(&self) -> bool {
        self.spec
            .as_ref()
            .is_some_and(|spec| spec.balancer.method.info().class != Class::Losses)
    }

    /// Ranks of the current plan.
    pub(crate) fn ranks(&self) -> Option<usize> {
        self.plan.as_ref().map(|plan| plan.seats.len())
    }
}

/// Reads one evaluation.
///
/// # Errors
/// As [`Job::read`].
pub(crate) fn evaluation(message: v1::Evaluation, what: &str) -> Result<Evaluation> {
    Evaluation::from_wire(message).map_err(|violations| unreadable(what, &violations))
}

/// Something that happened to a job.
#[derive(Debug, Serialize)]
pub(crate) struct Event {
    pub(crate) sequence: u64,
    pub(crate) time: Option<Moment>,
    #[serde(serialize_with = "as_name")]
    pub(crate) state: State,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) evaluation: Option<Evaluation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<Checkpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Plan>,
}

impl Event {
    /// Reads an event of the job `name`.
    ///
    /// # Errors
    /// As [`Job::read`].
    pub(crate) fn read(event: v1::JobEvent, name: &str) -> Result<Self> {
        let what = format!("job {name}");
        let mut read = Self {
            sequence: event.sequence,
            time: moment(event.time.as_ref().map(time::millis)),
            state: event.state(),
            message: event.message,
            evaluation: None,
            checkpoint: None,
            failure: None,
            plan: None,
        };
        match event.detail {
            Some(Detail::Plan(plan)) => {
                let plan = plan_from_wire(&JobId::from(name), plan);
                read.plan = Some(plan.map_err(|violations| unreadable(&what, &violations))?);
            }
            Some(Detail::Evaluation(message)) => {
                read.evaluation = Some(evaluation(message, &what)?);
            }
            Some(Detail::Checkpoint(message)) => read.checkpoint = part(Some(message), &what)?,
            Some(Detail::Failure(message)) => read.failure = part(Some(message), &what)?,
            // In words in its message, in figures among the job's recoveries.
            Some(Detail::Recovery(_)) | None => {}
        }
        Ok(read)
    }
}

/// One line of a job's log.
#[derive(Debug, Serialize)]
pub(crate) struct LogLine {
    pub(crate) time: Option<Moment>,
    pub(crate) level: String,
    pub(crate) worker: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rank: Option<u32>,
    pub(crate) text: String,
}

impl From<v1::LogLine> for LogLine {
    fn from(line: v1::LogLine) -> Self {
        Self {
            time: moment(line.time.as_ref().map(time::millis)),
            level: line.level,
            worker: line.worker,
            rank: line.rank,
            text: line.text,
        }
    }
}
