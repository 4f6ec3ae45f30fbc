//! Spares: workers without ranks of a job that load its model and data in advance; and elastic jobs
//! that take them in.
//!
//! A job that runs has spares among the workers with free devices of its kind: as many as an elastic
//! job may still take, one otherwise. A worker is a spare of one job at most. A spare holds no
//! device: another job may take it any time, and the spare is released. What is known of spares is
//! not kept: after a restart of the coordinator they are stopped and asked again.
//!
//! An elastic job on fewer workers than it may have **grows** when a spare is prepared: it stops at
//! a step with a snapshot in memory (or a checkpoint, if it takes none) and goes on with more. Not
//! before its generation has run for [`crate::Config::scale_after_ms`] and has reported a step, so
//! that workers that come one by one don't stop it one by one; not while another job waits for the
//! devices; and not if it ends within that time anyway.

use crate::command::{Order, StopMode};
use crate::elastic;
use crate::event::{ConnId, Outcome, RunningJob, Time};
use crate::generation::{count, names, profile_fits};
use crate::live::{Key, Link, Worker};
use crate::machine::Machine;
use crate::place::{Problem, place};
use crate::queue::free_devices;
use crate::record::{Kind, Waiting};
use crate::state::{Job, Phase, Then};
use crate::view::Detail;
use espalier_spec::job::Device;
use espalier_spec::plan::Profile;
use espalier_spec::recovery::Cause;
use espalier_spec::{JobId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// A worker that was told to load a job for a later generation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spare {
    /// The worker's process.
    pub(crate) instance: String,
    pub(crate) uid: String,
    /// The job and the generation that ran when it was told.
    pub(crate) key: Key,
    pub(crate) state: SpareState,
    /// When it was told.
    pub(crate) since: Time,
}

/// How far a spare is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpareState {
    /// It loads model and data.
    Asked,
    /// It has loaded them.
    Ready,
    /// It was told to stop.
    Stopping,
    /// It could not, this time; asked again in a later generation.
    Failed,
    /// It can't: it gets no ranks of this job.
    Unfit,
}

impl Spare {
    fn is_of(&self, worker: &Worker) -> bool {
        worker.link != Link::Gone && worker.info.instance == self.instance
    }

    /// Whether the worker has something loaded or loads it.
    fn is_live(&self) -> bool {
        matches!(self.state, SpareState::Asked | SpareState::Ready)
    }
}

impl Machine {
    /// Releases spares that are not wanted any more, asks workers to be some, lets jobs grow.
    pub(crate) fn tend_spares(&mut self) {
        self.release_spares();
        self.ask_spares();
        self.grow();
    }

    /// Whether a worker is a prepared spare of a job.
    pub(crate) fn is_spare(&self, number: u64, name: &WorkerId) -> bool {
        let spare = self.spares.get(&(number, name.clone()));
        spare.is_some_and(|spare| spare.state == SpareState::Ready && self.is_there(spare, name))
    }

    fn is_there(&self, spare: &Spare, name: &WorkerId) -> bool {
        let worker = self.workers.get(name);
        worker.is_some_and(|worker| {
            spare.is_of(worker) && self.is_ready(worker) && worker.strays.is_empty()
        })
    }

    /// Whether a worker may host ranks of a job: it does not stop a spare of another job of that
    /// name, nor did it find another model or other data.
    pub(crate) fn may_host(&self, number: u64, job: &JobId, worker: &Worker) -> bool {
        self.spares.iter().all(|((of, name), spare)| {
            let concerns = *name == worker.info.name && spare.is_of(worker) && spare.key.0 == *job;
            !concerns || (*of == number && spare.state != SpareState::Unfit)
        })
    }

    /// What a worker keeps as a spare: generations with their job's uid.
    pub(crate) fn spares_on(&self, name: &WorkerId) -> BTreeMap<Key, String> {
        let Some(worker) = self.workers.get(name) else {
            return BTreeMap::new();
        };
        let spares = self.spares.iter();
        let here = spares.filter(|((_, at), spare)| at == name && spare.is_of(worker));
        here.map(|(_, spare)| (spare.key.clone(), spare.uid.clone()))
            .collect()
    }

    /// Whether a job should have spares that it has.
    fn keeps_spares(&self, number: u64, job: &Job) -> bool {
        match &job.phase {
            Phase::Preparing | Phase::Running { .. } => true,
            Phase::Stopping { then, .. } => *then == Then::Move,
            // About to be placed again.
            Phase::Queued => self
                .waits
                .get(&number)
                .is_none_or(|wait| wait.waiting().is_none()),
            _ => false,
        }
    }

    fn release_spares(&mut self) {
        let (mut forget, mut stop) = (Vec::new(), Vec::new());
        for ((number, name), spare) in &self.spares {
            let at = || (*number, name.clone());
            let Some(worker) = self.workers.get(name).filter(|worker| spare.is_of(worker)) else {
                forget.push(at());
                continue;
            };
            let job = self.state.jobs.get(number);
            // It got ranks: an order that took the place of the spare's.
            let seated = job.is_some_and(|job| {
                job.generation > spare.key.1 && job.seats.iter().any(|seat| seat.worker == *name)
            });
            let ended = job.is_none_or(|job| job.state().is_final());
            let kept =
                job.is_some_and(|job| self.keeps_spares(*number, job) && has_room(job, worker));
            let out = self.state.draining.contains(name);
            match spare.state {
                _ if seated => forget.push(at()),
                SpareState::Failed | SpareState::Unfit if ended => forget.push(at()),
                SpareState::Asked | SpareState::Ready if out || !kept => stop.push(at()),
                _ => {}
            }
        }
        for at in forget {
            self.spares.remove(&at);
        }
        for at in stop {
            self.stop_spare(&at, SpareState::Stopping);
        }
    }

    fn stop_spare(&mut self, at: &(u64, WorkerId), state: SpareState) {
        let Some(spare) = self.spares.get_mut(at) else {
            return;
        };
        spare.state = state;
        let key = spare.key.clone();
        self.send_stop(&at.1, &key, StopMode::Abort);
    }

    /// Tells free workers to load what runs elsewhere.
    fn ask_spares(&mut self) {
        let mut running: Vec<_> = self
            .state
            .jobs
            .iter()
            .filter(|(_, job)| trains(job))
            .map(|(number, job)| (std::cmp::Reverse(job.spec.priority), *number))
            .collect();
        running.sort_unstable();
        for (_, number) in running {
            for name in self.candidates(number) {
                self.ask_spare(number, name);
            }
        }
    }

    /// Workers that a running job may have as spares besides those it has.
    fn candidates(&self, number: u64) -> Vec<WorkerId> {
        let Some(job) = self.state.jobs.get(&number) else {
            return Vec::new();
        };
        let Some(size) = job.size else {
            return Vec::new();
        };
        let spares = self.spares.iter();
        let has = spares.filter(|((of, _), spare)| *of == number && spare.is_live());
        let missing = spares_wanted(job).saturating_sub(has.count());
        if missing == 0 {
            return Vec::new();
        }
        let may = |name: &WorkerId| {
            self.spares
                .iter()
                .filter(|((_, at), _)| at == name)
                .all(|((of, _), spare)| match spare.state {
                    SpareState::Asked | SpareState::Ready | SpareState::Stopping => false,
                    SpareState::Failed => *of != number || spare.key.1 < job.generation,
                    SpareState::Unfit => *of != number,
                })
        };
        let free = self.usable(number, job, size.device).into_iter();
        let fits = free.filter(|(name, devices)| devices.len() >= devices_needed(job) && may(name));
        // As the queue would choose.
        let mut fits: Vec<(usize, &WorkerId)> =
            fits.map(|(name, free)| (free.len(), name)).collect();
        fits.sort_unstable();
        let names = fits.into_iter().take(missing);
        names.map(|(_, name)| name.clone()).collect()
    }

    fn ask_spare(&mut self, number: u64, name: WorkerId) {
        let (Some(job), Some(worker)) = (self.state.jobs.get(&number), self.workers.get(&name))
        else {
            return;
        };
        let spare = Spare {
            instance: worker.info.instance.clone(),
            uid: job.uid.clone(),
            key: (job.name(), job.generation),
            state: SpareState::Asked,
            since: self.now,
        };
        let order = Order::Prepare {
            job: job.name(),
            uid: job.uid.clone(),
            generation: job.generation,
            spec: Box::new(job.spec.clone()),
            seats: job.seats.clone(),
            spare: true,
        };
        self.send(&name, order);
        self.spares.insert((number, name), spare);
    }

    /// Whether what a worker prepared is a spare's; if so, it is one from now on, unless it found
    /// another model or other data than the workers that run the job.
    pub(crate) fn spare_answered(&mut self, conn: ConnId, key: &Key, profile: &Profile) -> bool {
        let found = self.worker_of(conn).and_then(|name| self.spare_at(name, key));
        let Some(at) = found else { return false };
        self.spare_prepared(&at, profile);
        true
    }

    /// The spare of a generation on a worker.
    fn spare_at(&self, name: WorkerId, key: &Key) -> Option<(u64, WorkerId)> {
        let spares = self.spares.iter();
        let mut here = spares.filter(|((_, at), spare)| *at == name && spare.key == *key);
        let number = here.next().map(|((number, _), _)| *number)?;
        Some((number, name))
    }

    fn spare_prepared(&mut self, at: &(u64, WorkerId), profile: &Profile) {
        let Some(job) = self.state.jobs.get(&at.0) else {
            return;
        };
        let wrong = job_fits(job, profile).err();
        let ended = job.state().is_final();
        match self.spares.get_mut(at) {
            Some(spare) if spare.state == SpareState::Asked => spare.state = SpareState::Ready,
            _ => return,
        }
        let Some(wrong) = wrong else { return };
        self.stop_spare(at, SpareState::Unfit);
        if !ended {
            let message = format!("worker {} gets no ranks of this job: it {wrong}", at.1);
            self.tell(at.0, message, Kind::Noted);
        }
    }

    /// Whether what has stopped on a worker was a spare.
    pub(crate) fn spare_stopped(&mut self, name: &WorkerId, key: &Key, outcome: &Outcome) -> bool {
        let Some(at) = self.spare_at(name.clone(), key) else {
            return false;
        };
        let Some(spare) = self.spares.get_mut(&at) else {
            return false;
        };
        if !spare.is_live() {
            if spare.state == SpareState::Stopping {
                self.spares.remove(&at);
            }
            return true;
        }
        let message = match outcome {
            Outcome::Failure(failure) if failure.retryable => {
                spare.state = SpareState::Failed;
                format!("worker {name} can't be a spare now: {}", failure.message)
            }
            Outcome::Failure(failure) => {
                spare.state = SpareState::Unfit;
                format!("worker {name} gets no ranks of this job: {}", failure.message)
            }
            Outcome::Ordered | Outcome::Exported(_) => {
                // Of one that was just told this is the answer to an older order to stop.
                if spare.state == SpareState::Ready {
                    spare.state = SpareState::Failed;
                }
                return true;
            }
        };
        let job = self.state.jobs.get(&at.0);
        if job.is_some_and(|job| !job.state().is_final()) {
            self.tell(at.0, message, Kind::Noted);
        }
        true
    }

    /// Sets right what a reconnected worker keeps as a spare. One whose answer may have been lost
    /// is forgotten: if it runs it is stopped as a stray and asked again.
    pub(crate) fn reconcile_spares(&mut self, name: &WorkerId, running: &[RunningJob]) {
        let mut unfit = Vec::new();
        self.spares.retain(|(_, at), spare| {
            if at != name {
                return true;
            }
            let listed = running.iter().any(|job| {
                job.job == spare.key.0 && job.generation == spare.key.1 && job.uid == spare.uid
            });
            match spare.state {
                SpareState::Ready => listed,
                SpareState::Asked | SpareState::Stopping => false,
                SpareState::Unfit if listed => {
                    unfit.push(spare.key.clone());
                    true
                }
                SpareState::Unfit | SpareState::Failed => true,
            }
        });
        for key in unfit {
            self.send_stop(name, &key, StopMode::Abort);
        }
    }

    /// Prepared spares that a job can take in now.
    fn ready_spares(&self, number: u64) -> BTreeSet<WorkerId> {
        let spares = self.spares.iter();
        let ready = spares.filter(|((of, name), _)| *of == number && self.is_spare(number, name));
        ready.map(|((_, name), _)| name.clone()).collect()
    }

    /// When a running job stops to take in spares; none as long as it has no reason to, or reasons
    /// not to.
    pub(crate) fn grows_at(&self, number: u64, job: &Job) -> Option<Time> {
        let (_, max) = elastic::range(job)?;
        let full = elastic::hosts(job).len() >= max;
        if full || !trains(job) || self.ready_spares(number).is_empty() {
            return None;
        }
        let live = self.live.get(&number)?;
        live.reached?;
        let wait = self.config.scale_after_ms;
        let left = live.progress.as_ref().and_then(|p| p.eta_seconds);
        let ends_soon = left.is_some_and(|seconds| seconds * 1_000.0 < wait as f64);
        if ends_soon || self.is_awaited(job) {
            return None;
        }
        let mut events = job.events.iter().rev();
        let started = events.find(|event| matches!(event.detail, Some(Detail::Plan(_))))?;
        // Those that load still are waited for, but no longer than that.
        let spares = self.spares.iter();
        let loading = spares.filter(|((of, _), s)| *of == number && s.state == SpareState::Asked);
        let newest = loading.map(|(_, spare)| spare.since).max();
        Some(newest.unwrap_or_default().max(started.time).plus(wait))
    }

    /// Whether another job waits for devices of a job's kind.
    fn is_awaited(&self, job: &Job) -> bool {
        let Some(size) = job.size else { return false };
        self.waits.iter().any(|(number, wait)| {
            let kind = self.state.jobs.get(number).map(|other| {
                let fixed = other.size.map(|size| size.device);
                fixed.unwrap_or(other.spec.resources.device)
            });
            wait.waiting() == Some(Waiting::Busy)
                && kind.is_some_and(|kind| kind == Device::Auto || kind == size.device)
        })
    }

    /// Stops elastic jobs at their next step that can go on with more workers.
    fn grow(&mut self) {
        let jobs = self.state.jobs.iter();
        let due = jobs.filter(|(number, job)| {
            let at = self.grows_at(**number, job);
            at.is_some_and(|at| at <= self.now)
        });
        let due: Vec<u64> = due.map(|(number, _)| *number).collect();
        for number in due {
            let Some(job) = self.state.jobs.get(&number) else {
                continue;
            };
            let now = elastic::hosts(job).len();
            let max = elastic::range(job).map_or(now, |(_, max)| max);
            let spares = self.ready_spares(number);
            let spares: BTreeSet<WorkerId> =
                spares.into_iter().take(max.saturating_sub(now)).collect();
            let message = format!(
                "grows from {} to {}, as {} {} prepared: stops at the next step",
                count(now, "worker"),
                now + spares.len(),
                names("worker", &spares),
                if spares.len() == 1 { "is" } else { "are" },
            );
            // Without snapshots in memory nothing but a checkpoint keeps the steps since the last.
            let mode = if job.takes_snapshots() {
                StopMode::Handover
            } else {
                StopMode::Checkpoint
            };
            self.interrupt(number, Cause::Scale, spares.first(), &message);
            self.stop_ranks(number, mode);
            let then = Then::Move;
            self.tell(number, message, Kind::Stopping { then, mode });
        }
    }
}

/// Whether all ranks of a job train.
fn trains(job: &Job) -> bool {
    match &job.phase {
        Phase::Running { finished, .. } => finished.is_empty(),
        _ => false,
    }
}

/// Spares that a running job may have.
fn spares_wanted(job: &Job) -> usize {
    let more = elastic::range(job).map_or(0, |(_, max)| {
        max.saturating_sub(elastic::hosts(job).len())
    });
    more.max(1)
}

/// Whether a worker has free devices for what a job has on one of its workers.
fn has_room(job: &Job, worker: &Worker) -> bool {
    job.size
        .is_some_and(|size| free_devices(worker, size.device).len() >= devices_needed(job))
}

/// Free devices that a worker needs to take another one's place in a job.
fn devices_needed(job: &Job) -> usize {
    if elastic::range(job).is_some() {
        return 1;
    }
    let mut seats: BTreeMap<&WorkerId, usize> = BTreeMap::new();
    for seat in &job.seats {
        *seats.entry(&seat.worker).or_default() += 1;
    }
    seats.into_values().min().unwrap_or(1)
}

/// Whether a profile leads to the plan by which a job runs; `Err` goes on from "it".
fn job_fits(job: &Job, profile: &Profile) -> Result<(), String> {
    profile_fits(&job.spec, profile)
        .map_err(|message| format!("prepared something else than the job asks for: {message}"))?;
    let (Some(plan), Some(size)) = (&job.plan, job.size) else {
        return Ok(());
    };
    let other = place(&Problem {
        job: job.name(),
        generation: plan.generation,
        seats: plan.seats.clone(),
        shards: size.shards,
        spec: &job.spec,
        profile,
        previous: None,
        measured: None,
    });
    if other.tasks == plan.tasks && other.blocks == plan.blocks && other.shards == plan.shards {
        return Ok(());
    }
    Err(format!(
        "found another model or other data than the workers that run the job; check that {} and \
         the data files are the same on all",
        job.spec.backbone.path
    ))
}
