//! The training step against PyTorch: 20 AdamW steps on one batch, whose losses and gradient norms
//! `tests/parity/make_golden.py` computed and committed.
#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, clippy::print_stdout)]

use espalier_comm::{Communicator, Listener, PeerAddr, Rendezvous, connect, host_id};
use espalier_spec::plan::{BlockPlacement, ExchangePlan, Profile, Seat, TaskPlacement};
use espalier_spec::{Generation, JobId, JobSpec, Plan, Rank, Shard};
use espalier_worker::data::{Input, RankStep, Sample, SampleRef, ShardBatch};
use espalier_worker::engine::{Sources, StepReport, Trainer};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Device, Tensor};

const GOLDEN: &str = include_str!("../../tests/parity/golden_steps.json");

#[derive(Deserialize)]
struct Golden {
    settings: Settings,
    texts: Vec<String>,
    labels: Vec<usize>,
    token_ids: Vec<Vec<u32>>,
    runs: BTreeMap<String, Run>,
}

#[derive(Deserialize)]
struct Settings {
    learning_rate: f64,
    head_learning_rate: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    clip_norm: f64,
    classes: usize,
}

#[derive(Deserialize)]
struct Run {
    losses: Vec<f64>,
    gradient_norms: Vec<f64>,
}

/// The model directory; none where it was not set up.
fn minilm() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = std::env::var_os("ESPALIER_MINILM").map_or_else(
        || here.join("../.espalier/models/all-MiniLM-L6-v2"),
        PathBuf::from,
    );
    if dir.join("model.safetensors").is_file() {
        return Some(dir);
    }
    eprintln!(
        "skipped: no model in {}; `make setup` fetches it",
        dir.display()
    );
    None
}

fn job(golden: &Golden, model: &Path, data: &Path, pooling: &str) -> JobSpec {
    let set = &golden.settings;
    serde_json::from_value(json!({
        "name": "golden",
        "backbone": {"path": model, "pooling": pooling, "dropout": 0.0},
        "tasks": [{"name": "t", "head": "single_label", "data": {"train": data}}],
        "training": {
            "steps": golden.runs[pooling].losses.len(),
            "batch_size": golden.texts.len(),
            "clip_norm": set.clip_norm,
            "optimizer": {
                "learning_rate": set.learning_rate, "head_learning_rate": set.head_learning_rate,
                "betas": set.betas, "eps": set.eps, "weight_decay": set.weight_decay,
            },
            "schedule": {"kind": "constant", "warmup_ratio": 0.0},
        },
    }))
    .unwrap()
}

/// One shard per rank; every block cut evenly, the last rank takes the rest.
fn plan(profile: &Profile, ranks: u32) -> Plan {
    let seat = |rank| Seat {
        rank: Rank(rank),
        worker: "w".into(),
        device: rank,
    };
    let cut = |total: u64| {
        let end = |rank| total * u64::from(rank) / u64::from(ranks);
        (1..=ranks).map(end).collect()
    };
    Plan {
        job: JobId::from("golden"),
        generation: Generation(1),
        seats: (0..ranks).map(seat).collect(),
        shards: (0..ranks).map(|rank| vec![Shard(rank)]).collect(),
        tasks: vec![TaskPlacement {
            task: "t".to_owned(),
            shards: (0..ranks).map(Shard).collect(),
            load: vec![1.0 / f64::from(ranks); ranks as usize],
        }],
        blocks: profile
            .blocks
            .iter()
            .map(|block| BlockPlacement {
                block: block.name.clone(),
                ends: cut(block.trainable),
            })
            .collect(),
        exchange: ExchangePlan::default(),
        reasons: Vec::new(),
    }
}

/// The head's first weights, as in `make_golden.py`.
fn head(classes: usize, width: usize) -> Tensor {
    let value = |index: usize| (0.02 * (1.0 + index as f64).sin()) as f32;
    let values: Vec<f32> = (0..classes * width).map(value).collect();
    Tensor::from_slice(&values).view([classes as i64, width as i64])
}

/// Trains the golden run on some ranks, as threads of this process, each with the samples that
/// `share` names; what every rank reports.
fn train(golden: &Golden, model: &Path, pooling: &str, share: &[Vec<usize>]) -> Vec<StepReport> {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("train.jsonl");
    let row = |(text, label)| json!({"text": text, "label": format!("class {label}")}).to_string();
    let rows: Vec<String> = golden.texts.iter().zip(&golden.labels).map(row).collect();
    std::fs::write(&data, rows.join("\n")).unwrap();
    let spec = job(golden, model, &data, pooling);
    let sources = Sources::load(&spec).unwrap();
    for (index, ids) in golden.token_ids.iter().enumerate() {
        let input = sources.tasks[0].train.input(index).unwrap();
        assert_eq!(input, Input::Tokens(ids.clone().into()), "text {index}");
    }
    let profile = sources.profile(&spec).unwrap();
    let plan = plan(&profile, share.len() as u32);

    let listeners: Vec<Listener> = share
        .iter()
        .map(|_| Listener::bind(([127, 0, 0, 1], 0).into()).unwrap())
        .collect();
    let peer = |(rank, listener): (usize, &Listener)| PeerAddr {
        rank,
        addr: listener.address(),
        host_id: host_id(),
    };
    let peers: Vec<PeerAddr> = listeners.iter().enumerate().map(peer).collect();
    let reports: Vec<Vec<StepReport>> = std::thread::scope(|scope| {
        let rank = |(rank, listener)| {
            let (peers, spec, plan, sources) = (peers.clone(), &spec, &plan, &sources);
            scope.spawn(move || {
                let comm = connect(listener, Rendezvous::new("golden", 1, rank, peers)).unwrap();
                steps(golden, spec, plan, sources, Arc::new(comm), &share[rank])
            })
        };
        let ranks: Vec<_> = listeners.iter().enumerate().map(rank).collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    });
    for other in &reports[1..] {
        assert_eq!(&reports[0], other, "ranks disagree on what the steps were");
    }
    reports.into_iter().next().unwrap()
}

fn steps(
    golden: &Golden,
    spec: &JobSpec,
    plan: &Plan,
    sources: &Sources,
    comm: Arc<dyn Communicator>,
    share: &[usize],
) -> Vec<StepReport> {
    let rank = comm.rank();
    let backbone = sources.backbone(spec, Device::Cpu).unwrap();
    let width = backbone.width();
    let mut trainer = Trainer::new(spec, plan, comm, sources, backbone).unwrap();
    let heads = trainer.heads_mut().block_mut();
    let weight = head(golden.settings.classes, width);
    heads.load("heads.t.weight", &weight).unwrap();
    let sample = |&index: &usize| Sample {
        at: SampleRef {
            task: 0,
            sample: index as u32,
            epoch: 0,
            target: false,
        },
        input: sources.tasks[0].train.input(index).unwrap(),
        more: Vec::new(),
        window: None,
    };
    let micro: Vec<Sample> = share.iter().map(sample).collect();
    let mut batch = RankStep {
        step: 0,
        counts: vec![golden.texts.len() as u32],
        drawn: golden.texts.len() as u64,
        shards: vec![ShardBatch {
            shard: rank,
            micro: vec![micro],
        }],
    };
    let total = golden.runs.values().next().unwrap().losses.len() as u64;
    (0..total)
        .map(|step| {
            batch.step = step;
            trainer.step(&batch, false).unwrap()
        })
        .collect()
}

fn losses(reports: &[StepReport]) -> Vec<f64> {
    let mean = |report: &StepReport| report.losses[0].sum / report.losses[0].count as f64;
    reports.iter().map(mean).collect()
}

fn worst(one: &[f64], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    let pairs = one.iter().zip(other);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// One rank and two ranks of unequal shares, against PyTorch and against each other.
fn check(pooling: &str) {
    let Some(model) = minilm() else {
        return;
    };
    let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
    let count = golden.texts.len();
    let one = train(&golden, &model, pooling, &[(0..count).collect()]);
    let two = train(
        &golden,
        &model,
        pooling,
        &[(0..5).collect(), (5..count).collect()],
    );
    let run = &golden.runs[pooling];
    let norms: Vec<f64> = one.iter().map(|report| report.gradient_norm).collect();
    let torch = worst(&losses(&one), &run.losses);
    let norm = worst(&norms, &run.gradient_norms);
    let ranks = worst(&losses(&one), &losses(&two));
    println!(
        "golden {pooling}: losses {torch:.2e}, gradient norms {norm:.2e}, two ranks {ranks:.2e}"
    );
    assert!(torch <= 1e-4, "losses are {torch:.2e} from PyTorch's");
    assert!(norm <= 1e-3, "gradient norms are {norm:.2e} from PyTorch's");
    assert!(ranks <= 1e-5, "two ranks are {ranks:.2e} from one");
}

// Promise: 20 steps of the engine give PyTorch's losses to 1e-4, on one rank and on two.
#[test]
fn mean_pooling_follows_pytorch() {
    check("mean");
}

// Promise: the same for BERT's own pooler, which is a trained block.
#[test]
fn pooler_follows_pytorch() {
    check("pooler");
}
