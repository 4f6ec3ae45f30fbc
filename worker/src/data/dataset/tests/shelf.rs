//! Tasks that ask for the same files.

use super::tokenizer;
use crate::data::{Modality, Shelf, TaskData, load_beside};
use serde_json::{Value, json};
use std::sync::Arc;

// Promise: tasks that ask for the same files in the same way hold the same inputs, each under its own name; one that
// asks for something else of them does not.
#[test]
fn the_same_files_are_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let rows = "text,label,kind\na b,x,1\nb,y,2\n";
    for file in ["one.csv", "other.csv", "test.csv"] {
        std::fs::write(dir.join(file), rows).unwrap();
    }
    let modality = Modality::Text(Arc::new(tokenizer(dir, 5).unwrap()));
    let mut shelf = Shelf::default();
    let mut read = |name: &str, file: &str, more: Value| -> TaskData {
        let mut data = json!({"train": dir.join(file), "test": dir.join("test.csv")});
        for (field, value) in more.as_object().unwrap() {
            data[field] = value.clone();
        }
        let task = json!({"name": name, "head": "single_label", "data": data});
        let task = serde_json::from_value(task).unwrap();
        load_beside(&task, &modality, &mut shelf).unwrap()
    };
    let first = read("first", "one.csv", json!({}));
    let shares = |other: &TaskData| Arc::ptr_eq(&first.train.inputs, &other.train.inputs);
    let second = read("second", "one.csv", json!({}));
    assert!(shares(&second));
    assert_eq!(
        (&first.train.task[..], &second.train.task[..]),
        ("first", "second")
    );
    assert_eq!(second.labels, first.labels);
    for (name, file, more) in [
        ("file", "other.csv", json!({})),
        ("column", "one.csv", json!({"columns": {"label": "kind"}})),
        ("limit", "one.csv", json!({"max_train_samples": 2})),
        ("policy", "one.csv", json!({"too_long": "error"})),
        ("labels", "one.csv", json!({"labels": ["y", "x"]})),
    ] {
        assert!(!shares(&read(name, file, more)), "{name}");
    }
}
