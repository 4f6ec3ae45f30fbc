//! One value of a data file, before a task says what it should be.

/// One value of a data file.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// Text of a format that has types.
    Text(String),
    /// Text of a CSV field: may be meant as a number, a truth value or a JSON list.
    Raw(String),
    /// An integer.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A list.
    List(Vec<Cell>),
    /// Something that no task takes, such as a date or a struct: its kind in words.
    Other(String),
}

impl Cell {
    /// What this is, in words for an error message.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Cell::Null => "null".to_owned(),
            Cell::Text(text) | Cell::Raw(text) => format!("the text `{}`", shortened(text)),
            Cell::Int(number) => format!("the integer {number}"),
            Cell::Float(number) => format!("the number {number}"),
            Cell::Bool(value) => format!("{value}"),
            Cell::List(cells) => format!("a list of {}", cells.len()),
            Cell::Other(kind) => kind.clone(),
        }
    }

    /// A CSV field that holds a JSON list, as that list; everything else unchanged.
    #[must_use]
    pub fn unpacked(self) -> Cell {
        match self {
            Cell::Raw(text) if text.trim_start().starts_with('[') => {
                match serde_json::from_str::<serde_json::Value>(&text) {
                    Ok(value) => Cell::from(value),
                    Err(_) => Cell::Raw(text),
                }
            }
            other => other,
        }
    }
}

impl From<serde_json::Value> for Cell {
    fn from(value: serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Cell::Null,
            Value::Bool(value) => Cell::Bool(value),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Cell::Int(number),
                (None, Some(number)) => Cell::Float(number),
                (None, None) => Cell::Other(format!("the number {number}")),
            },
            Value::String(text) => Cell::Text(text),
            Value::Array(values) => Cell::List(values.into_iter().map(Cell::from).collect()),
            Value::Object(_) => Cell::Other("an object".to_owned()),
        }
    }
}

/// At most 40 characters of `text`.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
