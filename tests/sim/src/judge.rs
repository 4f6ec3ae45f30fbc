//! The judge: what must hold, seen from outside of all processes. It keeps the first thing that
//! does not.

use crate::chain::{Length, Reference, digest};
use espalier_core::{JobEvent, Machine};
use espalier_spec::JobId;
use std::collections::{BTreeMap, BTreeSet};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which promise.
    pub name: &'static str,
    /// How.
    pub message: String,
}

#[derive(Debug, Default)]
pub(crate) struct Judge {
    pub(crate) broken: Option<Broken>,
    /// Jobs by uid.
    pub(crate) jobs: BTreeMap<String, Truth>,
    /// A watcher of every job, by name.
    watched: BTreeMap<JobId, Watched>,
    /// The job that each request id made.
    requests: BTreeMap<String, String>,
    /// Workers whose draining was acknowledged.
    pub(crate) drained: BTreeSet<String>,
    /// Generations that went on from a snapshot, or from a checkpoint.
    pub(crate) restores: u64,
    pub(crate) resumes: u64,
    pub(crate) exports: u64,
}

/// What a job's ranks have really done.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) length: Length,
    ranks: usize,
    reference: Reference,
    /// The newest generation that made a step.
    pub(crate) stepping: u64,
    /// Steps done when that generation made its last.
    pub(crate) reached: u64,
}

#[derive(Debug)]
struct Watched {
    uid: String,
    /// The newest event that the watcher has seen.
    last: JobEvent,
}

impl Judge {
    /// A promise is broken; the first one stays.
    pub(crate) fn fail(&mut self, name: &'static str, message: impl FnOnce() -> String) {
        if self.broken.is_none() {
            let message = message();
            self.broken = Some(Broken { name, message });
        }
    }

    pub(crate) fn truth(&mut self, uid: &str, seed: u64, ranks: usize) -> &mut Truth {
        let known = self.jobs.get(uid).map_or(ranks, |truth| truth.ranks);
        if known != ranks {
            self.fail("a job's ranks never change", || {
                format!("job {uid} has {ranks} ranks, and had {known}")
            });
        }
        self.jobs.entry(uid.to_owned()).or_insert_with(|| Truth {
            length: Length::of(seed),
            ranks,
            reference: Reference::new(seed, ranks),
            stepping: 0,
            reached: 0,
        })
    }

    /// Ranks have this model after so many steps: it must be the undisturbed run's.
    pub(crate) fn model(&mut self, uid: &str, generation: u64, step: u64, model: &[u64]) {
        let Some(truth) = self.jobs.get_mut(uid) else {
            return;
        };
        if truth.reference.at(step).as_slice() != model {
            self.fail("no step is skipped or applied twice", || {
                format!("job {uid} g{generation} at step {step} differs from the undisturbed run")
            });
        }
    }

    /// Hash of the model that a job must export.
    pub(crate) fn export_of(&mut self, uid: &str) -> Option<u64> {
        let truth = self.jobs.get_mut(uid)?;
        let total = truth.length.total;
        Some(digest(truth.reference.at(total)))
    }

    /// A client was told that its request made this job.
    pub(crate) fn created(&mut self, request: &str, uid: &str) {
        let first = self.requests.entry(request.to_owned());
        let first = first.or_insert_with(|| uid.to_owned()).clone();
        if first != uid {
            self.fail("a request id makes one job", || {
                format!("request {request} made job {first}, and then {uid}")
            });
        }
    }

    /// A watcher goes on with a job's events where it was.
    pub(crate) fn watch(&mut self, machine: &Machine, job: &JobId) {
        let seen = self
            .watched
            .get(job)
            .map_or(0, |watched| watched.last.sequence);
        let Some(events) = machine.events(job, seen.saturating_sub(1)) else {
            // Deleted, or not there: the ledger of its client knows which.
            self.watched.remove(job);
            return;
        };
        if let Some(watched) = self.watched.get_mut(job) {
            if events.first() == Some(&watched.last) {
                for (next, event) in (watched.last.sequence + 1..).zip(&events[1..]) {
                    if event.sequence != next {
                        let found = event.sequence;
                        return self.fail("events have no gaps", || {
                            format!("event {next} of job {job} is missing, {found} comes")
                        });
                    }
                }
                if let Some(last) = events.last().filter(|_| events.len() > 1) {
                    watched.last = last.clone();
                }
                return;
            }
            let uid = machine.job(job).map(|view| view.uid);
            if uid.as_ref() == Some(&watched.uid) {
                let last = watched.last.clone();
                return self.fail("what was shown is never lost", || {
                    format!("event {last:?} of job {job} was shown, and is gone")
                });
            }
            self.watched.remove(job);
        }
        let all = machine.events(job, 0).unwrap_or_default();
        let ordered = (1..)
            .zip(all)
            .all(|(number, event)| event.sequence == number);
        if !ordered {
            self.fail("events have no gaps", || {
                format!("the events of job {job}: {all:?}")
            });
        }
        if let (Some(last), Some(view)) = (all.last().cloned(), machine.job(job)) {
            let uid = view.uid;
            self.watched.insert(job.clone(), Watched { uid, last });
        }
    }

    /// All watchers go on at another leader.
    pub(crate) fn watch_all(&mut self, machine: &Machine) {
        let jobs: Vec<JobId> = self.watched.keys().cloned().collect();
        for job in jobs {
            self.watch(machine, &job);
        }
    }

    /// Forgets what nobody needs any more.
    pub(crate) fn tidy(&mut self, needed: &BTreeSet<String>) {
        self.jobs.retain(|uid, _| needed.contains(uid));
        self.requests.retain(|_, uid| needed.contains(uid));
    }
}
