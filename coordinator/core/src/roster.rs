//! The workers, and which of them have changed since somebody last asked.

use crate::event::Time;
use crate::live::Worker;
use espalier_spec::WorkerId;
use std::collections::{BTreeMap, BTreeSet};

/// All workers by name. Whoever gets one to change it marks it as changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    workers: BTreeMap<WorkerId, Worker>,
    changed: BTreeSet<WorkerId>,
}

impl Roster {
    pub(crate) fn get(&self, name: &WorkerId) -> Option<&Worker> {
        self.workers.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &WorkerId) -> Option<&mut Worker> {
        let worker = self.workers.get_mut(name)?;
        if !self.changed.contains(name) {
            self.changed.insert(name.clone());
        }
        Some(worker)
    }

    /// A worker was heard of. All that follows is that its silence begins later, so it has not
    /// changed.
    pub(crate) fn hear(&mut self, name: &WorkerId, now: Time) -> Option<&Worker> {
        let worker = self.workers.get_mut(name)?;
        worker.heard = now;
        Some(worker)
    }

    pub(crate) fn contains_key(&self, name: &WorkerId) -> bool {
        self.workers.contains_key(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    pub(crate) fn insert(&mut self, name: WorkerId, worker: Worker) {
        self.changed.insert(name.clone());
        self.workers.insert(name, worker);
    }

    pub(crate) fn remove(&mut self, name: &WorkerId) {
        self.changed.insert(name.clone());
        self.workers.remove(name);
    }

    /// Something that is kept elsewhere has changed of a worker.
    pub(crate) fn mark(&mut self, name: &WorkerId) {
        self.changed.insert(name.clone());
    }

    pub(crate) fn take_changed(&mut self) -> BTreeSet<WorkerId> {
        std::mem::take(&mut self.changed)
    }
}
