//! The published schema against real job files.

use crate::run::run;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

fn schema() -> Value {
    let run = run(Path::new("."), &["schema"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str(&run.stdout).expect("the schema is JSON")
}

/// A job that uses every field.
fn full() -> Value {
    json!({
        "name": "everything", "seed": 7, "priority": -1,
        "backbone": { "path": "m", "init": "random", "max_tokens": 64, "pooling": "cls", "dropout": 0.1,
                      "cache_features": false, "extend_vocabulary": false },
        "tuning": { "last_blocks": 2 },
        "tasks": [{
            "name": "section", "head": "single_label", "weight": 1.0, "metric": "macro_f1", "adapter": { "size": 16 },
            "evaluation": { "every_steps": 20 },
            "data": {
                "train": ["a.parquet", "b.jsonl"], "validation": "c.csv", "test": ["d.csv"],
                "columns": { "input": "text", "pair": "title", "label": "section" }, "labels": ["web", "games"],
                "max_train_samples": 100, "samples_per_class": 8, "on_bad_sample": "skip", "on_missing_label": "skip",
                "too_long": "error", "augment": { "crop": 2, "flip": true, "time_mask": 0, "frequency_mask": 0 }
            },
            "loss": { "class_weights": { "given": { "web": 2.0 } }, "label_smoothing": 0.1,
                      "contrastive": { "kind": "sup_con", "share": 0.5, "temperature": 0.2 } },
            "adaptation": { "method": "cdan", "target": { "train": ["t.parquet"] }, "weight": 0.5,
                            "sources": "apart", "warm_up": 100, "params": { "hidden": 64, "entropy": true } }
        }, { "name": "size", "head": "regression", "data": { "train": "e.csv" } },
            { "name": "kind", "head": "label_embedding", "data": { "train": "f.csv" },
              "zero_shot": { "descriptions": { "a": "first", "c": "third" }, "templates": ["a {}"], "unseen": ["c"], "calibration": 0.1 } },
            { "name": "sort", "head": "label_embedding", "data": { "train": "f.csv" }, "zero_shot": { "descriptions": "g.csv" } },
            { "name": "scene", "head": "segmentation", "data": { "train": "h.csv", "labels": ["a", "b"] }, "segmentation": { "ignore_index": 0 } },
            { "name": "search", "head": "ranking", "metric": "recall_at_1",
              "data": { "train": "i.jsonl", "columns": { "negative": "other" } } },
            { "name": "answer", "head": "span", "data": { "train": "h.jsonl" }, "span": { "max_answer_tokens": 20 } }],
        "sampler": { "capped": { "cap": 1000, "temperature": 2.0 } },
        "training": {
            "steps": 100, "epochs": 1.5, "batch_size": 16, "accumulation": 2, "clip_norm": 0.5,
            "optimizer": { "method": "adamw", "nesterov": false, "learning_rate": 1e-4, "head_learning_rate": 1e-3, "betas": [0.9, 0.98],
                           "eps": 1e-8, "weight_decay": 0.0, "block_decay": 0.9, "l2_sp": 0.0 },
            "schedule": { "kind": "cosine", "final_ratio": 0.1, "warmup_ratio": 0.1, "warmup_steps": 10 }
        },
        "balancer": { "method": "cagrad", "params": { "c": 0.4 }, "scale": 0.5, "log_losses": true,
                      "normalize": "l2", "smoothing": 0.9, "update_every": 2, "balance_heads": true,
                      "on_non_finite": "skip_task_step" },
        "exchange": { "sync": "owner_combine", "sharding": "full", "dtype": "bf16",
                      "recompute": true, "affinity": "on" },
        "evaluation": { "every_steps": 10, "batch_size": 8, "select_best": false,
                        "select_by": "metric", "early_stopping_patience": 3 },
        "checkpoint": { "every_steps": 50, "keep": 1, "upload": "s3://bucket/copies" },
        "resources": { "ranks": 2, "shards": 4, "device": "cpu" },
        "output": "out"
    })
}

#[test]
fn the_schema_accepts_what_the_command_accepts() {
    // The schema is a valid JSON schema, and a job with every field passes both it and `validate`.
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).expect("a usable schema");
    let full = full();
    let errors: Vec<String> = validator
        .iter_errors(&full)
        .map(|e| e.to_string())
        .collect();
    assert_eq!(errors, Vec::<String>::new());

    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("job.yaml"), full.to_string()).expect("written");
    let run = run(folder.path(), &["validate", "job.yaml", "-o", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    // What `validate` prints, with absolute paths and all defaults, is a job file again.
    let printed: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert!(validator.is_valid(&printed));
    assert_eq!(printed["training"], full["training"]);
    assert_eq!(printed["balancer"], full["balancer"]);
    let mut short = full;
    short["balancer"] = json!("upgrad");
    assert!(validator.is_valid(&short));
}

#[test]
fn the_schema_refuses_what_the_command_refuses() {
    // Unknown fields, unknown words and missing fields are errors in editors too.
    let validator = jsonschema::validator_for(&schema()).expect("a usable schema");
    for (pointer, value) in [
        ("/trainin", json!({})),
        ("/tuning", json!("none")),
        ("/balancer", json!("upgrd")),
        ("/balancer", json!({ "methd": "upgrad" })),
        ("/balancer/method", json!("upgrd")),
        ("/exchange/sync", json!("ring")),
        ("/training/batch_size", json!("many")),
        ("/training/optimizer/method", json!("adam")),
        ("/tasks/0/head", json!("single-label")),
        ("/tasks/0/data", json!({ "validation": "x.csv" })),
    ] {
        let mut job = full();
        let (parent, key) = pointer.rsplit_once('/').expect("a slash");
        job.pointer_mut(parent).expect("there")[key] = value;
        assert!(!validator.is_valid(&job), "{pointer}");
    }
}

#[test]
fn every_field_is_explained() {
    // The schema doubles as the reference of the job file: no field without a description.
    fn look(node: &Value, path: &str, silent: &mut Vec<String>) {
        let Value::Object(fields) = node else { return };
        if let Some(Value::Object(properties)) = fields.get("properties") {
            for (name, property) in properties {
                if property.get("description").is_none() {
                    silent.push(format!("{path}/{name}"));
                }
            }
        }
        for (key, child) in fields {
            look(child, &format!("{path}/{key}"), silent);
        }
    }
    let mut silent = Vec::new();
    look(&schema(), "", &mut silent);
    assert_eq!(silent, Vec::<String>::new());
}

#[test]
fn the_reference_says_what_the_schema_says() {
    // docs/job-file.md is written out of the schema by `make docs`: no field or value is missing, none is left over.
    fn look(node: &Value, names: &mut BTreeSet<String>, texts: &mut Vec<String>) {
        if let Some(Value::Object(properties)) = node.get("properties") {
            names.extend(properties.keys().cloned());
            texts.extend(properties.values().filter_map(description));
        }
        if let Some(Value::String(word)) = node.get("const") {
            names.insert(word.clone());
            texts.extend(description(node));
        }
        match node {
            Value::Object(fields) => fields.values().for_each(|v| look(v, names, texts)),
            Value::Array(items) => items.iter().for_each(|v| look(v, names, texts)),
            _ => {}
        }
    }
    fn description(node: &Value) -> Option<String> {
        let words = node.get("description")?.as_str()?.split_whitespace();
        Some(words.collect::<Vec<_>>().join(" ").replace('|', "\\|"))
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/job-file.md");
    let reference = std::fs::read_to_string(path).expect("docs/job-file.md");
    let (mut names, mut texts) = (BTreeSet::new(), Vec::new());
    look(&schema(), &mut names, &mut texts);
    let stands = |word: &str| {
        reference.contains(&format!("`{word}`")) || reference.contains(&format!("`{word}:"))
    };
    let unnamed = names.iter().filter(|name| !stands(name));
    let mut missing: Vec<String> = unnamed.cloned().collect();
    missing.extend(texts.into_iter().filter(|text| !reference.contains(text)));
    assert!(missing.is_empty(), "run 'make docs', it lacks {missing:#?}");
    for line in reference.lines() {
        let row = line
            .strip_prefix("| `")
            .and_then(|rest| rest.split('`').next());
        let known = row.is_none_or(|name| names.contains(name));
        assert!(known, "run 'make docs', there is no such field: {line}");
    }
}
