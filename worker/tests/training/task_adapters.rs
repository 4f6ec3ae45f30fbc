//! Adapters of tasks, between the shared backbone and a task's head.

use crate::kit::{Layout, Outcome, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::ExchangePlan;
use espalier_worker::predict::Predictor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use tch::Tensor;

const STEPS: u64 = 6;
/// Rank 0 serves two tasks, rank 1 two, one is shared.
const MIXED: [&[u32]; 3] = [&[0], &[0, 1], &[1]];

fn layout(sharding: Sharding, apart: bool) -> Layout {
    let how = ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    };
    Layout::new(2, &MIXED, how)
}

/// Names and values of the heads' file.
fn heads(outcome: &Outcome) -> BTreeMap<String, (Vec<i64>, Vec<f32>)> {
    let file = safetensors::SafeTensors::deserialize(&outcome.heads).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let (words, _) = view.data().as_chunks::<4>();
        let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let shape = view.shape().iter().map(|size| *size as i64).collect();
        (name, (shape, values))
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// The toy's texts as words, and which of them are long.
fn write_words(dir: &Path) {
    let texts = std::fs::read_to_string(dir.join("topic.train.jsonl")).unwrap();
    let mut rows = String::new();
    for line in texts.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let words: Vec<&str> = row["text"].as_str().unwrap().split(' ').collect();
        let tag = |word: &&str| if word.len() > 4 { "B-long" } else { "O" };
        let tags: Vec<&str> = words.iter().map(tag).collect();
        writeln!(rows, "{}", json!({"tokens": words, "tags": tags})).unwrap();
    }
    std::fs::write(dir.join("words.jsonl"), rows).unwrap();
}

/// The toy's three tasks, the last one of which tags words.
fn job(dir: &Path, tuning: &str, adapters: bool, balancer: Value) -> JobSpec {
    spec(dir, STEPS, |job| {
        write_words(dir);
        job["tuning"] = json!(tuning);
        job["balancer"] = balancer;
        // Clipping would let tasks feel each other.
        job["training"]["clip_norm"] = json!(1e9);
        let data = json!({"train": dir.join("words.jsonl")});
        job["tasks"][2] = json!({"name": "long", "head": "tags", "data": data});
        if adapters {
            job["tasks"][0]["adapter"] = json!({"size": 4});
            job["tasks"][2]["adapter"] = json!({"size": 3});
        }
    })
}

// Promise: an adapter changes nothing at first, is trained, is exported with its head, and leaves the heads of
// other tasks alone; predictions go through it; a folder for stock classes, which lack it, is not written.
#[test]
fn an_adapter_is_its_task_s_own() {
    let folder = tempfile::tempdir().unwrap();
    let run = |adapters| {
        let job = job(folder.path(), "heads", adapters, json!("mean"));
        train(&job, &layout(Sharding::Optimizer, false), STEPS)
    };
    let (plain, adapted) = (run(false), run(true));
    assert_eq!(plain.reports[0].losses, adapted.reports[0].losses);
    assert_ne!(plain.reports[5].losses, adapted.reports[5].losses);
    let (without, with) = (heads(&plain), heads(&adapted));
    assert_eq!(with.len(), without.len() + 2 * 4);
    for part in ["weight", "bias"] {
        let name = format!("heads.mentions.{part}");
        assert_eq!(with[&name], without[&name], "another task felt it");
    }
    let own = |name: &str| -> Tensor {
        let (shape, values) = &with[&format!("heads.topic.{name}")];
        Tensor::from_slice(values).view(&shape[..])
    };
    let up = own("adapter_up.weight");
    assert_eq!(up.size(), [32, 4]);
    assert!(up.abs().max().double_value(&[]) > 0.0, "it did not move");
    assert_eq!(with["heads.long.adapter_down.weight"].0, [3, 32]);

    let export = adapted.folder.path().join("export");
    assert!(export.join("tasks/mentions").exists() && !export.join("tasks/topic").exists());
    let model = Predictor::load(&export).unwrap();
    let input = model.text("the old train and a violin").unwrap();
    let x = model.features(&[input]).unwrap();
    let found = model.outputs("topic", &x).unwrap();
    let linear = |x: &Tensor, layer: &str| {
        let (weight, bias) = (own(&format!("{layer}weight")), own(&format!("{layer}bias")));
        x.linear(&weight, Some(&bias))
    };
    let y = linear(&linear(&x, "adapter_down.").gelu("none"), "adapter_up.") + &x;
    let expected = linear(&y, "");
    assert!((found - expected).abs().max().double_value(&[]) < 1e-6);
}

// Promise: with adapters of tasks sharding and a resume change no bit, whether gradients travel apart or
// together, and whether balancers balance heads, too.
#[test]
fn sharding_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let balanced = json!({"method": "upgrad", "balance_heads": true});
    for (balancer, apart) in [(json!("mean"), false), (balanced, true)] {
        let job = job(folder.path(), "all", true, balancer);
        let run = |sharding| train(&job, &layout(sharding, apart), STEPS);
        let outcome = run(Sharding::Optimizer);
        outcome.assert_same(&run(Sharding::None), "none");
        outcome.assert_same(&run(Sharding::Full), "full");
        let halves = train_in_halves(&job, &layout(Sharding::Full, apart), STEPS);
        assert!(
            outcome.model == halves.model && outcome.heads == halves.heads,
            "resumed"
        );
    }
}
