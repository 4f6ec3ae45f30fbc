//! Reading files: the cells of the wanted columns, row by row, whatever the format.

mod csv;
mod jsonl;
mod parquet;
mod table;

use super::error::nearest;
use super::{Cell, Error, Place};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
pub use table::{Numbers, is_table, table};

/// The columns that a task needs of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Column of the input.
    pub input: &'a str,
    /// Column of the second text of a pair.
    pub pair: Option<&'a str>,
    /// Column of the label.
    pub label: &'a str,
}

/// One row: input, second text of a pair, label.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where it stands.
    pub place: Place,
    /// The input's cell.
    pub input: Cell,
    /// The cell of the second text; none if none is wanted.
    pub pair: Option<Cell>,
    /// The label's cell.
    pub label: Cell,
}

/// What a reader does with each row: `Ok(true)` to go on, `Ok(false)` to stop reading.
pub type Sink<'a> = dyn FnMut(Row) -> Result<bool, Error> + 'a;

/// Reads `path` and hands each row to `sink`, in order. The extension names the format: `.parquet`,
/// `.jsonl` or `.json` (one object a line), `.csv` (RFC 4180 with a header).
///
/// # Errors
/// A file that is missing, unreadable, of unknown format, empty, cut off or damaged; a column that
/// isn't there; a row that can't be decoded; whatever `sink` returns.
pub fn read(path: &Path, wanted: Wanted<'_>, sink: &mut Sink<'_>) -> Result<(), Error> {
    match Format::of(path)? {
        Format::Parquet => parquet::read(path, open(path)?, wanted, sink),
        Format::Jsonl => jsonl::read(path, open(path)?, wanted, sink),
        Format::Csv => csv::read(path, open(path)?, wanted, sink),
    }
}

/// The class names that a Parquet file written by Hugging Face `datasets` declares for the label
/// column (its `ClassLabel` feature), in order; none for other files and formats.
///
/// # Errors
/// As [`read`], for Parquet files.
pub fn class_names(path: &Path, label: &str) -> Result<Option<Vec<String>>, Error> {
    match Format::of(path)? {
        Format::Parquet => parquet::class_names(path, open(path)?, label),
        Format::Jsonl | Format::Csv => Ok(None),
    }
}

enum Format {
    Parquet,
    Jsonl,
    Csv,
}

impl Format {
    fn of(path: &Path) -> Result<Self, Error> {
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("parquet") => Ok(Format::Parquet),
            Some("jsonl" | "json") => Ok(Format::Jsonl),
            Some("csv") => Ok(Format::Csv),
            _ => Err(Error::Format {
                file: path.to_owned(),
            }),
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let file = File::open(path).map_err(|cause| match cause.kind() {
        ErrorKind::NotFound => Error::Missing {
            file: path.to_owned(),
        },
        _ => Error::Read {
            file: path.to_owned(),
            cause,
        },
    })?;
    let meta = file.metadata().map_err(|cause| Error::Read {
        file: path.to_owned(),
        cause,
    })?;
    if meta.is_dir() {
        let cause = std::io::Error::new(
            ErrorKind::IsADirectory,
            "it is a directory; name the files in it",
        );
        return Err(Error::Read {
            file: path.to_owned(),
            cause,
        });
    }
    if meta.len() == 0 {
        return Err(Error::Empty {
            file: path.to_owned(),
        });
    }
    Ok(file)
}

/// The error for a column that isn't there.
fn missing_column(file: &Path, wanted: &str, found: Vec<String>) -> Error {
    let suggestion = nearest(wanted, found.iter().map(String::as_str));
    Error::Column {
        file: PathBuf::from(file),
        wanted: wanted.to_owned(),
        found,
        suggestion,
    }
}

#[cfg(test)]
pub(super) mod tests;
