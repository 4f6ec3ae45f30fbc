//! A worker's process as a thing: what it hosts, what it holds, what it has to say.

use crate::world::Key;
use espalier_core::{Outcome, PeerAddress, RunningJob};
use espalier_spec::plan::{BlockProfile, Profile, TaskProfile};
use espalier_spec::recovery::{HeldSnapshot, Milestone, Restore};
use espalier_spec::report::{Checkpoint, Failure, Progress};
use espalier_spec::{Generation, JobId, Rank, Step};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A job's snapshots in a worker's memory: by rank and step.
pub(crate) type Held = BTreeMap<(u32, u64), u64>;

/// Jobs whose snapshots a worker keeps at most.
const HELD_JOBS: usize = 8;

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) devices: u32,
    pub(crate) up: bool,
    /// Counts its processes.
    pub(crate) number: u64,
    pub(crate) stalled_until: u64,
    pub(crate) stream: Option<u64>,
    pub(crate) welcomed: bool,
    /// Reports that have not been sent.
    pub(crate) kept: VecDeque<Said>,
    pub(crate) jobs: BTreeMap<String, Hosted>,
    pub(crate) held: BTreeMap<String, Held>,
    /// The coordinator that is tried next.
    pub(crate) next: usize,
    pub(crate) leaving: bool,
    /// It has said good-bye.
    pub(crate) farewell: bool,
}

/// One generation of one job on one worker.
#[derive(Debug)]
pub(crate) struct Hosted {
    pub(crate) uid: String,
    pub(crate) generation: u64,
    pub(crate) seed: u64,
    /// The worker of each rank.
    pub(crate) world: Vec<usize>,
    /// Its own ranks.
    pub(crate) ranks: Vec<u32>,
    pub(crate) devices: BTreeSet<u32>,
    pub(crate) stage: Stage,
    pub(crate) told: Told,
    pub(crate) goal: Option<Goal>,
    pub(crate) step: u64,
    pub(crate) spare: bool,
    /// Heartbeats that named it although a newer generation trains.
    pub(crate) stale_beats: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Loading,
    Ready,
    Running,
}

/// What ranks have been told; never weakened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Told {
    GoOn,
    Handover,
    Checkpoint,
    Abort,
}

/// Where ranks were told to go on from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Goal {
    pub(crate) resume: Option<Checkpoint>,
    pub(crate) restore: Option<Restore>,
}

/// A report, and what is true of it besides.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) job: String,
    pub(crate) uid: String,
    pub(crate) generation: u64,
    /// The generation that it names; the same unless somebody lies.
    pub(crate) label: u64,
    /// The worker that it says to be lost.
    pub(crate) blames: Option<usize>,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Prepared {
        addresses: Vec<PeerAddress>,
        profile: Profile,
        snapshots: Vec<HeldSnapshot>,
    },
    Reached(Milestone, Step),
    Progress(Box<Progress>),
    Checkpointed(Checkpoint),
    Stopped(Outcome),
}

impl Said {
    pub(crate) fn of(job: &str, uid: &str, generation: u64, what: What) -> Self {
        Self {
            job: job.to_owned(),
            uid: uid.to_owned(),
            generation,
            label: generation,
            blames: None,
            what,
        }
    }

    /// What an agent says when it is told to stop what it does not run.
    pub(crate) fn stopped_as_ordered(job: &str, generation: u64) -> Self {
        Self::of(job, "", generation, What::Stopped(Outcome::Ordered))
    }
}

impl Worker {
    pub(crate) fn new(index: usize, devices: u32) -> Self {
        Self {
            name: format!("w{index}"),
            devices,
            up: false,
            number: 0,
            stalled_until: 0,
            stream: None,
            welcomed: false,
            kept: VecDeque::new(),
            jobs: BTreeMap::new(),
            held: BTreeMap::new(),
            next: index,
            leaving: false,
            farewell: false,
        }
    }

    /// What its process calls itself.
    pub(crate) fn instance(&self) -> String {
        format!("{}#{}", self.name, self.number)
    }

    pub(crate) fn running(&self) -> Vec<RunningJob> {
        let running = |(job, hosted): (&String, &Hosted)| RunningJob {
            job: JobId(job.clone()),
            uid: hosted.uid.clone(),
            generation: Generation(hosted.generation),
            step: Step(hosted.step),
            ranks: hosted.ranks.iter().map(|rank| Rank(*rank)).collect(),
        };
        self.jobs.iter().map(running).collect()
    }

    /// What it hosts of a generation.
    pub(crate) fn hosts(&self, job: &str, key: &Key) -> Option<&Hosted> {
        let hosted = self.jobs.get(job)?;
        (hosted.uid == key.0 && hosted.generation == key.1).then_some(hosted)
    }

    /// Keeps a part of a snapshot, of each rank the two newest.
    pub(crate) fn hold(&mut self, uid: &str, rank: u32, step: u64, part: u64) {
        if self.held.len() >= HELD_JOBS && !self.held.contains_key(uid) {
            self.held.pop_first();
        }
        let held = self.held.entry(uid.to_owned()).or_default();
        held.insert((rank, step), part);
        let of_rank = held.range((rank, 0)..=(rank, u64::MAX));
        let steps: Vec<u64> = of_rank.map(|((_, step), _)| *step).collect();
        for old in steps.iter().rev().skip(2) {
            held.remove(&(rank, *old));
        }
    }
}

/// What every job is made of.
pub(crate) fn profile() -> Profile {
    let block = |name: &str, trainable| BlockProfile {
        name: name.to_owned(),
        trainable,
        total: trainable,
    };
    let task = TaskProfile {
        name: "topic".to_owned(),
        train_samples: 100,
        share: 1.0,
        sample_cost: 20.0,
    };
    Profile {
        blocks: vec![block("layer.0", 5_000), block("head.topic", 40)],
        tasks: vec![task],
        fetched: String::new(),
    }
}

pub(crate) fn failure(code: &str, retryable: bool, lost: Option<u32>) -> Outcome {
    Outcome::Failure(Failure {
        code: code.to_owned(),
        message: format!("simulated: {code}"),
        retryable,
        lost: lost.map(Rank),
    })
}
