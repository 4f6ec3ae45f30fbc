//! Leases: which devices a generation holds, stopping its ranks, and setting right what a worker
//! runs when it reconnects.

use crate::command::{Order, StopMode};
use crate::elastic;
use crate::event::RunningJob;
use crate::live::{Key, Lease, LeaseState};
use crate::machine::Machine;
use crate::record::Change;
use crate::state::Phase;
use espalier_spec::plan::Seat;
use espalier_spec::{Rank, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

impl Machine {
    /// Gives the seats of a job's newest generation to it; those of finished workers are free.
    pub(crate) fn grant(&mut self, number: u64, state: LeaseState) {
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        let key = (job.name(), job.generation);
        let finished = match &job.phase {
            Phase::Running { finished, .. }
            | Phase::Stopping {
                stopped: finished, ..
            } => finished.clone(),
            _ => BTreeSet::new(),
        };
        let mut by_worker: BTreeMap<WorkerId, Vec<(u32, Rank)>> = BTreeMap::new();
        for Seat {
            rank,
            worker,
            device,
        } in &job.seats
        {
            by_worker
                .entry(worker.clone())
                .or_default()
                .push((*device, *rank));
        }
        let uid = job.uid.clone();
        for (name, seats) in by_worker {
            if finished.contains(&name) {
                continue;
            }
            let Some(worker) = self.workers.get_mut(&name) else {
                continue;
            };
            let lease = Lease {
                number,
                uid: uid.clone(),
                seats,
                state,
                missing: None,
            };
            worker.leases.insert(key.clone(), lease);
            self.touch_worker(&name);
        }
    }

    /// Workers that hold devices of a job, of any generation.
    pub(crate) fn holders(&self, number: u64) -> Vec<WorkerId> {
        let job = self.state.jobs.get(&number);
        // A job is placed anew only once it holds none any more.
        let seated = job.map(elastic::hosts).unwrap_or_default();
        let holds = |name: &&WorkerId| {
            let worker = self.workers.get(name);
            worker.is_some_and(|w| w.leases.values().any(|lease| lease.number == number))
        };
        seated.into_iter().filter(holds).cloned().collect()
    }

    /// The state of a lease whose ranks are told to stop now.
    pub(crate) fn stopping(&self, mode: StopMode) -> LeaseState {
        let time = match mode {
            StopMode::Checkpoint | StopMode::Handover => self.config.checkpoint_timeout_ms,
            StopMode::Abort => self.config.stop_timeout_ms,
        };
        LeaseState::Stopping {
            mode,
            deadline: self.now.plus(time),
        }
    }

    /// Tells all ranks of a job to stop, except those that were told so already.
    pub(crate) fn stop_ranks(&mut self, number: u64, mode: StopMode) {
        let state = self.stopping(mode);
        let mut orders = Vec::new();
        for name in self.holders(number) {
            let leases = self.workers.get_mut(&name).map(|worker| &mut worker.leases);
            for (key, lease) in leases.into_iter().flatten() {
                let told = match lease.state {
                    LeaseState::Stopping { mode: old, .. } => old == mode || old == StopMode::Abort,
                    LeaseState::Active | LeaseState::Finishing { .. } => false,
                };
                if lease.number == number && !told {
                    lease.state = state;
                    orders.push((name.clone(), key.clone()));
                }
            }
        }
        for (name, key) in orders {
            self.send_stop(&name, &key, mode);
        }
    }

    pub(crate) fn send_stop(&mut self, worker: &WorkerId, key: &Key, mode: StopMode) {
        self.send(
            worker,
            Order::Stop {
                job: key.0.clone(),
                generation: key.1,
                mode,
            },
        );
    }

    /// Sets right what a reconnected worker runs: adopts what it was given, repeats orders that
    /// were lost with its stream, stops what it should not run.
    pub(crate) fn reconcile(&mut self, name: &WorkerId, running: &[RunningJob]) {
        self.reconcile_spares(name, running);
        let Some(worker) = self.workers.get_mut(name) else {
            return;
        };
        let until = self
            .now
            .plus(self.config.heartbeat_interval_ms.saturating_mul(3));
        let mut listed = Vec::new();
        for (key, lease) in &mut worker.leases {
            if lists(running, key, &lease.uid) {
                lease.missing = None;
                listed.push((key.clone(), lease.number, lease.state));
            } else {
                // Its last report may still be on its way.
                lease.missing = Some(until);
            }
        }
        for (key, number, state) in listed {
            match state {
                LeaseState::Stopping { mode, .. } => self.send_stop(name, &key, mode),
                LeaseState::Active => self.repeat_start(name, number),
                LeaseState::Finishing { .. } => {}
            }
        }
        self.stop_strays(name, running);
        self.abort_unheard(name);
    }

    /// Orders a worker to stop what it should not run, as long as it says that it runs it. What it
    /// keeps as a spare has no lease and is no stray.
    pub(crate) fn stop_strays(&mut self, name: &WorkerId, running: &[RunningJob]) {
        let found = running.iter().filter(|run| !self.keeps_as_spare(name, run));
        let found: Vec<&RunningJob> = found.collect();
        let Some(worker) = self.workers.get(name) else {
            return;
        };
        let before = worker.strays.len();
        let strays: BTreeMap<Key, String> = found
            .into_iter()
            .map(|job| ((job.job.clone(), job.generation), job.uid.clone()))
            .filter(|(key, uid)| worker.leases.get(key).is_none_or(|lease| lease.uid != *uid))
            .collect();
        let keys: Vec<Key> = strays.keys().cloned().collect();
        if worker.strays != strays
            && let Some(worker) = self.workers.get_mut(name)
        {
            worker.strays = strays;
        }
        if before != keys.len() {
            self.touch_worker(name);
        }
        for key in keys {
            self.send_stop(name, &key, StopMode::Abort);
        }
    }

    /// Takes a lease back; its devices are free.
    pub(crate) fn release(&mut self, name: &WorkerId, key: &Key) -> Option<Lease> {
        let lease = self.workers.get_mut(name)?.leases.remove(key);
        self.touch_worker(name);
        if let Some(lease) = &lease {
            self.mark_job(lease.number);
        }
        lease
    }

    /// Keeps that a worker's ranks of a stopping job are gone, so that a restarted coordinator does
    /// not expect them back.
    pub(crate) fn note_stopped(&mut self, name: &WorkerId, key: &Key, number: u64) {
        let stops = self.state.jobs.get(&number).is_some_and(|job| {
            job.generation == key.1 && matches!(job.phase, Phase::Stopping { .. })
        });
        if stops {
            let (generation, worker) = (key.1, name.clone());
            self.record(Change::WorkerFinished {
                number,
                generation,
                worker,
            });
        }
    }

    /// Leases of these workers that have not done in time what they should.
    pub(crate) fn expire_leases(&mut self, among: &BTreeSet<WorkerId>) {
        let now = self.now;
        let mut due = Vec::new();
        for name in among {
            let leases = self.workers.get(name).map(|worker| &worker.leases);
            for (key, lease) in leases.into_iter().flatten() {
                if lease.deadline().is_some_and(|deadline| deadline <= now) {
                    due.push((name.clone(), key.clone()));
                }
            }
        }
        for (name, key) in due {
            self.expire_lease(&name, &key);
        }
    }

    fn expire_lease(&mut self, name: &WorkerId, key: &Key) {
        let now = self.now;
        // Losing one lease may change or end others of the same round.
        let Some(lease) = self
            .workers
            .get(name)
            .and_then(|w| w.leases.get(key))
            .cloned()
        else {
            return;
        };
        if lease.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        if lease.missing.is_some_and(|until| until <= now) {
            self.release(name, key);
            let why = format!("worker {name} lost its ranks of generation {}", key.1.0);
            self.ranks_lost(name, key, &lease, &why);
            return;
        }
        match lease.state {
            LeaseState::Active => {}
            LeaseState::Finishing { .. }
            | LeaseState::Stopping {
                mode: StopMode::Checkpoint | StopMode::Handover,
                ..
            } => {
                let state = self.stopping(StopMode::Abort);
                if let Some(worker) = self.workers.get_mut(name)
                    && let Some(lease) = worker.leases.get_mut(key)
                {
                    lease.state = state;
                }
                self.send_stop(name, key, StopMode::Abort);
            }
            LeaseState::Stopping {
                mode: StopMode::Abort,
                ..
            } => {
                // The job waits no longer; the worker gets no work until it stopped these ranks.
                self.release(name, key);
                self.note_stopped(name, key, lease.number);
                if let Some(worker) = self.workers.get_mut(name) {
                    worker.strays.insert(key.clone(), lease.uid.clone());
                }
            }
        }
    }
}

fn lists(running: &[RunningJob], key: &Key, uid: &str) -> bool {
    running
        .iter()
        .any(|job| job.job == key.0 && job.generation == key.1 && job.uid == uid)
}
