//! What the rules ask of the whole cluster, kept up to date worker by worker and job by job: so that
//! an event costs what it changes, and not what there is.
//!
//! Nothing here is state of its own: everything follows from workers, jobs, spares and what is live.
//! Whoever changes one of these marks it, and what is marked is counted anew (`refresh.rs`).

use crate::event::Time;
use espalier_spec::WorkerId;
use espalier_spec::job::Device;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Every kind of device that can be asked for.
pub(crate) const KINDS: [Device; 3] = [Device::Auto, Device::Cpu, Device::Cuda];

/// Where a kind is in lists of all.
pub(crate) fn at(kind: Device) -> usize {
    match kind {
        Device::Auto => 0,
        Device::Cpu => 1,
        Device::Cuda => 2,
    }
}

/// What follows from one worker. Numbers are of devices, by kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OfWorker {
    /// It takes work, as far as it has free devices.
    pub(crate) ready: bool,
    /// It would be ready, but drains.
    pub(crate) draining: bool,
    /// Out of sight.
    pub(crate) unseen: bool,
    pub(crate) awaited: bool,
    /// When a worker that is gone was last heard of.
    pub(crate) gone: Option<Time>,
    /// It keeps, loads or stops a spare.
    pub(crate) spare: bool,
    pub(crate) devices: [usize; 3],
    /// Those that somebody can have now.
    pub(crate) open: [usize; 3],
}

/// What follows from one job.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OfJob {
    /// In the queue, or wanting spares: its place.
    pub(crate) first: Reverse<i32>,
    pub(crate) queued: bool,
    pub(crate) preparing: bool,
    pub(crate) stopping: bool,
    /// Spares that it wants and has not.
    pub(crate) missing: usize,
    /// It may take more workers in.
    pub(crate) grows: bool,
}

/// Devices of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
struct Supply {
    /// Devices of ready workers, and how many workers have them.
    has: usize,
    hosts: usize,
    draining: usize,
    free: usize,
    /// Workers with free devices, by number of these.
    open: BTreeSet<(usize, WorkerId)>,
    /// Those of them that are nobody's spare.
    idle: BTreeSet<(usize, WorkerId)>,
}

/// Whose deadline it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Job(u64),
    Worker(WorkerId),
}

/// The sums, and the sets that the rules go through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    workers: BTreeMap<WorkerId, OfWorker>,
    jobs: BTreeMap<u64, OfJob>,
    supply: [Supply; 3],
    /// Workers out of sight.
    pub(crate) unseen: BTreeSet<WorkerId>,
    /// Workers that have not come back since the coordinator's restart.
    pub(crate) awaited: BTreeSet<WorkerId>,
    /// Workers that are gone, in the order in which they were last heard of.
    pub(crate) gone: BTreeSet<(Time, WorkerId)>,
    /// Queued jobs in their order.
    pub(crate) queued: BTreeSet<(Reverse<i32>, u64)>,
    pub(crate) preparing: BTreeSet<u64>,
    pub(crate) stopping: BTreeSet<u64>,
    /// Jobs that want more spares, in the order in which they get them.
    pub(crate) wanting: BTreeSet<(Reverse<i32>, u64)>,
    /// Jobs that may take more workers in.
    pub(crate) growing: BTreeSet<u64>,
    set: BTreeMap<Subject, Time>,
    alarms: BTreeSet<(Time, Subject)>,
}

/// Workers and jobs that have changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changed {
    pub(crate) workers: BTreeSet<WorkerId>,
    pub(crate) jobs: BTreeSet<u64>,
}

impl Changed {
    pub(crate) fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.jobs.is_empty()
    }

    pub(crate) fn extend(&mut self, other: Changed) {
        self.workers.extend(other.workers);
        self.jobs.extend(other.jobs);
    }
}

/// Puts something into a set, or out of it.
fn keep<T: Ord>(set: &mut BTreeSet<T>, of: T, there: bool) {
    if there {
        set.insert(of);
    } else {
        set.remove(&of);
    }
}

impl Supply {
    fn count(&mut self, name: &WorkerId, of: &OfWorker, kind: usize, there: bool) {
        let change = |sum: &mut usize, by: usize| {
            *sum = if there {
                sum.saturating_add(by)
            } else {
                sum.saturating_sub(by)
            };
        };
        let devices = of.devices[kind];
        if of.ready {
            change(&mut self.has, devices);
            change(&mut self.hosts, usize::from(devices > 0));
        }
        if of.draining {
            change(&mut self.draining, devices);
        }
        let open = of.open[kind];
        change(&mut self.free, open);
        if open > 0 {
            keep(&mut self.open, (open, name.clone()), there);
            if !of.spare {
                keep(&mut self.idle, (open, name.clone()), there);
            }
        }
    }
}

impl Index {
    /// Devices of all ready workers.
    pub(crate) fn has(&self, kind: Device) -> usize {
        self.supply[at(kind)].has
    }

    /// Ready workers with a device of this kind.
    pub(crate) fn hosts(&self, kind: Device) -> usize {
        self.supply[at(kind)].hosts
    }

    /// Devices of workers that drain.
    pub(crate) fn draining(&self, kind: Device) -> usize {
        self.supply[at(kind)].draining
    }

    /// Devices that nobody uses, of workers that take work.
    pub(crate) fn free(&self, kind: Device) -> usize {
        self.supply[at(kind)].free
    }

    /// Workers with free devices, with the number of these, those with fewest first.
    pub(crate) fn open(&self, kind: Device) -> &BTreeSet<(usize, WorkerId)> {
        &self.supply[at(kind)].open
    }

    /// Those of them that are nobody's spare.
    pub(crate) fn idle(&self, kind: Device) -> &BTreeSet<(usize, WorkerId)> {
        &self.supply[at(kind)].idle
    }

    /// Spares that a job wants and has not.
    pub(crate) fn missing(&self, number: u64) -> usize {
        self.jobs.get(&number).map_or(0, |job| job.missing)
    }

    /// Counts a worker as this; none: it is no worker any more.
    pub(crate) fn put_worker(&mut self, name: &WorkerId, of: Option<OfWorker>) {
        if self.workers.get(name) == of.as_ref() {
            return;
        }
        if let Some(old) = self.workers.remove(name) {
            self.count_worker(name, &old, false);
        }
        if let Some(of) = of {
            self.count_worker(name, &of, true);
            self.workers.insert(name.clone(), of);
        }
    }

    fn count_worker(&mut self, name: &WorkerId, of: &OfWorker, there: bool) {
        for (kind, supply) in self.supply.iter_mut().enumerate() {
            supply.count(name, of, kind, there);
        }
        keep(&mut self.unseen, name.clone(), there && of.unseen);
        keep(&mut self.awaited, name.clone(), there && of.awaited);
        if let Some(heard) = of.gone {
            keep(&mut self.gone, (heard, name.clone()), there);
        }
    }

    /// The same for a job.
    pub(crate) fn put_job(&mut self, number: u64, of: Option<OfJob>) {
        if self.jobs.get(&number) == of.as_ref() {
            return;
        }
        if let Some(old) = self.jobs.remove(&number) {
            self.count_job(number, &old, false);
        }
        if let Some(of) = of {
            self.count_job(number, &of, true);
            self.jobs.insert(number, of);
        }
    }

    fn count_job(&mut self, number: u64, of: &OfJob, there: bool) {
        let place = (of.first, number);
        keep(&mut self.queued, place, there && of.queued);
        keep(&mut self.wanting, place, there && of.missing > 0);
        keep(&mut self.preparing, number, there && of.preparing);
        keep(&mut self.stopping, number, there && of.stopping);
        keep(&mut self.growing, number, there && of.grows);
    }

    /// Sets somebody's alarm; none: it waits for nothing.
    pub(crate) fn arm(&mut self, subject: Subject, time: Option<Time>) {
        let old = match time {
            Some(time) => self.set.insert(subject.clone(), time),
            None => self.set.remove(&subject),
        };
        if old == time {
            return;
        }
        if let Some(old) = old {
            self.alarms.remove(&(old, subject.clone()));
        }
        if let Some(time) = time {
            self.alarms.insert((time, subject));
        }
    }

    /// The next alarm.
    pub(crate) fn next_alarm(&self) -> Option<&(Time, Subject)> {
        self.alarms.first()
    }

    /// Says in which sums and sets this one differs from a right one.
    pub(crate) fn differs(&self, right: &Index) -> Option<&'static str> {
        let same = [
            ("workers", self.workers == right.workers),
            ("jobs", self.jobs == right.jobs),
            ("supply", self.supply == right.supply),
            ("unseen", self.unseen == right.unseen),
            ("awaited", self.awaited == right.awaited),
            ("gone", self.gone == right.gone),
            ("queued", self.queued == right.queued),
            ("preparing", self.preparing == right.preparing),
            ("stopping", self.stopping == right.stopping),
            ("wanting", self.wanting == right.wanting),
            ("growing", self.growing == right.growing),
        ];
        let late = |(subject, right): (&Subject, &Time)| {
            let set = self.set.get(subject);
            set.is_none_or(|set| set > right || !self.alarms.contains(&(*set, subject.clone())))
        };
        let wrong = same.iter().find(|(_, same)| !same).map(|(what, _)| *what);
        wrong.or(right.set.iter().any(late).then_some("alarms"))
    }
}
