//! What hosted jobs tell the agent.

use espalier_spec::plan::Profile;
use espalier_spec::recovery::{HeldSnapshot, Milestone};
use espalier_spec::report::{Checkpoint, Evaluation, Failure, Progress};
use espalier_spec::{Generation, JobId, Rank, Step};
use std::time::SystemTime;

/// A message of a job's thread, for one generation of one job.
#[derive(Debug)]
pub struct Report {
    /// The job.
    pub job: JobId,
    /// The generation it speaks for.
    pub generation: Generation,
    /// What it says.
    pub content: Content,
}

/// What a job's thread says.
#[derive(Debug)]
pub enum Content {
    /// Model and data are loaded and every rank listens.
    Prepared {
        /// Where each rank listens.
        addresses: Vec<Address>,
        /// What was found out about the job.
        profile: Profile,
        /// Snapshots of the job in this worker's memory.
        snapshots: Vec<HeldSnapshot>,
    },
    /// A generation came further on its way into training, with so many steps done.
    Reached(Milestone, Step),
    /// How far it is; only the newest counts.
    Progress(Box<Progress>),
    /// It was evaluated.
    Evaluation(Evaluation),
    /// A checkpoint is durable.
    Checkpoint(Checkpoint),
    /// All ranks of this worker have stopped.
    Stopped(Outcome),
    /// A log line.
    Log(Line),
}

/// How a job's ranks ended on this worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps done, model exported to this directory; only from the worker of rank 0.
    Exported(String),
    /// Stopped as ordered, or done without being rank 0.
    Ordered,
    /// Failed.
    Failed(Failure),
}

/// Where a rank listens for its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The rank.
    pub rank: Rank,
    /// Host and port.
    pub address: String,
    /// Ranks with equal ids can share memory.
    pub host_id: String,
}

/// A log line of a job.
#[derive(Clone, Debug)]
pub struct Line {
    /// When.
    pub time: SystemTime,
    /// ERROR to TRACE.
    pub level: &'static str,
    /// The rank that wrote it, if one did.
    pub rank: Option<Rank>,
    /// The text with its fields.
    pub text: String,
}
