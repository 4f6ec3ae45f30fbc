//! Answers of a row, as Hugging Face's question answering has them: `{text: [...], answer_start: [...]}`,
//! where a question without an answer has two empty lists.

use crate::data::cell::shortened;
use crate::data::inputs::mismatch;
use crate::data::passage::part;
use crate::data::{Cell, Problem};
use std::sync::Arc;

const EXPECTED: &str = "an object with two lists of the same length, such as \
                        {\"text\": [\"a word\"], \"answer_start\": [12]}";

/// The answers to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answers {
    /// All of them.
    pub(super) texts: Arc<[String]>,
    /// Characters `start..end` of the context where the first one stands.
    pub(super) first: Option<[u32; 2]>,
}

/// Reads the answers of a row from the column `column`.
///
/// # Errors
/// A cell of another form; a bad sample, if an answer is not where it should be in the context.
pub(super) fn read(cell: &Cell, column: &str, context: &Cell) -> Result<Answers, Problem> {
    let unpacked;
    let cell = match cell {
        // A field of CSV.
        Cell::Raw(text) if text.trim_start().starts_with('{') => {
            let value = serde_json::from_str::<serde_json::Value>(text).ok();
            unpacked = value.map_or_else(|| cell.clone(), Cell::from);
            &unpacked
        }
        cell => cell,
    };
    let wrong = || mismatch(column, EXPECTED, cell);
    let fields = match cell {
        Cell::Struct(fields) => fields,
        Cell::Null => {
            let column = column.to_owned();
            return Err(Problem::NoLabel { column });
        }
        _ => return Err(wrong()),
    };
    let list = |wanted: &str| {
        let field = fields.iter().find(|(name, _)| name == wanted);
        match field {
            Some((_, Cell::List(cells))) => Ok(cells.as_slice()),
            _ => Err(wrong()),
        }
    };
    let (texts, starts) = (list("text")?, list("answer_start")?);
    if texts.len() != starts.len() {
        return Err(wrong());
    }
    let (Cell::Text(context) | Cell::Raw(context)) = context else {
        // What is wrong with it is said where contexts are read.
        return Ok(Answers {
            texts: Arc::default(),
            first: None,
        });
    };
    let mut found = Vec::with_capacity(texts.len());
    let mut first = None;
    for (text, start) in texts.iter().zip(starts) {
        let (Cell::Text(text), Cell::Int(start)) = (text, start) else {
            return Err(wrong());
        };
        let characters = stands(context, text, *start).map_err(|message| Problem::Undecodable {
            column: column.to_owned(),
            message,
        })?;
        first.get_or_insert(characters);
        found.push(text.clone());
    }
    Ok(Answers {
        texts: found.into(),
        first,
    })
}

/// The characters of a context where an answer stands, or why it does not.
fn stands(context: &str, answer: &str, start: i64) -> Result<[u32; 2], String> {
    if answer.trim().is_empty() {
        return Err(
            "an answer is empty; a question without an answer has two empty lists".to_owned(),
        );
    }
    let length = u32::try_from(answer.chars().count()).unwrap_or(u32::MAX);
    let place = u32::try_from(start).ok();
    let there = place.and_then(|start| Some([start, start.checked_add(length)?]));
    let what = |place: [u32; 2]| part(context, place[0], place[1]);
    match there {
        Some(place) if what(place) == Some(answer) => Ok(place),
        there => {
            let found = match there.and_then(what) {
                Some(found) => format!("`{}` does", shortened(found)),
                None => "it ends before".to_owned(),
            };
            let answer = shortened(answer);
            Err(format!(
                "the answer `{answer}` does not stand at character {start} of the context: {found}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn said(answers: Value, context: &str) -> Result<Answers, String> {
        let context = Cell::Text(context.to_owned());
        read(&Cell::from(answers), "answers", &context).map_err(|problem| {
            let bad = if problem.is_bad_sample() { "bad: " } else { "" };
            format!("{bad}{problem}")
        })
    }

    // Promise: all answers are kept, the first one with its place in characters; a question may have none.
    #[test]
    fn answers_are_read() {
        let two = json!({"text": ["Öl", "Ä"], "answer_start": [2, 0]});
        let found = said(two, "Ä Öl").unwrap();
        assert_eq!(found.texts[..], ["Öl", "Ä"].map(str::to_owned));
        assert_eq!(found.first, Some([2, 4]));
        let none = said(json!({"text": [], "answer_start": []}), "a").unwrap();
        assert_eq!((none.texts.len(), none.first), (0, None));
        let field = Cell::Raw(r#"{"text": ["b"], "answer_start": [2]}"#.to_owned());
        let context = Cell::Raw("a b".to_owned());
        let found = read(&field, "answers", &context).unwrap();
        assert_eq!(found.first, Some([2, 3]));
    }

    // Promise: an answer that is not where it should be is a bad sample and told so; another form is not.
    #[test]
    fn wrong_answers_are_told() {
        let error = |answers, part: &str| {
            let found = said(answers, "a red fox").unwrap_err();
            assert!(found.contains(part), "{found}");
            found.starts_with("bad: ")
        };
        let red = |start: i64| json!({"text": ["red"], "answer_start": [start]});
        assert!(error(
            red(3),
            "`red` does not stand at character 3 of the context: `ed ` does"
        ));
        assert!(error(red(8), "character 8 of the context: it ends before"));
        assert!(error(red(-1), "character -1 of the context"));
        assert!(error(
            json!({"text": [""], "answer_start": [1]}),
            "an answer is empty"
        ));
        assert!(!error(
            json!({"text": ["a"], "answer_start": []}),
            "same length"
        ));
        assert!(!error(
            json!({"text": ["a"], "answer_start": ["0"]}),
            "expected an object"
        ));
        assert!(!error(json!("a"), "found the text `a`"));
        assert!(!error(json!(null), "null or empty"));
    }
}
