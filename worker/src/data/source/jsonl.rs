//! JSON Lines: one object a line, UTF-8.

use super::{Row, Sink, Wanted};
use crate::data::error::nearest;
use crate::data::{Cell, Error, Place, Problem};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

pub(super) fn read(
    path: &Path,
    file: File,
    wanted: Wanted<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), Error> {
    let name = Arc::new(path.to_owned());
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut bytes = Vec::new();
    let (mut row, mut line) = (0, 0);
    loop {
        bytes.clear();
        let read = reader
            .read_until(b'\n', &mut bytes)
            .map_err(|cause| Error::Read {
                file: path.to_owned(),
                cause,
            })?;
        if read == 0 {
            break;
        }
        line += 1;
        let mut content = bytes.as_slice();
        if line == 1 {
            content = content
                .strip_prefix("\u{feff}".as_bytes())
                .unwrap_or(content);
        }
        // Without its end, a line that was cut off is reported as such by the parser.
        content = content.trim_ascii_end();
        if content.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        row += 1;
        let place = Place {
            file: name.clone(),
            row,
            line: Some(line),
        };
        let mut object = parse(content, &place)?;
        let input = take(&mut object, wanted.input, wanted, &place)?;
        let label = if wanted.label == wanted.input {
            input.clone()
        } else {
            take(&mut object, wanted.label, wanted, &place)?
        };
        let pair = wanted
            .pair
            .map(|pair| take(&mut object, pair, wanted, &place));
        if !sink(Row {
            pair: pair.transpose()?,
            place,
            input,
            label,
        })? {
            return Ok(());
        }
    }
    if row == 0 {
        Err(Error::Empty {
            file: path.to_owned(),
        })
    } else {
        Ok(())
    }
}

fn parse(content: &[u8], place: &Place) -> Result<Map<String, Value>, Error> {
    let text = std::str::from_utf8(content).map_err(|_| place.error(Problem::Utf8))?;
    let message = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) => return Ok(object),
        Ok(Value::Array(_)) => {
            "found a list; write one object a line instead of one list".to_owned()
        }
        Ok(other) => format!("found {}", Cell::from(other).describe()),
        Err(_) if text.trim() == "[" => {
            "found the start of a list; write one object a line instead of one list".to_owned()
        }
        // Lines are parsed one by one, so the parser's own line number is always 1.
        Err(error) => {
            let said = error.to_string();
            let what = said.split(" at line ").next().unwrap_or(&said);
            format!("{what} at column {}", error.column())
        }
    };
    Err(place.error(Problem::Json { message }))
}

/// Takes a field out of a row: the first row has all columns, a later one that lacks some has no value
/// there.
fn take(
    object: &mut Map<String, Value>,
    column: &str,
    wanted: Wanted<'_>,
    place: &Place,
) -> Result<Cell, Error> {
    if let Some(value) = object.get_mut(column) {
        return Ok(Cell::from(value.take()));
    }
    let found: Vec<String> = object.keys().cloned().collect();
    if place.row > 1 {
        return Ok(Cell::Null);
    }
    // The other columns may be taken already but are not removed, so `found` lists all.
    let others = [Some(wanted.input), wanted.pair, Some(wanted.label)];
    let suggestion = nearest(
        column,
        found
            .iter()
            .map(String::as_str)
            .filter(|name| !others.contains(&Some(name))),
    );
    let wanted = column.to_owned();
    Err(Error::Column {
        file: place.file.as_ref().clone(),
        wanted,
        found,
        suggestion,
    })
}
