//! How many workers there should be, and the one thing to do about it now. No IO, no clock.
//!
//! Workers are the pods of a StatefulSet: `NAME-0` to `NAME-(replicas - 1)`. It gives up the highest ones
//! first, so these are drained, and given up only when their work is elsewhere. Which workers are drained for
//! this is written down at the StatefulSet before they are: one that somebody else drains is left alone.

#[cfg(test)]
mod tests;

use espalier_proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between how many workers there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
}

impl Bounds {
    /// What the queue needs, as far as it is allowed.
    #[must_use]
    pub fn clamp(self, need: u32) -> u32 {
        need.clamp(self.min, self.max.max(self.min))
    }
}

/// A worker as the coordinator has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSeen {
    /// Where it is in its life.
    pub state: v1::worker::State,
    /// Whether a job uses one of its devices.
    pub busy: bool,
}

impl WorkerSeen {
    /// What a worker of the wire says.
    #[must_use]
    pub fn of(worker: &v1::Worker) -> Self {
        Self {
            state: worker.state(),
            busy: worker.devices.iter().any(|device| !device.job.is_empty()),
        }
    }

    /// Whether its pod may end: nothing runs on it and nothing will.
    fn is_released(self) -> bool {
        match self.state {
            v1::worker::State::Gone => true,
            v1::worker::State::Draining => !self.busy,
            _ => false,
        }
    }
}

/// The workers as they are seen now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Name of the StatefulSet.
    pub name: String,
    /// Pods that it is told to have.
    pub replicas: u32,
    /// Workers that are written down as drained to be given up.
    pub marked: BTreeSet<String>,
    /// Every worker that the coordinator knows.
    pub workers: BTreeMap<String, WorkerSeen>,
    /// Workers that the queue needs.
    pub need: u32,
    /// Between how many there may be.
    pub bounds: Bounds,
    /// How long the need has been below what there is.
    pub low_for: Duration,
    /// How long it must have been.
    pub patience: Duration,
}

/// Something to do, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScaleAct {
    /// Have so many pods.
    Resize(u32),
    /// Write down which workers are drained to be given up.
    Mark(BTreeSet<String>),
    /// Drain a worker.
    Drain(String),
    /// Take a marked worker back into service, then strike it off.
    TakeBack(String),
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaleDecision {
    /// What to do, and why.
    pub act: Option<(ScaleAct, String)>,
    /// Whether something is under way that is looked at again soon.
    pub soon: bool,
}

impl ScaleDecision {
    fn act(act: ScaleAct, why: String) -> Self {
        Self {
            act: Some((act, why)),
            soon: true,
        }
    }
}

/// Decides what to do about the number of workers.
#[must_use]
pub fn decide(fleet: &Fleet) -> ScaleDecision {
    let target = fleet.bounds.clamp(fleet.need);
    let enough = format!("the queue needs {} workers", fleet.need);
    // Those that are wanted again come first, also where their pods are gone: a name that comes back must not
    // come back drained.
    let wanted = fleet.marked.iter().find(|name| {
        let ordinal = fleet.ordinal(name);
        ordinal.is_none_or(|ordinal| ordinal < target)
    });
    if let Some(name) = wanted {
        return ScaleDecision::act(ScaleAct::TakeBack(name.clone()), enough);
    }
    if target > fleet.replicas {
        return ScaleDecision::act(ScaleAct::Resize(target), enough);
    }
    if target == fleet.replicas {
        return ScaleDecision {
            act: None,
            soon: false,
        };
    }
    if fleet.low_for < fleet.patience {
        return ScaleDecision {
            act: None,
            soon: true,
        };
    }
    fleet.shrink(target, enough)
}

impl Fleet {
    /// Name of the worker of an ordinal.
    fn worker(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// Which pod a name belongs to, if to one of these.
    fn ordinal(&self, name: &str) -> Option<u32> {
        let rest = name.strip_prefix(&self.name)?.strip_prefix('-')?;
        rest.parse().ok()
    }

    /// Fewer pods: marked, drained, released; the highest first.
    fn shrink(&self, target: u32, why: String) -> ScaleDecision {
        let surplus: Vec<String> = (target..self.replicas).map(|n| self.worker(n)).collect();
        if surplus.iter().any(|name| !self.marked.contains(name)) {
            let mut marked = self.marked.clone();
            marked.extend(surplus);
            return ScaleDecision::act(ScaleAct::Mark(marked), why);
        }
        let first = |state: v1::worker::State| {
            let is = |name: &&String| {
                let seen = self.workers.get(*name);
                seen.is_some_and(|worker| worker.state == state)
            };
            surplus.iter().rev().find(is)
        };
        if let Some(name) = first(v1::worker::State::Ready) {
            return ScaleDecision::act(ScaleAct::Drain(name.clone()), why);
        }
        // One that the coordinator does not know has not joined: nothing runs there.
        let released = surplus
            .iter()
            .rev()
            .take_while(|name| {
                self.workers
                    .get(*name)
                    .is_none_or(|worker| worker.is_released())
            })
            .count();
        let released = u32::try_from(released).unwrap_or(0);
        if released > 0 {
            let left = self.replicas - released;
            let why = format!("{why}; {released} have handed over their work");
            return ScaleDecision::act(ScaleAct::Resize(left), why);
        }
        // Out of sight it does not show whether it was drained: safe to do again, and nobody waits for it.
        if let Some(name) = first(v1::worker::State::Unreachable) {
            return ScaleDecision::act(ScaleAct::Drain(name.clone()), why);
        }
        ScaleDecision {
            act: None,
            soon: true,
        }
    }
}

/// Devices that a job takes, or whole workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    Nothing,
    Devices(u32),
    Workers(u32),
}

fn wants(job: &v1::Job) -> Wants {
    use v1::job::State;
    match job.state() {
        State::Queued | State::Preparing | State::Running => {}
        // What stops holds its devices for a moment, and needs none after it.
        _ => return Wants::Nothing,
    }
    let resources = job.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    if let Some(range) = resources.and_then(|resources| resources.workers.as_ref()) {
        return Wants::Workers(range.max.max(1));
    }
    // Placed once, a job keeps its number of ranks; before that, one that names none takes what is there.
    let placed = job.plan.as_ref().map_or(0, |plan| plan.seats.len());
    let asked = resources.and_then(|resources| resources.ranks).unwrap_or(1);
    match u32::try_from(placed).unwrap_or(u32::MAX) {
        0 => Wants::Devices(asked.max(1)),
        placed => Wants::Devices(placed),
    }
}

/// Workers that one job wants now.
#[must_use]
pub fn workers_wanted(job: &v1::Job, devices_per_worker: u32) -> u32 {
    match wants(job) {
        Wants::Nothing => 0,
        Wants::Devices(devices) => devices.div_ceil(devices_per_worker.max(1)),
        Wants::Workers(workers) => workers,
    }
}

/// Workers that all jobs together want now.
#[must_use]
pub fn need<'a>(jobs: impl IntoIterator<Item = &'a v1::Job>, devices_per_worker: u32) -> u32 {
    let (mut devices, mut workers) = (0_u32, 0_u32);
    for job in jobs {
        match wants(job) {
            Wants::Nothing => {}
            Wants::Devices(more) => devices = devices.saturating_add(more),
            Wants::Workers(more) => workers = workers.saturating_add(more),
        }
    }
    workers.saturating_add(devices.div_ceil(devices_per_worker.max(1)))
}
