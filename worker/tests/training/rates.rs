//! How fast each block learns, and what it is pulled to.

use crate::kit::{Layout, Outcome, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::ExchangePlan;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const RATE: f64 = 1e-3;
/// Steps of the runs that are compared bit by bit.
const STEPS: u64 = 6;
/// Rank 0 serves two tasks, rank 1 two, one is shared.
const MIXED: [&[u32]; 3] = [&[0], &[0, 1], &[1]];

/// A job of so many steps; `optimizer` is added to its optimizer.
fn job(dir: &Path, steps: u64, optimizer: &Value) -> JobSpec {
    spec(dir, steps, |job| {
        job["training"]["optimizer"] = json!({
            "learning_rate": RATE, "head_learning_rate": 2e-3, "weight_decay": 0.0
        });
        job["training"]["schedule"] = json!({"kind": "constant", "warmup_steps": 0});
        let all = job["training"]["optimizer"].as_object_mut().unwrap();
        all.extend(optimizer.as_object().unwrap().clone());
    })
}

fn layout(sharding: Sharding) -> Layout {
    let how = ExchangePlan {
        sharding,
        ..ExchangePlan::default()
    };
    Layout::new(2, &MIXED, how)
}

fn run(job: &JobSpec, steps: u64) -> Outcome {
    train(job, &layout(Sharding::Optimizer), steps)
}

fn tensors(bytes: &[u8]) -> BTreeMap<String, Vec<f32>> {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let (words, _) = view.data().as_chunks::<4>();
        let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        (name, values)
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// The largest change of a number among the tensors whose names hold `part`.
fn largest(after: &[u8], before: &[u8], part: &str) -> f64 {
    let (after, before) = (tensors(after), tensors(before));
    let named = after.iter().filter(|(name, _)| name.contains(part));
    let changes = named.flat_map(|(name, values)| values.iter().zip(&before[name]));
    let sizes = changes.map(|(a, b)| f64::from((a - b).abs()));
    sizes.fold(0.0, f64::max)
}

/// The model and the heads before any step.
fn start(dir: &Path) -> Outcome {
    let still = json!({"learning_rate": 0.0, "head_learning_rate": 0.0});
    run(&job(dir, 1, &still), 1)
}

// Promise: AdamW's first step moves a number by its learning rate (its known closed form), so it shows
// each block's: full at the top, times the decay from each block to the one below, the word table with
// the embeddings, and heads at their own.
#[test]
fn each_block_has_its_rate() {
    let folder = tempfile::tempdir().unwrap();
    let before = start(folder.path());
    let after = run(&job(folder.path(), 1, &json!({"block_decay": 0.5})), 1);
    for (part, rate) in [
        ("encoder.layer.1.", RATE),
        ("encoder.layer.0.", RATE * 0.5),
        ("embeddings.position_embeddings", RATE * 0.25),
        ("embeddings.word_embeddings", RATE * 0.25),
    ] {
        let moved = largest(&after.model, &before.model, part);
        assert!((moved / rate - 1.0).abs() < 1e-2, "{part}: {moved}, {rate}");
    }
    let moved = largest(&after.heads, &before.heads, "heads.");
    assert!((moved / 2e-3 - 1.0).abs() < 1e-2, "heads: {moved}");
}

// Promise: with rates by block and a pull to the start, neither sharding nor a resume changes a bit.
#[test]
fn neither_sharding_nor_a_resume_changes_a_bit() {
    same_bits(&json!({"block_decay": 0.8, "l2_sp": 5.0, "weight_decay": 0.1}));
}

// Promise: the same with SGD, whose momentum is all its state: half of what AdamW's moments take.
#[test]
fn sgd_is_the_same_by_any_sharding_and_after_a_resume() {
    let sgd =
        json!({"method": "sgd", "nesterov": true, "learning_rate": 0.02, "weight_decay": 0.1});
    let trained = same_bits(&sgd);
    let folder = tempfile::tempdir().unwrap();
    let adamw = run(&job(folder.path(), STEPS, &json!({})), STEPS);
    let state = |outcome: &Outcome| outcome.held[0].training.optimizer_bytes;
    assert_eq!(2 * state(&trained), state(&adamw));
    assert!(trained.model != adamw.model, "the method changes nothing");
}

/// Trains with an optimizer under every sharding and in halves; panics where a bit differs.
#[track_caller]
fn same_bits(optimizer: &Value) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), STEPS, optimizer);
    let once = run(&job, STEPS);
    for sharding in [Sharding::None, Sharding::Full] {
        let other = train(&job, &layout(sharding), STEPS);
        once.assert_same(&other, &format!("{sharding:?}"));
    }
    for sharding in [Sharding::Optimizer, Sharding::Full] {
        let halves = train_in_halves(&job, &layout(sharding), STEPS);
        let what = format!("{sharding:?}, in halves");
        assert!(once.model == halves.model, "{what}: models differ");
        assert!(once.heads == halves.heads, "{what}: heads differ");
    }
    once
}

// Promise: the pull holds the backbone near its start, replaces its weight decay, leaves heads alone,
// and costs owners half as much memory again as their moments.
#[test]
fn the_backbone_stays_near_its_start() {
    const STEPS: u64 = 12;
    let folder = tempfile::tempdir().unwrap();
    let before = start(folder.path());
    let of = |optimizer: Value| run(&job(folder.path(), STEPS, &optimizer), STEPS);
    let free = of(json!({}));
    let held = of(json!({"l2_sp": 200.0}));
    let distance = |outcome: &Outcome| f64::from(outcome.distance(&before));
    let (free_way, held_way) = (distance(&free), distance(&held));
    assert!(held_way < 0.7 * free_way, "{held_way} of {free_way}");
    // At the start there is nothing to pull, and no decay either: one step is the same.
    let one = |optimizer: Value| run(&job(folder.path(), 1, &optimizer), 1);
    let (plain, pulled) = (one(json!({})), one(json!({"l2_sp": 200.0})));
    plain.assert_same(&pulled, "the first step");
    let decayed = one(json!({"l2_sp": 200.0, "weight_decay": 0.1}));
    assert!(decayed.model == pulled.model, "the backbone decays");
    assert!(decayed.heads != pulled.heads, "the heads do not decay");
    let state = |outcome: &Outcome| outcome.held[0].training.optimizer_bytes;
    let (more, usual) = (state(&held), state(&free));
    assert!(more > usual && 2 * more <= 3 * usual, "{more}, {usual}");
}
