//! Tasks that share their inputs and have labels for some of them only.

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
const ONE: [&[u32]; 3] = [&[0], &[0], &[0]];

fn how(sharding: Sharding, apart: bool) -> ExchangePlan {
    ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    }
}

/// Three tasks over one file: all rows have the first one's label, `has` decides on the second one's,
/// and hardly any row has the third one's.
fn partly(dir: &Path, balancer: &str, has: impl Fn(usize) -> bool) -> JobSpec {
    spec(dir, STEPS, |job| {
        let texts = std::fs::read_to_string(dir.join("topic.train.jsonl")).unwrap();
        let mut rows = String::new();
        for (index, line) in texts.lines().enumerate() {
            let row: Value = serde_json::from_str(line).unwrap();
            let text = row["text"].as_str().unwrap();
            let words = text.split(' ').count() as f64 / 8.0;
            let the = text.split(' ').any(|word| word == "the").to_string();
            let words = if has(index) {
                json!(words)
            } else {
                json!(null)
            };
            let the = if index % 24 < 2 { the } else { String::new() };
            let row = json!({"text": text, "topic": row["label"], "words": words, "the": the});
            writeln!(rows, "{row}").unwrap();
        }
        std::fs::write(dir.join("partly.jsonl"), rows).unwrap();
        let task = |name: &str, head: &str| {
            json!({
                "name": name, "head": head, "input_group": "texts",
                "data": {"train": dir.join("partly.jsonl"), "columns": {"label": name},
                         "labels": (name == "the").then_some(["true", "false"]),
                         "on_missing_label": "skip"},
            })
        };
        job["tasks"] = json!([
            task("topic", "single_label"),
            task("words", "regression"),
            task("the", "single_label"),
        ]);
        job["balancer"] = json!(balancer);
        job["training"]["batch_size"] = json!(BATCH);
    })
}

// Promise: a task's loss is the one of its labelled samples: those of two halves of the labels add up to
// those of all, and what is counted is labels.
#[test]
fn losses_are_those_of_labelled_samples() {
    let folder = tempfile::tempdir().unwrap();
    let first = |has: fn(usize) -> bool| {
        let job = partly(folder.path(), "mean", has);
        let layout = Layout::new(1, &ONE, how(Sharding::Optimizer, false));
        let report = train(&job, &layout, 1).reports.remove(0);
        assert_eq!(report.samples, BATCH);
        assert_eq!(report.losses[0].count, BATCH);
        report.losses[1]
    };
    let all = first(|_| true);
    let even = first(|index| index % 2 == 0);
    let odd = first(|index| index % 2 == 1);
    assert_eq!(all.count, BATCH);
    assert!(even.count > 0 && odd.count > 0);
    assert_eq!(even.count + odd.count, all.count);
    assert!((even.sum + odd.sum - all.sum).abs() < 1e-5 * all.sum);
}

// Promise: ranks, lanes and sharding change no more than where all labels are there, also in steps that
// have no label of some task.
#[test]
fn ranks_agree_on_what_is_labelled() {
    let folder = tempfile::tempdir().unwrap();
    let has = |index: usize| index % 3 == 1;
    for balancer in ["mean", "equal", "uw", "upgrad", "modo", "mgda_ub"] {
        let job = partly(folder.path(), balancer, has);
        let run = |ranks, tasks: &[&[u32]], sharding, apart| {
            train(
                &job,
                &Layout::new(ranks, tasks, how(sharding, apart)),
                STEPS,
            )
        };
        let apart = !matches!(balancer, "mean" | "equal" | "uw" | "mgda_ub");
        let one = run(1, &ONE, Sharding::Optimizer, apart);
        let two = run(2, &ALL, Sharding::Optimizer, apart);
        two.assert_same(&run(2, &ALL, Sharding::Full, apart), balancer);
        two.assert_same(&run(2, &ALL, Sharding::None, apart), balancer);
        let counts = |outcome: &crate::kit::Outcome| -> Vec<Vec<u64>> {
            let reports = outcome.reports.iter();
            reports
                .map(|report| report.losses.iter().map(|loss| loss.count).collect())
                .collect()
        };
        assert_eq!(counts(&one), counts(&two));
        let rare = counts(&one).iter().filter(|step| step[2] == 0).count();
        assert!(rare > 0, "every step has a label of every task");
        assert!(counts(&one).iter().all(|step| step[1] < BATCH));
        // Two halves of a batch are other halves on two ranks.
        if balancer != "modo" {
            let distance = one.distance(&two);
            assert!(distance < 2e-4, "{balancer}: {distance:e}");
        }
    }
}
