//! What is promised of the number of workers.
#![allow(clippy::unwrap_used)]

use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use v1::worker::State;

fn fleet(replicas: u32, need: u32, workers: &[(State, bool)]) -> Fleet {
    let named = |(n, (state, busy)): (usize, &(State, bool))| {
        let (state, busy) = (*state, *busy);
        (format!("w-{n}"), WorkerSeen { state, busy })
    };
    Fleet {
        name: "w".into(),
        replicas,
        marked: BTreeSet::new(),
        workers: workers.iter().enumerate().map(named).collect(),
        need,
        bounds: Bounds { min: 0, max: 5 },
        low_for: Duration::from_secs(60),
        patience: Duration::from_secs(60),
    }
}

fn marks(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn act(fleet: &Fleet) -> Option<ScaleAct> {
    decide(fleet).act.map(|(act, _)| act)
}

// Promise: it grows at once, never beyond its bounds, and says why.
#[test]
fn grows() {
    let empty = fleet(0, 2, &[]);
    assert_eq!(act(&empty), Some(ScaleAct::Resize(2)));
    assert!(decide(&empty).act.unwrap().1.contains("needs 2"));
    assert_eq!(act(&fleet(0, 99, &[])), Some(ScaleAct::Resize(5)));
    let full = [(State::Ready, true); 5];
    assert_eq!(act(&fleet(5, 99, &full)), None);
    let mut floor = fleet(0, 0, &[]);
    floor.bounds.min = 1;
    assert_eq!(act(&floor), Some(ScaleAct::Resize(1)));
}

// Promise: nothing is given up before it was needless for a while.
#[test]
fn waits_before_it_shrinks() {
    let mut fleet = fleet(1, 0, &[(State::Ready, false)]);
    fleet.low_for = Duration::from_secs(59);
    let decision = decide(&fleet);
    assert_eq!((decision.act, decision.soon), (None, true));
}

// Promise: a pod is given up only after its worker was marked, drained and idle; the highest first.
#[test]
fn drains_before_it_shrinks() {
    let ready = [
        (State::Ready, true),
        (State::Ready, true),
        (State::Ready, true),
    ];
    let mut now = fleet(3, 1, &ready);
    let both = marks(&["w-1", "w-2"]);
    assert_eq!(act(&now), Some(ScaleAct::Mark(both.clone())));
    now.marked = both;
    assert_eq!(act(&now), Some(ScaleAct::Drain("w-2".into())));
    now.workers.get_mut("w-2").unwrap().state = State::Draining;
    assert_eq!(act(&now), Some(ScaleAct::Drain("w-1".into())));
    now.workers.get_mut("w-1").unwrap().state = State::Draining;
    assert_eq!(act(&now), None);
    // The lower one is idle, the higher one is not: pods go from the top.
    now.workers.get_mut("w-1").unwrap().busy = false;
    assert_eq!(act(&now), None);
    now.workers.get_mut("w-2").unwrap().busy = false;
    assert_eq!(act(&now), Some(ScaleAct::Resize(1)));
    now.replicas = 1;
    assert_eq!(act(&now), None);
}

// Promise: a surplus worker out of sight is drained, too, keeps its pod until it is gone, and holds up no other.
#[test]
fn out_of_sight() {
    let seen = [
        (State::Ready, false),
        (State::Unreachable, true),
        (State::Draining, false),
    ];
    let mut now = fleet(3, 0, &seen);
    now.marked = marks(&["w-0", "w-1", "w-2"]);
    assert_eq!(act(&now), Some(ScaleAct::Drain("w-0".into())));
    now.workers.get_mut("w-0").unwrap().state = State::Draining;
    assert_eq!(act(&now), Some(ScaleAct::Resize(2)));
    now.replicas = 2;
    assert_eq!(act(&now), Some(ScaleAct::Drain("w-1".into())));
    now.workers.get_mut("w-1").unwrap().state = State::Gone;
    assert_eq!(act(&now), Some(ScaleAct::Resize(0)));
}

// Promise: it goes to zero, also over workers that are gone or never came.
#[test]
fn shrinks_to_zero() {
    let mut now = fleet(3, 0, &[(State::Draining, false), (State::Gone, false)]);
    now.marked = marks(&["w-0", "w-1", "w-2"]);
    assert_eq!(act(&now), Some(ScaleAct::Resize(0)));
}

// Promise: a worker that is wanted again is taken back, and one that somebody else drains is not touched.
#[test]
fn takes_back_its_own_only() {
    let draining = [(State::Draining, false), (State::Draining, false)];
    let mut now = fleet(2, 2, &draining);
    now.marked = marks(&["w-1"]);
    assert_eq!(act(&now), Some(ScaleAct::TakeBack("w-1".into())));
    // Also where it was taken back and not struck off: safe to do again.
    now.workers.get_mut("w-1").unwrap().state = State::Ready;
    assert_eq!(act(&now), Some(ScaleAct::TakeBack("w-1".into())));
    now.marked.clear();
    assert_eq!(act(&now), None);
}

// Promise: a name that was drained and comes back does not come back drained.
#[test]
fn comes_back_open() {
    let mut now = fleet(1, 2, &[(State::Ready, true), (State::Gone, false)]);
    now.marked = marks(&["w-1"]);
    assert_eq!(act(&now), Some(ScaleAct::TakeBack("w-1".into())));
    now.marked.clear();
    assert_eq!(act(&now), Some(ScaleAct::Resize(2)));
}

fn job(state: v1::job::State, resources: v1::Resources, seats: usize) -> v1::Job {
    let mut job = v1::Job {
        spec: Some(v1::JobSpec {
            resources: Some(resources),
            ..Default::default()
        }),
        plan: (seats > 0).then(|| v1::Plan {
            seats: vec![v1::Seat::default(); seats],
            ..Default::default()
        }),
        ..Default::default()
    };
    job.set_state(state);
    job
}

// Promise: jobs count by their devices, elastic ones by their workers, resting ones not at all.
#[test]
fn needs() {
    use v1::job::State::{Paused, Queued, Running, Succeeded};
    let ranks = |ranks| v1::Resources {
        ranks: Some(ranks),
        ..Default::default()
    };
    let elastic = v1::Resources {
        workers: Some(v1::WorkerRange { min: 1, max: 3 }),
        ..Default::default()
    };
    let none = v1::Resources::default();
    let jobs = [
        job(Queued, ranks(3), 0),
        job(Running, none, 4),
        job(Queued, none, 0),
        job(Queued, elastic, 0),
        job(Paused, ranks(8), 8),
        job(Succeeded, ranks(8), 8),
    ];
    assert_eq!(need(&jobs, 2), 4 + 3);
    let wanted = jobs.each_ref().map(|job| workers_wanted(job, 2));
    assert_eq!(wanted, [2, 2, 1, 3, 0, 0]);
    assert_eq!(need([], 2), 0);
}

/// A StatefulSet, its workers and what the coordinator knows of them, under `decide`.
struct Cluster {
    fleet: Fleet,
    drained: BTreeSet<String>,
}

impl Cluster {
    /// Does an act; one of two steps may end after the first.
    fn apply(&mut self, act: &ScaleAct, whole: bool) {
        match act {
            ScaleAct::Resize(to) => {
                for ordinal in *to..self.fleet.replicas {
                    let name = self.fleet.worker(ordinal);
                    if let Some(worker) = self.fleet.workers.get(&name) {
                        assert!(!worker.busy, "{name} was given up with work on it");
                    }
                    let worker = WorkerSeen {
                        state: State::Gone,
                        busy: false,
                    };
                    self.fleet.workers.insert(name, worker);
                }
                self.fleet.replicas = *to;
            }
            ScaleAct::Mark(marked) => self.fleet.marked.clone_from(marked),
            ScaleAct::Drain(name) => {
                assert!(self.fleet.marked.contains(name), "{name} was not marked");
                self.drained.insert(name.clone());
            }
            ScaleAct::TakeBack(name) => {
                self.drained.remove(name);
                if whole {
                    self.fleet.marked.remove(name);
                }
            }
        }
    }

    /// Pods come up, work begins and ends.
    fn live(&mut self, random: &mut StdRng) {
        for ordinal in 0..self.fleet.replicas {
            let name = self.fleet.worker(ordinal);
            let drained = self.drained.contains(&name);
            let busy = match drained {
                // Work on a drained worker ends, and none begins.
                true => {
                    let before = self.fleet.workers.get(&name);
                    before.is_some_and(|worker| worker.busy) && random.random_bool(0.5)
                }
                false => random.random_bool(0.5),
            };
            let state = if drained {
                State::Draining
            } else {
                State::Ready
            };
            self.fleet.workers.insert(name, WorkerSeen { state, busy });
        }
    }
}

// Promise: whatever the need does, and whichever acts are lost or done twice, no worker is given up with
// work on it, and in the end there are as many as are needed and none of them is drained.
#[test]
fn any_course_ends_well() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster {
            fleet: fleet(0, 0, &[]),
            drained: BTreeSet::new(),
        };
        for _ in 0..40 {
            if random.random_bool(0.2) {
                cluster.fleet.need = random.random_range(0..8);
            }
            cluster.live(&mut random);
            if let Some(act) = act(&cluster.fleet) {
                // An operator that ends before the act, after it, or does it again after a restart.
                for _ in 0..random.random_range(0..3) {
                    cluster.apply(&act, random.random_bool(0.5));
                }
            }
        }
        let mut rounds = 0;
        loop {
            cluster.live(&mut random);
            let decision = decide(&cluster.fleet);
            match decision.act {
                Some((act, _)) => cluster.apply(&act, true),
                None if !decision.soon => break,
                None => {}
            }
            rounds += 1;
            assert!(
                rounds < 200,
                "seed {seed}: comes to no end: {:?}",
                cluster.fleet
            );
        }
        let Cluster { fleet, drained } = cluster;
        assert_eq!(
            fleet.replicas,
            fleet.bounds.clamp(fleet.need),
            "seed {seed}"
        );
        for ordinal in 0..fleet.replicas {
            assert!(!drained.contains(&fleet.worker(ordinal)), "seed {seed}");
        }
    }
}
