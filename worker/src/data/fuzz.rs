//! Promise: any bytes are rows or an error that names the file, without a panic; so is a checkpoint.

#[path = "../../../fuzz/src/checkpoint.rs"]
mod checkpoint;
#[path = "../../../fuzz/src/data_file.rs"]
mod data_file;
#[path = "../../../fuzz/src/mutate.rs"]
mod mutate;

use super::source;
use super::source::tests::parquet_file::{Column, write};
use crate::checkpoint as checkpoints;
use crate::checkpoint::{Draft, Images, Values};
use std::borrow::Cow;

#[test]
fn any_text_file_is_read_or_refused() {
    let rows = b"\x00{\"text\": \"a \\u00e4\", \"pair\": [1, 2.5], \"label\": [\"x\"]}\n{\"text\": null, \"label\": 1e9}\n";
    let table = b"\x01text,pair,label\n\"a, \"\"b\"\"\",2,x\r\n\xC3\xA4,,y\n";
    let seeds = [rows.to_vec(), table.to_vec()];
    let tokens: [&[u8]; 6] = [
        b"{\"text\": ",
        b"\"\"",
        b"\r\n",
        b"1e400",
        b"\\ud800",
        b"\xEF\xBB\xBF",
    ];
    mutate::run(&seeds, &tokens, 5_000, |bytes| {
        // The first byte stays with the two formats.
        let mut bytes = bytes.to_vec();
        if let Some(kind) = bytes.first_mut() {
            *kind = (*kind & 0x40) | (*kind % 2);
        }
        data_file::target(&bytes);
    });
}

#[test]
fn a_damaged_parquet_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let columns = [
        ("text", Column::Texts(vec![Some("one"), None, Some("two")])),
        ("label", Column::Ints(vec![1, 2, 3])),
    ];
    write(&path, &columns, "SNAPPY", None);
    let whole = std::fs::read(&path).unwrap();
    // Every byte of it, one at a time: what a disk or a network does to a file.
    for place in 0..whole.len() {
        let mut bytes = vec![2];
        bytes.extend(&whole);
        bytes[1 + place] ^= 1 << (place % 8);
        data_file::target(&bytes);
    }
}

/// The two images of a rank.
fn images() -> Images {
    let numbers = |name: &str| {
        let values = Values::Numbers(Cow::Owned(vec![0.5; 8]));
        (name.to_owned(), values)
    };
    let ids = ("rows|ids".to_owned(), Values::Ids(vec![3, 4]));
    let shared = vec![numbers("slice|heads|0|8"), ids, numbers("rows|values")];
    let own = vec![numbers("heads|first|0|8"), numbers("heads|second|0|8")];
    let notes = [
        ("format", "espalier part of rank 0".to_owned()),
        ("state", "{\"step\": 5}".to_owned()),
    ];
    let shared = Draft::new(shared, &notes);
    let own = Draft::new(own, &notes[..1]);
    Images::encode(&shared, &own).unwrap()
}

/// A checkpoint of a layout, as the target takes it.
fn checkpoint_of(format: u32, files: &str, flag: u8) -> Vec<u8> {
    let state = r#"{"step": 5, "samples": 1, "tokens": 0, "best": [0.5, 5], "evaluations_without_gain": 0}"#;
    let manifest =
        format!(r#"{{"format": {format}, "job": "j", "state": {state}, "files": [{files}]}}"#);
    let images = images();
    let (shared, own) = (images.shared(), images.own());
    let length = (shared.len() as u16).to_le_bytes();
    [manifest.as_bytes(), &[0, flag], &length, shared, own].concat()
}

#[test]
fn any_checkpoint_is_opened_or_refused() {
    let now = checkpoint_of(2, "$0, $1", 0);
    let before = checkpoint_of(1, "$2", 1);
    // What lies behind the hashes is reached.
    assert_eq!(checkpoint::images(&now), 2);
    let tokens: [&[u8]; 6] = [b"../", b"\"files\": []", b"1e400", b"null", b"$0", b"F32"];
    mutate::run(&[now, before], &tokens, 2_000, checkpoint::target);
}
