//! What a task takes of its files: second texts, some samples of each class, rows without a label or a text.

use super::*;

/// Two texts become one input that says where the second begins; the longer one is cut first; a
/// second text that is missing, or beside words, is refused by its column.
#[test]
fn pairs_of_texts() {
    let csv = "text,other,label\na b,c d e,x\na,b,y\n";
    let columns = json!({"columns": {"pair": "other"}});
    let data = text_task("single_label", &[("a.csv", csv)], columns.clone()).unwrap();
    let pair = |ids: &[u32], second| Input::Pair {
        ids: ids.into(),
        second,
    };
    assert_eq!(data.train.input(0).unwrap(), pair(&[4, 5, 6, 7, 8], 2));
    assert_eq!(data.train.input(1).unwrap(), pair(&[4, 5], 1));
    let none = "{\"text\": \"a\", \"other\": null, \"label\": 1}";
    let none = refused("single_label", ("a.jsonl", none), columns.clone());
    assert!(none.contains("column `other`"), "{none}");
    let words = "{\"text\": [\"a\"], \"other\": \"b\", \"label\": 1}";
    let words = refused("single_label", ("a.jsonl", words), columns);
    assert!(words.contains("expected two texts"), "{words}");
}

/// Of every class as many samples are kept as asked for, drawn by the seed; rows keep their inputs,
/// their order and their places.
#[test]
fn some_samples_of_each_class() {
    let row = |i: usize| {
        let word = ["a", "b", "c", "d", "e"][i % 5];
        format!("{word},{}\n", ["x", "y", "z"][i.min(30) % 3])
    };
    let csv = "text,label\n".to_owned() + &(0..40).map(row).collect::<String>();
    let all = text_task("single_label", &[("a.csv", &csv)], json!({})).unwrap();
    let few = |most, seed| {
        let mut data = text_task("single_label", &[("a.csv", &csv)], json!({})).unwrap();
        data.thin(most, seed);
        data.train
    };
    let rows = |split: &Split| -> Vec<u64> {
        (0..split.len())
            .map(|i| split.place(i).unwrap().row)
            .collect()
    };
    let drawn = few(4, 1);
    assert_eq!(drawn.labels.counts(3), [4, 4, 4]);
    assert_eq!(rows(&drawn), rows(&few(4, 1)));
    assert_ne!(rows(&drawn), rows(&few(4, 2)));
    for (index, row) in rows(&drawn).into_iter().enumerate() {
        let before = row as usize - 1;
        assert_eq!(
            drawn.input(index).unwrap(),
            all.train.input(before).unwrap()
        );
        assert_eq!(
            drawn.labels.classes(index),
            all.train.labels.classes(before)
        );
    }
    assert!(rows(&drawn).is_sorted());
    // A class that has fewer gives all.
    assert_eq!(few(12, 1).labels.counts(3), [12, 10, 10]);
}

/// Rows without a label end the job, unless they are to be skipped: then they are no samples of a lone
/// task, and samples without a label where other tasks label them.
#[test]
fn rows_without_a_label() {
    let csv = "text,label\na,x\nb,\nc,y\nd,\ne,x\n";
    let error = refused("single_label", ("a.csv", csv), json!({}));
    assert!(
        error.contains("row 2 (line 3): column `label` is null or empty"),
        "{error}"
    );
    let skip = json!({"on_missing_label": "skip", "test": "a.csv"});
    let rows = |split: &Split| -> Vec<u64> {
        let place = |i| split.place(i).unwrap().row;
        (0..split.len()).map(place).collect()
    };
    let lone = text_task("single_label", &[("a.csv", csv)], skip.clone()).unwrap();
    assert_eq!(rows(&lone.train), [1, 3, 5]);
    assert_eq!(lone.train.labels, Labels::Single(vec![0, 1, 0]));
    assert_eq!(lone.train.unlabelled(), 2);
    let ids = lone.train.input(2).unwrap();
    assert_eq!(ids.ids().unwrap().as_ref(), [1, 8, 2]);

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.csv"), csv).unwrap();
    let mut spec = task(dir.path(), "single_label", "a.csv", skip.clone());
    spec.data.test = Some(spec.data.train.clone());
    spec.input_group = Some("texts".to_owned());
    let tokenizer = Arc::new(tokenizer(dir.path(), 5).unwrap());
    let grouped = load(&spec, &Modality::Text(tokenizer)).unwrap();
    assert_eq!(rows(&grouped.train), [1, 2, 3, 4, 5]);
    assert_eq!(grouped.train.labelled().collect::<Vec<_>>(), [0, 2, 4]);
    assert_eq!(grouped.train.labels.counts(2), [2, 1]);
    assert_eq!(grouped.train.unlabelled(), 2);
    assert_eq!(rows(grouped.test.as_ref().unwrap()), [1, 3, 5]);

    for (head, cells) in [
        ("regression", ["1.5", "null", "NaN"]),
        ("multi_label", ["[\"x\", \"y\"]", "null", "[]"]),
        ("single_label", ["\"x\"", "\"\"", "\"y\""]),
    ] {
        let row = |cell: &str| match cell {
            "NaN" => "{\"text\": \"a\"}\n".to_owned(),
            cell => format!("{{\"text\": \"a\", \"label\": {cell}}}\n"),
        };
        let lines: String = cells.iter().map(|cell| row(cell)).collect();
        let data = text_task(
            head,
            &[("a.jsonl", &lines)],
            json!({"on_missing_label": "skip"}),
        );
        let unlabelled = if head == "regression" { 2 } else { 1 };
        assert_eq!(data.unwrap().train.unlabelled(), unlabelled, "{head}");
    }
    let none = refused("single_label", ("a.csv", "text,label\na,\nb,\n"), skip);
    assert!(
        none.contains("no row has a label in column `label`: all 2"),
        "{none}"
    );
}

/// Classes with an order are numbers, or listed: texts alone say nothing of their order.
#[test]
fn ordered_classes_have_an_order() {
    let data = text_task(
        "ordinal",
        &[("a.csv", "text,label\na,10\nb,9\nc,2\n")],
        json!({}),
    );
    assert_eq!(data.unwrap().labels.names(), ["2", "9", "10"]);
    let csv = "text,label\na,good\nb,bad\nc,fair\n";
    let listed = json!({"labels": ["bad", "fair", "good"]});
    let data = text_task("ordinal", &[("a.csv", csv)], listed).unwrap();
    assert_eq!(data.train.labels, Labels::Single(vec![2, 0, 1]));
    let expected = Values::Ordered {
        classes: 3,
        values: vec![2, 1],
    };
    assert_eq!(data.values(&data.train, [0, 2]), expected);
    let refused = refused("ordinal", ("a.csv", csv), json!({}));
    assert!(refused.contains("list them in data.labels"), "{refused}");
}

/// A tokenizer that adds no tokens of its own.
fn bare(dir: &Path) -> Modality {
    tokenizer(dir, 5).unwrap();
    let file = dir.join("tokenizer.json");
    let mut content: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    content["post_processor"] = Value::Null;
    fs::write(&file, content.to_string()).unwrap();
    Modality::Text(Arc::new(Tokenizer::load(dir, 5).unwrap()))
}

// Promise: a text that becomes no tokens is found when its row is read, not when it is drawn, and
// `on_bad_sample` decides on it; in a stream of texts it is nothing.
#[test]
fn texts_without_tokens_are_bad_samples() {
    let dir = tempfile::tempdir().unwrap();
    let modality = bare(dir.path());
    let read = |head: &str, (name, content): (&str, &str), data: Value| {
        fs::write(dir.path().join(name), content).unwrap();
        let data = load(&task(dir.path(), head, name, data), &modality);
        data.map_err(|error| error.to_string())
    };
    let skip = json!({"on_bad_sample": "skip"});
    let csv = ("a.csv", "text,label\na,x\n,y\n\"  \",y\nb,y\n");
    let error = read("single_label", csv, json!({})).unwrap_err();
    assert!(
        error.contains("row 2 (line 3): the text has no tokens"),
        "{error}"
    );
    let data = read("single_label", csv, skip.clone()).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 2));
    assert_eq!(data.train.place(1).unwrap().row, 4);
    assert_eq!(data.train.labels, Labels::Single(vec![0, 1]));

    let words = r#"{"tokens": ["a", ""], "tags": ["N", "V"]}
{"tokens": ["", " "], "tags": ["N", "V"]}
"#;
    let data = read("tags", ("b.jsonl", words), skip).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (1, 1));
    let pairs = ("c.csv", "text,other,label\n,b,x\n,,y\na,,y\n");
    let columns = json!({"columns": {"pair": "other"}, "on_bad_sample": "skip"});
    let data = read("single_label", pairs, columns).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 1));

    let texts = "{\"text\": \"a b c d\"}\n{\"text\": \"\"}\n{\"text\": \"e a b c\"}\n";
    let join = |how: &str| read("causal_lm", ("d.jsonl", texts), json!({"join": how}));
    assert!(join("nothing").is_ok());
    let error = join("apart").unwrap_err();
    assert!(
        error.contains("row 2 (line 2): the text has no tokens"),
        "{error}"
    );
}

// Promise: with `too_long: error` no text is cut: one that is too long is named with its length, or left out and
// counted; joined texts are never too long.
#[test]
fn texts_that_are_too_long_can_be_refused() {
    let rows = "text,other,label\na b,c,x\na b c d e,c,y\na,c,y\n";
    let load = |head: &str, data: Value| text_task(head, &[("a.csv", rows)], data);
    let error = load("single_label", json!({"too_long": "error"})).unwrap_err();
    for part in [
        "a.csv, row 2",
        "has 5 tokens beside special ones, but 5 with",
        "data.too_long",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let skip = json!({"too_long": "error", "on_bad_sample": "skip"});
    let data = load("single_label", skip.clone()).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 1));
    for index in 0..2 {
        data.train.input(index).unwrap();
    }
    assert_eq!(data.train.cut(), 0);
    let mut pairs = skip;
    pairs["columns"] = json!({"pair": "other"});
    let data = load("single_label", pairs).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 1));
    let words = r#"{"tokens": ["a", "b"], "tags": ["O", "Q"]}
{"tokens": ["a", "b", "c", "d"], "tags": ["O", "O", "O", "O"]}
"#;
    let error = text_task("tags", &[("a.jsonl", words)], json!({"too_long": "error"}));
    let error = error.unwrap_err();
    assert!(
        error.contains("row 2") && error.contains("4 tokens"),
        "{error}"
    );
    let joined = load("causal_lm", json!({"too_long": "error"}));
    assert!(joined.is_ok(), "{joined:?}");
}
