//! Everything that can happen to the coordinator: requests of clients, messages of workers, time.
//!
//! Nothing here is persisted; what must survive is a [`crate::record::Record`].

use espalier_spec::plan::Profile;
use espalier_spec::recovery::{HeldSnapshot, Milestone};
use espalier_spec::report::{Checkpoint, Evaluation, Failure, Progress};
use espalier_spec::{Generation, JobId, JobSpec, Rank, Step, WorkerId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A moment in milliseconds since 1970-01-01 UTC. The shell reads the clock; the core never does.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// This moment and `milliseconds` more; stays at the largest moment there is.
    #[must_use]
    pub fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds since `earlier`; 0 if the clock went back.
    #[must_use]
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A request that waits for its answer. The shell chooses it; the core only hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// A worker's stream. The shell chooses it and never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}", self.0)
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A client submits a job.
    CreateJob {
        /// The job, already checked by `espalier_spec::check`.
        spec: Box<JobSpec>,
        /// Unique over all time; the shell draws it (a UUID).
        uid: String,
        /// The client's own id of this request; the same one again is answered alike.
        request_id: Option<String>,
        /// Who waits for the answer.
        reply: ReplyId,
    },
    /// A client ends a job for good.
    CancelJob {
        /// Name of the job.
        name: JobId,
        /// Who waits for the answer.
        reply: ReplyId,
    },
    /// A client asks a job to write a checkpoint and give its ranks back.
    PauseJob {
        /// Name of the job.
        name: JobId,
        /// Who waits for the answer.
        reply: ReplyId,
    },
    /// A client puts a paused job back into the queue.
    ResumeJob {
        /// Name of the job.
        name: JobId,
        /// Who waits for the answer.
        reply: ReplyId,
    },
    /// A client forgets an ended job.
    DeleteJob {
        /// Name of the job.
        name: JobId,
        /// Who waits for the answer.
        reply: ReplyId,
    },
    /// An operator takes a worker out of service.
    DrainWorker {
        /// Name of the worker.
        name: WorkerId,
        /// Who waits for the answer.
        reply: ReplyId,
    },
    /// An operator takes a worker back into service.
    UndrainWorker {
        /// Name of the worker.
        name: WorkerId,
        /// Who waits for the answer.
        reply: ReplyId,
    },
    /// A worker's stream opened and its Hello arrived.
    WorkerConnected {
        /// The stream.
        conn: ConnId,
        /// Who it is and what it runs.
        hello: Hello,
    },
    /// A worker's stream ended without Goodbye.
    WorkerDisconnected {
        /// The stream.
        conn: ConnId,
    },
    /// A worker is alive.
    Heartbeat {
        /// The stream.
        conn: ConnId,
        /// Jobs that it runs now.
        running: Vec<RunningJob>,
    },
    /// A worker's ranks of a job are ready to start.
    Prepared {
        /// The stream.
        conn: ConnId,
        /// Name of the job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// Where each of the worker's ranks listens.
        addresses: Vec<PeerAddress>,
        /// What the worker found out about the job.
        profile: Profile,
        /// Snapshots of this job in the worker's memory.
        snapshots: Vec<HeldSnapshot>,
    },
    /// A generation came further on its way into training.
    Reached {
        /// The stream.
        conn: ConnId,
        /// Name of the job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// How far it is.
        milestone: Milestone,
        /// Steps done.
        step: Step,
    },
    /// How far a job is.
    Progress {
        /// The stream.
        conn: ConnId,
        /// Name of the job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// How far it is.
        progress: Progress,
    },
    /// A job was evaluated.
    Evaluated {
        /// The stream.
        conn: ConnId,
        /// Name of the job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// The figures.
        evaluation: Evaluation,
    },
    /// A checkpoint is durable.
    Checkpointed {
        /// The stream.
        conn: ConnId,
        /// Name of the job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// The checkpoint.
        checkpoint: Checkpoint,
    },
    /// A worker's ranks of a job have stopped.
    Stopped {
        /// The stream.
        conn: ConnId,
        /// Name of the job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// How they ended.
        outcome: Outcome,
    },
    /// A worker leaves; its ranks are given up at once.
    Goodbye {
        /// The stream.
        conn: ConnId,
        /// Why it leaves; may be empty.
        reason: String,
    },
    /// Time passed. The shell sends it at [`crate::Machine::next_tick`].
    Tick,
}

/// Who a worker is and what it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Name of the worker.
    pub name: WorkerId,
    /// Version of its binary.
    pub version: String,
    /// Host name.
    pub host: String,
    /// Names of its devices, one rank each: `cpu`, `cuda:0`, ...
    pub devices: Vec<String>,
    /// Distinguishes a restarted process from a reconnecting one.
    pub instance: String,
    /// Jobs that it runs now.
    pub running: Vec<RunningJob>,
    /// Whether it leaves, since its machine is about to be taken away.
    pub preempted: bool,
}

/// A job that a worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningJob {
    /// Name of the job.
    pub job: JobId,
    /// The job's uid.
    pub uid: String,
    /// The generation.
    pub generation: Generation,
    /// Steps done.
    pub step: Step,
    /// Its ranks on this worker.
    pub ranks: Vec<Rank>,
}

/// Where a rank listens for peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerAddress {
    /// The rank.
    pub rank: Rank,
    /// Host and port.
    pub address: String,
    /// Ranks with equal host ids share memory.
    pub host_id: String,
}

/// How a worker's ranks of a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done. Rank 0's worker names the directory of the exported model; the others
    /// may leave it empty.
    Exported(String),
    /// Stopped as ordered.
    Ordered,
    /// Failed.
    Failure(Failure),
}
