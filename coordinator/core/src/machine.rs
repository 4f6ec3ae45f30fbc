//! The state machine's face: step, replay, snapshot and the reads.

use crate::command::Command;
use crate::config::Config;
use crate::event::{Event, Time};
use crate::record::{Record, ReplayError, Snapshot};
use crate::state::State;
use crate::view::{ClusterView, JobEvent, JobState, JobView, WorkerView};
use espalier_spec::report::Progress;
use espalier_spec::{JobId, WorkerId};

/// What one step decided.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Output {
    /// Changes that must be durable, in this order, before any of `after` is done. The first has
    /// the sequence number [`Machine::applied`] had before the step, plus 1.
    pub records: Vec<Record>,
    /// What to do then, in this order.
    pub after: Vec<Command>,
}

/// The coordinator's rules and its state.
#[derive(Clone, Debug)]
pub struct Machine {
    config: Config,
    state: State,
    applied: u64,
}

impl Machine {
    /// An empty coordinator.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: State::default(),
            applied: 0,
        }
    }

    /// The coordinator as its store holds it: the newest snapshot, then the records after it with
    /// their sequence numbers (from 1, without gaps; those that the snapshot contains are
    /// skipped). `now` is the time of this start: workers have `gone_after_ms` from it to
    /// reconnect before their jobs are taken from them.
    ///
    /// # Errors
    ///
    /// A record is missing, or contradicts the state before it.
    pub fn replay(
        config: Config,
        now: Time,
        snapshot: Option<Snapshot>,
        records: impl IntoIterator<Item = (u64, Record)>,
    ) -> Result<Self, ReplayError> {
        let _ = (now, snapshot, records.into_iter().count());
        Ok(Self::new(config))
    }

    /// Sequence number of the newest record that this state contains; 0 if there is none.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The durable state, for the store to keep instead of the records up to [`Self::applied`].
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::V1 {
            applied: self.applied,
            state: Box::new(self.state.clone()),
        }
    }

    /// Takes one event in and decides what follows from it. The machine's state is then already
    /// the new one: a shell that can't make the records durable must stop.
    pub fn step(&mut self, now: Time, event: Event) -> Output {
        let _ = (now, event, &self.config);
        Output::default()
    }

    /// When to send the next [`Event::Tick`] at the latest; none if nothing waits for time.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// The job of this name.
    #[must_use]
    pub fn job(&self, name: &JobId) -> Option<JobView> {
        let _ = name;
        None
    }

    /// At most `limit` jobs in order of creation: those after the one that was created as number
    /// `after` (0: from the first), in one of `states` (empty: in any). With each its number, to
    /// go on from.
    #[must_use]
    pub fn jobs(&self, after: u64, limit: usize, states: &[JobState]) -> Vec<(u64, JobView)> {
        let _ = (after, limit, states);
        Vec::new()
    }

    /// The job's events with a sequence number above `after`, in order; none if there is no such
    /// job.
    #[must_use]
    pub fn events(&self, job: &JobId, after: u64) -> Option<&[JobEvent]> {
        let _ = (job, after);
        None
    }

    /// How far the job is: its newest report.
    #[must_use]
    pub fn progress(&self, job: &JobId) -> Option<&Progress> {
        let _ = job;
        None
    }

    /// All workers that were seen since this coordinator started, in order of name.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerView> {
        Vec::new()
    }

    /// The worker of this name.
    #[must_use]
    pub fn worker(&self, name: &WorkerId) -> Option<WorkerView> {
        let _ = name;
        None
    }

    /// The cluster in numbers.
    #[must_use]
    pub fn cluster(&self) -> ClusterView {
        ClusterView::default()
    }
}
