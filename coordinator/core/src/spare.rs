//! Spares: workers without ranks of a job that load its model and data in advance, to take a lost
//! one's place or to let an elastic job grow (`grow.rs`).
//!
//! A job that runs has spares among the workers with free devices of its kind: as many as an elastic
//! job may still take, else [`crate::Config::hot_spares`]. A worker is a spare of one job at most. A
//! spare holds no device: another job may take it any time, and the spare is released. What is known
//! of spares is not kept: after a restart of the coordinator they are stopped and asked again.

use crate::command::{Order, StopMode};
use crate::config::Config;
use crate::elastic;
use crate::event::{ConnId, Outcome, RunningJob};
use crate::generation::profile_fits;
use crate::index::Changed;
use crate::live::{Key, Worker};
use crate::machine::Machine;
use crate::place::{Problem, place};
use crate::record::Kind;
use crate::seat::{devices, free_devices};
use crate::spares::{At, Spare, SpareState};
use crate::state::{Job, Phase, Then};
use espalier_spec::job::Device;
use espalier_spec::plan::Profile;
use espalier_spec::{JobId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

impl Machine {
    /// Releases spares that are not wanted any more, asks workers to be some, lets jobs grow.
    pub(crate) fn tend_spares(&mut self) {
        self.refresh();
        let changed = std::mem::take(&mut self.changed);
        self.release_spares(&changed);
        self.ask_spares();
        self.refresh();
        // What spares change by themselves is looked at in the next step.
        let jobs = changed.jobs.union(&self.changed.jobs).copied().collect();
        self.grow(&jobs);
    }

    /// Whether a worker is a prepared spare of a job.
    pub(crate) fn is_spare(&self, number: u64, name: &WorkerId) -> bool {
        let spare = self.spares.get(number, name);
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
        let here = self.spares.on(&worker.info.name);
        let mut of_name = here.filter(|(_, spare)| spare.key.0 == *job && spare.is_of(worker));
        of_name.all(|(of, spare)| of == number && spare.state != SpareState::Unfit)
    }

    /// Ready workers with devices of a kind that get no ranks of a job for what was found out about
    /// them; with the numbers of these devices, all and those that are free.
    pub(crate) fn unfit(&self, number: u64, kind: Device) -> BTreeMap<&WorkerId, (usize, usize)> {
        let spares = self.spares.of(number);
        let unfit = spares.filter(|(_, spare)| spare.state == SpareState::Unfit);
        let here = unfit.filter_map(|(name, spare)| {
            let worker = self.workers.get(name)?;
            let has = devices(worker, kind).count();
            let takes = worker.strays.is_empty();
            let free = if takes {
                free_devices(worker, kind).len()
            } else {
                0
            };
            let counts = spare.is_of(worker) && self.is_ready(worker) && has > 0;
            counts.then_some((name, (has, free)))
        });
        here.collect()
    }

    /// Whether a generation that a worker runs is what it keeps as a spare.
    pub(crate) fn keeps_as_spare(&self, name: &WorkerId, run: &RunningJob) -> bool {
        let worker = self.workers.get(name);
        worker.is_some_and(|worker| {
            let mut here = self.spares.on(name).map(|(_, spare)| spare);
            here.any(|spare| spare.is_of(worker) && spare.runs_as(run))
        })
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

    fn release_spares(&mut self, changed: &Changed) {
        let (mut forget, mut stop) = (Vec::new(), Vec::new());
        let mut at: BTreeSet<At> = BTreeSet::new();
        for name in &changed.workers {
            at.extend(
                self.spares
                    .on(name)
                    .map(|(number, _)| (number, name.clone())),
            );
        }
        for number in &changed.jobs {
            at.extend(
                self.spares
                    .of(*number)
                    .map(|(name, _)| (*number, name.clone())),
            );
        }
        for (number, name) in &at {
            let Some(spare) = self.spares.get(*number, name) else {
                continue;
            };
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

    fn stop_spare(&mut self, at: &At, state: SpareState) {
        let Some(spare) = self.spares.get_mut(at) else {
            return;
        };
        spare.state = state;
        let key = spare.key.clone();
        self.send_stop(&at.1, &key, StopMode::Abort);
    }

    /// Tells free workers to load what runs elsewhere: for the jobs in the order of the queue, the
    /// workers that it would choose.
    fn ask_spares(&mut self) {
        self.refresh();
        let wanting = self.index.wanting.iter();
        let wanting: Vec<u64> = wanting.map(|(_, number)| *number).collect();
        for number in wanting {
            if self.index.idle(Device::Auto).is_empty() {
                return;
            }
            for _ in 0..self.index.missing(number) {
                let Some(name) = self.candidate(number).cloned() else {
                    break;
                };
                self.ask_spare(number, name);
                self.refresh();
            }
        }
    }

    /// Whether a worker keeps, loads or stops a spare.
    pub(crate) fn is_any_spare(&self, name: &WorkerId) -> bool {
        let mut here = self.spares.on(name).map(|(_, spare)| spare);
        here.any(|spare| spare.is_live() || spare.state == SpareState::Stopping)
    }

    /// The first idle worker that may be a spare of a running job: of those with enough free
    /// devices the one with fewest.
    fn candidate(&self, number: u64) -> Option<&WorkerId> {
        let job = self.state.jobs.get(&number)?;
        let name = job.name();
        let idle = match job.size?.device {
            Device::Cuda => self.index.idle(Device::Cuda),
            Device::Auto | Device::Cpu => self.index.idle(Device::Cpu),
        };
        let may = |at: &&WorkerId| {
            let failed = self.spares.get(number, at).is_some_and(|spare| {
                spare.state == SpareState::Failed && spare.key.1 >= job.generation
            });
            let worker = self.workers.get(at);
            !failed
                && worker.is_some_and(|worker| {
                    worker.leases.keys().all(|key| key.0 != name)
                        && self.may_host(number, &name, worker)
                })
        };
        let enough = idle.range((devices_needed(job), WorkerId::default())..);
        enough.map(|(_, at)| at).find(may)
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
        let found = self
            .worker_of(conn)
            .and_then(|name| self.spare_at(name, key));
        let Some(at) = found else { return false };
        self.spare_prepared(&at, profile);
        true
    }

    /// The spare of a generation on a worker.
    fn spare_at(&self, name: WorkerId, key: &Key) -> Option<At> {
        let mut here = self.spares.on(&name);
        let number = here.find(|(_, spare)| spare.key == *key)?.0;
        drop(here);
        Some((number, name))
    }

    fn spare_prepared(&mut self, at: &At, profile: &Profile) {
        let Some(job) = self.state.jobs.get(&at.0) else {
            return;
        };
        // Neither is known after a restart of the coordinator: then what leads to another plan is found.
        let live = self.live.get(&at.0);
        let first = live.and_then(|live| live.profile.as_ref().or(live.ran.as_ref()));
        let wrong = match first {
            Some((first, other)) if other.fetched_others(profile) => Some(format!(
                "fetched other versions of the job's files than worker {first}: one was changed at \
                 its URL in between"
            )),
            Some((_, other)) if !other.agrees(profile) => {
                let fits = job_fits(job, profile);
                Some(fits.err().unwrap_or_else(|| found_others(job)))
            }
            _ => job_fits(job, profile).err(),
        };
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
                format!(
                    "worker {name} gets no ranks of this job: {}",
                    failure.message
                )
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
        let (mut forget, mut unfit) = (Vec::new(), Vec::new());
        for (number, spare) in self.spares.on(name) {
            let listed = running.iter().any(|run| spare.runs_as(run));
            let kept = match spare.state {
                SpareState::Ready => listed,
                SpareState::Asked | SpareState::Stopping => false,
                SpareState::Unfit | SpareState::Failed => true,
            };
            if !kept {
                forget.push((number, name.clone()));
            } else if listed && spare.state == SpareState::Unfit {
                unfit.push(spare.key.clone());
            }
        }
        for at in forget {
            self.spares.remove(&at);
        }
        for key in unfit {
            self.send_stop(name, &key, StopMode::Abort);
        }
    }
}

/// Spares that a running job may have.
pub(crate) fn spares_wanted(config: &Config, job: &Job) -> usize {
    let more =
        elastic::range(job).map_or(0, |(_, max)| max.saturating_sub(elastic::hosts(job).len()));
    more.max(config.hot_spares as usize)
}

/// Whether all ranks of a job train.
pub(crate) fn trains(job: &Job) -> bool {
    match &job.phase {
        Phase::Running { finished, .. } => finished.is_empty(),
        _ => false,
    }
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
    Err(found_others(job))
}

/// What is wrong with a worker whose profile is not that of the others; goes on from "it".
fn found_others(job: &Job) -> String {
    format!(
        "found another model or other data than the workers that run the job; check that {} and \
         the data files are the same on all",
        job.spec.backbone.path
    )
}
