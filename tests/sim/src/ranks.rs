//! Ranks of a generation, together: they connect, get their state, make steps, snapshots and
//! checkpoints in lockstep, and end together. Only ranks of the same generation can connect.

use crate::bug::Bug;
use crate::chain::{Model, advance, beginning, digest};
use crate::worker::{Goal, Stage, Told, What, failure};
use crate::world::{Happening, Key, Process, World};
use espalier_core::Outcome;
use espalier_spec::Step;
use espalier_spec::recovery::Milestone;
use espalier_spec::report::{Checkpoint, Progress};
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds that ranks wait for each other to connect.
const CONNECT: u64 = 10_000;
/// Milliseconds without a sign of a peer before it is taken for lost.
const PEER: u64 = 3_000;

/// Files that all workers see.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Uid, step and model of each checkpoint.
    pub(crate) checkpoints: BTreeMap<String, (String, u64, Model)>,
    /// Hash of each exported model.
    pub(crate) exports: BTreeMap<String, u64>,
}

/// The ranks of one generation.
#[derive(Debug)]
pub(crate) struct Group {
    job: String,
    pub(crate) key: Key,
    seed: u64,
    /// The worker of each rank.
    pub(crate) world: Vec<usize>,
    /// Workers whose ranks have been told to start.
    started: Vec<Process>,
    goal: Goal,
    /// When they last came further.
    since: u64,
    pub(crate) phase: Phase,
    pub(crate) model: Model,
    pub(crate) step: u64,
    first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    Training,
    /// So many workers hold their parts of a snapshot.
    Mirroring {
        held: usize,
        then_stop: bool,
    },
    Writing {
        then_stop: bool,
    },
    Exporting,
}

impl Group {
    /// Its workers, in the order of their first ranks.
    pub(crate) fn workers(&self) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let workers = self.world.iter().copied();
        workers.filter(|worker| seen.insert(*worker)).collect()
    }

    fn rank_of(&self, worker: usize) -> Option<u32> {
        let rank = self.world.iter().position(|w| *w == worker)?;
        u32::try_from(rank).ok()
    }

    /// Who mirrors a rank's part: the worker of the first rank after it that another one hosts.
    pub(crate) fn buddy(&self, rank: usize) -> Option<usize> {
        let after = (1..self.world.len()).map(|n| self.world[(rank + n) % self.world.len()]);
        let mut others = after.filter(|worker| *worker != self.world[rank]);
        others.next()
    }
}

impl World {
    /// A worker's ranks are told to start.
    pub(crate) fn join(&mut self, process: Process, job: &str) {
        let Some(hosted) = self.workers[process.index].jobs.get(job) else {
            return;
        };
        let Some(goal) = hosted.goal.clone() else {
            return;
        };
        let key = (hosted.uid.clone(), hosted.generation);
        if let Some(group) = self.groups.get_mut(&key) {
            if group.goal != goal {
                let other = group.goal.clone();
                self.judge.fail("all ranks start from the same", || {
                    format!("ranks of {job} {key:?} are told {goal:?} and {other:?}")
                });
            }
            group.started.push(process);
            return;
        }
        let group = Group {
            job: job.to_owned(),
            key: key.clone(),
            seed: hosted.seed,
            world: hosted.world.clone(),
            started: vec![process],
            goal,
            since: self.now,
            phase: Phase::Connecting,
            model: Model::new(),
            step: 0,
            first: true,
        };
        self.judge.truth(&key.0, group.seed, group.world.len());
        self.groups.insert(key.clone(), group);
        let wait = self.dice.between(2, 30);
        self.later(wait, Happening::Advance(key));
    }

    /// The ranks of a generation do the next thing.
    pub(crate) fn advance(&mut self, key: &Key) {
        let Some(mut group) = self.groups.remove(key) else {
            return;
        };
        if let Some(wait) = self.go_on(&mut group) {
            self.groups.insert(key.clone(), group);
            self.later(wait, Happening::Advance(key.clone()));
        }
    }

    /// Milliseconds until the next thing; none when all is over.
    fn go_on(&mut self, group: &mut Group) -> Option<u64> {
        let workers = group.workers();
        let started = |w: usize| group.started.iter().rev().find(|p| p.index == w).copied();
        let lives = |w: usize| started(w).is_some_and(|p| self.lives(p) && self.runs(p, group));
        let missing = workers.iter().copied().find(|w| !lives(*w));
        if let Some(missing) = missing {
            let expected = group.phase == Phase::Connecting && started(missing).is_none();
            // Workers without rank 0 are done before the model is written.
            if !(expected && self.now < group.since + CONNECT) {
                if group.phase == Phase::Exporting && missing != group.world[0] {
                    return self.export(group);
                }
                self.break_up(group, &|_| Some(missing));
                return None;
            }
            return Some(100);
        }
        if let Some(wait) = self.blocked(group, &workers) {
            return wait;
        }
        let told = workers
            .iter()
            .filter_map(|w| self.workers[*w].jobs.get(&group.job));
        let told = told.map(|hosted| hosted.told).max().unwrap_or(Told::GoOn);
        group.since = self.now;
        match group.phase {
            Phase::Connecting => self.restore(group),
            Phase::Training => match told {
                Told::Checkpoint => {
                    group.phase = Phase::Writing { then_stop: true };
                    self.begin_checkpoint(group)
                }
                Told::Handover => {
                    group.phase = Phase::Mirroring {
                        held: 0,
                        then_stop: true,
                    };
                    Some(1)
                }
                Told::GoOn | Told::Abort => self.train(group),
            },
            Phase::Mirroring { held, then_stop } => self.mirror(group, held, then_stop),
            Phase::Writing { then_stop } => self.write_checkpoint(group, then_stop),
            Phase::Exporting => self.export(group),
        }
    }

    fn runs(&self, process: Process, group: &Group) -> bool {
        let hosted = self.workers[process.index].hosts(&group.job, &group.key);
        hosted.is_some_and(|hosted| hosted.stage == Stage::Running)
    }

    /// Whether some wait for others that are stopped or out of reach, and what follows then.
    fn blocked(&mut self, group: &Group, workers: &[usize]) -> Option<Option<u64>> {
        let stopped = |w: usize| self.workers[w].stalled_until > self.now;
        let apart = |a: usize, b: usize| a != b && (stopped(b) || self.data_cut[a][b] > self.now);
        let blames = |a: usize| workers.iter().copied().find(|b| apart(a, *b));
        if workers.iter().all(|w| !stopped(*w) && blames(*w).is_none()) {
            return None;
        }
        if self.now < group.since + PEER {
            return Some(Some(50));
        }
        // Who is cut off from nobody loses those that give up.
        let whole: BTreeMap<usize, Option<usize>> =
            workers.iter().map(|w| (*w, blames(*w))).collect();
        let other = |w: usize| workers.iter().copied().find(|other| *other != w);
        let blamed: BTreeMap<usize, Option<usize>> = whole
            .into_iter()
            .map(|(w, blamed)| (w, blamed.or_else(|| other(w))))
            .collect();
        self.break_up(group, &|w| blamed.get(&w).copied().flatten());
        Some(None)
    }

    /// The links are gone: every worker's ranks find out, each in its own time.
    fn break_up(&mut self, group: &Group, blames: &dyn Fn(usize) -> Option<usize>) {
        for process in group.started.clone() {
            let rank = blames(process.index).and_then(|worker| group.rank_of(worker));
            let (job, key) = (group.job.clone(), group.key.clone());
            let wait = self.dice.between(1, 150);
            self.later(
                wait,
                Happening::Lost {
                    process,
                    job,
                    key,
                    rank,
                },
            );
        }
    }

    pub(crate) fn lost(&mut self, process: Process, job: &str, key: &Key, rank: Option<u32>) {
        if !self.lives(process) {
            return;
        }
        let Some(hosted) = self.workers[process.index].hosts(job, key) else {
            return;
        };
        let blamed = rank.and_then(|rank| hosted.world.get(rank as usize).copied());
        let outcome = failure("peer_lost", true, rank);
        self.end(process.index, job, outcome, blamed);
    }

    /// All ranks of the generation are connected: they get their state.
    fn restore(&mut self, group: &mut Group) -> Option<u64> {
        let head = group.world[0];
        let (job, key) = (group.job.clone(), group.key.clone());
        let connected = What::Reached(Milestone::Connected, Step(0));
        self.report(head, &job, &key, connected);
        let late = u64::from(self.has(Bug::LateReplay));
        if let Some(restore) = group.goal.restore.clone() {
            let step = restore.step.0;
            match self.parts(group, &restore.providers, step) {
                Some(model) => group.model = model,
                None => return self.all_fail(group, "snapshot_missing", true),
            }
            group.step = step + late;
            self.check_replay(group, step);
            self.judge.restores += 1;
        } else if let Some(checkpoint) = group.goal.resume.clone() {
            let found = self.disk.checkpoints.get(&checkpoint.path);
            let Some((_, step, model)) = found.filter(|(uid, _, _)| *uid == key.0) else {
                self.judge.fail("acknowledged checkpoints are durable", || {
                    format!("{job} {key:?} is to go on from {checkpoint:?}, which is not there")
                });
                return None;
            };
            group.model.clone_from(model);
            group.step = step + late;
            self.judge.resumes += 1;
        } else {
            group.model = beginning(group.seed, group.world.len());
        }
        let step = group.step;
        self.judge.model(&key.0, key.1, step, &group.model);
        // Newer parts would outlive those of the steps that are done again.
        for worker in group.workers() {
            if let Some(held) = self.workers[worker].held.get_mut(&key.0) {
                held.retain(|(_, at), _| *at <= step);
            }
        }
        self.report(
            head,
            &job,
            &key,
            What::Reached(Milestone::Restored, Step(step)),
        );
        group.phase = Phase::Training;
        Some(1)
    }

    fn all_fail(&mut self, group: &Group, code: &str, retryable: bool) -> Option<u64> {
        for worker in group.workers() {
            if self.workers[worker].hosts(&group.job, &group.key).is_some() {
                self.end(worker, &group.job, failure(code, retryable, None), None);
            }
        }
        None
    }

    fn train(&mut self, group: &mut Group) -> Option<u64> {
        let (head, job, key) = (group.world[0], group.job.clone(), group.key.clone());
        let length = self
            .judge
            .truth(&key.0, group.seed, group.world.len())
            .length;
        if group.step >= length.total {
            return self.begin_export(group);
        }
        if self.chance(400) {
            self.count("failed rank");
            return self.all_fail(group, "internal", true);
        }
        advance(&mut group.model, group.step);
        group.step += 1;
        self.stepped(group);
        let step = Step(group.step);
        for worker in group.workers() {
            if let Some(hosted) = self.workers[worker].jobs.get_mut(&job) {
                hosted.step = step.0;
            }
        }
        if std::mem::take(&mut group.first) {
            self.report(head, &job, &key, What::Reached(Milestone::FirstStep, step));
        }
        if step.0.is_multiple_of(4) {
            let progress = Progress {
                step,
                total_steps: length.total,
                ..Progress::default()
            };
            self.report(head, &job, &key, What::Progress(Box::new(progress)));
        }
        if step.0.is_multiple_of(length.checkpoint) {
            group.phase = Phase::Writing { then_stop: false };
            return self.begin_checkpoint(group);
        }
        if step.0.is_multiple_of(length.snapshot) {
            group.phase = Phase::Mirroring {
                held: 0,
                then_stop: false,
            };
        }
        Some(length.step)
    }

    /// A step was made: it must be the right one, and its generation one that may.
    fn stepped(&mut self, group: &Group) {
        let key = &group.key;
        self.judge.model(&key.0, key.1, group.step, &group.model);
        let warned = group.workers().into_iter().all(|w| {
            let hosted = self.workers[w].hosts(&group.job, key);
            hosted.is_some_and(|hosted| hosted.stale_beats > 15)
        });
        let Some(truth) = self.judge.jobs.get_mut(&key.0) else {
            return;
        };
        if key.1 >= truth.stepping {
            (truth.stepping, truth.reached) = (key.1, group.step);
        } else if warned {
            let newest = truth.stepping;
            self.judge.fail("no two generations train at once", || {
                format!("{key:?} trains on under its leader's eyes, though g{newest} trains")
            });
        }
    }

    fn begin_checkpoint(&mut self, group: &mut Group) -> Option<u64> {
        if self.has(Bug::CheckpointTooEarly) {
            self.say_checkpoint(group, group.step);
        }
        Some(self.dice.between(5, 150))
    }

    fn say_checkpoint(&mut self, group: &Group, step: u64) {
        let checkpoint = Checkpoint {
            step: Step(step),
            path: path(&group.key.0, step),
            best: false,
        };
        let what = What::Checkpointed(checkpoint);
        self.report(group.world[0], &group.job, &group.key, what);
    }

    fn write_checkpoint(&mut self, group: &mut Group, then_stop: bool) -> Option<u64> {
        let skipped = u64::from(then_stop && self.has(Bug::HandoverSkipsStep));
        let step = group.step + skipped;
        let uid = group.key.0.clone();
        if self.chance(40) {
            self.count("full disk");
            // Only one that is waited for is worth the run; the older ones are intact.
            if then_stop {
                return self.all_fail(group, "disk_full", false);
            }
        } else {
            let checkpoint = (uid.clone(), step, group.model.clone());
            self.disk.checkpoints.insert(path(&uid, step), checkpoint);
            if !self.has(Bug::CheckpointTooEarly) {
                self.say_checkpoint(group, step);
            }
        }
        if then_stop {
            self.all_stop(group);
            return None;
        }
        group.phase = Phase::Training;
        let length = self.judge.jobs.get(&uid).map(|truth| truth.length);
        if length.is_some_and(|length| group.step.is_multiple_of(length.snapshot)) {
            group.phase = Phase::Mirroring {
                held: 0,
                then_stop: false,
            };
        }
        Some(1)
    }

    pub(crate) fn all_stop(&mut self, group: &Group) {
        for worker in group.workers() {
            self.end(worker, &group.job, Outcome::Ordered, None);
        }
    }

    /// All steps are done: the others end, rank 0 writes the model.
    fn begin_export(&mut self, group: &mut Group) -> Option<u64> {
        group.phase = Phase::Exporting;
        for worker in group.workers() {
            if worker != group.world[0] {
                let outcome = Outcome::Exported(String::new());
                self.end(worker, &group.job, outcome, None);
            }
        }
        Some(self.dice.between(10, 300))
    }

    fn export(&mut self, group: &Group) -> Option<u64> {
        if self.workers[group.world[0]].stalled_until > self.now {
            return Some(50);
        }
        let path = format!("{}/export", group.key.0);
        self.disk.exports.insert(path.clone(), digest(&group.model));
        let outcome = Outcome::Exported(path);
        self.end(group.world[0], &group.job, outcome, None);
        None
    }
}

fn path(uid: &str, step: u64) -> String {
    format!("{uid}/step-{step}")
}
