//! Ranks as threads of the test's process, on a small random BERT with three tasks.

mod device;

pub use device::computes_on_host;

use espalier_comm::{Communicator, Listener, PeerAddr, Rendezvous, connect, host_id};
use espalier_spec::plan::{BlockPlacement, ExchangePlan, Profile, Seat, TaskPlacement};
use espalier_spec::report::{Evaluation, MemoryStats};
use espalier_spec::{Generation, JobId, JobSpec, Plan, Rank, Shard, Step};
use espalier_tests::{Toy, job};
use espalier_worker::checkpoint::{Images, RunState, Store};
use espalier_worker::data::{Loader, LoaderOptions, Placement, RankStep};
use espalier_worker::engine::{Part, Sources, StepReport, Trainer, Which};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, Mutex};

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

/// What happens besides training.
#[derive(Clone, Debug, PartialEq)]
enum Besides {
    Nothing,
    /// Half-way everything is saved and new trainers take it up, and then the best model, which is the same.
    Checkpoint,
    /// Half-way all ranks take their parts, and new trainers take them up.
    Parts,
    /// What frozen blocks make of samples goes to files, however little it is.
    Spill,
    /// At the end everything is saved to `checkpoints` in the outcome's folder, the model as the best one too.
    Save,
    /// At the start the newest checkpoint here is taken up.
    Resume(PathBuf),
}

/// Trains `steps` steps of a job.
pub fn train(spec: &JobSpec, layout: &Layout, steps: u64) -> Outcome {
    run(spec, layout, steps, &Besides::Nothing)
}

/// The same, but half-way new trainers take up the parts that all ranks took.
pub fn train_by_parts(spec: &JobSpec, layout: &Layout, steps: u64) -> Outcome {
    run(spec, layout, steps, &Besides::Parts)
}

/// The same, but what frozen blocks make of samples goes to files.
pub fn train_from_files(spec: &JobSpec, layout: &Layout, steps: u64) -> Outcome {
    run(spec, layout, steps, &Besides::Spill)
}

/// The same, and saves everything to `checkpoints` in the outcome's folder.
pub fn train_and_save(spec: &JobSpec, layout: &Layout, steps: u64) -> Outcome {
    run(spec, layout, steps, &Besides::Save)
}

/// Goes on from the newest checkpoint in a directory until `steps` steps are done.
pub fn resume(spec: &JobSpec, layout: &Layout, checkpoints: &Path, steps: u64) -> Outcome {
    run(
        spec,
        layout,
        steps,
        &Besides::Resume(checkpoints.to_owned()),
    )
}

/// The same, but half-way everything is saved and new trainers take it up, and then the best model,
/// which is the same.
pub fn train_in_halves(spec: &JobSpec, layout: &Layout, steps: u64) -> Outcome {
    run(spec, layout, steps, &Besides::Checkpoint)
}

fn run(spec: &JobSpec, layout: &Layout, steps: u64, besides: &Besides) -> Outcome {
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
        besides,
        parts: Mutex::default(),
        all: Barrier::new(ranks),
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

/// Flips the last bit of a file.
pub fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// A part without what its owner needs.
fn alone(shared: &[u8]) -> Images {
    Images::within(&Arc::new(shared.to_vec()), 0, [shared.len(), 0])
}

/// What all ranks of a run share.
struct Ranks<'a> {
    spec: &'a JobSpec,
    plan: &'a Plan,
    sources: &'a Sources,
    dir: &'a Path,
    steps: u64,
    besides: &'a Besides,
    /// What ranks have taken.
    parts: Mutex<Vec<Part>>,
    all: Barrier,
}

impl Ranks<'_> {
    fn trainer(&self, comm: Arc<dyn Communicator>) -> Trainer {
        let backbone = self.sources.backbone(self.spec, device::place()).unwrap();
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
        if *self.besides == Besides::Spill {
            // Of the second half nothing is left to do.
            trainer.cache_features_within(0, draws, self.dir).unwrap();
            assert!(holds_features(self.dir), "nothing went to files");
        } else {
            trainer.cache_features(draws, self.dir).unwrap();
        }
        for batch in self.loader(trainer, rank, steps) {
            let batch = batch.unwrap();
            seen.held.rows = seen.held.rows.max(rows(&batch));
            seen.reports.push(trainer.step(&batch, false).unwrap());
        }
    }

    fn store(&self, step: u64) -> (Store, RunState) {
        let state = RunState {
            step: Step(step),
            samples: 24 * step,
            tokens: u64::MAX,
            best: Some((0.1 + 0.2, Step(1))),
            evaluations_without_gain: 2,
            ..RunState::default()
        };
        (Store::new(self.dir.join("checkpoints")), state)
    }

    fn by_checkpoint(
        &self,
        mut trainer: Trainer,
        comm: &Arc<dyn Communicator>,
        middle: u64,
    ) -> Trainer {
        let (store, mut state) = self.store(middle);
        trainer.save_run(&store, &mut state).unwrap();
        drop(trainer);
        let resumed = |known: u64| {
            let mut trainer = self.trainer(Arc::clone(comm));
            let back = trainer.resume_run(&store, self.dir, Step(known)).unwrap();
            assert_eq!(back, state);
            trainer
        };
        // Also where all that is known of is an older one, whose place this one took.
        drop(resumed(middle - 1));
        trainer = resumed(middle);
        trainer.save_best(&store, &state).unwrap();
        assert!(trainer.load_best(&store, Step(middle)).unwrap());
        // A damaged one is taken up by nobody.
        self.all.wait();
        if comm.rank() == 0 {
            let heads = store.path("best", Step(middle)).join("heads.safetensors");
            flip(&heads);
        }
        self.all.wait();
        assert!(!trainer.load_best(&store, Step(middle)).unwrap());
        trainer
    }

    fn by_parts(&self, mut trainer: Trainer, comm: &Arc<dyn Communicator>, middle: u64) -> Trainer {
        let (_, mut state) = self.store(middle);
        // It may change what no step changes.
        trainer.evaluate(Which::Validation, Step(middle)).unwrap();
        let calibrations = self.calibrations(&mut trainer);
        let part = trainer.take_part(&mut state).unwrap();
        assert_eq!(
            (part.rank.0 as usize, part.step),
            (comm.rank(), Step(middle))
        );
        self.parts.lock().unwrap().push(part);
        self.all.wait();
        drop(trainer);
        let mut parts = self.parts.lock().unwrap().clone();
        parts.sort_by_key(|part| part.rank);
        // Others' moments are of no use here.
        trainer = self.trainer(Arc::clone(comm));
        for part in &mut parts {
            if !trainer.needs_own(part.rank) {
                part.images = alone(part.images.shared());
            }
        }
        let error = trainer.load_parts(&parts[1..]).unwrap_err().to_string();
        assert!(error.contains("part"), "{error}");
        let mut cut = parts.clone();
        cut[0].images = alone(&cut[0].images.shared()[..100]);
        let error = trainer.load_parts(&cut).unwrap_err().to_string();
        assert!(error.contains("the part of rank 0"), "{error}");
        trainer = self.trainer(Arc::clone(comm));
        let back = trainer.load_parts(&parts).unwrap();
        assert_eq!(back, state);
        assert_eq!(self.calibrations(&mut trainer), calibrations);
        trainer
    }

    fn calibrations(&self, trainer: &mut Trainer) -> Vec<f64> {
        let heads = trainer.heads_mut();
        let tasks = 0..self.spec.tasks.len();
        tasks.map(|task| heads.calibration(task).unwrap()).collect()
    }

    fn rank(&self, rank: usize, listener: &Listener, peers: Vec<PeerAddr>) -> Seen {
        let rendezvous = Rendezvous::new("exchange", 1, rank, peers);
        let comm: Arc<dyn Communicator> = Arc::new(connect(listener, rendezvous).unwrap());
        let mut trainer = self.trainer(comm.clone());
        let mut seen = Seen::default();
        let in_halves = matches!(self.besides, Besides::Checkpoint | Besides::Parts);
        let mut middle = if in_halves { self.steps / 2 } else { 0 };
        self.steps(&mut trainer, rank, 0..middle, &mut seen);
        match self.besides {
            Besides::Checkpoint => trainer = self.by_checkpoint(trainer, &comm, middle),
            Besides::Parts => trainer = self.by_parts(trainer, &comm, middle),
            Besides::Resume(dir) => {
                let store = Store::new(dir);
                let last = Step(u64::MAX);
                let state = trainer.resume_run(&store, dir, last).unwrap();
                middle = state.step.0;
            }
            Besides::Nothing | Besides::Spill | Besides::Save => {}
        }
        self.steps(&mut trainer, rank, middle..self.steps, &mut seen);
        if *self.besides == Besides::Save {
            let (store, mut state) = self.store(self.steps);
            trainer.save_run(&store, &mut state).unwrap();
            trainer.save_best(&store, &state).unwrap();
        }
        trainer.settle().unwrap();
        seen.sent = comm.traffic().total().sent;
        seen.held.training = trainer.memory();
        let step = Step(self.steps);
        trainer.follow_target().unwrap();
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

/// Whether this process holds files of features that had a name in `dir`.
fn holds_features(dir: &Path) -> bool {
    let dir = dir.canonicalize().unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut files = open.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
    files.any(|file| file.starts_with(&dir) && file.to_string_lossy().contains(".features-"))
}
