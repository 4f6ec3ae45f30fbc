//! Texts that are longer than the backbone takes, where the job wants none cut.

use crate::data::{Cell, Problem, Tokenizer};

/// What is wrong with a text of `column`, or with two that are read together, of which something would be cut
/// off. What is no text is told elsewhere.
pub(super) fn too_long(
    tokenizer: &Tokenizer,
    column: &str,
    (input, second): (&Cell, Option<&Cell>),
) -> Option<Problem> {
    let encoded = match (input, second) {
        (Cell::List(words), None) => tokenizer.encode_words(&texts(words)?),
        (first, Some(second)) => tokenizer.encode_pair(text(first)?, text(second)?),
        (first, None) => tokenizer.encode(text(first)?),
    };
    if !encoded.is_ok_and(|encoded| encoded.cut) {
        return None;
    }
    let whole = match input {
        Cell::List(words) => texts(words)?.join(" "),
        first => text(first)?.to_owned(),
    };
    let parts = [Some(whole.as_str()), second.and_then(text)];
    let count = |text: &str| tokenizer.encode_all(text).map_or(0, |ids| ids.len());
    let length: usize = parts.into_iter().flatten().map(count).sum();
    Some(Problem::Undecodable {
        column: column.to_owned(),
        message: format!(
            "the text has {length} tokens beside special ones, but {} with these are the most \
             (backbone.max_tokens, or what the model takes), and data.too_long is `error`",
            tokenizer.max_tokens()
        ),
    })
}

fn texts(words: &[Cell]) -> Option<Vec<&str>> {
    words.iter().map(text).collect()
}

fn text(cell: &Cell) -> Option<&str> {
    match cell {
        Cell::Text(text) | Cell::Raw(text) => Some(text),
        _ => None,
    }
}
