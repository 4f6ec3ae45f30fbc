//! The machine's face: step, replay, snapshot; and what all its parts share: recording a change,
//! sending a command, deadlines.

use crate::command::{Answer, Command, Error, ErrorKind, Order};
use crate::config::Config;
use crate::event::{ConnId, Event, ReplyId, Time};
use crate::index::{Changed, Index};
use crate::live::{Lease, LeaseState, Live};
use crate::queue::Wait;
use crate::record::{Change, Kind, Record, ReplayError, Snapshot};
use crate::roster::Roster;
use crate::spares::Spares;
use crate::state::{Phase, State};
use espalier_spec::{JobId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

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
    pub(crate) config: Config,
    /// Time of the newest step; never goes back.
    pub(crate) now: Time,
    pub(crate) state: State,
    pub(crate) applied: u64,
    pub(crate) workers: Roster,
    /// Who is at the other end of a stream, if it is that worker's still.
    pub(crate) conns: BTreeMap<ConnId, WorkerId>,
    pub(crate) live: BTreeMap<u64, Live>,
    /// Why each queued job waits.
    pub(crate) waits: BTreeMap<u64, Wait>,
    /// Whether a queued job waits for devices of a kind (`index.rs`) that others use.
    pub(crate) busy: [bool; 3],
    /// Workers that were told to load jobs for later generations.
    pub(crate) spares: Spares,
    pub(crate) index: Index,
    /// Jobs that the index has not counted anew yet.
    pub(crate) marked: BTreeSet<u64>,
    /// What the rules have not looked at yet.
    pub(crate) changed: Changed,
    /// Reports of stale generations that were ignored.
    pub(crate) stale: u64,
    out: Output,
    touched_jobs: BTreeSet<u64>,
    touched_workers: BTreeSet<WorkerId>,
    /// Jobs deleted in this step, for their watchers.
    deleted: Vec<JobId>,
}

impl Machine {
    /// An empty coordinator.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            now: Time(0),
            state: State::default(),
            applied: 0,
            workers: Roster::default(),
            conns: BTreeMap::new(),
            live: BTreeMap::new(),
            waits: BTreeMap::new(),
            busy: [false; 3],
            spares: Spares::default(),
            index: Index::default(),
            marked: BTreeSet::new(),
            changed: Changed::default(),
            stale: 0,
            out: Output::default(),
            touched_jobs: BTreeSet::new(),
            touched_workers: BTreeSet::new(),
            deleted: Vec::new(),
        }
    }

    /// The coordinator as its store holds it: the newest snapshot, then the records after it with
    /// their sequence numbers (from 1, without gaps; those that the snapshot contains are
    /// skipped). `now` is the time of this start: workers have `gone_after_ms` from it to
    /// reconnect before their jobs are taken from them, and nothing is placed until all have come
    /// or were given up.
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
        let mut machine = Self::new(config);
        machine.now = now;
        if let Some(Snapshot::V1 { applied, state }) = snapshot {
            machine.applied = applied;
            machine.state = *state;
        }
        for (sequence, record) in records {
            if sequence <= machine.applied {
                continue;
            }
            let expected = machine.applied.saturating_add(1);
            if sequence != expected {
                return Err(ReplayError::Gap {
                    expected,
                    found: sequence,
                });
            }
            let Record::V1(change) = record;
            machine
                .state
                .apply(&change)
                .map_err(|message| ReplayError::Contradiction { sequence, message })?;
            machine.applied = sequence;
        }
        machine.await_workers();
        machine.marked.extend(machine.state.jobs.keys());
        machine.refresh();
        Ok(machine)
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
        self.now = self.now.max(now);
        self.take(event);
        self.refresh();
        self.expire();
        self.refresh();
        // From most events of a large cluster nothing follows: a heartbeat changes nobody.
        let changed = !self.changed.is_empty();
        if changed {
            self.finish_stopped();
            self.refresh();
            if self.moves_queue() {
                self.schedule();
            }
            self.tend_spares();
            self.refresh();
        }
        self.notify();
        if cfg!(debug_assertions) && changed {
            let (jobs, workers) = (&self.touched_jobs, &self.touched_workers);
            let broken = crate::invariants::check_touched(self, jobs, workers);
            debug_assert!(broken.is_empty(), "{broken:?}");
        }
        self.touched_jobs.clear();
        self.touched_workers.clear();
        self.deleted.clear();
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, event: Event) {
        if let Some(conn) = conn_of(&event) {
            self.hear(conn);
        }
        match event {
            Event::CreateJob {
                spec,
                uid,
                request_id,
                reply,
            } => {
                let result = self.create_job(spec, uid, request_id);
                self.reply(reply, result);
            }
            Event::CancelJob { name, reply } => {
                let result = self.cancel_job(&name);
                self.reply(reply, result);
            }
            Event::PauseJob { name, reply } => {
                let result = self.pause_job(&name);
                self.reply(reply, result);
            }
            Event::ResumeJob { name, reply } => {
                let result = self.resume_job(&name);
                self.reply(reply, result);
            }
            Event::DeleteJob { name, reply } => {
                let result = self.delete_job(&name);
                self.reply(reply, result);
            }
            Event::DrainWorker { name, reply } => {
                let result = self.drain_worker(&name);
                self.reply(reply, result);
            }
            Event::UndrainWorker { name, reply } => {
                let result = self.undrain_worker(&name);
                self.reply(reply, result);
            }
            Event::WorkerConnected { conn, hello } => self.connected(conn, hello),
            Event::WorkerDisconnected { conn } => self.disconnected(conn),
            Event::Heartbeat { conn, running } => self.heartbeat(conn, &running),
            Event::Goodbye { conn, reason } => self.goodbye(conn, &reason),
            Event::Prepared {
                conn,
                job,
                generation,
                addresses,
                profile,
                snapshots,
            } => {
                self.prepared(conn, (job, generation), addresses, profile, snapshots);
            }
            Event::Progress {
                conn,
                job,
                generation,
                progress,
            } => {
                self.progressed(conn, &(job, generation), progress);
            }
            Event::Evaluated {
                conn,
                job,
                generation,
                evaluation,
            } => {
                self.evaluated(conn, &(job, generation), evaluation);
            }
            Event::Checkpointed {
                conn,
                job,
                generation,
                checkpoint,
            } => {
                self.checkpointed(conn, &(job, generation), checkpoint);
            }
            Event::Stopped {
                conn,
                job,
                generation,
                outcome,
            } => {
                self.stopped(conn, &(job, generation), outcome);
            }
            Event::Reached {
                conn,
                job,
                generation,
                milestone,
                step,
            } => {
                self.milestone(conn, &(job, generation), milestone, step);
            }
            Event::Tick => {}
        }
    }

    /// When something follows from nothing having happened; none if nothing waits for time. Looks at
    /// every worker and job: for tests.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let workers = self.workers.values();
        let workers = workers.filter_map(|worker| self.worker_deadline(worker));
        let jobs = self.state.jobs.iter();
        let jobs = jobs.filter_map(|(number, job)| self.job_deadline(*number, job));
        workers.chain(jobs).min()
    }

    /// When to send the next [`Event::Tick`] at the latest: not after [`Self::next_deadline`], and
    /// known without a look at everybody. One that is sent too early does no harm.
    #[must_use]
    pub fn next_tick(&self) -> Option<Time> {
        if self.changed.is_empty() {
            self.index.next_alarm().map(|(time, _)| *time)
        } else {
            Some(self.now)
        }
    }

    /// Milliseconds without a heartbeat after which a worker is unreachable.
    pub(crate) fn silence_ms(&self) -> u64 {
        self.config.heartbeat_interval_ms.saturating_mul(3)
    }

    // What all parts share.

    /// Decides a change: applies it and puts it among the records of this step.
    pub(crate) fn record(&mut self, change: Change) {
        let applied = self.state.apply(&change);
        debug_assert!(applied.is_ok(), "{applied:?}");
        if applied.is_ok() {
            self.applied += 1;
            self.mark(&change);
            self.out.records.push(Record::V1(change));
        }
    }

    fn mark(&mut self, change: &Change) {
        match change {
            Change::JobCreated { number, .. }
            | Change::JobEvent { number, .. }
            | Change::WorkerFinished { number, .. }
            | Change::JobReported { number, .. }
            | Change::JobInterrupted { number, .. }
            | Change::JobMilestone { number, .. }
            | Change::JobCounted { number, .. }
            | Change::JobDeleted { number } => self.mark_job(*number),
            Change::WorkerJoined { worker } => self.workers.mark(&worker.name),
            Change::WorkerLeft { name }
            | Change::WorkerDrained { name }
            | Change::WorkerUndrained { name } => self.workers.mark(name),
        }
    }

    /// Decides a job's next event.
    pub(crate) fn tell(&mut self, number: u64, message: impl Into<String>, kind: Kind) {
        if kind.ends_generation() {
            self.keep_progress(number);
            self.count_useful(number);
        }
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        let sequence = job.events.len() as u64 + 1;
        let time = self.now;
        self.record(Change::JobEvent {
            number,
            sequence,
            time,
            message: message.into(),
            kind,
        });
        self.touched_jobs.insert(number);
        if self
            .state
            .jobs
            .get(&number)
            .is_some_and(|job| job.phase != Phase::Preparing)
            && let Some(live) = self.live.get_mut(&number)
        {
            live.deadline = None;
            live.acks.clear();
            live.profile = None;
        }
    }

    /// Marks a job's watchers for a look.
    pub(crate) fn touch_job(&mut self, number: u64) {
        self.touched_jobs.insert(number);
    }

    /// Marks a worker's watchers for a look.
    pub(crate) fn touch_worker(&mut self, name: &WorkerId) {
        self.touched_workers.insert(name.clone());
    }

    /// Marks the watchers of a job that exists no longer.
    pub(crate) fn touch_deleted(&mut self, name: JobId) {
        self.deleted.push(name);
    }

    /// Sends an order if the worker has a stream; what is lost with a stream is made good when
    /// the worker reconnects.
    pub(crate) fn send(&mut self, worker: &WorkerId, order: Order) {
        if let Some(conn) = self
            .workers
            .get(worker)
            .and_then(|worker| worker.link.conn())
        {
            self.out.after.push(Command::Send { conn, order });
        }
    }

    /// Ends a stream.
    pub(crate) fn close(&mut self, conn: ConnId, error: Error) {
        self.out
            .after
            .push(Command::CloseConnection { conn, error });
    }

    fn reply(&mut self, reply: ReplyId, result: Result<Answer, Error>) {
        self.out.after.push(Command::Reply { reply, result });
    }

    /// The worker at the other end of a stream.
    pub(crate) fn worker_of(&self, conn: ConnId) -> Option<WorkerId> {
        let name = self.conns.get(&conn)?;
        let worker = self.workers.get(name)?;
        (worker.link.conn() == Some(conn)).then(|| name.clone())
    }

    /// Number of the job of this name.
    pub(crate) fn number(&self, name: &JobId) -> Result<u64, Error> {
        self.state.names.get(name).copied().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "JOB_NOT_FOUND",
                format!("there is no job {name}; list the jobs to see their names"),
            )
        })
    }

    /// Lets everything happen whose time has come.
    fn expire(&mut self) {
        self.ring();
        if self.changed.is_empty() {
            return;
        }
        let workers = self.changed.workers.clone();
        self.expire_workers(&workers);
        self.expire_leases(&workers);
        // After what makes room elsewhere.
        self.expire_unseen();
        let jobs = self.changed.jobs.clone();
        self.expire_preparations(&jobs);
    }

    fn notify(&mut self) {
        let jobs: BTreeSet<JobId> = self
            .touched_jobs
            .iter()
            .filter_map(|number| self.state.jobs.get(number).map(|job| job.name()))
            .chain(self.deleted.iter().cloned())
            .collect();
        self.out
            .after
            .extend(jobs.into_iter().map(|job| Command::Notify { job }));
        let workers = self.touched_workers.iter().cloned();
        self.out
            .after
            .extend(workers.map(|worker| Command::NotifyWorker { worker }));
    }
}

impl Lease {
    /// When something follows from nothing having happened.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let stop = match self.state {
            LeaseState::Active => None,
            LeaseState::Finishing { deadline } | LeaseState::Stopping { deadline, .. } => {
                Some(deadline)
            }
        };
        stop.into_iter().chain(self.missing).min()
    }
}

fn conn_of(event: &Event) -> Option<ConnId> {
    match event {
        Event::Heartbeat { conn, .. }
        | Event::Prepared { conn, .. }
        | Event::Reached { conn, .. }
        | Event::Progress { conn, .. }
        | Event::Evaluated { conn, .. }
        | Event::Checkpointed { conn, .. }
        | Event::Stopped { conn, .. } => Some(*conn),
        _ => None,
    }
}
