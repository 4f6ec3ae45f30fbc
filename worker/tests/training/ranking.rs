//! Texts that are ranked: trained by the texts of their shard, evaluated among all.

use crate::kit::{Layout, Outcome, spec, train, train_by_parts, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::job::Metric;
use espalier_spec::plan::ExchangePlan;
use espalier_worker::predict::{Answer, Predictor};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

const STEPS: u64 = 6;
/// Both ranks serve one task, or two.
const ALONE: [&[u32]; 1] = [&[0, 1]];
const BESIDE: [&[u32]; 2] = [&[0, 1], &[0, 1]];

fn how(sharding: Sharding, apart: bool) -> ExchangePlan {
    ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    }
}

/// The toy's texts. To each belong its own words the other way round, and the next text does not.
fn rows(dir: &Path, split: &str) -> String {
    let lines = std::fs::read_to_string(dir.join(format!("topic.{split}.jsonl"))).unwrap();
    let texts = lines.lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        row["text"].as_str().unwrap().to_owned()
    });
    let texts: Vec<String> = texts.collect();
    let mut rows = String::new();
    for (place, text) in texts.iter().enumerate() {
        let words: Vec<&str> = text.rsplit(' ').collect();
        let next = &texts[(place + 1) % texts.len()];
        let row = json!({"text": text, "positive": words.join(" "), "negative": next});
        writeln!(rows, "{row}").unwrap();
    }
    rows
}

/// A job that ranks them, and nothing else.
fn ranking(dir: &Path, steps: u64, change: impl FnOnce(&mut Value)) -> JobSpec {
    spec(dir, steps, |job| {
        for split in ["train", "validation", "test"] {
            std::fs::write(dir.join(format!("search.{split}.jsonl")), rows(dir, split)).unwrap();
        }
        let file = |split: &str| dir.join(format!("search.{split}.jsonl"));
        let search = json!({
            "name": "search", "head": "ranking",
            "data": {"train": file("train"), "validation": file("validation"), "test": file("test"),
                     "columns": {"negative": "negative"}},
        });
        job["tasks"] = json!([search]);
        change(job);
    })
}

/// The same beside a task of classes.
fn beside(dir: &Path, balancer: &str) -> JobSpec {
    ranking(dir, STEPS, |job| {
        let topic = json!({
            "name": "topic", "head": "single_label",
            "data": {"train": dir.join("topic.train.jsonl"), "test": dir.join("topic.test.jsonl")},
        });
        job["tasks"].as_array_mut().unwrap().push(topic);
        job["balancer"] = json!(balancer);
    })
}

/// Mean loss of the task at each step.
fn losses(outcome: &Outcome) -> Vec<f64> {
    let reports = outcome.reports.iter();
    reports
        .map(|report| report.losses[0].mean().unwrap())
        .collect()
}

// Promise: neither sharding nor going on, from a checkpoint or from parts in memory, changes a bit: alone, where no
// head has anything to train, and beside another task, whose gradients travel apart or together.
#[test]
fn sharding_and_resuming_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let check = |job: &JobSpec, tasks: &[&[u32]], apart: bool, what: &str| {
        let layout = |sharding| Layout::new(2, tasks, how(sharding, apart));
        let once = train(job, &layout(Sharding::Optimizer), STEPS);
        for sharding in [Sharding::Full, Sharding::None] {
            once.assert_same(&train(job, &layout(sharding), STEPS), what);
        }
        let halves = train_in_halves(job, &layout(Sharding::Optimizer), STEPS);
        assert!(once.model == halves.model, "{what}: models differ");
        let parts = train_by_parts(job, &layout(Sharding::Full), STEPS);
        assert!(once.model == parts.model, "{what}: parts differ");
    };
    check(
        &ranking(folder.path(), STEPS, |_| {}),
        &ALONE,
        false,
        "alone",
    );
    check(&beside(folder.path(), "upgrad"), &BESIDE, true, "upgrad");
    check(&beside(folder.path(), "equal"), &BESIDE, false, "equal");
}

// Promise: what a text is told apart from are the texts of its shard, whatever rank hosts it; with fewer shards
// they are more, and the loss is larger.
#[test]
fn a_shard_ranks_its_own_texts() {
    let folder = tempfile::tempdir().unwrap();
    let job = ranking(folder.path(), STEPS, |_| {});
    let plan = how(Sharding::Optimizer, false);
    let two = losses(&train(&job, &Layout::new(2, &ALONE, plan), STEPS));
    let hosted = Layout {
        shards: vec![vec![0, 1]],
        ..Layout::new(1, &ALONE, plan)
    };
    let hosted = losses(&train(&job, &hosted, STEPS));
    for (one, other) in two.iter().zip(&hosted) {
        assert!((one - other).abs() < 1e-3, "{two:?} {hosted:?}");
    }
    let whole = losses(&train(&job, &Layout::new(1, &[&[0]], plan), 1));
    assert!(whole[0] > two[0], "{whole:?} {two:?}");
}

// Promise: where all blocks are frozen at first, there is nothing to learn until one is not.
#[test]
fn a_frozen_backbone_waits() {
    let folder = tempfile::tempdir().unwrap();
    let job = ranking(folder.path(), 4, |job| {
        job["tuning"] = json!({"gradual": {"every_steps": 2}});
    });
    let layout = Layout::new(2, &ALONE, how(Sharding::Optimizer, false));
    let outcome = train(&job, &layout, 4);
    let norms = outcome.reports.iter().map(|report| report.gradient_norm);
    let norms: Vec<f64> = norms.collect();
    assert_eq!(norms[..2], [0.0; 2]);
    assert!(norms[2] > 0.0, "{norms:?}");
}

// Promise: texts are found among those of all samples better than by chance, and the export says how near two are by
// the vectors of each.
#[test]
fn an_export_says_what_is_near() {
    let folder = tempfile::tempdir().unwrap();
    let job = ranking(folder.path(), 20, |_| {});
    let layout = Layout::new(2, &ALONE, how(Sharding::Optimizer, false));
    let outcome = train(&job, &layout, 20);
    let scores = &outcome.evaluation.as_ref().unwrap().tasks["search"];
    for metric in [Metric::Mrr, Metric::RecallAt1] {
        let (found, chance) = (scores.metrics[&metric], scores.baseline[&metric]);
        assert!(found > chance && found <= 1.0, "{scores:?}");
    }
    let heads = safetensors::SafeTensors::deserialize(&outcome.heads).unwrap();
    assert_eq!(heads.names(), ["heads.search.factor"]);

    let predictor = Predictor::load(&outcome.folder.path().join("export")).unwrap();
    assert!(predictor.ranks(&[]) && !predictor.ranks(&["other".to_owned()]));
    let (text, other) = ("apple the plum", "ship a lorry");
    let texts = [
        (text, None),
        (text, Some(other)),
        (other, None),
        (text, Some(text)),
    ];
    let answers = predictor.ranked(&texts, &[]).unwrap();
    let vector = |place: usize| match &answers[place]["search"] {
        Answer::Vector { vector } => vector.clone(),
        answer => panic!("no vector: {answer:?}"),
    };
    let number = |place: usize| match &answers[place]["search"] {
        Answer::Number { value } => *value,
        answer => panic!("no number: {answer:?}"),
    };
    let (one, two) = (vector(0), vector(2));
    let products = one.iter().zip(&two).map(|(a, b)| f64::from(a * b));
    assert!((number(1) - products.sum::<f64>()).abs() < 1e-5);
    assert!((number(3) - 1.0).abs() < 1e-5, "{}", number(3));
    let inputs = [predictor.text(text).unwrap()];
    let beside = predictor.predict(&inputs, &[]).unwrap();
    assert!(beside[0].is_empty(), "{beside:?}");
}
