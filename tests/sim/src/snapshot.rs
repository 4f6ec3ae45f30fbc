//! Snapshots in the memory of workers: taken at a step boundary, mirrored to another worker, found
//! again by the next generation.

use crate::bug::Bug;
use crate::chain::Model;
use crate::ranks::{Group, Phase};
use crate::worker::Worker;
use crate::world::World;
use espalier_core::{JobView, Machine};
use espalier_spec::plan::Seat;
use espalier_spec::{Rank, WorkerId};
use std::collections::BTreeSet;

impl World {
    /// The parts of a snapshot, from the workers that are said to hold them.
    pub(crate) fn parts(&self, group: &Group, providers: &[Rank], step: u64) -> Option<Model> {
        if providers.len() != group.world.len() {
            return None;
        }
        let part = |(rank, provider): (u32, &Rank)| {
            let worker = *group.world.get(provider.0 as usize)?;
            let held = self.workers[worker].held.get(&group.key.0)?;
            if self.has(Bug::MixedRestore) {
                let mut of_rank = held.range((rank, 0)..=(rank, u64::MAX));
                return of_rank.next_back().map(|(_, part)| *part);
            }
            held.get(&(rank, step)).copied()
        };
        (0..).zip(providers).map(part).collect()
    }

    /// A snapshot that is in the memory of the generation's workers costs no more steps than lie
    /// between two snapshots.
    pub(crate) fn check_replay(&mut self, group: &Group, step: u64) {
        let mut common: Option<BTreeSet<u64>> = None;
        for rank in (0..).take(group.world.len()) {
            let held = group
                .world
                .iter()
                .filter_map(|w| self.workers[*w].held.get(&group.key.0));
            let parts = held.flat_map(|held| held.range((rank, 0)..=(rank, u64::MAX)));
            let steps: BTreeSet<u64> = parts.map(|((_, step), _)| *step).collect();
            common = Some(match common {
                Some(common) => common.intersection(&steps).copied().collect(),
                None => steps,
            });
        }
        let newest = common.and_then(|steps| steps.last().copied()).unwrap_or(0);
        let Some(truth) = self.judge.jobs.get(&group.key.0) else {
            return;
        };
        let (reached, every) = (truth.reached, truth.length.snapshot);
        let key = &group.key;
        if newest + every >= reached && step + every < reached {
            self.judge.fail("a snapshot costs at most k steps", || {
                format!(
                    "{key:?} goes on from step {step} of {reached}, though its workers hold \
                     step {newest}; snapshots are every {every} steps"
                )
            });
        }
    }

    /// A generation is placed: whoever hosted the last one that trained, holds something of it and takes
    /// work gets ranks, whoever else has room.
    pub(crate) fn check_holders(&mut self, machine: &Machine, number: u64, seats: &[Seat]) {
        let Some(job) = job_of(machine, number) else {
            return;
        };
        let seated = |name: &str| seats.iter().any(|seat| seat.worker.as_str() == name);
        let left = self.workers.iter().find(|worker| {
            let takes = machine.has_room(&WorkerId(worker.name.clone()));
            takes && !seated(&worker.name) && holds(worker, &job)
        });
        if let Some(left) = left {
            let name = left.name.clone();
            self.judge.fail("who holds a snapshot keeps ranks", || {
                format!("{name} has room and holds parts of {}: {seats:?}", job.name)
            });
        }
    }

    /// A generation that is prepared is stopped, since a worker drains: that one must hold nothing.
    pub(crate) fn check_drain(&mut self, machine: &Machine, number: u64, drained: &str) {
        let Some(job) = job_of(machine, number) else {
            return;
        };
        let mut workers = self.workers.iter();
        if workers.any(|worker| worker.name == drained && holds(worker, &job)) {
            self.judge.fail("a drain leaves no snapshot behind", || {
                format!("{drained} holds parts of {}, and is let go", job.name)
            });
        }
    }

    /// One worker after the other holds its ranks' parts and those that it mirrors.
    pub(crate) fn mirror(
        &mut self,
        group: &mut Group,
        held: usize,
        then_stop: bool,
    ) -> Option<u64> {
        let workers = group.workers();
        let skipped = u64::from(then_stop && self.has(Bug::HandoverSkipsStep));
        let label = group.step + skipped;
        let selfish = self.has(Bug::BuddyIsSelf);
        if let Some(worker) = workers.get(held) {
            for rank in 0..group.world.len() {
                let mirrors = !selfish && group.buddy(rank) == Some(*worker);
                if group.world[rank] == *worker || mirrors {
                    let part = group.model[rank];
                    self.workers[*worker].hold(&group.key.0, rank as u32, label, part);
                }
            }
            let held = held + 1;
            group.phase = Phase::Mirroring { held, then_stop };
            return Some(self.dice.between(1, 8));
        }
        self.check_mirrors(group, label, &workers);
        if then_stop {
            self.all_stop(group);
            return None;
        }
        group.phase = Phase::Training;
        Some(1)
    }

    /// A snapshot is complete: losing any one worker leaves every part of it.
    fn check_mirrors(&mut self, group: &Group, step: u64, workers: &[usize]) {
        if workers.len() < 2 {
            return;
        }
        for rank in (0..).take(group.world.len()) {
            let holds = |w: &&usize| {
                let held = self.workers[**w].held.get(&group.key.0);
                held.is_some_and(|held| held.contains_key(&(rank, step)))
            };
            if workers.iter().filter(holds).count() < 2 {
                let key = &group.key;
                return self.judge.fail("two workers hold every part", || {
                    format!("rank {rank}'s part of {key:?} at step {step} is at one worker only")
                });
            }
        }
    }
}

/// The job of this number.
fn job_of(machine: &Machine, number: u64) -> Option<JobView> {
    let mut found = machine.jobs(number.saturating_sub(1), 1, &[]).into_iter();
    let (at, job) = found.next()?;
    (at == number).then_some(job)
}

/// Whether a worker hosted the last generation of a job that trained, and still has something of it.
fn holds(worker: &Worker, job: &JobView) -> bool {
    let mut seats = job.plan.iter().flat_map(|plan| &plan.seats);
    let held = worker.held.get(&job.uid);
    worker.up
        && seats.any(|seat| seat.worker.as_str() == worker.name)
        && held.is_some_and(|held| !held.is_empty())
}
