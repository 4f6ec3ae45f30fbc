//! Parquet through the record interface: only the wanted columns are decoded.

use super::{Row, Sink, Wanted, missing_column};
use crate::data::{Cell, Error, Place, Problem};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as Record};
use parquet::schema::types::Type;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8; 4] = b"PAR1";

pub(super) fn read(
    path: &Path,
    file: File,
    wanted: Wanted<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), Error> {
    let reader = whole(path, file)?;
    let schema = reader.metadata().file_metadata().schema();
    let projection = projection(path, schema, wanted)?;
    if reader.metadata().file_metadata().num_rows() == 0 {
        return Err(Error::Empty {
            file: path.to_owned(),
        });
    }
    let mut records = guarded(|| reader.get_row_iter(Some(projection)))
        .and_then(|records| records.map_err(|error| error.to_string()))
        .map_err(|message| damaged(path, message))?;
    let name = Arc::new(path.to_owned());
    let mut row = 0;
    loop {
        row += 1;
        let place = Place {
            file: name.clone(),
            row,
            line: None,
        };
        let record = match guarded(|| records.next()) {
            Ok(Some(Ok(record))) => record,
            Ok(None) => return Ok(()),
            Ok(Some(Err(error))) => return Err(place.error(row_problem(&error))),
            Err(message) => return Err(place.error(Problem::Decode { message })),
        };
        let input = cell_of(&record, wanted.input);
        let label = cell_of(&record, wanted.label);
        if !sink(Row {
            pair: wanted.pair.map(|pair| cell_of(&record, pair)),
            place,
            input,
            label,
        })? {
            return Ok(());
        }
    }
}

pub(super) fn class_names(
    path: &Path,
    file: File,
    label: &str,
) -> Result<Option<Vec<String>>, Error> {
    let reader = whole(path, file)?;
    let entries = reader.metadata().file_metadata().key_value_metadata();
    let text = entries.and_then(|entries| {
        entries
            .iter()
            .find(|entry| entry.key == "huggingface")
            .and_then(|e| e.value.as_deref())
    });
    // What another program wrote beside the data is a hint: if it can't be read, do without.
    let Some(meta) = text.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return Ok(None);
    };
    let feature = &meta["info"]["features"][label];
    // A sequence of classes is written in one of three ways, by age of the library.
    let candidates = [feature, &feature["feature"], &feature[0]];
    Ok(candidates
        .into_iter()
        .find(|it| it["_type"] == "ClassLabel")
        .and_then(|it| {
            let names = it["names"].as_array()?;
            names
                .iter()
                .map(|name| name.as_str().map(str::to_owned))
                .collect()
        }))
}

/// Opens a file after checking that its end is there: a footer's length and the magic number.
fn whole(path: &Path, mut file: File) -> Result<SerializedFileReader<File>, Error> {
    let unreadable = |cause| Error::Read {
        file: path.to_owned(),
        cause,
    };
    let length = file.metadata().map_err(unreadable)?.len();
    let cut_off = |found: &str| Error::CutOff {
        file: path.to_owned(),
        found: found.to_owned(),
    };
    let mut magic = [0; 4];
    if length < 12 {
        return Err(cut_off("too short to hold a footer"));
    }
    file.read_exact(&mut magic).map_err(unreadable)?;
    if &magic != MAGIC {
        let message = "it does not start with PAR1: not Parquet at all".to_owned();
        return Err(damaged(path, message));
    }
    file.seek(SeekFrom::End(-8)).map_err(unreadable)?;
    let mut end = [0; 8];
    file.read_exact(&mut end).map_err(unreadable)?;
    if &end[4..] != MAGIC {
        return Err(cut_off("footer missing"));
    }
    let footer = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    if footer + 12 > length {
        return Err(cut_off("footer longer than the file"));
    }
    guarded(|| SerializedFileReader::new(file))
        .and_then(|reader| reader.map_err(|error| error.to_string()))
        .map_err(|message| damaged(path, message))
}

/// The schema with the wanted columns only, in the order of the file.
fn projection(path: &Path, schema: &Type, wanted: Wanted<'_>) -> Result<Type, Error> {
    let names: Vec<String> = schema
        .get_fields()
        .iter()
        .map(|f| f.name().to_owned())
        .collect();
    let columns = [Some(wanted.input), wanted.pair, Some(wanted.label)];
    for column in columns.into_iter().flatten() {
        if !names.iter().any(|name| name == column) {
            return Err(missing_column(path, column, names));
        }
    }
    let fields = schema
        .get_fields()
        .iter()
        .filter(|field| columns.contains(&Some(field.name())))
        .cloned()
        .collect();
    Type::group_type_builder(schema.name())
        .with_fields(fields)
        .build()
        .map_err(|error| damaged(path, error.to_string()))
}

fn cell_of(record: &Record, column: &str) -> Cell {
    let field = record
        .get_column_iter()
        .find(|(name, _)| name.as_str() == column);
    field.map_or(Cell::Null, |(_, field)| cell(field))
}

fn cell(field: &Field) -> Cell {
    match field {
        Field::Null => Cell::Null,
        Field::Bool(value) => Cell::Bool(*value),
        Field::Byte(number) => Cell::Int(i64::from(*number)),
        Field::Short(number) => Cell::Int(i64::from(*number)),
        Field::Int(number) => Cell::Int(i64::from(*number)),
        Field::Long(number) => Cell::Int(*number),
        Field::UByte(number) => Cell::Int(i64::from(*number)),
        Field::UShort(number) => Cell::Int(i64::from(*number)),
        Field::UInt(number) => Cell::Int(i64::from(*number)),
        Field::ULong(number) => match i64::try_from(*number) {
            Ok(number) => Cell::Int(number),
            Err(_) => Cell::Other(format!("the integer {number}, which is too large")),
        },
        Field::Float16(number) => Cell::Float(f64::from(number.to_f32())),
        Field::Float(number) => Cell::Float(f64::from(*number)),
        Field::Double(number) => Cell::Float(*number),
        Field::Str(text) => Cell::Text(text.clone()),
        // Writers that annotate nothing store text as plain bytes.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Cell::Text(text.to_owned()),
            Err(_) => Cell::Bytes(bytes.data().to_vec()),
        },
        Field::ListInternal(list) => Cell::List(list.elements().iter().map(cell).collect()),
        Field::Decimal(_) => Cell::Other("a decimal".to_owned()),
        Field::Group(group) => Cell::Struct(
            group
                .get_column_iter()
                .map(|(name, field)| (name.clone(), cell(field)))
                .collect(),
        ),
        Field::MapInternal(_) => Cell::Other("a map".to_owned()),
        Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Cell::Other("a date or time".to_owned()),
    }
}

fn row_problem(error: &ParquetError) -> Problem {
    let message = error.to_string();
    // The reader's message holds all bytes of the text; its cause is always the same.
    if message.contains("BYTE_ARRAY as String") {
        return Problem::Utf8;
    }
    Problem::Decode { message }
}

fn damaged(path: &Path, message: String) -> Error {
    Error::Damaged {
        file: path.to_owned(),
        message,
    }
}

/// The record interface asserts on some damaged or unusual files; a file must not end a worker.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "the reader gave up".to_owned())
    })
}
