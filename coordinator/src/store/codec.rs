//! Records as bytes: a version byte, then MessagePack with named fields.
//!
//! Not JSON: a report may hold an infinite loss, and numbers must come back to the last bit.

use super::{Log, StoreError};
use espalier_core::{Record, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: u8 = 1;

/// What a store holds, as the machine takes it.
pub(crate) struct Decoded {
    /// The newest snapshot.
    pub(crate) snapshot: Option<Snapshot>,
    /// The records after it, with their numbers.
    pub(crate) records: Vec<(u64, Record)>,
}

/// The bytes of a record or (number 0) a snapshot.
pub(crate) fn encode<T: Serialize>(number: u64, value: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![VERSION];
    let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    value
        .serialize(&mut serializer)
        .map_err(|error| StoreError::Codec {
            number,
            action: "written",
            detail: error.to_string(),
        })?;
    Ok(bytes)
}

/// The bytes of records that follow each other from number `first` on.
pub(crate) fn encode_all(first: u64, records: &[Record]) -> Result<Vec<Vec<u8>>, StoreError> {
    (first..)
        .zip(records)
        .map(|(number, record)| encode(number, record))
        .collect()
}

/// Reads everything back.
pub(crate) fn decode_all(log: &Log) -> Result<Decoded, StoreError> {
    let snapshot = log
        .snapshot
        .as_ref()
        .map(|(_, bytes)| decode(0, bytes))
        .transpose()?;
    let records = log
        .entries
        .iter()
        .map(|(number, bytes)| Ok((*number, decode(*number, bytes)?)));
    Ok(Decoded {
        snapshot,
        records: records.collect::<Result<_, StoreError>>()?,
    })
}

fn decode<T: DeserializeOwned>(number: u64, bytes: &[u8]) -> Result<T, StoreError> {
    let bad = |detail| StoreError::Codec {
        number,
        action: "read",
        detail,
    };
    match bytes.split_first() {
        Some((&VERSION, body)) => {
            rmp_serde::from_slice(body).map_err(|error| bad(error.to_string()))
        }
        Some((version, _)) => Err(bad(format!(
            "its format is {version}, this coordinator knows {VERSION}; start the version that wrote it"
        ))),
        None => Err(bad("it is empty".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_spec::JobSpec;
    use espalier_spec::report::{Evaluation, TaskScores};

    // Promise: what workers and clients may send comes back from the disk to the last bit, also
    // numbers that JSON can't say.
    #[test]
    fn odd_values_survive() {
        let scores = TaskScores {
            loss: f64::INFINITY,
            ..TaskScores::default()
        };
        let evaluation = Evaluation {
            selection: -0.1 - 0.2,
            tasks: [("t".to_owned(), scores)].into(),
            ..Evaluation::default()
        };
        let bytes = encode(1, &evaluation).unwrap();
        assert_eq!(decode::<Evaluation>(1, &bytes).unwrap(), evaluation);
        let spec: JobSpec = serde_json::from_str(
            r#"{"name": "a", "backbone": {"path": "m"}, "sampler": {"temperature": 2.5},
                "tasks": [{"name": "t", "head": "regression",
                           "data": {"train": ["a", "b"], "test": "c"}}]}"#,
        )
        .unwrap();
        let bytes = encode(1, &spec).unwrap();
        assert_eq!(decode::<JobSpec>(1, &bytes).unwrap(), spec);
    }

    // Promise: bytes of another version or cut off are a clear error, not a wrong state.
    #[test]
    fn foreign_bytes_are_refused() {
        let mut bytes = encode(7, &Evaluation::default()).unwrap();
        let cut = decode::<Evaluation>(7, &bytes[..bytes.len() - 3]).unwrap_err();
        assert!(
            cut.to_string().starts_with("record 7 can't be read"),
            "{cut}"
        );
        bytes[0] = 9;
        let foreign = decode::<Evaluation>(7, &bytes).unwrap_err().to_string();
        assert!(foreign.contains("its format is 9"), "{foreign}");
        assert!(decode::<Evaluation>(7, &[]).is_err());
    }
}
