//! Labels of the head `ctc`: texts of single characters, which must fit into the frames.

use super::*;
use crate::data::MediaReader;

/// Loads rows of images of one number, of which the backbone makes four frames.
fn load_texts(labels: &[&str], data: Value) -> Result<TaskData, String> {
    let dir = tempfile::tempdir().unwrap();
    let row = |label: &&str| format!("{}\n", json!({"image": [0.5], "label": label}));
    let rows: String = labels.iter().map(row).collect();
    fs::write(dir.path().join("a.jsonl"), rows).unwrap();
    let spec = super::task(dir.path(), "ctc", "a.jsonl", data);
    let reader = MediaReader::plain([1, 1, 1]).with_frames(Some(4));
    load(&spec, &Modality::Media(Arc::new(reader))).map_err(|error| error.to_string())
}

/// The alphabet is the characters of the training texts, sorted, or what the job gives.
#[test]
fn texts_are_characters() {
    let data = load_texts(&["cab", "a b"], json!({})).unwrap();
    assert_eq!(data.labels.names(), [" ", "a", "b", "c"]);
    let expected = Values::Text {
        classes: 4,
        space: Some(0),
        ends: vec![3, 6],
        values: vec![1, 0, 2, 3, 1, 2],
    };
    assert_eq!(data.values(&data.train, [1, 0]), expected);
    let given = load_texts(&["ba"], json!({"labels": ["b", "a", "é"]})).unwrap();
    assert_eq!(given.train.labels.classes(0), [0, 1]);
    let other = load_texts(&["bé"], json!({"labels": ["a", "b"]})).unwrap_err();
    assert!(
        other.contains("row 1") && other.contains("label `é` is not"),
        "{other}"
    );
    let list = load_texts(&["ab", ""], json!({})).unwrap_err();
    assert!(
        list.contains("row 2") && list.contains("`label` is null or empty"),
        "{list}"
    );
}

/// A text with more characters than frames, counting one more between equal ones, is named, or left out and
/// counted; where tasks share their inputs, the row stays without a label.
#[test]
fn long_texts_are_bad_samples() {
    let labels = ["abab", "aab", "aabb", "ababa"];
    let found = load_texts(&labels, json!({})).unwrap_err();
    let expected = "row 3 (line 3): column `label`: the text `aabb` needs 6 frames";
    assert!(found.contains(expected), "{found}");
    assert!(found.contains("the backbone gives 4"), "{found}");
    let data = load_texts(&labels, json!({"on_bad_sample": "skip"})).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 2));

    let dir = tempfile::tempdir().unwrap();
    let rows = "{\"image\": [0.5], \"label\": \"aaa\"}\n{\"image\": [0.5], \"label\": \"ab\"}\n";
    fs::write(dir.path().join("a.jsonl"), rows).unwrap();
    let data = json!({"on_bad_sample": "skip"});
    let mut spec = super::task(dir.path(), "ctc", "a.jsonl", data);
    spec.input_group = Some("images".to_owned());
    let reader = MediaReader::plain([1, 1, 1]).with_frames(Some(4));
    let data = load(&spec, &Modality::Media(Arc::new(reader))).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 1));
    assert_eq!(data.train.labelled().collect::<Vec<_>>(), [1]);
}
