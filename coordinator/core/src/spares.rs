//! Who is a spare of which job: the book that the rules of `spare.rs` are about.

use crate::event::{RunningJob, Time};
use crate::live::{Key, Link, Worker};
use espalier_spec::WorkerId;
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
    pub(crate) fn is_of(&self, worker: &Worker) -> bool {
        worker.link != Link::Gone && worker.info.instance == self.instance
    }

    /// Whether this is what a worker says that it runs.
    pub(crate) fn runs_as(&self, run: &RunningJob) -> bool {
        run.job == self.key.0 && run.generation == self.key.1 && run.uid == self.uid
    }

    /// Whether the worker has something loaded or loads it.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, SpareState::Asked | SpareState::Ready)
    }
}

/// Number of the job and name of the worker.
pub(crate) type At = (u64, WorkerId);

/// The spares by worker and by job, and whose have changed since somebody last asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spares {
    on: BTreeMap<WorkerId, BTreeMap<u64, Spare>>,
    of: BTreeMap<u64, BTreeSet<WorkerId>>,
    changed: BTreeSet<At>,
}

impl Spares {
    pub(crate) fn get(&self, number: u64, name: &WorkerId) -> Option<&Spare> {
        self.on.get(name)?.get(&number)
    }

    pub(crate) fn get_mut(&mut self, (number, name): &At) -> Option<&mut Spare> {
        let spare = self.on.get_mut(name)?.get_mut(number)?;
        self.changed.insert((*number, name.clone()));
        Some(spare)
    }

    pub(crate) fn insert(&mut self, (number, name): At, spare: Spare) {
        self.changed.insert((number, name.clone()));
        self.of.entry(number).or_default().insert(name.clone());
        self.on.entry(name).or_default().insert(number, spare);
    }

    pub(crate) fn remove(&mut self, (number, name): &At) {
        if let Some(here) = self.on.get_mut(name) {
            here.remove(number);
            if here.is_empty() {
                self.on.remove(name);
            }
        }
        if let Some(of) = self.of.get_mut(number) {
            of.remove(name);
            if of.is_empty() {
                self.of.remove(number);
            }
        }
        self.changed.insert((*number, name.clone()));
    }

    /// What a worker is a spare of, by number of the job.
    pub(crate) fn on(&self, name: &WorkerId) -> impl Iterator<Item = (u64, &Spare)> {
        let here = self.on.get(name).into_iter().flatten();
        here.map(|(number, spare)| (*number, spare))
    }

    /// The spares of a job, by name of the worker.
    pub(crate) fn of(&self, number: u64) -> impl Iterator<Item = (&WorkerId, &Spare)> {
        let names = self.of.get(&number).into_iter().flatten();
        names.filter_map(move |name| Some((name, self.get(number, name)?)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&WorkerId, &BTreeMap<u64, Spare>)> {
        self.on.iter()
    }

    pub(crate) fn take_changed(&mut self) -> BTreeSet<At> {
        std::mem::take(&mut self.changed)
    }
}
