//! Event files of TensorBoard: records with checksums, each a message.
//!
//! A record is its length (8 bytes, little endian), a checksum of these, the message, a checksum of
//! that. Checksums are CRC-32C, turned by 15 bits and moved by a constant.

use messages::event::What;
use messages::session_log::SessionStatus;
use messages::summary::Value;
use messages::{Event, SessionLog, Summary};
use prost::Message as _;

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod messages {
    tonic::include_proto!("espalier.tensorboard");
}

/// Added to a checksum that has been turned.
const MASK: u32 = 0xa282_ead8;

/// The first record of a file.
#[must_use]
pub fn version(wall_time: f64) -> Vec<u8> {
    let version = "brain.Event:2".to_owned();
    record(wall_time, 0, What::FileVersion(version))
}

/// Training goes on after so many steps: what was written of later ones is void.
#[must_use]
pub fn start(wall_time: f64, steps: u64) -> Vec<u8> {
    let status = SessionStatus::Start.into();
    let next = steps.saturating_add(1);
    record(wall_time, next, What::SessionLog(SessionLog { status }))
}

/// Numbers after so many steps, by their tags.
#[must_use]
pub fn scalars(wall_time: f64, steps: u64, values: Vec<(String, f64)>) -> Vec<u8> {
    let value = |(tag, value): (String, f64)| Value {
        tag,
        simple_value: value as f32,
    };
    let value = values.into_iter().map(value).collect();
    record(wall_time, steps, What::Summary(Summary { value }))
}

fn record(wall_time: f64, step: u64, what: What) -> Vec<u8> {
    let event = Event {
        wall_time,
        step: i64::try_from(step).unwrap_or(i64::MAX),
        what: Some(what),
    };
    let message = event.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(message.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&checksum(&length));
    record.extend_from_slice(&message);
    record.extend_from_slice(&checksum(&message));
    record
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let turned = crc32c::crc32c(bytes).rotate_right(15);
    turned.wrapping_add(MASK).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: the bytes are those that TensorBoard's own writer makes (tensorboard 2.21, its
    // RecordWriter: `brain.Event:2` at wall time 1).
    #[test]
    fn a_version_record() {
        let hex: String = version(1.0).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a"
        );
    }

    fn event(record: &[u8]) -> Event {
        Event::decode(&record[12..record.len() - 4]).unwrap()
    }

    // Promise: numbers keep their tags and their step.
    #[test]
    fn numbers() {
        let written = scalars(
            2.0,
            7,
            vec![("loss/a".into(), 0.5), ("loss/b".into(), 0.25)],
        );
        let read = event(&written);
        assert_eq!((read.wall_time, read.step), (2.0, 7));
        let Some(What::Summary(summary)) = read.what else {
            panic!("{read:?}");
        };
        let found: Vec<(&str, f32)> = summary
            .value
            .iter()
            .map(|value| (value.tag.as_str(), value.simple_value))
            .collect();
        assert_eq!(found, [("loss/a", 0.5), ("loss/b", 0.25)]);
        let begun = event(&start(2.0, 7));
        assert_eq!(begun.step, 8);
        assert!(matches!(begun.what, Some(What::SessionLog(_))), "{begun:?}");
    }
}
