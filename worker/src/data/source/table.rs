//! CSV tables of numbers: a name in the first column of each row, a number in each other.

use super::csv::{closed_quotes, failure};
use super::open;
use crate::data::{Cell, Error, Place, Problem};
use csv::{ByteRecord, ReaderBuilder};
use std::path::Path;
use std::sync::Arc;

/// A row: its place, its name, and its other cells with the names of their columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers<'a> {
    /// Where it stands.
    pub place: Place,
    /// The first field.
    pub name: String,
    /// Column and field of the others.
    pub cells: Vec<(&'a str, Cell)>,
}

/// Whether a file is one that [`table`] reads.
#[must_use]
pub fn is_table(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| e.eq_ignore_ascii_case("csv"))
}

/// Hands each row of a CSV file with a header to `sink`, in order.
///
/// # Errors
/// As [`super::read`]; whatever `sink` returns.
pub fn table(
    path: &Path,
    sink: &mut dyn FnMut(Numbers<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let file = Arc::new(path.to_owned());
    let place = |row: u64, line: u64| Place {
        file: file.clone(),
        row,
        line: Some(line),
    };
    let mut reader = ReaderBuilder::new().from_reader(open(path)?);
    let header = reader
        .byte_headers()
        .map_err(|error| failure(path, &place(0, 1), error))?
        .clone();
    let names: Vec<String> = header
        .iter()
        .map(|name| String::from_utf8_lossy(name).trim().to_owned())
        .collect();
    let mut record = ByteRecord::new();
    let (mut row, mut line, mut start) = (0, 1, 0);
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => row += 1,
            Ok(false) => break,
            Err(error) => return Err(failure(path, &place(row + 1, line + 1), error)),
        }
        (line, start) = record
            .position()
            .map_or((line, start), |at| (at.line(), at.byte()));
        let at = place(row, line);
        let mut fields = Vec::with_capacity(names.len());
        for field in &record {
            let text = std::str::from_utf8(field).map_err(|_| at.error(Problem::Utf8))?;
            fields.push(text.trim().to_owned());
        }
        let mut fields = fields.into_iter();
        let name = fields.next().unwrap_or_default();
        let columns = names.iter().skip(1).map(String::as_str);
        let cells = columns.zip(fields.map(Cell::Raw)).collect();
        sink(Numbers {
            place: at,
            name,
            cells,
        })?;
    }
    if row == 0 {
        return Err(Error::Empty {
            file: path.to_owned(),
        });
    }
    closed_quotes(path, start, &place(row, line))
}
