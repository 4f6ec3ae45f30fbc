//! What is persisted: the changes of the durable state, in order, one after another.
//!
//! State that must survive changes by applying records and in no other way. A later version adds
//! variants; those that exist never change their meaning. Records are made for a format that names
//! its fields and tells texts from lists (JSON).

use crate::account::Incident;
use crate::command::StopMode;
use crate::event::{PeerAddress, Time};
use crate::state::{Size, State, Then, WorkerInfo};
use espalier_spec::plan::{Plan, Seat};
use espalier_spec::recovery::{Milestone, Recovery, Restore};
use espalier_spec::report::{Checkpoint, Evaluation, Failure, Progress};
use espalier_spec::{Generation, JobSpec, Step, WorkerId};
use serde::{Deserialize, Serialize};

/// One durable change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// Version 1.
    V1(Change),
}

/// A change of the durable state, version 1. Jobs are named by their number, which is unique over
/// all time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// A job was submitted; its first event.
    JobCreated {
        /// Counts the jobs ever created, from 1.
        number: u64,
        /// Unique over all time.
        uid: String,
        /// The client's id of the request.
        request_id: Option<String>,
        /// What was asked for.
        spec: Box<JobSpec>,
        /// When.
        time: Time,
    },
    /// Something happened to a job: its next event.
    JobEvent {
        /// The job.
        number: u64,
        /// Number of the event in the job, from 1.
        sequence: u64,
        /// When.
        time: Time,
        /// What, in a sentence for people.
        message: String,
        /// What, for the machine.
        kind: Kind,
    },
    /// All ranks of a worker have stopped, while others of the generation have not: the job exports
    /// or stops. Their devices are free.
    WorkerFinished {
        /// The job.
        number: u64,
        /// The generation.
        generation: Generation,
        /// The worker.
        worker: WorkerId,
    },
    /// How far a job was when its generation ended, with what it had measured by then.
    JobReported {
        /// The job.
        number: u64,
        /// The newest report, all its numbers finite.
        progress: Box<Progress>,
    },
    /// What ends a job's generation early, for the account of the next one.
    JobInterrupted {
        /// The job.
        number: u64,
        /// What happened.
        incident: Incident,
    },
    /// The newest generation of a job came further on its way into training.
    JobMilestone {
        /// The job.
        number: u64,
        /// How far it is.
        milestone: Milestone,
        /// Steps done.
        step: Step,
        /// When.
        time: Time,
    },
    /// How useful the time of a generation was that ends.
    JobCounted {
        /// The job.
        number: u64,
        /// Its time in steps that counted.
        milliseconds: u64,
    },
    /// An ended job was forgotten.
    JobDeleted {
        /// The job.
        number: u64,
    },
    /// A worker process joined, or took the place of an older one of its name.
    WorkerJoined {
        /// The worker.
        worker: WorkerInfo,
    },
    /// A worker is gone.
    WorkerLeft {
        /// Its name.
        name: WorkerId,
    },
    /// An operator took a worker out of service.
    WorkerDrained {
        /// Its name.
        name: WorkerId,
    },
    /// An operator took a worker back into service.
    WorkerUndrained {
        /// Its name.
        name: WorkerId,
    },
}

/// What happened to a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// It waits in the queue.
    Waits(Waiting),
    /// It got seats; their workers prepare it.
    Placed {
        /// The new generation.
        generation: Generation,
        /// Its ranks, in order.
        seats: Vec<Seat>,
        /// Fixed from the first placement on.
        size: Size,
        /// Steps that the generation before it is known to have done, also by reports that came after it
        /// had ended.
        #[serde(default)]
        reached: Step,
    },
    /// It trains.
    Started {
        /// Who computes and owns what.
        plan: Box<Plan>,
        /// Where every rank listens, in order of rank.
        addresses: Vec<PeerAddress>,
        /// The snapshot it goes on from; none: from its newest checkpoint, or from the beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restore: Option<Restore>,
    },
    /// Something worth knowing that changes nothing.
    Noted,
    /// It trains again after another generation had ended early, with what that cost.
    Recovered(Box<Recovery>),
    /// It was evaluated.
    Evaluated(Box<Evaluation>),
    /// A checkpoint is durable.
    Checkpointed(Checkpoint),
    /// Its ranks went on from another step than they were told to.
    WentOn {
        /// Steps done there.
        step: Step,
        /// The checkpoint that they took; none if it was not one.
        checkpoint: Option<Checkpoint>,
    },
    /// Its ranks were told to stop.
    Stopping {
        /// What follows when they have.
        then: Then,
        /// How they were told.
        mode: StopMode,
    },
    /// Back in the queue after its generation ended early.
    Requeued {
        /// What ended it, if a rank said so.
        failure: Option<Failure>,
        /// Generations in a row that ended early without progress.
        restarts: u32,
        /// Most steps that any generation has reached.
        reached: Step,
    },
    /// Back in the queue after a pause.
    Resumed,
    /// It holds no ranks until it is resumed.
    Paused,
    /// Done.
    Succeeded {
        /// Directory of the exported model.
        export_path: String,
    },
    /// Ended by an error.
    Failed(Failure),
    /// Ended by a request.
    Cancelled,
}

impl Kind {
    /// Whether the job has no ranks that train from then on.
    pub(crate) fn ends_generation(&self) -> bool {
        match self {
            Kind::Requeued { .. }
            | Kind::Paused
            | Kind::Succeeded { .. }
            | Kind::Failed(_)
            | Kind::Cancelled => true,
            Kind::Waits(_)
            | Kind::Placed { .. }
            | Kind::Started { .. }
            | Kind::Noted
            | Kind::Recovered(_)
            | Kind::Evaluated(_)
            | Kind::Checkpointed(_)
            | Kind::WentOn { .. }
            | Kind::Stopping { .. }
            | Kind::Resumed => false,
        }
    }
}

/// Why a job waits, as far as it is worth an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waiting {
    /// The cluster can't hold it.
    Short,
    /// Others use the ranks or are first.
    Busy,
}

/// The whole durable state after a number of records: replaces them in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Snapshot {
    /// Version 1.
    V1 {
        /// Records that are contained: their sequence numbers are 1 to this one.
        applied: u64,
        /// The state after them.
        state: Box<State>,
    },
}

/// A log that can't be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A record is missing.
    #[error(
        "record {expected} is missing from the log, the next one found is {found}; restore the store from a backup"
    )]
    Gap {
        /// Sequence number of the record that should have come.
        expected: u64,
        /// Sequence number of the one that came.
        found: u64,
    },
    /// A record contradicts the state before it.
    #[error(
        "record {sequence} doesn't fit the state before it: {message}; restore the store from a backup"
    )]
    Contradiction {
        /// Sequence number of the record.
        sequence: u64,
        /// What does not fit.
        message: String,
    },
}
