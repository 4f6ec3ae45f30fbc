//! A machine with its log, and fake workers that obey it: what the tests are written with.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod fake;
mod held;

use espalier_core::{
    Answer, Command, Config, ConnId, Error, Event, Hello, JobState, JobView, Machine, Order,
    Outcome, Output, PeerAddress, Record, ReplyId, RunningJob, Time, invariants,
};
use espalier_spec::plan::{BlockProfile, Profile, TaskProfile};
use espalier_spec::recovery::{HeldSnapshot, Milestone};
use espalier_spec::report::{Checkpoint, Failure, Progress};
use espalier_spec::{Generation, JobId, JobSpec, Rank, Step, WorkerId};

pub const VERSION: &str = "1.2.3";

pub fn config() -> Config {
    Config {
        prepare_timeout_ms: 20_000,
        stop_timeout_ms: 5_000,
        checkpoint_timeout_ms: 10_000,
        scale_after_ms: 200,
        ..Config::new(VERSION)
    }
}

/// A job with two tasks; `resources` as in a job file.
pub fn spec(name: &str, resources: serde_json::Value) -> JobSpec {
    let task = |name: &str| serde_json::json!({ "name": name, "head": "single_label", "data": { "train": "a.jsonl" } });
    serde_json::from_value(serde_json::json!({
        "name": name,
        "backbone": { "path": "/models/minilm" },
        "tasks": [task("section"), task("topic")],
        "resources": resources,
    }))
    .unwrap()
}

pub fn ranks(name: &str, ranks: u32) -> JobSpec {
    spec(name, serde_json::json!({ "ranks": ranks }))
}

/// A job of so many ranks that runs on `min` to `max` workers.
pub fn elastic(name: &str, ranks: u32, min: u32, max: u32) -> JobSpec {
    let workers = serde_json::json!({ "min": min, "max": max });
    spec(
        name,
        serde_json::json!({ "ranks": ranks, "workers": workers }),
    )
}

pub fn profile() -> Profile {
    let block = |name: &str, trainable| BlockProfile {
        name: name.to_owned(),
        trainable,
        total: trainable,
    };
    let task = |name: &str, share| TaskProfile {
        name: name.to_owned(),
        train_samples: 100,
        share,
        sample_cost: 20.0,
    };
    Profile {
        blocks: vec![
            block("embed", 10_000),
            block("layer.0", 5_000),
            block("head.section", 40),
        ],
        tasks: vec![task("section", 0.7), task("topic", 0.3)],
        fetched: String::new(),
    }
}

pub fn failure(code: &str, retryable: bool) -> Outcome {
    let message = format!("task topic, file a.jsonl, row 7: {code}");
    Outcome::Failure(Failure {
        code: code.to_owned(),
        message,
        retryable,
        lost: None,
    })
}

/// A rank lost its links to this one.
pub fn lost(rank: u32) -> Outcome {
    Outcome::Failure(Failure {
        code: "peer_lost".to_owned(),
        message: format!("the connection to rank {rank} broke"),
        retryable: true,
        lost: Some(Rank(rank)),
    })
}

/// Parts of these ranks after these steps.
pub fn parts(held: &[(u32, u64)]) -> Vec<HeldSnapshot> {
    let part = |(rank, step): &(u32, u64)| HeldSnapshot {
        rank: Rank(*rank),
        step: Step(*step),
    };
    held.iter().map(part).collect()
}

/// A machine, its log, and the time.
pub struct Bench {
    pub machine: Machine,
    pub log: Vec<Record>,
    pub now: u64,
    next: u64,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            machine: Machine::new(config()),
            log: Vec::new(),
            now: 1_000_000,
            next: 1,
        }
    }

    /// A number that was never given before.
    pub fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// One step; its records are kept, the invariants hold.
    pub fn step(&mut self, event: Event) -> Vec<Command> {
        let before = self.machine.applied();
        let Output { records, after } = self.machine.step(Time(self.now), event);
        assert_eq!(self.machine.applied(), before + records.len() as u64);
        self.log.extend(records);
        let broken = invariants::check(&self.machine);
        assert!(broken.is_empty(), "{broken:#?}");
        after
    }

    pub fn request(
        &mut self,
        event: impl FnOnce(ReplyId) -> Event,
    ) -> (Result<Answer, Error>, Vec<Command>) {
        let reply = ReplyId(self.fresh());
        let after = self.step(event(reply));
        let answer = after.iter().find_map(|command| match command {
            Command::Reply { reply: to, result } if *to == reply => Some(result.clone()),
            _ => None,
        });
        (
            answer.expect("every request is answered in its step"),
            after,
        )
    }

    pub fn create(&mut self, spec: &JobSpec) -> Vec<Command> {
        let (uid, spec) = (format!("uid-{}", self.fresh()), Box::new(spec.clone()));
        let (answer, after) = self.request(|reply| Event::CreateJob {
            spec,
            uid,
            request_id: None,
            reply,
        });
        answer.unwrap();
        after
    }

    pub fn cancel(&mut self, name: &str) -> Result<Answer, Error> {
        self.request(|reply| Event::CancelJob {
            name: name.into(),
            reply,
        })
        .0
    }

    pub fn pause(&mut self, name: &str) -> Result<Answer, Error> {
        self.request(|reply| Event::PauseJob {
            name: name.into(),
            reply,
        })
        .0
    }

    pub fn resume(&mut self, name: &str) -> Result<Answer, Error> {
        self.request(|reply| Event::ResumeJob {
            name: name.into(),
            reply,
        })
        .0
    }

    pub fn job(&self, name: &str) -> JobView {
        self.machine.job(&name.into()).unwrap()
    }

    pub fn state(&self, name: &str) -> JobState {
        self.job(name).state
    }

    /// A worker with so many CPU devices; its first process unless `instance` says otherwise.
    pub fn connect(
        &mut self,
        name: &str,
        devices: usize,
        instance: &str,
        running: Vec<RunningJob>,
    ) -> (ConnId, Vec<Command>) {
        let conn = ConnId(self.fresh());
        let hello = Hello {
            name: name.into(),
            version: VERSION.to_owned(),
            host: format!("host-{name}"),
            devices: vec!["cpu".to_owned(); devices],
            instance: instance.to_owned(),
            running,
            preempted: false,
        };
        let after = self.step(Event::WorkerConnected { conn, hello });
        (conn, after)
    }

    pub fn join(&mut self, name: &str, devices: usize) -> ConnId {
        self.connect(name, devices, "first", Vec::new()).0
    }

    pub fn prepared(
        &mut self,
        conn: ConnId,
        job: &str,
        generation: u64,
        of: &[u32],
    ) -> Vec<Command> {
        self.prepared_with(conn, job, generation, of, &[])
    }

    /// Prepared, with these parts (rank and step) in memory.
    pub fn prepared_with(
        &mut self,
        conn: ConnId,
        job: &str,
        generation: u64,
        of: &[u32],
        held: &[(u32, u64)],
    ) -> Vec<Command> {
        let addresses = of.iter().map(|rank| address(*rank)).collect();
        let (job, generation) = (job.into(), Generation(generation));
        self.step(Event::Prepared {
            conn,
            job,
            generation,
            addresses,
            profile: profile(),
            snapshots: parts(held),
        })
    }

    /// All milestones of a generation, the first step with so many done, each 50 ms after the one
    /// before it.
    pub fn trains(&mut self, conn: ConnId, job: &str, generation: u64, first: u64) {
        let reached = [
            (Milestone::Connected, first - 1),
            (Milestone::Restored, first - 1),
            (Milestone::FirstStep, first),
        ];
        for (milestone, step) in reached {
            self.now += 50;
            let (job, generation) = (job.into(), Generation(generation));
            self.step(Event::Reached {
                conn,
                job,
                generation,
                milestone,
                step: Step(step),
            });
        }
    }

    pub fn stopped(
        &mut self,
        conn: ConnId,
        job: &str,
        generation: u64,
        outcome: Outcome,
    ) -> Vec<Command> {
        let (job, generation) = (job.into(), Generation(generation));
        self.step(Event::Stopped {
            conn,
            job,
            generation,
            outcome,
        })
    }

    pub fn checkpoint(
        &mut self,
        conn: ConnId,
        job: &str,
        generation: u64,
        step: u64,
    ) -> Vec<Command> {
        let (job, generation) = (job.into(), Generation(generation));
        let checkpoint = Checkpoint {
            step: Step(step),
            path: format!("step-{step}"),
            best: false,
        };
        self.step(Event::Checkpointed {
            conn,
            job,
            generation,
            checkpoint,
        })
    }

    pub fn progress(
        &mut self,
        conn: ConnId,
        job: &str,
        generation: u64,
        step: u64,
    ) -> Vec<Command> {
        let (job, generation) = (job.into(), Generation(generation));
        let progress = Progress {
            step: Step(step),
            total_steps: 100,
            ..Progress::default()
        };
        self.step(Event::Progress {
            conn,
            job,
            generation,
            progress,
        })
    }

    /// Lets time pass; all of `alive` send heartbeats meanwhile.
    pub fn pass(&mut self, milliseconds: u64, alive: &[ConnId]) -> Vec<Command> {
        let mut after = Vec::new();
        let end = self.now + milliseconds;
        while self.now < end {
            self.now = (self.now + 500).min(end);
            for conn in alive {
                after.extend(self.step(Event::Heartbeat {
                    conn: *conn,
                    running: Vec::new(),
                }));
            }
            after.extend(self.step(Event::Tick));
        }
        after
    }

    /// The coordinator dies and starts again from its store.
    pub fn restart(&mut self) {
        self.machine = self.replayed(0);
    }

    /// What the store gives back: a snapshot of the first records if `snapshot_at` is not 0, then
    /// the rest; all through JSON as the store keeps it.
    pub fn replayed(&self, snapshot_at: usize) -> Machine {
        let numbered = |records: &[Record], from: u64| -> Vec<(u64, Record)> {
            (from + 1..).zip(records.iter().map(through_json)).collect()
        };
        let now = Time(self.now);
        let head =
            Machine::replay(config(), now, None, numbered(&self.log[..snapshot_at], 0)).unwrap();
        let snapshot = (snapshot_at > 0).then(|| through_json(&head.snapshot()));
        let tail = numbered(&self.log[snapshot_at..], snapshot_at as u64);
        Machine::replay(config(), now, snapshot, tail).unwrap()
    }
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

pub fn address(rank: u32) -> PeerAddress {
    PeerAddress {
        rank: Rank(rank),
        address: format!("h:{rank}"),
        host_id: "h".to_owned(),
    }
}

pub fn running(bench: &Bench, job: &str, generation: u64, of: &[u32]) -> RunningJob {
    RunningJob {
        job: job.into(),
        uid: bench.job(job).uid,
        generation: Generation(generation),
        step: Step(3),
        ranks: of.iter().map(|rank| Rank(*rank)).collect(),
    }
}

/// Orders in short: "prepare x g1 -> 4", without Welcome.
pub fn orders(after: &[Command]) -> Vec<String> {
    let text = |command: &Command| match command {
        Command::Send { conn, order } => {
            let order = match order {
                Order::Welcome { .. } => return None,
                Order::Prepare {
                    job,
                    generation,
                    spare: true,
                    ..
                } => format!("spare {job} {generation}"),
                Order::Prepare {
                    job, generation, ..
                } => format!("prepare {job} {generation}"),
                Order::Start {
                    job,
                    generation,
                    resume,
                    restore,
                    ..
                } => {
                    let from = resume.as_ref().map_or(0, |checkpoint| checkpoint.step.0);
                    let from = match restore {
                        Some(restore) => {
                            let providers = restore.providers.iter().map(|rank| rank.0);
                            let providers: Vec<u32> = providers.collect();
                            format!("memory {} of {providers:?}", restore.step)
                        }
                        None => from.to_string(),
                    };
                    format!("start {job} {generation} from {from}")
                }
                Order::Stop {
                    job,
                    generation,
                    mode,
                } => format!("stop {job} {generation} {mode:?}"),
            };
            Some(format!("{order} -> {}", conn.0))
        }
        _ => None,
    };
    after.iter().filter_map(text).collect()
}

pub fn worker(name: &str) -> WorkerId {
    name.into()
}

pub fn job_id(name: &str) -> JobId {
    name.into()
}
