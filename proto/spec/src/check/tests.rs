//! Every rule broken once: those of the job as a whole here, those of tasks in `tasks`.

use super::check;
use crate::JobSpec;
use crate::exchange::{Affinity, SyncKind};
use crate::job::Tuning;
use serde_json::{Value, json};

mod adaptation;
mod tasks;
mod training;
mod tuning;

pub(super) fn valid() -> Value {
    json!({
        "name": "packages",
        "backbone": { "path": "minilm" },
        "tasks": [
            { "name": "section", "head": "single_label",
              "data": { "train": "a.parquet", "validation": "b.jsonl", "test": ["c.csv"],
                        "labels": ["web", "games"] } },
            { "name": "popularity", "head": "regression", "data": { "train": ["d.csv", "e.csv"] } },
            { "name": "tags", "head": "multi_label", "data": { "train": "f.jsonl" } }
        ]
    })
}

/// The valid spec with the value at a JSON pointer replaced (or added to its object).
fn with(pointer: &str, value: Value) -> JobSpec {
    let mut spec = valid();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let mut node = &mut spec;
    for part in parent.split('/').skip(1) {
        node = match node {
            Value::Array(items) => &mut items[part.parse::<usize>().expect("an index")],
            node => {
                let object = node.as_object_mut().expect("an object");
                object.entry(part).or_insert_with(|| json!({}))
            }
        };
    }
    node.as_object_mut()
        .expect("an object")
        .insert(key.to_owned(), value);
    serde_json::from_value(spec).expect("right types")
}

#[test]
fn a_plain_spec_is_valid() {
    // A spec with nothing but the required fields passes.
    let spec: JobSpec = serde_json::from_value(valid()).expect("right types");
    assert_eq!(check(&spec), Ok(()));
}

#[test]
fn every_rule_names_its_field() {
    // Each rule, broken alone, is reported once, at its own field, with a word of what to do.
    let long = "x".repeat(64);
    let table: Vec<(&str, Value, &str, &str)> = vec![
        ("/name", json!(""), "name", "is empty"),
        ("/name", json!("My_Job"), "name", "`my-job` would do"),
        ("/name", json!("9lives"), "name", "starting with a letter"),
        ("/name", json!("job-"), "name", "`job` would do"),
        ("/name", json!(long), "name", "has 64 characters"),
        ("/backbone/path", json!(" "), "backbone.path", "is empty"),
        (
            "/backbone/path",
            json!("https://host/model"),
            "backbone.path",
            "s3://BUCKET/PREFIX",
        ),
        ("/output", json!("s3://b/out"), "output", "is a URL"),
        (
            "/backbone/max_tokens",
            json!(2),
            "backbone.max_tokens",
            "3 to 100000",
        ),
        (
            "/backbone/max_tokens",
            json!(100_001),
            "backbone.max_tokens",
            "3 to 100000",
        ),
        (
            "/backbone/dropout",
            json!(1.0),
            "backbone.dropout",
            "below 1",
        ),
        ("/tasks", json!([]), "tasks", "at least one task"),
        (
            "/sampler",
            json!({"temperature": 0.0}),
            "sampler.temperature",
            "above 0",
        ),
        (
            "/sampler",
            json!({"capped": {"cap": 0}}),
            "sampler.capped.cap",
            "at most",
        ),
        (
            "/sampler",
            json!({"annealed": {"to": -0.5}}),
            "sampler.annealed.to",
            "0 (uniform) to 4",
        ),
        (
            "/sampler",
            json!({"adaptive": {"every_steps": 7}}),
            "sampler.adaptive.every_steps",
            "at least 8",
        ),
        (
            "/sampler",
            json!({"adaptive": {"alpha": -1.0}}),
            "sampler.adaptive.alpha",
            "0 (follows no loss)",
        ),
        (
            "/sampler",
            json!({"adaptive": {"smoothing": 1.0}}),
            "sampler.adaptive.smoothing",
            "below 1",
        ),
        (
            "/sampler",
            json!({"probabilities": {"section": 1.0, "popularity": 0.0, "tags": 0.5}}),
            "sampler.probabilities.popularity",
            "above 0",
        ),
        (
            "/sampler",
            json!({"probabilities": {"section": 1.0, "popularity": 1.0, "tags": 0.5, "x": 1.0}}),
            "sampler.probabilities.x",
            "no task",
        ),
        (
            "/sampler",
            json!({"probabilities": {"section": 1.0, "tags": 0.5}}),
            "sampler.probabilities",
            "the task `popularity`",
        ),
        (
            "/balancer",
            json!({"method": "cagrad", "params": {"cc": 0.5}}),
            "balancer.params.cc",
            "it has c, rescale",
        ),
        (
            "/balancer",
            json!({"method": "dwa", "params": {"temprature": 2.0}}),
            "balancer.params.temprature",
            "did you mean `temperature`?",
        ),
        (
            "/balancer",
            json!({"method": "pcgrad", "params": {"c": 2.0}}),
            "balancer.params.c",
            "it has none",
        ),
        (
            "/balancer",
            json!({"method": "cagrad", "params": {"c": -0.5}}),
            "balancer.params.c",
            "a number of at least 0 and at most 10, such as 0.5",
        ),
        (
            "/balancer",
            json!({"method": "cagrad", "params": {"rescale": 0.5}}),
            "balancer.params.rescale",
            "a whole number from 0 to 2",
        ),
        (
            "/balancer",
            json!({"method": "equal", "scale": 0.0}),
            "balancer.scale",
            "above 0",
        ),
        (
            "/balancer",
            json!({"scale": 2.0}),
            "balancer.scale",
            "learning_rate",
        ),
        (
            "/balancer",
            json!({"method": "gls", "log_losses": true}),
            "balancer.log_losses",
            "does not fit `gls`",
        ),
        (
            "/balancer",
            json!({"method": "uw", "normalize": "l2"}),
            "balancer.normalize",
            "class losses",
        ),
        (
            "/balancer",
            json!({"method": "mgda", "normalize": "loss", "log_losses": true}),
            "balancer.normalize",
            "use one of the two",
        ),
        (
            "/balancer",
            json!({"method": "mgda", "smoothing": 1.0}),
            "balancer.smoothing",
            "below 1",
        ),
        (
            "/balancer",
            json!({"method": "grad_drop", "smoothing": 0.5}),
            "balancer.smoothing",
            "has none",
        ),
        (
            "/balancer",
            json!({"method": "mgda", "update_every": 0}),
            "balancer.update_every",
            "at least 1",
        ),
        (
            "/balancer",
            json!({"method": "moco", "update_every": 2}),
            "balancer.update_every",
            "has to see every step",
        ),
        (
            "/exchange",
            json!({"sync": "all_reduce"}),
            "exchange.sharding",
            "sharding: none",
        ),
        ("/training/steps", json!(0), "training.steps", "at least 1"),
        ("/training/epochs", json!(0.0), "training.epochs", "above 0"),
        (
            "/training/batch_size",
            json!(0),
            "training.batch_size",
            "at least 1",
        ),
        (
            "/training/accumulation",
            json!(0),
            "training.accumulation",
            "at least 1",
        ),
        (
            "/training/accumulation",
            json!(33),
            "training.accumulation",
            "at most 32",
        ),
        (
            "/training/clip_norm",
            json!(-1.0),
            "training.clip_norm",
            "0 turns clipping off",
        ),
        (
            "/training/optimizer/learning_rate",
            json!(-1e-3),
            "training.optimizer.learning_rate",
            "at least 0",
        ),
        (
            "/training/optimizer/head_learning_rate",
            json!(-1e-3),
            "training.optimizer.head_learning_rate",
            "at least 0",
        ),
        (
            "/training/optimizer/betas",
            json!([0.9, 1.0]),
            "training.optimizer.betas[1]",
            "below 1",
        ),
        (
            "/training/optimizer/eps",
            json!(0.0),
            "training.optimizer.eps",
            "above 0",
        ),
        (
            "/training/optimizer/weight_decay",
            json!(-0.1),
            "training.optimizer.weight_decay",
            "at least 0",
        ),
        (
            "/training/schedule/warmup_ratio",
            json!(1.5),
            "training.schedule.warmup_ratio",
            "0 to 1",
        ),
        (
            "/training",
            json!({"steps": 10, "schedule": {"warmup_steps": 11}}),
            "training.schedule.warmup_steps",
            "training.steps is 10",
        ),
        (
            "/evaluation/every_steps",
            json!(0),
            "evaluation.every_steps",
            "at least 1",
        ),
        (
            "/evaluation/batch_size",
            json!(0),
            "evaluation.batch_size",
            "at least 1",
        ),
        (
            "/evaluation/early_stopping_patience",
            json!(2),
            "evaluation.early_stopping_patience",
            "set evaluation.every_steps",
        ),
        (
            "/checkpoint/keep",
            json!(0),
            "checkpoint.keep",
            "at least 1",
        ),
        (
            "/checkpoint/upload",
            json!("copies"),
            "checkpoint.upload",
            "no URL",
        ),
        (
            "/checkpoint/upload",
            json!("https://host/copies?signature=1"),
            "checkpoint.upload",
            "\"https://host/copies\" is one file",
        ),
        (
            "/checkpoint/upload",
            json!("s3://bucket"),
            "checkpoint.upload",
            "names no key",
        ),
        (
            "/resources/ranks",
            json!(0),
            "resources.ranks",
            "at least 1",
        ),
        (
            "/resources/ranks",
            json!(33),
            "resources.ranks",
            "more ranks than samples",
        ),
        (
            "/resources/shards",
            json!(64),
            "resources.shards",
            "more shards than samples",
        ),
        (
            "/resources",
            json!({"ranks": 4, "shards": 2}),
            "resources.shards",
            "fewer than the 4 ranks",
        ),
        (
            "/resources",
            json!({"ranks": 4, "workers": {"min": 0, "max": 2}}),
            "resources.workers.min",
            "at least 1",
        ),
        (
            "/resources",
            json!({"ranks": 4, "workers": {"min": 3, "max": 2}}),
            "resources.workers.max",
            "below min, 3",
        ),
        (
            "/resources",
            json!({"ranks": 4, "workers": {"min": 1, "max": 5}}),
            "resources.workers.max",
            "more workers than ranks (4)",
        ),
        (
            "/resources",
            json!({"workers": {"min": 1, "max": 2}}),
            "resources.ranks",
            "is missing",
        ),
        ("/output", json!(""), "output", "is empty"),
    ];
    broken_alone(table);
}

/// Each of (JSON pointer, value, field, words) breaks one rule, which names the field in these words.
pub(super) fn broken_alone(table: Vec<(&str, Value, &str, &str)>) {
    for (pointer, value, field, words) in table {
        let shown = format!("{pointer} = {value}");
        let violations = check(&with(pointer, value)).expect_err(&shown);
        assert_eq!(violations.len(), 1, "{shown}: {violations:?}");
        assert_eq!(violations[0].field, field, "{shown}");
        assert!(
            violations[0].message.contains(words),
            "{shown}: {}",
            violations[0]
        );
    }
}

#[test]
fn a_sampler_by_affinity_needs_gradients_apart() {
    // Where tasks' gradients are never seen apart, or there are none, there is no agreement to follow.
    let sampler = json!({"adaptive": {"by": "affinity"}});
    assert_eq!(check(&with("/sampler", sampler.clone())), Ok(()));
    type Change = fn(&mut JobSpec);
    let cases: [(Change, &str); 3] = [
        (|spec| spec.exchange.sync = SyncKind::AllReduce, "sums them"),
        (|spec| spec.exchange.affinity = Affinity::Off, "is off"),
        (|spec| spec.tuning = Tuning::Heads, "no gradients"),
    ];
    for (change, words) in cases {
        let mut spec = with("/sampler", sampler.clone());
        change(&mut spec);
        let found = check(&spec).expect_err(words);
        let said = found.iter().find(|v| v.field == "sampler.adaptive.by");
        assert!(said.expect(words).message.contains(words), "{found:?}");
    }
}

#[test]
fn early_stopping_needs_validation_files() {
    // Patience with evaluations but nothing to evaluate on is refused.
    let mut spec = with(
        "/evaluation",
        json!({"every_steps": 5, "early_stopping_patience": 2}),
    );
    assert_eq!(check(&spec), Ok(()));
    spec.tasks[0].data.validation = None;
    let violations = check(&spec).expect_err("no validation files");
    assert_eq!(violations[0].field, "evaluation.early_stopping_patience");
    assert!(violations[0].message.contains("data.validation"));
}

#[test]
fn all_violations_come_at_once_in_order() {
    // A spec with several faults is answered with all of them, in the order of the fields.
    let mut spec = with("/name", json!("Bad Name"));
    spec.tasks[2].name = String::new();
    spec.tasks[1].weight = f64::NAN;
    spec.training.batch_size = 0;
    spec.output = Some(String::new());
    let fields: Vec<String> = check(&spec)
        .expect_err("faults")
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    assert_eq!(
        fields,
        [
            "name",
            "tasks[2].name",
            "tasks[1].weight",
            "training.batch_size",
            "output"
        ]
    );
}
