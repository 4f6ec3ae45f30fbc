//! What a worker keeps in memory of its jobs from one generation to the next: parts of snapshots,
//! its own ranks' and those mirrored here, and what was loaded.
//!
//! Bounded: of each rank one step, and two only from the taking of a new one until it is known that all ranks
//! hold it ([`Holding::confirmed`]); of jobs that nobody works on any more, those among the newest two.

use crate::engine::{Part, Sources};
use espalier_spec::plan::Profile;
use espalier_spec::recovery::HeldSnapshot;
use espalier_spec::{JobSpec, Rank, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most steps whose parts are kept of each rank.
const STEPS: usize = 2;
/// Newest jobs that are kept though nobody works on them.
const JOBS: usize = 2;

/// The memory of one worker, for all its jobs.
#[derive(Default)]
pub struct Held {
    /// The one that was worked on last is last.
    jobs: Mutex<Vec<Job>>,
}

/// What is kept of one job.
#[derive(Default)]
struct Job {
    uid: String,
    /// Holdings that are open.
    users: usize,
    parts: BTreeMap<Rank, BTreeMap<Step, Part>>,
    /// Parts that are here only while a generation takes up a snapshot, perhaps without `own`.
    passing: BTreeMap<Rank, Part>,
    loaded: Option<Loaded>,
}

impl Job {
    fn whole(&self, step: Step) -> impl Iterator<Item = &Part> {
        self.parts
            .values()
            .filter_map(move |steps| steps.get(&step))
    }
}

/// What preparing a job takes its time for; the same for all generations.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The job with a path on this machine in place of every URL.
    pub spec: Arc<JobSpec>,
    /// Data and model.
    pub sources: Arc<Sources>,
    /// What the coordinator must know to plan.
    pub profile: Profile,
}

/// What is held of one job, for whoever works on it; it is not given up as long as this exists.
pub struct Holding {
    held: Arc<Held>,
    uid: String,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Vec<Job>> {
        // Nothing is left half-changed under the lock.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holding {
    /// Opens what is held of a job, perhaps nothing yet; others that nobody works on may be given up for it.
    #[must_use]
    pub fn open(held: &Arc<Held>, uid: &str) -> Self {
        let mut jobs = held.lock();
        let place = jobs.iter().position(|job| job.uid == uid);
        let mut job = match place {
            Some(place) => jobs.remove(place),
            None => Job {
                uid: uid.to_owned(),
                ..Job::default()
            },
        };
        job.users += 1;
        jobs.push(job);
        let old = jobs.len().saturating_sub(JOBS);
        let mut index = 0;
        jobs.retain(|job| {
            index += 1;
            index > old || job.users > 0
        });
        drop(jobs);
        Self {
            held: Arc::clone(held),
            uid: uid.to_owned(),
        }
    }

    /// Does something with the job; none if it was given up.
    fn with<T>(&self, act: impl FnOnce(&mut Job) -> T) -> Option<T> {
        let mut jobs = self.held.lock();
        jobs.iter_mut().find(|job| job.uid == self.uid).map(act)
    }

    /// Keeps a whole part. Of its rank, only the newest two steps stay, until [`Holding::confirmed`].
    pub fn insert(&self, part: Part) {
        self.with(|job| {
            let steps = job.parts.entry(part.rank).or_default();
            steps.insert(part.step, part);
            while steps.len() > STEPS {
                steps.pop_first();
            }
        });
    }

    /// All ranks of the generation hold this step, so nobody will go on from an older one: those are given up.
    ///
    /// Whoever calls this must know that every rank has kept its own part of the step and those that it mirrors: by
    /// any operation that all ranks must enter before one comes through, and that each enters after that. Whatever
    /// happens to a rank or a worker from then on, and wherever the generation ends: the parts of this step are where
    /// those of an older one were, so what can be restored of an older one can be of this. A rank that is lost before
    /// never entered the operation: then nobody comes through, nobody calls this, and the older step is whole.
    pub fn confirmed(&self, step: Step) {
        let older = self.with(|job| {
            let mut older = Vec::new();
            job.parts.retain(|_, steps| {
                let newer = steps.split_off(&step);
                older.push(std::mem::replace(steps, newer));
                !steps.is_empty()
            });
            older
        });
        // To give memory back takes long: not under the lock.
        drop(older);
    }

    /// Keeps a part for [`Holding::at`] until [`Holding::keep_only`]; nobody else is told that it is here.
    pub fn pass(&self, part: Part) {
        self.with(|job| job.passing.insert(part.rank, part));
    }

    /// All parts of one step that are here, by rank.
    #[must_use]
    pub fn at(&self, step: Step) -> BTreeMap<Rank, Part> {
        let find = |job: &mut Job| {
            let passing = job.passing.values().filter(|part| part.step == step);
            let all = passing.chain(job.whole(step));
            all.map(|part| (part.rank, part.clone())).collect()
        };
        self.with(find).unwrap_or_default()
    }

    /// The same, without those that are only passing.
    #[must_use]
    pub fn whole(&self, step: Step) -> BTreeMap<Rank, Part> {
        let find = |job: &mut Job| {
            let all = job.whole(step);
            all.map(|part| (part.rank, part.clone())).collect()
        };
        self.with(find).unwrap_or_default()
    }

    /// Ranks and steps of all whole parts.
    #[must_use]
    pub fn snapshots(&self) -> Vec<HeldSnapshot> {
        let list = |job: &mut Job| {
            let of_rank = |(rank, steps): (&Rank, &BTreeMap<Step, Part>)| {
                let rank = *rank;
                let steps: Vec<Step> = steps.keys().copied().collect();
                steps
                    .into_iter()
                    .map(move |step| HeldSnapshot { rank, step })
            };
            job.parts.iter().flat_map(of_rank).collect()
        };
        self.with(list).unwrap_or_default()
    }

    /// Gives up what no rank of a generation needs that starts with `step` steps done: parts of ranks
    /// other than these and of later steps, and what was passing.
    pub fn keep_only(&self, ranks: &BTreeSet<Rank>, step: Step) {
        self.with(|job| {
            job.passing.clear();
            job.parts.retain(|rank, steps| {
                steps.retain(|at, _| *at <= step);
                ranks.contains(rank) && !steps.is_empty()
            });
        });
    }

    /// What was loaded, if it was.
    #[must_use]
    pub fn loaded(&self) -> Option<Loaded> {
        self.with(|job| job.loaded.clone()).flatten()
    }

    /// Keeps what was loaded.
    pub fn keep_loaded(&self, loaded: Loaded) {
        self.with(|job| job.loaded = Some(loaded));
    }

    /// Gives everything up: the job is over, or needs this worker no longer.
    pub fn end(&self) {
        self.held.lock().retain(|job| job.uid != self.uid);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.with(|job| job.users = job.users.saturating_sub(1));
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs = self.lock();
        let uids: Vec<&str> = jobs.iter().map(|job| job.uid.as_str()).collect();
        f.debug_struct("Held").field("jobs", &uids).finish()
    }
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holding")
            .field("uid", &self.uid)
            .field("snapshots", &self.snapshots())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Images;

    fn part(rank: u32, step: u64) -> Part {
        Part {
            rank: Rank(rank),
            step: Step(step),
            images: Images::within(&Arc::new(vec![1, 2, 3]), 0, [2, 1]),
        }
    }

    fn listed(holding: &Holding) -> Vec<(u32, u64)> {
        let held = holding.snapshots();
        held.iter().map(|h| (h.rank.0, h.step.0)).collect()
    }

    // Promise: as long as it is not known that all ranks hold the newest, two steps of each rank are kept, and they
    // outlive a generation.
    #[test]
    fn two_steps_of_each_rank_outlive_a_generation() {
        let held = Arc::new(Held::default());
        let holding = Holding::open(&held, "job");
        for step in [0, 4, 8] {
            holding.insert(part(1, step));
        }
        holding.insert(part(3, 8));
        drop(holding);
        let holding = Holding::open(&held, "job");
        assert_eq!(listed(&holding), [(1, 4), (1, 8), (3, 8)]);
        let at: Vec<u32> = holding.at(Step(8)).keys().map(|rank| rank.0).collect();
        assert_eq!(at, [1, 3]);
    }

    // Promise: once all ranks hold a step no older one is held, of whatever rank, and a newer one stays.
    #[test]
    fn one_step_is_held_once_all_hold_it() {
        let held = Arc::new(Held::default());
        let holding = Holding::open(&held, "job");
        for (rank, step) in [(0, 4), (0, 8), (1, 4), (1, 8), (2, 4), (3, 12)] {
            holding.insert(part(rank, step));
        }
        let other = Holding::open(&held, "other");
        other.insert(part(0, 4));
        holding.confirmed(Step(8));
        assert_eq!(listed(&holding), [(0, 8), (1, 8), (3, 12)]);
        holding.confirmed(Step(8));
        assert_eq!(listed(&holding), [(0, 8), (1, 8), (3, 12)]);
        assert_eq!(listed(&other), [(0, 4)]);
    }

    // Promise: a generation that goes on from a step gives up what came after it, other ranks' parts
    // and what was only passing; what was passing is never told of.
    #[test]
    fn what_a_generation_does_not_need_is_given_up() {
        let held = Arc::new(Held::default());
        let holding = Holding::open(&held, "job");
        for (rank, step) in [(0, 4), (0, 8), (1, 4), (2, 8)] {
            holding.insert(part(rank, step));
        }
        holding.pass(part(5, 4));
        assert!(holding.at(Step(4)).contains_key(&Rank(5)));
        assert!(!listed(&holding).contains(&(5, 4)));
        assert!(!holding.whole(Step(4)).contains_key(&Rank(5)));
        holding.keep_only(&BTreeSet::from([Rank(0), Rank(2)]), Step(4));
        assert_eq!(listed(&holding), [(0, 4)]);
        assert_eq!(holding.at(Step(4)).len(), 1);
        assert_eq!(holding.whole(Step(4)).len(), 1);
    }

    // Promise: jobs that somebody works on are never given up; of the others only the newest two
    // stay, and what has ended is gone at once.
    #[test]
    fn idle_jobs_are_given_up() {
        let held = Arc::new(Held::default());
        let busy = Holding::open(&held, "busy");
        busy.insert(part(0, 1));
        for uid in ["one", "two", "three"] {
            Holding::open(&held, uid).insert(part(0, 1));
        }
        let seen = |uid: &str| listed(&Holding::open(&held, uid));
        assert_eq!(seen("three"), [(0, 1)]);
        assert_eq!(listed(&busy), [(0, 1)]);
        assert!(seen("one").is_empty());
        busy.end();
        assert!(listed(&busy).is_empty());
        busy.insert(part(0, 2));
        assert!(seen("busy").is_empty());
    }
}
