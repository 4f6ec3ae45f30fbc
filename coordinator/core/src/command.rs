//! Everything the core asks of its shell, and the errors it answers with.

use crate::event::{ConnId, PeerAddress, ReplyId};
use crate::view::{JobView, WorkerView};
use espalier_spec::plan::{Plan, Seat};
use espalier_spec::recovery::Restore;
use espalier_spec::report::Checkpoint;
use espalier_spec::{Generation, JobId, JobSpec, WorkerId};
use serde::{Deserialize, Serialize};

/// Something the shell must do, in order, and only after the records of the same step are durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Answer a request.
    Reply {
        /// The request.
        reply: ReplyId,
        /// The answer.
        result: Result<Answer, Error>,
    },
    /// Send an order to a worker.
    Send {
        /// Its stream.
        conn: ConnId,
        /// The order.
        order: Order,
    },
    /// End a worker's stream. The core expects no `WorkerDisconnected` for it and ignores one.
    CloseConnection {
        /// The stream.
        conn: ConnId,
        /// Why.
        error: Error,
    },
    /// A job's state, events or progress changed: its watchers look again.
    Notify {
        /// The job.
        job: JobId,
    },
    /// A worker changed: its watchers look again.
    NotifyWorker {
        /// The worker.
        worker: WorkerId,
    },
}

/// The answer to a request that was granted.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The job as it is after the request.
    Job(Box<JobView>),
    /// The worker as it is after the request.
    Worker(Box<WorkerView>),
    /// The job is forgotten.
    Deleted,
}

/// What a worker is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// It is in.
    Welcome {
        /// Milliseconds between heartbeats.
        heartbeat_interval_ms: u64,
    },
    /// Load a job's model and data and listen for peers.
    Prepare {
        /// Name of the job.
        job: JobId,
        /// The job's uid.
        uid: String,
        /// The new generation; orders of lower ones are void.
        generation: Generation,
        /// The job.
        spec: Box<JobSpec>,
        /// All ranks of the generation, in order.
        seats: Vec<Seat>,
        /// Only load model and data, for a later generation: the worker has no seat in this one.
        spare: bool,
    },
    /// Connect to the peers and train. Sent again to a worker that reconnects before the first
    /// report of the generation: ranks that have started ignore it.
    Start {
        /// Name of the job.
        job: JobId,
        /// The job's uid.
        uid: String,
        /// The generation.
        generation: Generation,
        /// Who computes and owns what.
        plan: Box<Plan>,
        /// Where every rank listens, in order of rank.
        addresses: Vec<PeerAddress>,
        /// Go on from here; none: from the beginning.
        resume: Option<Checkpoint>,
        /// Go on from memory instead.
        restore: Option<Restore>,
    },
    /// Stop a job's ranks. May come again, with another mode too. A worker that does not run the
    /// generation ignores it.
    Stop {
        /// Name of the job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// How to stop.
        mode: StopMode,
    },
}

/// How ranks are to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopMode {
    /// At the next step boundary, after a checkpoint.
    Checkpoint,
    /// At the next step boundary, after a snapshot that other workers hold too.
    Handover,
    /// At once.
    Abort,
}

/// A request that was refused, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of refusal; the shell maps it to a status code.
    pub kind: ErrorKind,
    /// A stable upper-case word for programs, such as `JOB_NOT_FOUND`.
    pub reason: &'static str,
    /// What is wrong, with names, and what to do.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// What was named does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Not possible in the present state.
    FailedPrecondition,
    /// Never possible.
    InvalidArgument,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, reason: &'static str, message: String) -> Self {
        Self {
            kind,
            reason,
            message,
        }
    }
}
