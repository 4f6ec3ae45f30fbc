//! What the outside may see of jobs and workers: plain copies, made on request.

use crate::event::Time;
use espalier_spec::plan::Plan;
use espalier_spec::recovery::Recovery;
use espalier_spec::report::{Checkpoint, Evaluation, Failure, Progress};
use espalier_spec::{Generation, JobId, JobSpec, Rank, WorkerId};
use serde::{Deserialize, Serialize};

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// Waits for ranks.
    Queued,
    /// Workers load model and data.
    Preparing,
    /// Trains.
    Running,
    /// Writes its checkpoint and gives its ranks back.
    Pausing,
    /// Holds no ranks.
    Paused,
    /// Stops its ranks.
    Cancelling,
    /// Done; the model is exported.
    Succeeded,
    /// Ended by an error.
    Failed,
    /// Ended by a request.
    Cancelled,
}

impl JobState {
    /// Whether the job has ended for good.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            JobState::Succeeded | JobState::Failed | JobState::Cancelled
        )
    }

    /// The state in a sentence, such as "running".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Preparing => "preparing",
            JobState::Running => "running",
            JobState::Pausing => "pausing",
            JobState::Paused => "paused",
            JobState::Cancelling => "cancelling",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

/// A job as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
    /// Unique name.
    pub name: JobId,
    /// Unique over all time.
    pub uid: String,
    /// What was asked for.
    pub spec: JobSpec,
    /// Where it is in its life.
    pub state: JobState,
    /// Why it is there, in a sentence.
    pub state_reason: String,
    /// When it was created.
    pub create_time: Time,
    /// When it first ran.
    pub start_time: Option<Time>,
    /// When it ended.
    pub end_time: Option<Time>,
    /// Newest generation; 0 before the first placement.
    pub generation: Generation,
    /// Plan of the newest generation that started.
    pub plan: Option<Plan>,
    /// How far it is.
    pub progress: Option<Progress>,
    /// Newest evaluation of each split, in order of the split's name.
    pub evaluations: Vec<Evaluation>,
    /// Newest checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Where the exported model is; only in `Succeeded`.
    pub export_path: Option<String>,
    /// Why it failed; only in `Failed`.
    pub failure: Option<Failure>,
    /// Sequence number of its newest event.
    pub last_sequence: u64,
    /// What its incidents cost, oldest first; the newest 1000.
    pub recoveries: Vec<Recovery>,
    /// Share of the time since it first ran in steps that counted, 0 to 1; see [`crate::account`].
    pub goodput: Option<f64>,
}

/// Something that happened to a job; kept and numbered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// Counts from 1 without gaps.
    pub sequence: u64,
    /// When it was decided.
    pub time: Time,
    /// The job's state after it.
    pub state: JobState,
    /// What happened, in a sentence.
    pub message: String,
    /// More, by kind of event.
    pub detail: Option<Detail>,
}

/// Details of a job event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Detail {
    /// The job got a new plan.
    Plan(Box<Plan>),
    /// The job was evaluated.
    Evaluation(Box<Evaluation>),
    /// A checkpoint was written.
    Checkpoint(Checkpoint),
    /// The job failed, or failed and is tried again.
    Failure(Failure),
    /// The job trains again after its generation had ended early.
    Recovery(Box<Recovery>),
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WorkerState {
    /// Connected and open for work.
    Ready,
    /// Connected; gets no new work.
    Draining,
    /// Its stream broke or its heartbeats stopped; its work may well go on.
    Unreachable,
    /// Said good-bye or stayed unreachable too long; its ranks are given up.
    Gone,
}

/// A worker as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Unique name.
    pub name: WorkerId,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Why it is there, in a sentence.
    pub state_reason: String,
    /// Version of its binary.
    pub version: String,
    /// Its devices.
    pub devices: Vec<DeviceView>,
    /// Host name.
    pub host: String,
    /// When it first connected to this coordinator process.
    pub create_time: Time,
    /// When it was last heard of.
    pub heartbeat_time: Time,
}

/// One device of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    /// Index within the worker.
    pub index: u32,
    /// `cpu`, `cuda:0`, ...
    pub name: String,
    /// Job that uses it, and the first of its ranks there.
    pub used_by: Option<(JobId, Rank)>,
    /// All ranks of that job that share it, in order.
    pub ranks: Vec<Rank>,
}

/// The cluster in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Workers known, gone ones included.
    pub workers: u32,
    /// Ranks of all ready and draining workers.
    pub ranks: u32,
    /// Of these, ranks of ready workers that no job uses.
    pub free_ranks: u32,
    /// Jobs that have not ended.
    pub active_jobs: u32,
    /// Reports of stale generations that were ignored since this coordinator started.
    pub stale_reports: u64,
}
