//! Recovery: what ranks keep in memory against losses, where a generation goes on from, and what
//! each incident cost.

use crate::{Generation, Rank, Step, WorkerId};
use serde::{Deserialize, Serialize};

/// How a job guards itself against losses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RecoverySpec {
    /// Steps between two snapshots in memory, from which a job goes on when it loses a worker; 0: none,
    /// then it goes on from its newest checkpoint. Default: as many as keep their cost below 2 % of the
    /// time of a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_every: Option<u64>,
}

/// Between how many workers a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WorkerRange {
    /// It waits while there are fewer.
    pub min: u32,
    /// It takes no more.
    pub max: u32,
}

/// One rank's part of a run after a step, in a worker's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HeldSnapshot {
    /// The rank whose part it is.
    pub rank: Rank,
    /// Steps done at it.
    pub step: Step,
}

/// A snapshot to go on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// Steps done at it.
    pub step: Step,
    /// For each rank, in order, a rank of the new generation whose worker holds that rank's part.
    pub providers: Vec<Rank>,
}

/// Why a generation ended before the job did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A worker or a rank was lost or failed.
    Failure,
    /// A worker was taken out of service, or was told to stop.
    Drain,
    /// Workers came, and the job took them in.
    Scale,
    /// A worker left since its machine was about to be taken away.
    Preemption,
    /// Somebody paused and resumed it.
    Operator,
}

/// Where a generation's state comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// From nowhere: it begins.
    Beginning,
    /// A checkpoint on disk.
    Checkpoint,
    /// A snapshot in memory.
    Snapshot,
}

/// How far a generation's ranks are on their way into training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Milestone {
    /// All ranks are connected to each other.
    Connected,
    /// All ranks have their state.
    Restored,
    /// The first step is done.
    FirstStep,
}

/// One incident: what ended a generation, and how the next one came into training. Times are
/// milliseconds since 1970, read by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The generation that went on.
    pub generation: Generation,
    /// Why the one before it ended.
    pub cause: Cause,
    /// The worker that was lost, left or came, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// What happened, in a sentence.
    pub reason: String,
    /// Most steps that were known to be done before.
    pub reached: Step,
    /// Steps done where it went on.
    pub from: Step,
    /// Where its state came from.
    pub source: Source,
    /// Samples of the steps that were done again.
    pub replayed_samples: u64,
    /// The last sign of life of what was lost; none if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<u64>,
    /// When it was known.
    pub detected: u64,
    /// When all workers of the next generation had prepared it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<u64>,
    /// When all ranks were connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<u64>,
    /// When all ranks had their state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<u64>,
    /// When the first step was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_step: Option<u64>,
}

impl Recovery {
    /// Steps that had to be done again.
    #[must_use]
    pub fn replayed_steps(&self) -> u64 {
        self.reached.0.saturating_sub(self.from.0)
    }
}
