//! Stories: bad weather for a while, then good weather until every job has ended; again and again
//! until there were enough events.

use crate::bug::Bug;
use crate::client::Client;
use crate::judge::Broken;
use crate::world::{Trace, World};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Events of bad weather before good weather comes.
const STORM: u64 = 12_000;
/// Simulated milliseconds within which every job ends in good weather.
const PATIENCE: u64 = 900_000;

/// Which story.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// Events at least; the story goes on until its jobs have ended.
    pub events: u64,
    /// A planted mistake; none without the feature `planted`.
    pub bug: Option<Bug>,
}

/// What came of a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Events that happened.
    pub events: u64,
    /// Milliseconds that passed in the simulated world.
    pub milliseconds: u64,
    /// Faults and changes of leader by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Generations that went on from a snapshot in memory.
    pub restores: u64,
    /// Generations that went on from a checkpoint.
    pub resumes: u64,
    /// Jobs that exported their model.
    pub exports: u64,
    /// The promise that was broken, if one was, in the last event.
    pub broken: Option<Broken>,
}

/// Plays a story.
#[must_use]
pub fn run(setup: &Setup) -> Outcome {
    play(setup, Trace::No).0
}

/// Plays a story and hands every event on to `tell`.
pub fn trace(setup: &Setup, tell: impl FnMut(&str) + 'static) -> Outcome {
    play(setup, Trace::All(Box::new(tell))).0
}

/// The last events of a story.
#[must_use]
pub fn last_events(setup: &Setup) -> Vec<String> {
    match play(setup, Trace::Last(VecDeque::new())).1 {
        Trace::Last(kept) => kept.into(),
        Trace::No | Trace::All(_) => Vec::new(),
    }
}

fn play(setup: &Setup, trace: Trace) -> (Outcome, Trace) {
    let mut world = World::new(setup.seed, setup.bug, trace);
    let began = world.now;
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world.play(setup.events))) {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = text.unwrap_or_else(|| "no message".to_owned());
        world.judge.fail("nothing panics", || text);
    }
    let outcome = Outcome {
        events: world.events,
        milliseconds: world.now - began,
        faults: world.faults,
        restores: world.judge.restores,
        resumes: world.judge.resumes,
        exports: world.judge.exports,
        broken: world.judge.broken,
    };
    (outcome, world.trace)
}

impl World {
    fn play(&mut self, events: u64) {
        while self.events < events {
            self.storm = true;
            let until = events.min(self.events + STORM);
            while self.events < until {
                if !self.step() {
                    return;
                }
            }
            self.calm();
            if !self.settle() {
                return;
            }
        }
    }

    /// Good weather until every job has ended. False if something is wrong.
    fn settle(&mut self) -> bool {
        let until = self.now + PATIENCE;
        let mut steps = 0_u64;
        loop {
            if !self.step() {
                return false;
            }
            steps += 1;
            if !steps.is_multiple_of(32) {
                continue;
            }
            if self.is_quiet() {
                break;
            }
            if self.now > until {
                let waiting = self.waiting();
                self.judge
                    .fail("every job ends in good weather", || waiting);
                return false;
            }
        }
        let term = self.store.term;
        for c in 0..self.coordinators.len() {
            let leader = self.coordinators[c].leader.take();
            if let Some(leader) = leader.as_ref().filter(|leader| leader.term == term) {
                self.check_ledger(&leader.machine);
                self.judge.watch_all(&leader.machine);
            }
            self.coordinators[c].leader = leader;
        }
        self.tidy();
        self.judge.broken.is_none()
    }

    fn is_quiet(&self) -> bool {
        let mut leaders = self.coordinators.iter().filter_map(|c| c.leader.as_ref());
        let leader = leaders.find(|leader| leader.term == self.store.term);
        let Some(leader) = leader.filter(|leader| leader.write.is_none()) else {
            return false;
        };
        let idle = self.clients.iter().all(Client::is_idle) && self.groups.is_empty();
        idle && leader.queue.is_empty()
            && leader.machine.cluster().active_jobs == 0
            && self.workers.iter().all(|worker| worker.up)
    }

    /// The jobs that have not ended, and why.
    fn waiting(&self) -> String {
        let leaders = self.coordinators.iter().filter_map(|c| c.leader.as_ref());
        let jobs = leaders.flat_map(|leader| leader.machine.jobs(0, 100, &[]));
        let open = jobs.filter(|(_, job)| !job.state.is_final());
        let text = open.map(|(_, job)| {
            format!(
                "{} ({}) {} {}: {}",
                job.name,
                job.uid,
                job.generation,
                job.state.as_str(),
                job.state_reason
            )
        });
        let text: Vec<String> = text.collect();
        format!("{text:?}; generations at work: {:?}", self.groups.keys())
    }

    /// Forgets jobs that nobody has any more.
    fn tidy(&mut self) {
        let mut needed: BTreeSet<String> = self.clients.iter().flat_map(Client::uids).collect();
        for worker in &self.workers {
            needed.extend(worker.jobs.values().map(|hosted| hosted.uid.clone()));
        }
        self.judge.tidy(&needed);
        self.disk
            .checkpoints
            .retain(|_, (uid, _, _)| needed.contains(uid));
        let uid = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
        self.disk
            .exports
            .retain(|path, _| needed.contains(&uid(path)));
    }
}
