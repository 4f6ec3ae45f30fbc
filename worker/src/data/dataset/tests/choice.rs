//! What a task takes of its files: second texts, some samples of each class.

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
