//! Classes whose names are integers: what an integer in a row means then.

use super::*;

/// A Parquet file of these integers that declares these classes.
fn declared(dir: &Path, name: &str, labels: &[i64], classes: &Value) {
    let columns = [
        ("text", Column::Texts(vec![Some("a"); labels.len()])),
        ("label", Column::Ints(labels.to_vec())),
    ];
    let class = json!({"names": classes, "_type": "ClassLabel"});
    let meta = json!({"info": {"features": {"label": class}}}).to_string();
    write(&dir.join(name), &columns, "SNAPPY", Some(&meta));
}

// Promise: the integers of a file that declares its classes are numbers of classes, never names, so that no
// two classes become one; what is beyond the last class is named as a number.
#[test]
fn integers_of_a_declaring_file_are_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let modality = Modality::Text(Arc::new(tokenizer(dir.path(), 5).unwrap()));
    let names = json!(["1", "2", "3"]);
    declared(dir.path(), "a.parquet", &[0, 1, 2, 1], &names);
    let spec = task(dir.path(), "single_label", "a.parquet", json!({}));
    let data = load(&spec, &modality).unwrap();
    assert_eq!(data.labels.names(), ["1", "2", "3"]);
    assert_eq!(data.train.labels, Labels::Single(vec![0, 1, 2, 1]));

    declared(dir.path(), "b.parquet", &[0, 3], &names);
    let spec = task(dir.path(), "single_label", "b.parquet", json!({}));
    let error = load(&spec, &modality).unwrap_err().to_string();
    let expected = "row 2: label `3, counted from 0` is not in the label set; the given set has 3";
    assert!(error.contains(expected), "{error}");
}

// Promise: names stand for classes in files of texts beside a declaring one, and a text that is no name is
// not counted where names are integers.
#[test]
fn texts_beside_a_declaring_file_are_names() {
    let dir = tempfile::tempdir().unwrap();
    let modality = Modality::Text(Arc::new(tokenizer(dir.path(), 5).unwrap()));
    declared(dir.path(), "a.parquet", &[0, 1], &json!(["1", "2"]));
    let load_test = |csv: &str| {
        let file = dir.path().join("b.csv");
        fs::write(&file, csv).unwrap();
        let data = json!({"test": file});
        load(
            &task(dir.path(), "single_label", "a.parquet", data),
            &modality,
        )
    };
    let data = load_test("text,label\na,1\nb,2\n").unwrap();
    assert_eq!(data.test.unwrap().labels, Labels::Single(vec![0, 1]));
    let error = load_test("text,label\na,0\n").unwrap_err().to_string();
    assert!(
        error.contains("label `0` is not in the label set"),
        "{error}"
    );
}

// Promise: where the job gives a class an integer for a name, integers are names only.
#[test]
fn given_numerals_are_names_only() {
    let given = json!({"labels": ["1", "2", "3"]});
    let rows = |labels: &str| format!("text,label\n{labels}");
    let data = text_task(
        "single_label",
        &[("a.csv", &rows("a,3\nb,1\n"))],
        given.clone(),
    );
    assert_eq!(data.unwrap().train.labels, Labels::Single(vec![2, 0]));
    let error = refused("single_label", ("a.csv", &rows("a,1\nb,0\n")), given);
    assert!(
        error.contains("label `0` is not in the label set"),
        "{error}"
    );
}

// Promise: a class that may not be trained on is known by what a number stands for, not by how it looks.
#[test]
fn unseen_classes_are_known_by_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let modality = Modality::Text(Arc::new(tokenizer(dir.path(), 5).unwrap()));
    let names = json!(["1", "2", "3"]);
    let described = json!({"1": "a", "2": "b", "3": "c"});
    let load_rows = |labels: &[i64]| {
        declared(dir.path(), "a.parquet", labels, &names);
        let mut spec = task(dir.path(), "label_embedding", "a.parquet", json!({}));
        let zero_shot = json!({"descriptions": described.clone(), "unseen": ["2"]});
        spec.zero_shot = serde_json::from_value(zero_shot).unwrap();
        load(&spec, &modality)
    };
    let data = load_rows(&[0, 2]).unwrap();
    assert_eq!(data.train.labels, Labels::Single(vec![0, 2]));
    let error = load_rows(&[0, 1]).unwrap_err().to_string();
    assert!(
        error.contains("label `2` is in zero_shot.unseen"),
        "{error}"
    );
}
