use super::*;
use crate::data::source::tests::parquet_file::{Column, write};
use crate::data::{Input, Labels, NO_TOKEN};
use crate::metrics::Values;
use serde_json::{Value, json};
use std::fs;

mod choice;
mod ctc;
mod files;
mod numerals;
mod ranking;
mod shelf;
mod spans;

/// A word tokenizer whose own truncation (to 3) and padding (to 6) must not apply.
fn tokenizer(dir: &Path, max_tokens: u32) -> Result<Tokenizer, Error> {
    let words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "a", "b", "c", "d", "e"];
    let vocab: serde_json::Map<String, Value> = words
        .iter()
        .zip(0..)
        .map(|(word, id)| ((*word).to_owned(), json!(id)))
        .collect();
    let special = |id: usize| json!({"id": words[id], "ids": [id], "tokens": [words[id]]});
    let file = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 6}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 3, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [], "normalizer": null, "decoder": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": special(1), "[SEP]": special(2)}
        },
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    });
    fs::write(dir.join("tokenizer.json"), file.to_string()).unwrap();
    Tokenizer::load(dir, max_tokens)
}

fn task(dir: &Path, head: &str, train: &str, data: Value) -> TaskSpec {
    let mut data = data;
    data["train"] = json!(dir.join(train).to_str().unwrap());
    serde_json::from_value(json!({"name": "tone", "head": head, "data": data})).unwrap()
}

/// Loads a task over files of the given names and contents; errors without the directory.
fn text_task(head: &str, files: &[(&str, &str)], data: Value) -> Result<TaskData, String> {
    let dir = tempfile::tempdir().unwrap();
    let prefix = format!("{}/", dir.path().display());
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let mut data = data;
    for split in ["validation", "test"] {
        if let Some(name) = data[split].as_str() {
            data[split] = json!(format!("{prefix}{name}"));
        }
    }
    let tokenizer = Arc::new(tokenizer(dir.path(), 5).unwrap());
    let spec = task(dir.path(), head, files[0].0, data);
    load(&spec, &Modality::Text(tokenizer)).map_err(|error| error.to_string().replace(&prefix, ""))
}

fn refused(head: &str, train: (&str, &str), data: Value) -> String {
    text_task(head, &[train], data).unwrap_err()
}

/// Texts become tokens with the job's limit, not the tokenizer's own; cut ones are counted once.
#[test]
fn texts_become_tokens() {
    let csv = "text,label\na b,x\na b c d e,y\n,x\n";
    let data = text_task("single_label", &[("a.csv", csv)], json!({})).unwrap();
    let ids = |index| data.train.input(index).unwrap().ids().unwrap().to_vec();
    assert_eq!(
        (ids(0), ids(1), ids(2)),
        (vec![1, 4, 5, 2], vec![1, 4, 5, 6, 2], vec![1, 2])
    );
    assert_eq!(ids(1), ids(1));
    assert_eq!(data.train.cut(), 1);
    assert!((data.sample_cost - 11.0 / 3.0).abs() < 1e-12);
    assert_eq!(
        data.train.place(2).unwrap().to_string().rsplit('/').next(),
        Some("a.csv, row 3")
    );
}

/// Labels as texts, integers, truth values or whole floats are classes; found ones are sorted, as
/// numbers if they are numbers.
#[test]
fn classes_are_found_and_sorted() {
    let names = |content: &str| {
        let data = text_task("single_label", &[("a.jsonl", content)], json!({})).unwrap();
        (data.labels.names().join(" "), data.train.labels)
    };
    let rows = |labels: &[&str]| -> String {
        labels
            .iter()
            .map(|label| format!("{{\"text\": \"a\", \"label\": {label}}}\n"))
            .collect()
    };
    assert_eq!(
        names(&rows(&["\"b\"", "\"a\"", "\"b\""])),
        ("a b".into(), Labels::Single(vec![1, 0, 1]))
    );
    assert_eq!(
        names(&rows(&["10", "9", "2.0"])),
        ("2 9 10".into(), Labels::Single(vec![2, 1, 0]))
    );
    assert_eq!(
        names(&rows(&["true", "false"])),
        ("false true".into(), Labels::Single(vec![1, 0]))
    );
}

/// With given classes, integers count them from 0, unless a class has an integer for a name.
#[test]
fn given_classes_may_be_named_by_number() {
    let csv = "text,label\na,1\na,neg\na,0\n";
    let data = text_task(
        "single_label",
        &[("a.csv", csv)],
        json!({"labels": ["neg", "pos"]}),
    );
    assert_eq!(data.unwrap().train.labels, Labels::Single(vec![1, 0, 0]));
    let data = text_task(
        "single_label",
        &[("a.csv", csv)],
        json!({"labels": ["1", "neg", "0"]}),
    );
    assert_eq!(data.unwrap().train.labels, Labels::Single(vec![0, 1, 2]));
}

/// The classes that a Parquet file of Hugging Face declares are taken, in their order.
#[test]
fn declared_classes_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let columns = [
        ("text", Column::Texts(vec![Some("a"); 2])),
        ("label", Column::Ints(vec![1, 0])),
    ];
    let meta = r#"{"info": {"features": {"label": {"names": ["z", "y"], "_type": "ClassLabel"}}}}"#;
    write(
        &dir.path().join("a.parquet"),
        &columns,
        "SNAPPY",
        Some(meta),
    );
    let modality = Modality::Text(Arc::new(tokenizer(dir.path(), 5).unwrap()));
    let data = load(
        &task(dir.path(), "single_label", "a.parquet", json!({})),
        &modality,
    )
    .unwrap();
    assert_eq!(data.labels.names(), ["z", "y"]);
    assert_eq!(data.train.labels, Labels::Single(vec![1, 0]));
}

/// Lists of classes, in JSON and as JSON in CSV; doubles count once; an empty list is no class.
#[test]
fn several_labels() {
    let jsonl =
        "{\"text\": \"a\", \"label\": [\"q\", \"p\", \"q\"]}\n{\"text\": \"a\", \"label\": []}\n";
    let csv = "text,label\na,\"[\"\"p\"\"]\"\n";
    let files = [("a.jsonl", jsonl), ("b.csv", csv)];
    let data = text_task("multi_label", &files, json!({"validation": "b.csv"})).unwrap();
    assert_eq!(data.labels.names(), ["p", "q"]);
    assert_eq!(
        (data.train.labels.classes(0), data.train.labels.classes(1)),
        (&[0, 1][..], &[][..])
    );
    assert_eq!(data.train.labels.counts(2), [1, 1]);
    let validation = data.validation.unwrap();
    let expected = Values::Multi {
        classes: 2,
        values: vec![true, false],
    };
    assert_eq!(validation.labels.values(2, [0]), expected);
}

/// Numbers for regression: typed, or text in CSV.
#[test]
fn numbers() {
    let csv = "text,label\na, 1.5\na,-2\n";
    let data = text_task("regression", &[("a.csv", csv)], json!({"test": "a.csv"})).unwrap();
    assert_eq!(data.train.labels, Labels::Numbers(vec![1.5, -2.0]));
    assert_eq!(data.test.unwrap().labels, data.train.labels);
    assert!(data.labels.is_empty());
}

/// Only the first training samples are read where the job says so, over several files.
#[test]
fn training_samples_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.csv"), "text,label\na,x\nb,y\n").unwrap();
    // The fourth sample is broken, and isn't looked at.
    fs::write(
        dir.path().join("b.jsonl"),
        "{\"text\": \"c\", \"label\": \"x\"}\n{",
    )
    .unwrap();
    let path = |name: &str| json!(dir.path().join(name));
    let mut spec = task(
        dir.path(),
        "single_label",
        "a.csv",
        json!({"max_train_samples": 3}),
    );
    spec.data.train = serde_json::from_value(json!([path("a.csv"), path("b.jsonl")])).unwrap();
    let modality = Modality::Text(Arc::new(tokenizer(dir.path(), 5).unwrap()));
    let data = load(&spec, &modality).unwrap();
    assert_eq!(data.train.labels, Labels::Single(vec![0, 1, 0]));
    assert!(
        data.train
            .place(2)
            .unwrap()
            .to_string()
            .ends_with("b.jsonl, row 1")
    );
}

/// Images: lists of numbers, nested or flat, of the backbone's size.
#[test]
fn images() {
    let dir = tempfile::tempdir().unwrap();
    let load_rows = |rows: &str| {
        fs::write(dir.path().join("a.jsonl"), rows).unwrap();
        let spec = task(
            dir.path(),
            "single_label",
            "a.jsonl",
            json!({"labels": ["x", "y"]}),
        );
        let reader = MediaReader::plain([1, 2, 2]);
        let found = load(&spec, &Modality::Media(Arc::new(reader)));
        found.map_err(|e| {
            e.to_string()
                .replace(&format!("{}/", dir.path().display()), "")
        })
    };
    let data = load_rows("{\"image\": [[1, 2], [3, 4.5]], \"label\": 0}\n").unwrap();
    assert_eq!(
        data.train.input(0).unwrap(),
        Input::Numbers(Arc::from([1.0, 2.0, 3.0, 4.5]))
    );
    assert!((data.sample_cost - 1.0).abs() < f64::EPSILON);
    assert_eq!(
        load_rows("{\"image\": [1, 2, 3], \"label\": 0}").unwrap_err(),
        "task tone, train data: a.jsonl, row 1 (line 1): column `image`: expected 4 numbers an image, found 3"
    );
    assert_eq!(
        load_rows("{\"image\": [1, 2, 3, \"4\"], \"label\": 0}").unwrap_err(),
        "task tone, train data: a.jsonl, row 1 (line 1): column `image`: expected a number, found the text `4`"
    );
}

/// A label outside the set is named with its place and the nearest class, in every split.
#[test]
fn unknown_labels() {
    let given = json!({"labels": ["positive", "negative"]});
    assert_eq!(
        refused(
            "single_label",
            ("a.csv", "text,label\na,negative\na,postive\n"),
            given.clone()
        ),
        "task tone, train data: a.csv, row 2 (line 3): label `postive` is not in the label set (did you mean `positive`?); the given set has 2 classes: add it to data.labels or correct the row"
    );
    assert_eq!(
        refused(
            "multi_label",
            ("a.jsonl", "{\"text\": \"a\", \"label\": [0, 2]}"),
            given
        ),
        "task tone, train data: a.jsonl, row 1 (line 1): label `2` is not in the label set; the given set has 2 classes: add it to data.labels or correct the row"
    );
    let files = [
        ("a.csv", "text,label\na,x\na,y\n"),
        ("b.csv", "text,label\na,z\n"),
    ];
    assert_eq!(
        text_task("single_label", &files, json!({"test": "b.csv"})).unwrap_err(),
        "task tone, test data: b.csv, row 1 (line 2): label `z` is not in the label set; the 2 classes are those of the training files: give data.labels to name all classes"
    );
}

/// Values that are missing, of another type or not finite are named with file, row and column.
#[test]
fn wrong_values() {
    let cases = [
        (
            "single_label",
            "{\"text\": \"a\", \"label\": null}",
            "column `label` is null or empty; fill it, remove the row, or set data.on_missing_label to skip",
        ),
        (
            "single_label",
            "{\"text\": null, \"label\": 1}",
            "column `text` is null; fill it or remove the row",
        ),
        (
            "single_label",
            "{\"text\": 3, \"label\": 1}",
            "column `text`: expected a text, found the integer 3",
        ),
        (
            "single_label",
            "{\"text\": \"a\", \"label\": 1.5}",
            "column `label`: expected a class: a text or an integer, found the number 1.5",
        ),
        (
            "single_label",
            "{\"text\": \"a\", \"label\": [\"x\"]}",
            "column `label`: expected a class: a text or an integer, found a list of 1",
        ),
        (
            "multi_label",
            "{\"text\": \"a\", \"label\": \"x\"}",
            "column `label`: expected a list of classes, such as [\"a\",\"b\"] or [], found the text `x`",
        ),
        (
            "multi_label",
            "{\"text\": \"a\", \"label\": [{}]}",
            "column `label`: expected a list of texts or integers, found an object",
        ),
        (
            "regression",
            "{\"text\": \"a\", \"label\": \"2.5\"}",
            "column `label`: expected a number, found the text `2.5`",
        ),
        (
            "regression",
            "{\"text\": \"a\", \"label\": 1e39}",
            "column `label`: expected a finite number, found 1000000000000000000000000000000000000000",
        ),
    ];
    for (head, row, problem) in cases {
        let expected = format!("task tone, train data: a.jsonl, row 1 (line 1): {problem}");
        assert_eq!(refused(head, ("a.jsonl", row), json!({})), expected);
    }
    for (value, problem) in [
        ("nan", "column `label`: expected a finite number, found NaN"),
        (
            "",
            "column `label` is null or empty; fill it, remove the row, or set data.on_missing_label to skip",
        ),
        (
            "high",
            "column `label`: expected a number, found the text `high`",
        ),
    ] {
        let csv = format!("text,label\na,{value}\n");
        let expected = format!("task tone, train data: a.csv, row 1 (line 2): {problem}");
        assert_eq!(refused("regression", ("a.csv", &csv), json!({})), expected);
    }
}

/// A classification needs two classes, each named once.
#[test]
fn too_few_classes() {
    let one = ("a.csv", "text,label\na,x\na,x\n");
    assert_eq!(
        refused("single_label", one, json!({})),
        "task tone, train data: 1 class(es) in the training labels; a classification needs two or more: check the label column or give data.labels"
    );
    assert_eq!(
        refused("single_label", one, json!({"labels": ["x", "y", "x"]})),
        "task tone, train data: data.labels names `x` twice; name each class once"
    );
}

/// A tokenizer that is missing, broken or without room for a word is refused by name.
#[test]
fn bad_tokenizers() {
    let dir = tempfile::tempdir().unwrap();
    let message = |error: Error| {
        error
            .to_string()
            .replace(&format!("{}/", dir.path().display()), "")
    };
    assert_eq!(
        message(Tokenizer::load(dir.path(), 8).unwrap_err()),
        "tokenizer.json: no such file; a text backbone's directory must hold a tokenizer.json"
    );
    assert_eq!(
        message(tokenizer(dir.path(), 2).unwrap_err()),
        "tokenizer.json: not a usable tokenizer: max_tokens is 2, but 2 special tokens are added to every text; expected a limit of at least 3"
    );
    fs::write(dir.path().join("tokenizer.json"), "{\"model\": 1}").unwrap();
    let found = message(Tokenizer::load(dir.path(), 8).unwrap_err());
    assert!(
        found.starts_with("tokenizer.json: not a usable tokenizer: "),
        "{found}"
    );
    assert_eq!(tokenizer(dir.path(), 8).unwrap().vocabulary(), 9);
}

/// Texts that come as words keep their borders: each word knows its first token, those beyond the
/// limit have none; tags are counted against the words.
#[test]
fn words_keep_their_tags() {
    let rows = r#"{"tokens": ["a", "b-c", "d"], "tags": ["B-x", "I-x", "O"]}
{"tokens": ["e"], "tags": ["O"]}
"#;
    let data = text_task("tags", &[("a.jsonl", rows)], json!({})).unwrap();
    assert_eq!(data.labels.names(), ["B-x", "I-x", "O"]);
    let input = data.train.input(0).unwrap();
    // `b-c` is three tokens, of which two are within the limit of five.
    assert_eq!(input.ids().unwrap()[..], [1, 4, 5, 0, 2]);
    assert_eq!(input.first(), [1, 2, NO_TOKEN]);
    assert_eq!(data.train.cut(), 1);
    assert_eq!(data.train.input(1).unwrap().first(), [1]);
    let Values::Tags { ends, values, .. } = data.train.labels.values(3, [1, 0]) else {
        panic!("other labels");
    };
    assert_eq!((ends, values), (vec![1, 4], vec![2, 0, 1, 2]));
    // A list of words serves any head.
    let label = r#"{"words": ["a", "b"], "label": "x"}
{"words": ["c"], "label": "y"}
"#;
    let columns = json!({"columns": {"input": "words"}});
    let data = text_task("single_label", &[("a.jsonl", label)], columns).unwrap();
    assert_eq!(data.train.input(0).unwrap().first(), [1, 2]);
    let csv = "tokens,tags\n\"[\"\"a\"\",\"\"b\"\"]\",\"[\"\"N\"\",\"\"V\"\"]\"\n";
    let data = text_task("tags", &[("a.csv", csv)], json!({})).unwrap();
    assert_eq!(data.train.input(0).unwrap().first(), [1, 2]);
}

/// Tags that do not fit their words are named with file, row and word.
#[test]
fn bad_tags_are_named() {
    let said = |row: &str| {
        let rows = format!(
            "{}\n{row}\n",
            r#"{"tokens": ["a", "b"], "tags": ["B-x", "I-x"]}"#
        );
        text_task("tags", &[("a.jsonl", &rows)], json!({})).unwrap_err()
    };
    let error = said(r#"{"tokens": ["a", "b"], "tags": ["O"]}"#);
    assert!(
        error.contains("row 2") && error.contains("1 tags for 2 words"),
        "{error}"
    );
    let error = said(r#"{"tokens": ["a", "b"], "tags": ["O", "I-x"]}"#);
    assert!(error.contains("word 2 is `I-x` after `O`"), "{error}");
    let error = said(r#"{"tokens": ["a"], "tags": ["I-x"]}"#);
    assert!(error.contains("word 1 is `I-x` after nothing"), "{error}");
    let error = said(r#"{"tokens": "a b", "tags": ["O", "O"]}"#);
    assert!(
        error.contains("expected a list of one word or more"),
        "{error}"
    );
    let error = said(r#"{"tokens": [], "tags": []}"#);
    assert!(error.contains("found a list of 0"), "{error}");
    let error = said(r#"{"tokens": ["a"], "tags": "O"}"#);
    assert!(error.contains("expected a list of tags"), "{error}");
}

// Promise: `on_bad_sample` may leave rows with wrong tags out and counts them; none of their tags is a class.
#[test]
fn bad_tags_can_be_left_out() {
    let rows = r#"{"tokens": ["a", "b"], "tags": ["B-x", "I-x"]}
{"tokens": ["a", "b"], "tags": ["Q"]}
{"tokens": ["a"], "tags": ["I-y"]}
{"tokens": ["c"], "tags": ["O"]}
"#;
    let load = |rows: &str| {
        let skip = json!({"on_bad_sample": "skip"});
        text_task("tags", &[("a.jsonl", rows)], skip)
    };
    let data = load(rows).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 2));
    assert_eq!(data.labels.names(), ["B-x", "I-x", "O"]);
    assert_eq!(data.train.place(1).unwrap().row, 4);
    assert_eq!(data.train.input(1).unwrap().first(), [1]);
    let none = load(rows.lines().nth(1).unwrap()).unwrap_err();
    assert!(none.contains("1 tags for 2 words"), "{none}");
    assert!(none.contains("all 1 rows were left out"), "{none}");
}
