//! CSV after RFC 4180: a header, comma, double quotes, UTF-8.

use super::{Row, Sink, Wanted, missing_column};
use crate::data::{Cell, Error, Place, Problem};
use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

pub(super) fn read(
    path: &Path,
    file: File,
    wanted: Wanted<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), Error> {
    let name = Arc::new(path.to_owned());
    let place = |row: u64, line: u64| Place {
        file: name.clone(),
        row,
        line: Some(line),
    };
    let mut reader = ReaderBuilder::new()
        .buffer_capacity(1 << 18)
        .from_reader(file);

    let header = reader
        .byte_headers()
        .map_err(|error| failure(path, &place(0, 1), error))?
        .clone();
    let names: Vec<String> = header
        .iter()
        .map(|name| String::from_utf8_lossy(name).trim().to_owned())
        .collect();
    let column = |wanted: &str| {
        names
            .iter()
            .position(|name| name == wanted)
            .ok_or_else(|| missing_column(path, wanted, names.clone()))
    };
    let (input, label) = (column(wanted.input)?, column(wanted.label)?);
    let pair = wanted.pair.map(column).transpose()?;

    let mut record = ByteRecord::new();
    let mut row = 0;
    let mut last = (1, 0);
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => row += 1,
            Ok(false) => break,
            Err(error) => {
                let at = place(row + 1, last.0 + 1);
                if let ErrorKind::UnequalLengths {
                    pos: Some(pos),
                    expected_len,
                    len,
                } = error.kind()
                    && len < expected_len
                {
                    closed_quotes(path, pos.byte(), &place(row + 1, pos.line()))?;
                }
                return Err(failure(path, &at, error));
            }
        }
        // Every record that was read has a position; the default is never used.
        last = record.position().map_or(last, |at| (at.line(), at.byte()));
        let at = place(row, last.0);
        let cell = |column: usize| match std::str::from_utf8(record.get(column).unwrap_or_default())
        {
            Ok(text) => Ok(Cell::Raw(text.to_owned())),
            Err(_) => Err(at.error(Problem::Utf8)),
        };
        let (input, label) = (cell(input)?, cell(label)?);
        let pair = pair.map(cell).transpose()?;
        if !sink(Row {
            place: at,
            input,
            pair,
            label,
        })? {
            return Ok(());
        }
    }
    if row == 0 {
        return Err(Error::Empty {
            file: path.to_owned(),
        });
    }
    closed_quotes(path, last.1, &place(row, last.0))
}

/// A quote that is never closed swallows the rest of the file into the last record, which the
/// parser takes without a word. Well-formed records hold an even number of quotes.
pub(super) fn closed_quotes(path: &Path, start: u64, at: &Place) -> Result<(), Error> {
    let mut file = super::open(path)?;
    file.seek(SeekFrom::Start(start))
        .map_err(|cause| unreadable(path, cause))?;
    let mut odd = false;
    for byte in BufReader::new(file).bytes() {
        odd ^= byte.map_err(|cause| unreadable(path, cause))? == b'"';
    }
    if odd {
        Err(at.error(Problem::Quote))
    } else {
        Ok(())
    }
}

pub(super) fn failure(path: &Path, at: &Place, error: csv::Error) -> Error {
    let line = error.position().map(csv::Position::line);
    let at = Place {
        line: line.or(at.line),
        ..at.clone()
    };
    match error.into_kind() {
        ErrorKind::Io(cause) => unreadable(path, cause),
        ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => at.error(Problem::Fields {
            expected: expected_len,
            found: len,
        }),
        ErrorKind::Utf8 { .. } => at.error(Problem::Utf8),
        other => at.error(Problem::Decode {
            message: format!("{other:?}"),
        }),
    }
}

fn unreadable(path: &Path, cause: std::io::Error) -> Error {
    Error::Read {
        file: path.to_owned(),
        cause,
    }
}
