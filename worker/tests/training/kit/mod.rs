//! Ranks as threads of the test's process, on a small random BERT with three tasks.

use espalier_comm::{Communicator, Listener, PeerAddr, Rendezvous, connect, host_id};
use espalier_spec::plan::{BlockPlacement, ExchangePlan, Profile, Seat, TaskPlacement};
use espalier_spec::report::{Evaluation, MemoryStats};
use espalier_spec::{Generation, JobId, JobSpec, Plan, Rank, Shard, Step};
use espalier_tests::{Toy, job};
use espalier_worker::checkpoint::{RunState, Store};
use espalier_worker::data::{Loader, LoaderOptions, Placement, RankStep};
use espalier_worker::engine::{Sources, StepReport, Trainer, Which};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tch::Device;

/// What a run gave: reports of rank 0 and the files of its export.
#[derive(Debug)]
pub struct Outcome {
    pub reports: Vec<StepReport>,
    pub evaluation: Option<Evaluation>,
    pub model: Vec<u8>,
    pub heads: Vec<u8>,
    /// Low-rank updates, adapters or virtual tokens by themselves; empty if there are none.
    pub adapter: Vec<u8>,
    /// Bytes that rank 0 sent in all.
    pub sent: u64,
    /// What each rank had in memory.
    pub held: Vec<Held>,
    /// Holds the directory `export`.
    pub folder: tempfile::TempDir,
}

/// What a rank had in memory.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// In the steps.
    pub training: MemoryStats,
    /// In the evaluation after them.
    pub evaluating: MemoryStats,
    /// Most distinct token ids of a step.
    pub rows: usize,
}

/// What one rank saw.
#[derive(Default)]
struct Seen {
    reports: Vec<StepReport>,
    evaluation: Option<Evaluation>,
    sent: u64,
    held: Held,
}

impl Outcome {
    /// Panics unless both ended with the same bits.
    #[track_caller]
    pub fn assert_same(&self, other: &Self, what: &str) {
        let losses = |outcome: &Self| -> Vec<u64> {
            let reports = outcome.reports.iter();
            reports
                .flat_map(|r| r.losses.iter().map(|l| l.sum.to_bits()))
                .collect()
        };
        assert_eq!(losses(self), losses(other), "{what}: losses differ");
        assert_eq!(
            self.evaluation, other.evaluation,
            "{what}: evaluations differ"
        );
        assert!(self.model == other.model, "{what}: models differ");
        assert!(self.heads == other.heads, "{what}: heads differ");
    }

    /// All numbers of the backbone, in order of names.
    pub fn numbers(&self) -> Vec<f32> {
        let tensors = safetensors::SafeTensors::deserialize(&self.model).unwrap();
        let mut views: Vec<_> = tensors.iter().collect();
        views.sort_by_key(|(name, _)| name.to_owned());
        let bytes = views.iter().flat_map(|(_, view)| view.data().to_vec());
        let bytes: Vec<u8> = bytes.collect();
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }

    /// Largest difference between two models' numbers.
    pub fn distance(&self, other: &Self) -> f32 {
        let (one, two) = (self.numbers(), other.numbers());
        assert_eq!(one.len(), two.len());
        one.iter()
            .zip(&two)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    }
}

/// How a run is laid out.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Shards of each rank.
    pub shards: Vec<Vec<u32>>,
    /// Shards of each task.
    pub tasks: Vec<Vec<u32>>,
    /// How gradients travel.
    pub how: ExchangePlan,
    /// Ranks reach each other over TCP.
    pub tcp: bool,
}

impl Layout {
    /// One shard per rank; every task on every shard unless `tasks` says otherwise.
    pub fn new(ranks: u32, tasks: &[&[u32]], how: ExchangePlan) -> Self {
        Self {
            shards: (0..ranks).map(|rank| vec![rank]).collect(),
            tasks: tasks.iter().map(|list| list.to_vec()).collect(),
            how,
            tcp: false,
        }
    }
}

/// A job on the toy in `dir`, changed by `change`.
pub fn spec(dir: &Path, steps: u64, change: impl FnOnce(&mut Value)) -> JobSpec {
    let toy = Toy::write(dir).unwrap();
    let mut value = job("exchange", &toy, steps);
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

/// The plan of a layout, with all ranks on one worker.
pub fn plan(profile: &Profile, layout: &Layout) -> Plan {
    let ranks = layout.shards.len() as u32;
    let list = |numbers: &Vec<u32>| numbers.iter().copied().map(Shard).collect::<Vec<_>>();
    // Slices are cut between chunks of the Gram matrix where a block has several.
    let cut = |total: u64| -> Vec<u64> {
        let end = |rank: u32| match rank == ranks {
            true => total,
            false => total * u64::from(rank) / u64::from(ranks) / 16 * 16,
        };
        (1..=ranks).map(end).collect()
    };
    let seat = |rank| Seat {
        rank: Rank(rank),
        worker: "w".into(),
        device: rank,
    };
    let names = profile.tasks.iter().map(|task| task.name.clone());
    Plan {
        job: JobId::from("exchange"),
        generation: Generation(1),
        seats: (0..ranks).map(seat).collect(),
        shards: layout.shards.iter().map(list).collect(),
        tasks: names
            .zip(&layout.tasks)
            .map(|(task, shards)| TaskPlacement {
                task,
                shards: list(shards),
                load: vec![1.0; shards.len()],
            })
            .collect(),
        blocks: profile
            .blocks
            .iter()
            .map(|block| BlockPlacement {
                block: block.name.clone(),
                ends: if block.trainable > 0 {
                    cut(block.trainable)
                } else {
                    Vec::new()
                },
            })
            .collect(),
        exchange: layout.how,
        reasons: Vec::new(),
    }
}

/// Trains `steps` steps of a job.
pub fn train(spec: &JobSpec, layout: &Layout, steps: u64) -> Outcome {
    run(spec, layout, steps, false)
}

/// The same, but half-way everything is saved and new trainers take it up, and then the best model,
/// which is the same.
pub fn train_in_halves(spec: &JobSpec, layout: &Layout, steps: u64) -> Outcome {
    run(spec, layout, steps, true)
}

fn run(spec: &JobSpec, layout: &Layout, steps: u64, halves: bool) -> Outcome {
    tch::set_num_threads(1);
    let sources = Sources::load(spec).unwrap();
    let plan = plan(&sources.profile(spec).unwrap(), layout);
    let any = ([127, 0, 0, 1], 0).into();
    let ranks = layout.shards.len();
    let listeners: Vec<_> = (0..ranks).map(|_| Listener::bind(any).unwrap()).collect();
    let peer = |(rank, listener): (usize, &Listener)| PeerAddr {
        rank,
        addr: listener.address(),
        host_id: if layout.tcp {
            format!("host {rank}")
        } else {
            host_id()
        },
    };
    let peers: Vec<PeerAddr> = listeners.iter().enumerate().map(peer).collect();
    let folder = tempfile::tempdir().unwrap();
    let job = Ranks {
        spec,
        plan: &plan,
        sources: &sources,
        dir: folder.path(),
        steps,
        halves,
    };
    let results: Vec<Seen> = std::thread::scope(|scope| {
        let start = |(rank, listener)| {
            let (peers, job) = (peers.clone(), &job);
            scope.spawn(move || job.rank(rank, listener, peers))
        };
        let ranks: Vec<_> = listeners.iter().enumerate().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    // As text: a loss may be no number, and that is then the same.
    let said = |reports: &[StepReport]| -> Vec<String> {
        let timeless = reports.iter().map(|report| StepReport {
            times: Default::default(),
            ..report.clone()
        });
        timeless.map(|report| format!("{report:?}")).collect()
    };
    for other in &results[1..] {
        let same = said(&results[0].reports) == said(&other.reports);
        assert!(same, "ranks disagree on what the steps were");
        assert_eq!(
            results[0].evaluation, other.evaluation,
            "ranks disagree on the evaluation"
        );
    }
    let held = results.iter().map(|seen| seen.held.clone()).collect();
    let first = results.into_iter().next().unwrap();
    let export = folder.path().join("export");
    Outcome {
        reports: first.reports,
        evaluation: first.evaluation,
        sent: first.sent,
        held,
        model: std::fs::read(export.join("model.safetensors")).unwrap(),
        heads: std::fs::read(export.join("heads.safetensors")).unwrap(),
        adapter: std::fs::read(export.join("adapter/adapter_model.safetensors"))
            .or_else(|_| std::fs::read(export.join("adapters.safetensors")))
            .or_else(|_| std::fs::read(export.join("prompt/adapter_model.safetensors")))
            .or_else(|_| std::fs::read(export.join("prefix/adapter_model.safetensors")))
            .unwrap_or_default(),
        folder,
    }
}

/// What all ranks of a run share.
struct Ranks<'a> {
    spec: &'a JobSpec,
    plan: &'a Plan,
    sources: &'a Sources,
    dir: &'a Path,
    steps: u64,
    halves: bool,
}

impl Ranks<'_> {
    fn trainer(&self, comm: Arc<dyn Communicator>) -> Trainer {
        let backbone = self.sources.backbone(self.spec, Device::Cpu).unwrap();
        Trainer::new(self.spec, self.plan, comm, self.sources, backbone).unwrap()
    }

    fn loader(&self, trainer: &Trainer, rank: usize, steps: Range<u64>) -> Loader {
        let placed = self.plan.tasks.iter().map(|task| task.shards.as_slice());
        let count = self.plan.shards.iter().map(Vec::len).sum();
        let own = self.plan.shards[rank]
            .iter()
            .map(|s| s.0 as usize)
            .collect();
        let placement = Placement::new(count, placed).unwrap();
        let mut options = LoaderOptions::new(steps, own, placement);
        options.accumulation = self.spec.training.accumulation;
        let (tasks, order) = (trainer.tasks().clone(), trainer.order().clone());
        Loader::start(tasks, order, options).unwrap()
    }

    fn steps(&self, trainer: &mut Trainer, rank: usize, steps: Range<u64>, seen: &mut Seen) {
        let draws = self.steps * u64::from(self.spec.training.batch_size);
        trainer.cache_features(draws, self.dir).unwrap();
        for batch in self.loader(trainer, rank, steps) {
            let batch = batch.unwrap();
            seen.held.rows = seen.held.rows.max(rows(&batch));
            seen.reports.push(trainer.step(&batch, false).unwrap());
        }
    }

    fn rank(&self, rank: usize, listener: &Listener, peers: Vec<PeerAddr>) -> Seen {
        let rendezvous = Rendezvous::new("exchange", 1, rank, peers);
        let comm: Arc<dyn Communicator> = Arc::new(connect(listener, rendezvous).unwrap());
        let mut trainer = self.trainer(comm.clone());
        let mut seen = Seen::default();
        let middle = if self.halves { self.steps / 2 } else { 0 };
        self.steps(&mut trainer, rank, 0..middle, &mut seen);
        if self.halves {
            let store = Store::new(self.dir.join("checkpoints"));
            let mut state = RunState {
                step: Step(middle),
                ..RunState::default()
            };
            trainer.save_run(&store, &mut state).unwrap();
            drop(trainer);
            trainer = self.trainer(comm.clone());
            let back = trainer.resume_run(&store, self.dir, Step(middle)).unwrap();
            assert_eq!(back, state);
            trainer.save_best(&store, &state).unwrap();
            let best = trainer.load_best(&store, self.dir, Step(middle));
            best.unwrap();
        }
        self.steps(&mut trainer, rank, middle..self.steps, &mut seen);
        trainer.settle().unwrap();
        seen.sent = comm.traffic().total().sent;
        seen.held.training = trainer.memory();
        let step = Step(self.steps);
        seen.evaluation = trainer.evaluate(Which::Test, step).unwrap();
        seen.held.evaluating = trainer.memory();
        trainer.export(&self.dir.join("export"), step).unwrap();
        seen
    }
}

/// Distinct token ids of a rank's part of a step.
fn rows(batch: &RankStep) -> usize {
    let samples = batch.shards.iter().flat_map(|shard| &shard.micro).flatten();
    let ids = samples.filter_map(|sample| Some(sample.input.ids()?.iter().copied()));
    ids.flatten().collect::<BTreeSet<u32>>().len()
}
