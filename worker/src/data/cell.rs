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
    /// Bytes that are no text, such as those of an image.
    Bytes(Vec<u8>),
    /// A struct or an object: its fields in order.
    Struct(Vec<(String, Cell)>),
    /// Something that no task takes, such as a date: its kind in words.
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
            Cell::Bytes(bytes) => describe_bytes(bytes),
            Cell::Struct(fields) if fields.is_empty() => "an object".to_owned(),
            Cell::Struct(fields) => {
                let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
                format!("an object with {}", names.join(", "))
            }
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
            Value::Object(fields) => Cell::Struct(
                fields
                    .into_iter()
                    .map(|(name, value)| (name, Cell::from(value)))
                    .collect(),
            ),
        }
    }
}

/// What some bytes are, by how they begin, in words for an error message.
pub(super) fn describe_bytes(bytes: &[u8]) -> String {
    const KINDS: [(&[u8], &str); 10] = [
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"GIF8", "a GIF image"),
        (b"BM", "a BMP image"),
        (b"fLaC", "a FLAC sound"),
        (b"OggS", "an Ogg sound"),
        (b"ID3", "an MP3 sound"),
        (b"\xff\xfb", "an MP3 sound"),
        (b"PAR1", "a Parquet file"),
        (b"%PDF", "a PDF document"),
    ];
    let kind = match (bytes.get(..4), bytes.get(8..12)) {
        (Some(b"RIFF"), Some(b"WAVE")) => "a WAV sound",
        (Some(b"RIFF"), Some(b"WEBP")) => "a WebP image",
        _ => {
            let known = KINDS.iter().find(|(start, _)| bytes.starts_with(start));
            match known {
                Some((_, kind)) => kind,
                None => return format!("{} bytes of no known kind", bytes.len()),
            }
        }
    };
    format!("the bytes of {kind}")
}

/// At most 40 characters of `text`.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
