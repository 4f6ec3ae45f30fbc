//! Training steps with domain adaptation against PyTorch: how much a method's loss counts beside that of the
//! labels, and what comes back through a gradient reversal. `tests/golden/adaptation_steps.py` made the numbers.

use espalier_comm::{Listener, PeerAddr, Rendezvous, connect, host_id};
use espalier_spec::plan::{BlockPlacement, ExchangePlan, Profile, Seat, TaskPlacement};
use espalier_spec::{Generation, JobId, JobSpec, Plan, Rank, Shard};
use espalier_worker::data::{Input, RankStep, Sample, SampleRef, ShardBatch};
use espalier_worker::engine::{Sources, StepReport, Trainer};
use espalier_worker::model::Block;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Tensor};

const GOLDEN: &str = include_str!("../../src/adapt/steps.json");

#[derive(Deserialize)]
struct Golden {
    settings: Value,
    labels: Vec<usize>,
    source: Vec<Vec<f32>>,
    target: Vec<Vec<f32>>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    method: String,
    weight: f64,
    params: Value,
    losses: Vec<f64>,
    adaptation: Vec<f64>,
    gradient_norms: Vec<f64>,
}

fn job(golden: &Golden, run: &Run, dir: &Path) -> JobSpec {
    let set = &golden.settings;
    let network = json!({
        "model_type": "espalier-convnet", "num_channels": 1, "image_size": set["side"],
        "hidden_sizes": set["sizes"],
    });
    std::fs::write(dir.join("config.json"), network.to_string()).unwrap();
    let file = |name: &str, rows: Vec<String>| {
        std::fs::write(dir.join(name), rows.join("\n")).unwrap();
        dir.join(name)
    };
    let labelled = golden.source.iter().zip(&golden.labels);
    let labelled =
        labelled.map(|(x, class)| json!({"image": x, "label": format!("class {class}")}));
    let others = golden.target.iter().map(|x| json!({"image": x}));
    let source = file(
        "source.jsonl",
        labelled.map(|row| row.to_string()).collect(),
    );
    let target = file("target.jsonl", others.map(|row| row.to_string()).collect());
    serde_json::from_value(json!({
        "name": "golden",
        "backbone": {"path": dir, "init": "random", "dropout": 0.0},
        "tasks": [{
            "name": "t", "head": "single_label", "data": {"train": source},
            "adaptation": {
                "method": run.method, "target": {"train": target}, "weight": run.weight,
                "warm_up": set["warm_up"], "params": run.params,
            },
        }],
        "training": {
            "steps": run.losses.len(),
            "batch_size": golden.labels.len(),
            "clip_norm": set["clip_norm"],
            "optimizer": {
                "learning_rate": set["learning_rate"],
                "head_learning_rate": set["head_learning_rate"],
                "betas": set["betas"], "eps": set["eps"], "weight_decay": set["weight_decay"],
            },
            "schedule": {"kind": "constant", "warmup_ratio": 0.0},
        },
    }))
    .unwrap()
}

/// One rank that owns every block.
fn plan(profile: &Profile) -> Plan {
    let blocks = profile.blocks.iter().map(|block| BlockPlacement {
        block: block.name.clone(),
        ends: vec![block.trainable],
    });
    Plan {
        job: JobId::from("golden"),
        generation: Generation(1),
        seats: vec![Seat {
            rank: Rank(0),
            worker: "w".into(),
            device: 0,
        }],
        shards: vec![vec![Shard(0)]],
        tasks: vec![TaskPlacement {
            task: "t".to_owned(),
            shards: vec![Shard(0)],
            load: vec![1.0],
        }],
        blocks: blocks.collect(),
        exchange: ExchangePlan::default(),
        reasons: Vec::new(),
    }
}

/// Gives matrices and kernels the golden run's first numbers, which depend on their size alone.
fn fill(block: &mut Block) {
    let params = block.params().iter();
    let shapes: Vec<_> = params.map(|p| (p.name.clone(), p.tensor.size())).collect();
    for (name, shape) in shapes.iter().filter(|(_, shape)| shape.len() >= 2) {
        let count = shape.iter().product::<i64>();
        let value = |index: i64| (0.5 * (1.0 + index as f64 + count as f64).sin()) as f32;
        let values: Vec<f32> = (0..count).map(value).collect();
        let values = Tensor::from_slice(&values).view(&shape[..]);
        block.load(name, &values).unwrap();
    }
}

fn train(golden: &Golden, run: &Run) -> Vec<StepReport> {
    let folder = tempfile::tempdir().unwrap();
    let spec = job(golden, run, folder.path());
    let sources = Sources::load(&spec).unwrap();
    let plan = plan(&sources.profile(&spec).unwrap());
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let peer = PeerAddr {
        rank: 0,
        addr: listener.address(),
        host_id: host_id(),
    };
    let comm = connect(&listener, Rendezvous::new("golden", 1, 0, vec![peer])).unwrap();
    let mut backbone = sources.backbone(&spec, Device::Cpu).unwrap();
    backbone.blocks_mut().iter_mut().for_each(fill);
    let mut trainer = Trainer::new(&spec, &plan, Arc::new(comm), &sources, backbone).unwrap();
    fill(trainer.heads_mut().block_mut());

    let task = &sources.tasks[0];
    let sample = |index: usize, target: bool| {
        let split = match target {
            true => task.target.as_ref().unwrap(),
            false => &task.train,
        };
        let given = match target {
            true => &golden.target[index],
            false => &golden.source[index],
        };
        let input = split.input(index).unwrap();
        assert_eq!(input, Input::Numbers(given.clone().into()));
        Sample {
            at: SampleRef {
                task: 0,
                sample: index as u32,
                epoch: 0,
                target,
            },
            input,
            more: Vec::new(),
            window: None,
        }
    };
    let count = golden.labels.len();
    let all = (0..2 * count).map(|place| sample(place % count, place >= count));
    let mut batch = RankStep {
        step: 0,
        counts: vec![count as u32],
        drawn: count as u64,
        shards: vec![ShardBatch {
            shard: 0,
            micro: vec![all.collect()],
        }],
    };
    let steps = 0..run.losses.len() as u64;
    steps
        .map(|step| {
            batch.step = step;
            trainer.step(&batch, false).unwrap()
        })
        .collect()
}

#[track_caller]
fn close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(
            off < tolerance,
            "{what}, step {step}: {found}, not {expected}"
        );
    }
}

// Promise: a method's loss is weighed against the mean loss of the labels as PyTorch does with
// `loss + weight * method`, its reversal and warm-up included, and all gradients are clipped as one.
#[test]
fn steps_follow_pytorch() {
    let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
    for run in &golden.runs {
        let reports = train(&golden, run);
        let mean = |sum: f64, count: u64| sum / count as f64;
        let losses = reports
            .iter()
            .map(|r| mean(r.losses[0].sum, r.losses[0].count));
        let losses: Vec<f64> = losses.collect();
        let own = reports
            .iter()
            .map(|r| mean(r.adaptation[0].sum, r.adaptation[0].count));
        let own: Vec<f64> = own.collect();
        let norms: Vec<f64> = reports.iter().map(|r| r.gradient_norm).collect();
        close(
            &losses,
            &run.losses,
            2e-5,
            &format!("{}: losses", run.method),
        );
        close(
            &own,
            &run.adaptation,
            2e-5,
            &format!("{}: its own", run.method),
        );
        close(
            &norms,
            &run.gradient_norms,
            5e-5,
            &format!("{}: norms", run.method),
        );
    }
}
