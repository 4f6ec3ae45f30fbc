//! The volatile state: what is known of workers and of running generations only while this
//! coordinator process lives. It is rebuilt from what workers say when they reconnect.

use crate::command::StopMode;
use crate::event::{ConnId, PeerAddress, Time};
use crate::state::WorkerInfo;
use espalier_spec::plan::Profile;
use espalier_spec::recovery::HeldSnapshot;
use espalier_spec::report::Progress;
use espalier_spec::{Generation, JobId, Rank, Step, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// Names a generation of a job, as workers do.
pub(crate) type Key = (JobId, Generation);

/// A worker process, as seen from here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Worker {
    pub(crate) info: WorkerInfo,
    pub(crate) link: Link,
    /// Why the link is as it is.
    pub(crate) reason: String,
    /// When it was last heard of.
    pub(crate) heard: Time,
    /// Devices given to jobs and not known to be free again.
    pub(crate) leases: BTreeMap<Key, Lease>,
    /// Generations it runs that nobody gave it, or that should have stopped long ago; with their
    /// job's uid. It gets no work while it has any.
    pub(crate) strays: BTreeMap<Key, String>,
    /// Generations in which a peer lost its links to this worker; they count as long as it holds
    /// devices of them.
    pub(crate) accused: BTreeSet<Key>,
    /// Whether it leaves, since its machine is about to be taken away.
    pub(crate) preempted: bool,
}

impl Worker {
    /// A generation whose peers lost it, if it still holds devices of one.
    pub(crate) fn is_accused(&self) -> Option<&Key> {
        self.accused
            .iter()
            .find(|key| self.leases.contains_key(*key))
    }
}

/// How a worker is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Its stream is open and its heartbeats come.
    Open { conn: ConnId },
    /// Its stream is open, but its heartbeats stopped.
    Silent { conn: ConnId, since: Time },
    /// Its stream broke.
    Broken { since: Time },
    /// Known from the store; not seen since this coordinator started.
    Awaited { since: Time },
    /// Its ranks are given up.
    Gone,
}

impl Link {
    pub(crate) fn conn(self) -> Option<ConnId> {
        match self {
            Link::Open { conn } | Link::Silent { conn, .. } => Some(conn),
            Link::Broken { .. } | Link::Awaited { .. } | Link::Gone => None,
        }
    }

    /// Since when the worker is unreachable.
    pub(crate) fn unreachable_since(self) -> Option<Time> {
        match self {
            Link::Silent { since, .. } | Link::Broken { since } | Link::Awaited { since } => {
                Some(since)
            }
            Link::Open { .. } | Link::Gone => None,
        }
    }
}

/// Devices of one worker that one generation of a job holds: from Prepare until the worker says
/// that they have stopped, or is gone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lease {
    /// The job.
    pub(crate) number: u64,
    pub(crate) uid: String,
    /// Device and rank; of an elastic job several ranks may share a device.
    pub(crate) seats: Vec<(u32, Rank)>,
    pub(crate) state: LeaseState,
    /// Set while the worker says that it does not run this: when to believe it. Its last report
    /// may still be on its way.
    pub(crate) missing: Option<Time>,
}

/// What a lease's holder should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseState {
    /// Prepare or train.
    Active,
    /// Come to the regular end by itself before the deadline.
    Finishing { deadline: Time },
    /// Stop, as it was told, before the deadline.
    Stopping { mode: StopMode, deadline: Time },
}

/// What is known of a job's newest generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Live {
    /// Workers that have prepared it, and where their ranks listen.
    pub(crate) acks: BTreeMap<WorkerId, Vec<PeerAddress>>,
    /// The first worker's profile; all others must agree with it.
    pub(crate) profile: Option<(WorkerId, Profile)>,
    /// The same of the newest generation that started: spares must agree with it.
    pub(crate) ran: Option<(WorkerId, Profile)>,
    /// Snapshots in the memory of the workers that have prepared it.
    pub(crate) held: BTreeMap<WorkerId, Vec<HeldSnapshot>>,
    /// When its preparation must be done.
    pub(crate) deadline: Option<Time>,
    /// Preparations in a row that ended since a worker was out of sight.
    pub(crate) unseen: u32,
    /// Newest progress, of whichever generation.
    pub(crate) progress: Option<Progress>,
    /// Steps that the newest generation has reported; none before its first report.
    pub(crate) reached: Option<Step>,
}
