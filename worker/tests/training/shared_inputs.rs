//! Tasks that label the same inputs: one forward pass serves them all.

use crate::kit::{Layout, spec, train};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::ExchangePlan;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

const STEPS: u64 = 6;
const BATCH: u64 = 12;
/// Both ranks serve all tasks.
const ALL: [&[u32]; 3] = [&[0, 1], &[0, 1], &[0, 1]];

fn how(sharding: Sharding, apart: bool) -> ExchangePlan {
    ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    }
}

/// Three tasks over one file: a class, a number, and another class.
fn shared(dir: &Path, balancer: &str, change: impl FnOnce(&mut Value)) -> JobSpec {
    spec(dir, STEPS, |job| {
        let texts = std::fs::read_to_string(dir.join("topic.train.jsonl")).unwrap();
        let mut rows = String::new();
        for line in texts.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let text = row["text"].as_str().unwrap();
            let words = text.split(' ').count() as f64 / 8.0;
            let the = text.split(' ').any(|word| word == "the");
            let row = json!({"text": text, "topic": row["label"], "words": words, "the": the.to_string()});
            writeln!(rows, "{row}").unwrap();
        }
        std::fs::write(dir.join("shared.jsonl"), rows).unwrap();
        let task = |name: &str, head: &str| {
            json!({
                "name": name, "head": head, "input_group": "texts",
                "data": {"train": dir.join("shared.jsonl"), "columns": {"label": name}},
            })
        };
        job["tasks"] = json!([
            task("topic", "single_label"),
            task("words", "regression"),
            task("the", "single_label"),
        ]);
        job["balancer"] = json!(balancer);
        job["training"]["batch_size"] = json!(BATCH);
        change(job);
    })
}

// Promise: a forward pass that serves three backward passes gives the bits of three forward passes
// (full sharding runs one for each), whatever the transport and with activations computed again.
#[test]
fn one_forward_pass_is_as_good_as_three() {
    let folder = tempfile::tempdir().unwrap();
    for balancer in ["upgrad", "modo"] {
        let job = shared(folder.path(), balancer, |_| {});
        let run = |sharding| train(&job, &Layout::new(2, &ALL, how(sharding, true)), STEPS);
        let once = run(Sharding::Optimizer);
        once.assert_same(&run(Sharding::Full), &format!("{balancer}, full"));
        once.assert_same(&run(Sharding::None), &format!("{balancer}, none"));
        let mut tcp = Layout::new(2, &ALL, how(Sharding::Optimizer, true));
        tcp.tcp = true;
        once.assert_same(&train(&job, &tcp, STEPS), &format!("{balancer}, tcp"));
        let again = shared(folder.path(), balancer, |job| {
            job["exchange"] = json!({"recompute": true});
        });
        let layout = Layout::new(2, &ALL, how(Sharding::Optimizer, true));
        let again = train(&again, &layout, STEPS);
        once.assert_same(&again, &format!("{balancer}, recompute"));
    }
}

// Promise: a drawn sample is one for every task of its group, and one that was trained on.
#[test]
fn a_sample_counts_once_and_for_all_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let job = shared(folder.path(), "mean", |_| {});
    let layout = Layout::new(2, &ALL, how(Sharding::Optimizer, false));
    for report in train(&job, &layout, STEPS).reports {
        assert_eq!(report.samples, BATCH);
        let counts: Vec<u64> = report.losses.iter().map(|loss| loss.count).collect();
        assert_eq!(counts, [BATCH; 3]);
    }
}

// Promise: weights that are applied to the gradients of the features give, to rounding, what weights
// applied to the gradients of the backbone give; ranks change rounding only.
#[test]
fn weighing_features_is_weighing_gradients() {
    let folder = tempfile::tempdir().unwrap();
    for balancer in ["mean", "equal", "fixed", "uw"] {
        let job = shared(folder.path(), balancer, |job| {
            if balancer == "fixed" {
                job["tasks"][1]["weight"] = json!(0.5);
            }
        });
        let one: [&[u32]; 3] = [&[0]; 3];
        let run = |ranks, tasks: &[&[u32]], apart| {
            let layout = Layout::new(ranks, tasks, how(Sharding::Optimizer, apart));
            train(&job, &layout, STEPS)
        };
        let together = run(1, &one, false);
        for (name, other) in [
            ("apart", run(1, &one, true)),
            ("two ranks", run(2, &ALL, false)),
            ("two ranks, apart", run(2, &ALL, true)),
        ] {
            let distance = together.distance(&other);
            assert!(distance < 2e-4, "{balancer}, {name}: {distance:e}");
        }
    }
}

// Promise: methods of shared features weigh by them: not all alike, the same on any number of ranks
// to rounding, and with bits that no sharding changes.
#[test]
fn shared_features_are_balanced() {
    let folder = tempfile::tempdir().unwrap();
    for balancer in ["mgda_ub", "aligned_ub"] {
        let job = shared(folder.path(), balancer, |_| {});
        let run = |ranks, tasks: &[&[u32]], sharding| {
            train(
                &job,
                &Layout::new(ranks, tasks, how(sharding, false)),
                STEPS,
            )
        };
        let one = run(1, &[&[0][..]; 3], Sharding::Optimizer);
        let two = run(2, &ALL, Sharding::Optimizer);
        two.assert_same(&run(2, &ALL, Sharding::Full), balancer);
        assert!(one.distance(&two) < 2e-4, "{balancer}");
        for (a, b) in one.reports.iter().zip(&two.reports) {
            let spread = a.weights.iter().copied().fold(f64::NEG_INFINITY, f64::max)
                - a.weights.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(spread > 1e-3, "{balancer}: {:?}", a.weights);
            for (a, b) in a.weights.iter().zip(&b.weights) {
                assert!((a - b).abs() < 1e-4, "{balancer}: {a} and {b}");
            }
        }
    }
}
