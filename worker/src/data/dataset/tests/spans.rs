//! Questions whose answers stand in their contexts.

use super::*;
use std::fmt::Write as _;

/// Question, context, and answers with their starts.
type Asked<'a> = (&'a str, &'a str, &'a [(&'a str, i64)]);

/// Rows of a question, a context, and where words of it answer.
fn rows(all: &[Asked<'_>]) -> String {
    let mut rows = String::new();
    for (question, context, answers) in all {
        let text: Vec<&str> = answers.iter().map(|(text, _)| *text).collect();
        let start: Vec<i64> = answers.iter().map(|(_, start)| *start).collect();
        let row = json!({"question": question, "context": context,
                         "answers": {"text": text, "answer_start": start}});
        writeln!(rows, "{row}").unwrap();
    }
    rows
}

/// The first answer becomes tokens of the context, one that is cut off or is not there becomes the first
/// token; lost ones are counted; all answers are kept for evaluations.
#[test]
fn answers_become_tokens() {
    let rows = rows(&[
        ("a", "b c d e", &[("c d", 2), ("e", 6)]),
        ("a b", "c d e a b", &[("b", 8)]),
        ("a", "b", &[]),
    ]);
    let data = text_task("span", &[("a.jsonl", &rows)], json!({})).unwrap();
    assert!(data.labels.is_empty());
    let input = |index| data.train.input(index).unwrap();
    // The same tokens as those of any pair.
    assert_eq!(input(0).ids().unwrap()[..], [4, 5, 6, 7, 8]);
    assert_eq!(input(0).second(), Some(1));
    assert_eq!(input(0).first(), [0, 1, 2, 3, 4]);
    let target = |index| input(index).passage().unwrap().target;
    assert_eq!(target(0), [2, 3]);
    assert_eq!(input(1).first(), [0, 2, 3, 4]);
    assert_eq!((target(1), target(2)), ([0, 0], [0, 0]));
    assert_eq!((data.train.lost(), data.train.cut()), (1, 1));
    let passage = input(0).passage().unwrap().clone();
    let context = data.train.context(0).unwrap();
    let found = passage.answer(context, [2, 4]).unwrap();
    assert_eq!((found.text, found.start, found.end), ("c d e", 2, 7));
    let Values::Answers(all) = data.values(&data.train, [2, 0]) else {
        panic!("other labels");
    };
    assert_eq!(all[0].len(), 0);
    assert_eq!(all[1][..], ["c d", "e"].map(str::to_owned));
}

/// An answer that does not stand where it should ends the job with its row, or leaves the row out; rows
/// behind it keep their places.
#[test]
fn wrong_answers_are_bad_samples() {
    let rows = rows(&[
        ("a", "b c", &[("b", 0)]),
        ("a", "b c", &[("c", 1)]),
        ("a", "b c", &[("c", 2)]),
    ]);
    let error = refused("span", ("a.jsonl", &rows), json!({}));
    assert!(
        error.contains("row 2") && error.contains("does not stand at character 1"),
        "{error}"
    );
    let skip = json!({"on_bad_sample": "skip"});
    let data = text_task("span", &[("a.jsonl", &rows)], skip).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 1));
    assert_eq!(
        data.train.input(1).unwrap().passage().unwrap().target,
        [2, 2]
    );
    assert_eq!(data.train.place(1).unwrap().row, 3);
    let lacking = r#"{"question": "a", "context": "b", "answers": null}"#;
    let error = refused("span", ("a.jsonl", lacking), json!({}));
    assert!(error.contains("data.on_missing_label"), "{error}");
}
