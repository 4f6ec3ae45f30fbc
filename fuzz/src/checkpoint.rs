//! Checkpoints on disk: the manifest, its seal, and the files that it names.

use super::checkpoints::{Checkpoint, Image};
use std::path::Path;

/// Names of files in place of which a manifest gets their length and hash, as it would have them on disk.
const FILES: [&str; 3] = [
    "part-00000.safetensors",
    "own-00000.safetensors",
    "model.safetensors",
];
/// Flag: there is no seal, as in the oldest layout.
const UNSEALED: u8 = 1;

/// The bytes up to the first 0 are the manifest, in which `$0`, `$1` and `$2` stand for the entries of files. Then come a
/// flag, two bytes that say the length of the shared image, that image, and the owner's. Hashes and seal are those of
/// what is written, so that what reads behind them is reached. Any of it is read or refused.
pub fn target(bytes: &[u8]) {
    images(bytes);
}

/// The same; says how many images were read.
pub fn images(bytes: &[u8]) -> usize {
    let Ok(folder) = tempfile::tempdir() else {
        return 0;
    };
    let end = bytes.iter().position(|byte| *byte == 0);
    let (manifest, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    let written = write(folder.path(), manifest, rest.get(1..).unwrap_or_default());
    let opened = Checkpoint::open(folder.path());
    let (Ok(()), Ok(checkpoint)) = (written, opened) else {
        return 0;
    };
    // Hashes fit, so the files are what somebody wrote, and they may still be no tensors.
    let _ = checkpoint.tensors("model");
    let (shared, own) = (checkpoint.shared_parts(), checkpoint.own_parts());
    let read = shared.iter().chain(&own).filter(|path| read(path));
    read.count()
}

fn write(folder: &Path, manifest: &[u8], rest: &[u8]) -> std::io::Result<()> {
    let (flags, rest) = rest.split_first().unwrap_or((&0, rest));
    let (length, rest) = match rest {
        [low, high, rest @ ..] => (u16::from_le_bytes([*low, *high]), rest),
        _ => (0, rest),
    };
    let (shared, own) = rest.split_at(usize::from(length).min(rest.len()));
    let mut manifest = manifest.to_vec();
    for (place, (name, content)) in FILES.iter().zip([shared, own, shared]).enumerate() {
        std::fs::write(folder.join(name), content)?;
        let hash = blake3::hash(content).to_hex();
        let length = content.len();
        let entry = format!(r#"{{"name": "{name}", "bytes": {length}, "blake3": "{hash}"}}"#);
        manifest = replace(&manifest, format!("${place}").as_bytes(), entry.as_bytes());
    }
    if flags & UNSEALED == 0 {
        let seal = blake3::hash(&manifest).to_hex();
        std::fs::write(folder.join("manifest.blake3"), seal.as_bytes())?;
    }
    std::fs::write(folder.join("manifest.json"), manifest)
}

/// The first `what` of a text, in place of which something else stands.
fn replace(text: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let found = text.windows(what.len()).position(|window| window == what);
    match found {
        Some(at) => [&text[..at], by, &text[at + what.len()..]].concat(),
        None => text.to_vec(),
    }
}

/// Reads an image in all the ways that a run does; says whether it is one.
fn read(path: &Path) -> bool {
    let Ok(bytes) = std::fs::read(path) else {
        return false;
    };
    let Ok(image) = Image::read(&bytes, path.display().to_string()) else {
        return false;
    };
    for name in ["format", "state"] {
        let _ = image.note(name);
    }
    for name in image.names() {
        let _ = image.ids(&name);
        for length in [0, 1, 8] {
            let _ = image.numbers(&name, length);
        }
    }
    let _ = image.tensors();
    true
}
