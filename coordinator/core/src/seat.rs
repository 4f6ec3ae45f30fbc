//! Which devices a job gets.

use crate::elastic::hosts;
use crate::live::{Link, Worker};
use crate::machine::Machine;
use crate::queue::is_kind;
use crate::state::Job;
use espalier_spec::job::Device;
use espalier_spec::plan::Seat;
use espalier_spec::{JobId, Rank, WorkerId};
use std::collections::{BTreeMap, BTreeSet, btree_set};

/// Workers with the same number of free devices, each looked at once.
type Class<'a> = btree_set::Range<'a, (usize, WorkerId)>;

/// Chooses workers for one job, one after another.
struct Choice<'a> {
    machine: &'a Machine,
    number: u64,
    job: JobId,
    kind: Device,
    /// Others that may have it loaded: those that only prepared it, in order of name, then its
    /// spares.
    known: Vec<&'a WorkerId>,
    taken: BTreeSet<&'a WorkerId>,
    classes: BTreeMap<usize, Class<'a>>,
}

impl<'a> Choice<'a> {
    /// Free devices of a worker that may still be chosen.
    fn free(&self, name: &WorkerId) -> Option<Vec<u32>> {
        if self.taken.contains(name) {
            return None;
        }
        let worker = self.machine.workers.get(name)?;
        let hosts = self.machine.hosts(self.number, &self.job, worker);
        hosts.then(|| free_devices(worker, self.kind))
    }

    /// Those of its former workers that may be chosen, for so many ranks at most: of each as many
    /// devices as it had, so that none is left out, then more of them.
    fn former(&mut self, home: &'a [Seat], ranks: usize) -> Vec<(&'a WorkerId, Vec<u32>)> {
        let mut had: BTreeMap<&'a WorkerId, BTreeSet<u32>> = BTreeMap::new();
        for seat in home {
            had.entry(&seat.worker).or_default().insert(seat.device);
        }
        let (mut chosen, mut more) = (Vec::new(), Vec::new());
        let mut missing = ranks;
        for (name, had) in had {
            let Some(mut devices) = self.free(name).filter(|free| !free.is_empty()) else {
                continue;
            };
            devices.sort_by_key(|device| (!had.contains(device), *device));
            let kept = had.len().min(devices.len()).min(missing);
            more.push(devices.split_off(kept));
            missing -= kept;
            self.taken.insert(name);
            chosen.push((name, devices));
        }
        for ((_, devices), mut more) in chosen.iter_mut().zip(more) {
            more.truncate(missing);
            missing -= more.len();
            devices.append(&mut more);
            devices.sort_unstable();
        }
        chosen
    }

    /// The best one for so many ranks: the tightest that holds all of them, else the largest.
    fn best(&mut self, missing: usize) -> Option<(&'a WorkerId, Vec<u32>)> {
        let all = self.machine.index.open(self.kind);
        let none = WorkerId::default();
        let mut from = missing;
        while let Some((size, _)) = all.range((from, none.clone())..).next() {
            if let Some(found) = self.best_of(*size) {
                return Some(found);
            }
            from = size + 1;
        }
        let mut below = missing;
        while let Some((size, _)) = all.range(..(below, none.clone())).next_back() {
            if let Some(found) = self.best_of(*size) {
                return Some(found);
            }
            below = *size;
        }
        None
    }

    /// The best of those with so many free devices: one that knows the job, else the first.
    fn best_of(&mut self, size: usize) -> Option<(&'a WorkerId, Vec<u32>)> {
        let fits = |name: &&'a WorkerId| {
            let free = self.free(name)?;
            (free.len() == size).then_some((*name, free))
        };
        let mut known = self.known.iter().enumerate();
        let found = known.find_map(|(at, name)| Some((at, fits(name)?)));
        if let Some((at, (name, free))) = found {
            self.known.remove(at);
            self.taken.insert(name);
            return Some((name, free));
        }
        loop {
            let all = self.machine.index.open(self.kind);
            let none = WorkerId::default();
            let class = self.classes.entry(size);
            let class = class.or_insert_with(|| all.range((size, none.clone())..(size + 1, none)));
            let (_, name) = class.next()?;
            if let Some(free) = self.free(name) {
                self.taken.insert(name);
                return Some((name, free));
            }
        }
    }
}

/// Seats of the last generation of a job that trained, or was to: its workers hold its snapshots.
pub(crate) fn home(job: &Job) -> &[Seat] {
    match &job.plan {
        Some(plan) => &plan.seats,
        None => &job.seats,
    }
}

impl Machine {
    /// Open for work.
    pub(crate) fn is_ready(&self, worker: &Worker) -> bool {
        let draining = self.state.draining.contains(&worker.info.name);
        matches!(worker.link, Link::Open { .. }) && !draining && !worker.preempted
    }

    /// Whether a worker takes ranks of a job.
    fn hosts(&self, number: u64, job: &JobId, worker: &Worker) -> bool {
        self.is_ready(worker)
            && worker.strays.is_empty()
            // A deleted job of the same name: the worker tells them apart by name only.
            && worker.leases.keys().all(|key| key.0 != *job)
            && self.may_host(number, job, worker)
    }

    /// Workers that may host ranks of a job and have free devices of a kind, with these.
    pub(crate) fn usable(
        &self,
        number: u64,
        job: &Job,
        kind: Device,
    ) -> BTreeMap<&WorkerId, Vec<u32>> {
        let name = job.name();
        let open = self.index.open(kind).iter();
        let usable = open.filter_map(|(_, at)| {
            let worker = self.workers.get(at)?;
            let hosts = self.hosts(number, &name, worker);
            hosts.then(|| (at, free_devices(worker, kind)))
        });
        usable.collect()
    }

    /// Free devices for a job: those it had before if they are free; else those of its former
    /// workers, all of them, since each may hold what no other one does; then as few others as
    /// possible, those that know it first among equals, then in order of name. Seats are in order of
    /// worker and device, the former worker of rank 0 first.
    pub(crate) fn seats(
        &self,
        number: u64,
        job: &Job,
        kind: Device,
        need: u32,
    ) -> Option<Vec<Seat>> {
        if self.index.free(kind) < need as usize {
            return None;
        }
        let home = home(job);
        let former: BTreeSet<&WorkerId> = home.iter().map(|seat| &seat.worker).collect();
        let prepared: BTreeSet<&WorkerId> = hosts(job).difference(&former).copied().collect();
        let spares = self.spares.of(number).map(|(name, _)| name);
        let spares = spares.filter(|name| self.is_spare(number, name));
        let spares = spares.filter(|name| !former.contains(name) && !prepared.contains(name));
        let known = prepared.iter().copied().chain(spares).collect();
        let mut choice = Choice {
            machine: self,
            number,
            job: job.name(),
            kind,
            known,
            taken: BTreeSet::new(),
            classes: BTreeMap::new(),
        };
        let before = former.iter().map(|name| (*name, choice.free(name)));
        let before: BTreeMap<&WorkerId, Option<Vec<u32>>> = before.collect();
        let as_before = home.len() == need as usize
            && home.iter().all(|seat| {
                let free = before.get(&seat.worker).and_then(Option::as_ref);
                free.is_some_and(|devices| devices.contains(&seat.device))
            });
        if as_before {
            return Some(home.to_vec());
        }
        let mut chosen = choice.former(home, need as usize);
        let found: usize = chosen.iter().map(|(_, devices)| devices.len()).sum();
        let mut missing = (need as usize).saturating_sub(found);
        while missing > 0 {
            let (worker, mut devices) = choice.best(missing)?;
            devices.truncate(missing);
            missing -= devices.len();
            chosen.push((worker, devices));
        }
        let head = home.first().map(|seat| &seat.worker);
        chosen.sort_by_key(|(worker, _)| (Some(*worker) != head, *worker));
        let places = chosen.iter().flat_map(|(worker, devices)| {
            devices
                .iter()
                .map(move |device| ((*worker).clone(), *device))
        });
        let seats = (0..).zip(places);
        Some(
            seats
                .map(|(r, (worker, device))| Seat {
                    rank: Rank(r),
                    worker,
                    device,
                })
                .collect(),
        )
    }
}

pub(crate) fn devices(worker: &Worker, kind: Device) -> impl Iterator<Item = u32> {
    let devices = (0..).zip(&worker.info.devices);
    devices
        .filter(move |(_, name)| is_kind(name, kind))
        .map(|(index, _)| index)
}

pub(crate) fn free_devices(worker: &Worker, kind: Device) -> Vec<u32> {
    let used: BTreeSet<u32> = worker
        .leases
        .values()
        .flat_map(|lease| &lease.seats)
        .map(|(device, _)| *device)
        .collect();
    devices(worker, kind)
        .filter(|device| !used.contains(device))
        .collect()
}
