//! Answers in contexts, alone and beside a task that labels the same pairs.

use crate::kit::{Layout, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::job::Metric;
use espalier_spec::plan::ExchangePlan;
use espalier_worker::predict::{Answer, Predictor};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use tch::Tensor;

const STEPS: u64 = 6;
/// Both ranks serve both tasks.
const ALL: [&[u32]; 2] = [&[0, 1], &[0, 1]];
const QUESTION: &str = "the very old";

/// The toy's texts as contexts, in which long words are answers; some have none.
fn rows(dir: &Path, split: &str) -> String {
    let texts = std::fs::read_to_string(dir.join(format!("topic.{split}.jsonl"))).unwrap();
    let mut rows = String::new();
    for line in texts.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let context = row["text"].as_str().unwrap();
        let (mut answers, mut starts, mut start) = (Vec::new(), Vec::new(), 0);
        for word in context.split(' ') {
            if word.len() > 4 {
                answers.push(word);
                starts.push(start);
            }
            start += word.len() + 1;
        }
        let row = json!({
            "question": QUESTION, "context": context, "topic": row["label"],
            "answers": {"text": answers, "answer_start": starts},
        });
        writeln!(rows, "{row}").unwrap();
    }
    rows
}

/// A job of both tasks; the one of topics leads their input group.
fn joint(dir: &Path, balancer: &str, steps: u64) -> JobSpec {
    spec(dir, steps, |job| {
        for split in ["train", "test"] {
            std::fs::write(dir.join(format!("pairs.{split}.jsonl")), rows(dir, split)).unwrap();
        }
        let task = |name: &str, head: &str, label: &str| {
            json!({
                "name": name, "head": head, "input_group": "pairs",
                "data": {"train": dir.join("pairs.train.jsonl"), "test": dir.join("pairs.test.jsonl"),
                         "columns": {"input": "question", "pair": "context", "label": label}},
            })
        };
        let mut answers = task("long", "span", "answers");
        answers["span"] = json!({"max_answer_tokens": 1});
        job["tasks"] = json!([task("topic", "single_label", "topic"), answers]);
        job["balancer"] = json!(balancer);
    })
}

fn how(sharding: Sharding, apart: bool) -> ExchangePlan {
    ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    }
}

// Promise: with answers in contexts too, sharding changes no bit, whether gradients travel apart or not;
// nor does going on from a checkpoint.
#[test]
fn sharding_and_resuming_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, apart) in [("upgrad", true), ("equal", false)] {
        let job = joint(folder.path(), balancer, STEPS);
        let layout = |sharding| Layout::new(2, &ALL, how(sharding, apart));
        let once = train(&job, &layout(Sharding::Optimizer), STEPS);
        let full = train(&job, &layout(Sharding::Full), STEPS);
        once.assert_same(&full, &format!("{balancer}, full"));
        let halves = train_in_halves(&job, &layout(Sharding::Optimizer), STEPS);
        assert!(once.model == halves.model && once.heads == halves.heads);
    }
}

// Promise: two ranks train like one.
#[test]
fn two_ranks_train_like_one() {
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "equal", STEPS);
    let run = |ranks, tasks: &[&[u32]]| {
        let layout = Layout::new(ranks, tasks, how(Sharding::Optimizer, false));
        train(&job, &layout, STEPS)
    };
    let distance = run(2, &ALL).distance(&run(1, &[&[0], &[0]]));
    assert!(distance < 2e-4, "{distance}");
}

// Promise: answers are learned, far above always saying that there is none; the export loads as a stock
// class of transformers would want it, and predicts answers with their characters.
#[test]
fn answers_are_learned_and_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let steps = 80;
    let job = joint(folder.path(), "equal", steps);
    let layout = Layout::new(2, &ALL, how(Sharding::Optimizer, false));
    let done = train(&job, &layout, steps);
    let scores = &done.evaluation.as_ref().unwrap().tasks["long"];
    let gain = |metric: Metric| scores.metrics[&metric] - scores.baseline[&metric];
    assert!(gain(Metric::F1) > 0.4, "{scores:?}");
    assert!(gain(Metric::Exact) > 0.4, "{scores:?}");

    let export = done.folder.path().join("export");
    let config = std::fs::read(export.join("tasks/long/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["architectures"], json!(["BertForQuestionAnswering"]));
    assert_eq!(
        (&config["id2label"], &config["num_labels"]),
        (&Value::Null, &Value::Null)
    );
    let tensors = Tensor::read_safetensors(export.join("tasks/long/head.safetensors")).unwrap();
    let mut shapes: Vec<_> = tensors
        .iter()
        .map(|(n, t)| (n.as_str(), t.size()))
        .collect();
    shapes.sort();
    assert_eq!(
        shapes,
        [
            ("qa_outputs.bias", vec![2]),
            ("qa_outputs.weight", vec![2, 32])
        ]
    );

    let predictor = Predictor::load(&export).unwrap();
    let context = "of the new violin and this";
    let input = predictor.pair(QUESTION, context).unwrap();
    let text = predictor.text(context).unwrap();
    let answers = predictor.predict(&[text.clone(), input], &[]).unwrap();
    // A text alone is no question.
    let tasks = |place: usize| answers[place].keys().cloned().collect::<Vec<_>>();
    assert_eq!(tasks(0), ["topic"]);
    assert_eq!(tasks(1), ["long", "topic"]);
    let Answer::Span {
        answer,
        score,
        start,
        end,
    } = &answers[1]["long"]
    else {
        panic!("no answer: {answers:?}");
    };
    assert!(*score > 0.0 && *score <= 1.0);
    match (answer, start, end) {
        (Some(answer), Some(start), Some(end)) => {
            assert_eq!(answer, &context[*start as usize..*end as usize]);
        }
        none => assert_eq!(none, (&None, &None, &None)),
    }
    let error = predictor.predict(&[text], &["long".to_owned()]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("a question and its context"), "{error}");
}
