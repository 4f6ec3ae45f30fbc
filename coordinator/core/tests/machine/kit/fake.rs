//! Fake workers, and the simulated cluster that they and the machine are.

use super::{Bench, address, failure, lost, profile};
use espalier_core::{Command, ConnId, Event, Order, Outcome, RunningJob, StopMode};
use espalier_spec::plan::Seat;
use espalier_spec::recovery::{HeldSnapshot, Milestone, Restore};
use espalier_spec::{Generation, JobId, Rank, Step};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Steps of every job.
const STEPS: u64 = 12;
/// Steps between two snapshots.
const SNAPSHOT: u64 = 2;

/// xorshift64*: small, and the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

pub type Key = (JobId, Generation);

/// One generation on one worker.
pub struct Run {
    pub uid: String,
    pub world: Vec<Seat>,
    pub prepared: bool,
    pub started: bool,
    /// What it was told to go on from.
    pub restore: Option<Restore>,
    /// Milestones told, by rank 0's worker.
    pub told: usize,
}

/// Steps of the parts in memory, by the job's uid and the rank: the two newest.
pub type Held = BTreeMap<(String, Rank), BTreeSet<u64>>;

pub struct Fake {
    pub name: &'static str,
    pub devices: usize,
    pub instance: u32,
    pub up: bool,
    pub conn: Option<ConnId>,
    pub inbox: VecDeque<Order>,
    /// Reports of the end that could not be sent yet.
    pub outbox: Vec<(Key, Outcome)>,
    pub runs: BTreeMap<Key, Run>,
    pub beat: u64,
    pub held: Held,
}

impl Fake {
    /// The process dies with all it had; the next one has another instance id.
    pub fn die(&mut self) {
        self.runs.clear();
        self.outbox.clear();
        self.held.clear();
        self.instance += 1;
    }
}

pub struct Sim {
    pub bench: Bench,
    pub dice: Dice,
    pub workers: Vec<Fake>,
    /// Steps done by each generation, by the job's uid.
    pub steps: BTreeMap<(String, u64), u64>,
    /// Everything the machine said, for comparison.
    pub trace: Vec<String>,
    pub faults: bool,
}

impl Sim {
    pub fn new(seed: u64) -> Self {
        let fake = |(name, devices)| Fake {
            name,
            devices,
            instance: 1,
            up: true,
            conn: None,
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            runs: BTreeMap::new(),
            beat: 0,
            held: Held::new(),
        };
        Self {
            bench: Bench::new(),
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            workers: [("a", 1), ("b", 2), ("c", 1)]
                .into_iter()
                .map(fake)
                .collect(),
            steps: BTreeMap::new(),
            trace: Vec::new(),
            faults: true,
        }
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.faults && self.dice.roll(one_in) == 0
    }

    /// One step of the machine; then its commands, unless the coordinator dies in between.
    pub fn step(&mut self, event: Event) {
        let after = self.bench.step(event);
        self.trace.push(format!("{} {after:?}", self.bench.now));
        if self.chance(150) {
            self.restart();
        } else {
            self.deliver(after);
        }
    }

    pub fn deliver(&mut self, after: Vec<Command>) {
        for command in after {
            match command {
                Command::Send { conn, order } => {
                    if let Some(w) = self.workers.iter_mut().find(|w| w.conn == Some(conn)) {
                        w.inbox.push_back(order);
                    }
                }
                Command::CloseConnection { conn, .. } => {
                    if let Some(w) = self.workers.iter_mut().find(|w| w.conn == Some(conn)) {
                        w.conn = None;
                    }
                }
                _ => {}
            }
        }
    }

    /// The coordinator dies and comes back from its store, which holds the very same state.
    pub fn restart(&mut self) {
        let at = self.dice.roll(self.bench.log.len() as u64 + 1) as usize;
        let back = self.bench.replayed(at);
        let same = back.snapshot() == self.bench.machine.snapshot();
        assert!(same, "replay from {at} gives another state");
        self.bench.machine = back;
        for worker in &mut self.workers {
            worker.conn = None;
            worker.inbox.clear();
        }
    }

    /// One worker does one thing.
    pub fn work(&mut self, w: usize) {
        if !self.workers[w].up {
            return;
        }
        let Some(conn) = self.workers[w].conn else {
            return self.connect(w);
        };
        if self.bench.now >= self.workers[w].beat + 1_000 {
            self.workers[w].beat = self.bench.now;
            let running = self.running(w);
            return self.step(Event::Heartbeat { conn, running });
        }
        if let Some((key, outcome)) = self.workers[w].outbox.pop() {
            return self.report_end(w, key, outcome);
        }
        if let Some(order) = self.workers[w].inbox.pop_front() {
            return self.obey(w, order);
        }
        let keys: Vec<Key> = self.workers[w].runs.keys().cloned().collect();
        if !keys.is_empty() {
            let key = keys[self.dice.roll(keys.len() as u64) as usize].clone();
            self.advance(w, conn, &key);
        }
    }

    pub fn connect(&mut self, w: usize) {
        let fake = &self.workers[w];
        let (name, devices, instance) = (fake.name, fake.devices, format!("i{}", fake.instance));
        let running = self.running(w);
        let conn = ConnId(self.bench.fresh());
        self.workers[w].inbox.clear();
        self.workers[w].conn = Some(conn);
        self.workers[w].beat = self.bench.now;
        let hello = espalier_core::Hello {
            name: name.into(),
            version: super::VERSION.to_owned(),
            host: "h".to_owned(),
            devices: vec!["cpu".to_owned(); devices],
            instance,
            running,
            preempted: false,
        };
        self.step(Event::WorkerConnected { conn, hello });
    }

    pub fn running(&self, w: usize) -> Vec<RunningJob> {
        let fake = &self.workers[w];
        let job = |((job, generation), run): (&Key, &Run)| RunningJob {
            job: job.clone(),
            uid: run.uid.clone(),
            generation: *generation,
            step: Step(0),
            ranks: of(run, fake.name),
        };
        fake.runs.iter().map(job).collect()
    }

    pub fn obey(&mut self, w: usize, order: Order) {
        let fake = &mut self.workers[w];
        match order {
            Order::Welcome { .. } => {}
            Order::Prepare {
                job,
                uid,
                generation,
                seats,
                ..
            } => {
                // What it had of that job makes place, as in a real worker.
                let old = |key: &&Key| key.0 == job && key.1 < generation;
                let old: Vec<Key> = fake.runs.keys().filter(old).cloned().collect();
                for key in old {
                    self.end(w, &key, Outcome::Ordered);
                }
                let fake = &mut self.workers[w];
                let run = Run {
                    uid,
                    world: seats,
                    prepared: false,
                    started: false,
                    restore: None,
                    told: 0,
                };
                let old = fake.runs.insert((job.clone(), generation), run);
                assert!(old.is_none(), "job {job} {generation} is prepared twice");
                // Ranks of one job may share a device.
                let devices = fake.runs.values().flat_map(|run| {
                    let mine = run.world.iter().filter(|s| s.worker.as_str() == fake.name);
                    mine.map(|s| s.device).collect::<BTreeSet<u32>>()
                });
                let devices: Vec<u32> = devices.collect();
                let distinct: BTreeSet<_> = devices.iter().collect();
                assert_eq!(
                    distinct.len(),
                    devices.len(),
                    "two jobs on a device of {}",
                    fake.name
                );
            }
            Order::Start {
                job,
                generation,
                plan,
                resume,
                restore,
                ..
            } => {
                if let Some(run) = fake.runs.get_mut(&(job.clone(), generation)) {
                    assert_eq!(plan.seats, run.world);
                    let repeated = std::mem::replace(&mut run.started, true);
                    assert!(
                        !repeated || run.restore == restore,
                        "a repeated start goes on from elsewhere"
                    );
                    let mut from = resume.map_or(0, |checkpoint| checkpoint.step.0);
                    if let Some(restore) = &restore {
                        assert!(
                            repeated || restore.step.0 >= from,
                            "older than a checkpoint"
                        );
                        from = restore.step.0;
                        for (rank, provider) in (0..).zip(&restore.providers) {
                            let seat = &run.world[provider.0 as usize];
                            let held = fake.held.get(&(run.uid.clone(), Rank(rank)));
                            assert!(
                                seat.worker.as_str() != fake.name
                                    || repeated
                                    || held.is_some_and(|steps| steps.contains(&from)),
                                "{} does not hold the part of rank {rank} of step {from}",
                                fake.name
                            );
                        }
                    }
                    run.restore = restore;
                    self.steps
                        .entry((run.uid.clone(), generation.0))
                        .or_insert(from);
                }
            }
            Order::Stop {
                job,
                generation,
                mode,
            } => {
                let key = (job, generation);
                let Some(run) = fake.runs.get(&key) else {
                    return;
                };
                let head = run.world[0].worker.as_str() == fake.name;
                let at = self.steps.get(&(run.uid.clone(), key.1.0)).copied();
                if let (StopMode::Checkpoint, true, true, Some(at)) = (mode, head, run.started, at)
                {
                    self.checkpoint(w, &key, at);
                }
                if let (StopMode::Handover, Some(at)) = (mode, at) {
                    self.snapshot(&key, at);
                }
                self.end(w, &key, Outcome::Ordered);
            }
        }
    }

    pub fn checkpoint(&mut self, w: usize, key: &Key, at: u64) {
        let Some(conn) = self.workers[w].conn else {
            return;
        };
        let (job, generation) = key.clone();
        let path = format!("step-{at}");
        let checkpoint = espalier_spec::report::Checkpoint {
            step: Step(at),
            path,
            best: false,
        };
        self.step(Event::Checkpointed {
            conn,
            job,
            generation,
            checkpoint,
        });
    }

    /// The ranks are gone; the report goes out now or with the next stream.
    pub fn end(&mut self, w: usize, key: &Key, outcome: Outcome) {
        if self.workers[w].runs.remove(key).is_some() {
            self.report_end(w, key.clone(), outcome);
        }
    }

    pub fn report_end(&mut self, w: usize, key: Key, outcome: Outcome) {
        match self.workers[w].conn {
            Some(conn) => {
                let (job, generation) = key;
                self.step(Event::Stopped {
                    conn,
                    job,
                    generation,
                    outcome,
                });
            }
            None => self.workers[w].outbox.push((key, outcome)),
        }
    }

    pub fn advance(&mut self, w: usize, conn: ConnId, key: &Key) {
        if self.chance(60) {
            let retryable = self.dice.roll(3) > 0;
            let code = if retryable { "peer_lost" } else { "bad_data" };
            return self.end(w, key, failure(code, retryable));
        }
        let name = self.workers[w].name;
        let Some(run) = self.workers[w].runs.get_mut(key) else {
            return;
        };
        let (job, generation) = key.clone();
        if !run.prepared {
            run.prepared = true;
            let addresses = of(run, name).iter().map(|rank| address(rank.0)).collect();
            let profile = profile();
            let uid = run.uid.clone();
            let held = self.workers[w].held.iter();
            let held = held.filter(|((job, _), _)| *job == uid);
            let parts = held.flat_map(|((_, rank), steps)| {
                steps.iter().map(move |step| HeldSnapshot {
                    rank: *rank,
                    step: Step(*step),
                })
            });
            let snapshots = parts.collect();
            return self.step(Event::Prepared {
                conn,
                job,
                generation,
                addresses,
                profile,
                snapshots,
            });
        }
        if !run.started {
            return;
        }
        let head = run.world[0].worker.as_str() == name;
        let count = (run.uid.clone(), generation.0);
        let at = self.steps.get(&count).copied().unwrap_or(0);
        if at >= STEPS {
            let path = if head { "/out" } else { "" };
            return self.end(w, key, Outcome::Exported(path.to_owned()));
        }
        let (world, told) = (run.world.clone(), run.told);
        let missing = world.iter().find(|seat| {
            let mut workers = self.workers.iter();
            let fake = workers.find(|fake| fake.name == seat.worker.as_str());
            fake.is_none_or(|fake| !fake.up || !fake.runs.contains_key(key))
        });
        if let Some(seat) = missing {
            return self.end(w, key, lost(seat.rank.0));
        }
        if !head {
            return;
        }
        let milestones = [
            Milestone::Connected,
            Milestone::Restored,
            Milestone::FirstStep,
        ];
        let milestone = milestones.get(told).copied();
        let step = match milestone {
            Some(Milestone::Connected | Milestone::Restored) => at,
            Some(Milestone::FirstStep) | None => at + 1,
        };
        self.steps.insert(count, step);
        if let Some(milestone) = milestone {
            if let Some(run) = self.workers[w].runs.get_mut(key) {
                run.told += 1;
            }
            self.step(Event::Reached {
                conn,
                job: job.clone(),
                generation,
                milestone,
                step: Step(step),
            });
        }
        // The coordinator may have died in that step, and the stream with it.
        if step == at || self.workers[w].conn != Some(conn) {
            return;
        }
        if step.is_multiple_of(SNAPSHOT) {
            self.snapshot(key, step);
        }
        let progress = espalier_spec::report::Progress {
            step: Step(at + 1),
            ..Default::default()
        };
        self.step(Event::Progress {
            conn,
            job,
            generation,
            progress,
        });
        if (at + 1).is_multiple_of(5) && self.workers[w].runs.contains_key(key) {
            self.checkpoint(w, key, at + 1);
        }
    }
}

fn of(run: &Run, worker: &str) -> Vec<Rank> {
    run.world
        .iter()
        .filter(|s| s.worker.as_str() == worker)
        .map(|s| s.rank)
        .collect()
}
