//! Writes small Parquet files for tests.

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// A column of a test file.
pub(crate) enum Column<'a> {
    Ints(Vec<i64>),
    Texts(Vec<Option<&'a str>>),
    Lists(Vec<Vec<&'a str>>),
    /// Marked as text, whatever the bytes are.
    Bytes(Vec<&'a [u8]>),
}

pub(crate) fn write(path: &Path, columns: &[(&str, Column<'_>)], codec: &str, meta: Option<&str>) {
    let mut fields = String::new();
    for (name, column) in columns {
        fields.push_str(&match column {
            Column::Ints(_) => format!("required int64 {name};"),
            Column::Texts(_) => format!("optional binary {name} (UTF8);"),
            Column::Bytes(_) => format!("required binary {name} (UTF8);"),
            Column::Lists(_) => format!(
                "optional group {name} (LIST) {{ repeated group list {{ optional binary element (UTF8); }} }}"
            ),
        });
    }
    let schema = Arc::new(parse_message_type(&format!("message test {{ {fields} }}")).unwrap());
    let meta = meta.map(|meta| vec![KeyValue::new("huggingface".to_owned(), meta.to_owned())]);
    let properties = WriterProperties::builder()
        .set_compression(codec.parse::<Compression>().unwrap())
        .set_key_value_metadata(meta)
        .build();
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, column) in columns {
        let mut out = group.next_column().unwrap().unwrap();
        match column {
            Column::Ints(values) => {
                out.typed::<Int64Type>()
                    .write_batch(values, None, None)
                    .unwrap();
            }
            Column::Bytes(values) => {
                let values: Vec<ByteArray> = values.iter().map(|v| v.to_vec().into()).collect();
                out.typed::<ByteArrayType>()
                    .write_batch(&values, None, None)
                    .unwrap();
            }
            Column::Texts(values) => {
                let defined: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
                let values: Vec<ByteArray> = values.iter().flatten().map(|v| (*v).into()).collect();
                out.typed::<ByteArrayType>()
                    .write_batch(&values, Some(&defined), None)
                    .unwrap();
            }
            Column::Lists(rows) => {
                let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
                for row in rows {
                    if row.is_empty() {
                        defined.push(1);
                        repeated.push(0);
                    }
                    for (place, value) in row.iter().enumerate() {
                        values.push(ByteArray::from(*value));
                        defined.push(3);
                        repeated.push(i16::from(place > 0));
                    }
                }
                let out = out.typed::<ByteArrayType>();
                out.write_batch(&values, Some(&defined), Some(&repeated))
                    .unwrap();
            }
        }
        out.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}
