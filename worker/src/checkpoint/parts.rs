//! The files that each rank writes of a checkpoint.

use super::durable::{Checkpoint, Writer, sync};
use super::files::write_bytes;
use super::{Error, FileEntry};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SHARED: &str = "part-";
const OWN: &str = "own-";
/// Pauses between two looks for another rank's part.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(250)];

/// What a rank says of its part, once that is durable or has failed.
#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    files: Vec<FileEntry>,
    failed: Option<String>,
}

impl Writer {
    /// Writes a rank's two images and makes them durable.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`].
    pub fn write_part(
        &self,
        rank: usize,
        shared: &[u8],
        own: &[u8],
    ) -> Result<Vec<FileEntry>, Error> {
        let mut files = Vec::new();
        for (kind, bytes) in [(SHARED, shared), (OWN, own)] {
            let path = self.file(&format!("{kind}{rank:05}.safetensors"));
            match write_bytes(&path, bytes) {
                Ok(file) => files.push(file),
                Err(error) => {
                    // On a full disk it takes the room that is needed to tell of it.
                    let _ = fs::remove_file(&path);
                    return Err(error);
                }
            }
        }
        Ok(files)
    }

    fn receipt(&self, rank: usize) -> PathBuf {
        self.file(&format!("part-{rank:05}.json"))
    }

    /// Tells the rank that commits what became of this one's part: its files, or why there are none.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`].
    pub(super) fn leave_receipt(
        &self,
        rank: usize,
        written: Result<&[FileEntry], String>,
    ) -> Result<(), Error> {
        let receipt = Receipt {
            files: written
                .as_ref()
                .map_or_else(|_| Vec::new(), |files| files.to_vec()),
            failed: written.err(),
        };
        // Strings and numbers can always be written as JSON.
        let text = serde_json::to_vec(&receipt).unwrap_or_default();
        // Whoever sees it under its name sees all of it.
        let (path, early) = (
            self.receipt(rank),
            self.file(&format!("part-{rank:05}.tmp")),
        );
        write_bytes(&early, &text)?;
        fs::rename(&early, &path).map_err(|e| Error::io("rename", &path, e))?;
        match path.parent() {
            Some(dir) => sync(dir),
            None => Ok(()),
        }
    }

    /// Waits for the receipts of all `ranks` and takes them away.
    ///
    /// # Errors
    /// [`Error::Part`] names the rank that failed or that was waited for in vain.
    pub(super) fn gather(
        &self,
        ranks: usize,
        patience: Duration,
        given_up: &AtomicBool,
    ) -> Result<Vec<FileEntry>, Error> {
        let until = Instant::now() + patience;
        let mut all = Vec::new();
        for rank in 0..ranks {
            let lacks = |message: String| Error::Part {
                path: self.target().to_owned(),
                rank,
                message,
            };
            let mut pause = PAUSES[0];
            // What was asked before the look holds for it.
            let receipt = loop {
                let is_over = given_up.load(Ordering::Relaxed);
                let is_late = Instant::now() >= until;
                let is_there = self.is_there();
                let path = self.receipt(rank);
                match fs::read(&path) {
                    Ok(text) => break text,
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(Error::io("read", &path, error));
                    }
                    Err(_) if is_over => {
                        return Err(lacks("not written before the run ended".to_owned()));
                    }
                    Err(_) if !is_there => {
                        return Err(lacks("somebody removed the directory".to_owned()));
                    }
                    Err(_) if is_late => {
                        let seconds = patience.as_secs();
                        return Err(lacks(format!("not written within {seconds} s")));
                    }
                    Err(_) => std::thread::sleep(pause),
                }
                pause = (2 * pause).min(PAUSES[1]);
            };
            let receipt: Receipt =
                serde_json::from_slice(&receipt).map_err(|e| lacks(format!("its receipt: {e}")))?;
            if let Some(message) = receipt.failed {
                return Err(lacks(message));
            }
            all.extend(receipt.files);
        }
        for rank in 0..ranks {
            let path = self.receipt(rank);
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(all)
    }
}

impl Checkpoint {
    /// Whether each rank wrote a part of it.
    #[must_use]
    pub fn has_parts(&self) -> bool {
        !self.parts(SHARED).is_empty()
    }

    /// Images of what all ranks need, in order of rank.
    #[must_use]
    pub fn shared_parts(&self) -> Vec<PathBuf> {
        self.parts(SHARED)
    }

    /// Images of what owners need, in order of rank.
    #[must_use]
    pub fn own_parts(&self) -> Vec<PathBuf> {
        self.parts(OWN)
    }

    fn parts(&self, kind: &str) -> Vec<PathBuf> {
        let files = self.manifest.files.iter();
        let mut names: Vec<&str> = files
            .map(|file| file.name.as_str())
            .filter(|name| name.starts_with(kind))
            .collect();
        names.sort_unstable();
        names.into_iter().map(|name| self.path.join(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::images::tests::images;
    use super::super::{Images, RunState, Store};
    use super::*;
    use espalier_spec::{JobId, Step};
    use std::path::Path;

    fn part(rank: usize) -> Images {
        images(rank as f32, rank as f32 + 10.0)
    }

    fn commit(store: &Store, step: u64) -> PathBuf {
        let writer = store.begin("step", Step(step)).unwrap();
        for rank in 0..2 {
            let part = part(rank);
            let files = writer.write_part(rank, part.shared(), part.own());
            writer.leave_receipt(rank, Ok(&files.unwrap())).unwrap();
        }
        let waits = AtomicBool::new(false);
        let files = writer.gather(2, Duration::ZERO, &waits).unwrap();
        let state = RunState {
            step: Step(step),
            ..RunState::default()
        };
        writer.commit(&JobId::from("job"), state, files).unwrap()
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort_unstable();
        files
    }

    /// A well-known generator of numbers that look random (Steele et al. 2014, SplitMix64).
    fn next(state: &mut u64) -> usize {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as usize
    }

    // Promise: whatever bit of whatever file is flipped, it is noticed, and the checkpoint before is used.
    #[test]
    fn a_thousand_flipped_bits_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        commit(&store, 1);
        let newest = commit(&store, 2);
        let files = files(&newest);
        assert_eq!(files.len(), 6, "{files:?}");
        let mut seed = 5;
        for trial in 0..1000 {
            let file = &files[next(&mut seed) % files.len()];
            let whole = fs::read(file).unwrap();
            let bit = next(&mut seed) % (8 * whole.len());
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(file, &bytes).unwrap();
            let error = Checkpoint::open(&newest).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{bit}: {error}");
            if trial % 100 == 0 {
                let used = store.newest("step", Step(9)).unwrap();
                assert_eq!(used.manifest.state.step, Step(1));
            }
            fs::write(file, &whole).unwrap();
        }
        assert!(Checkpoint::open(&newest).is_ok());
    }

    // Promise: a file that is cut short, is longer, or is not there is noticed and named.
    #[test]
    fn a_file_that_is_cut_or_gone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let newest = commit(&store, 2);
        for file in files(&newest) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let whole = fs::read(&file).unwrap();
            let longer = [&whole[..], b"\0"].concat();
            for bytes in [
                &whole[..0],
                &whole[..1],
                &whole[..whole.len() - 1],
                &longer[..],
            ] {
                fs::write(&file, bytes).unwrap();
                let error = Checkpoint::open(&newest).unwrap_err().to_string();
                let named = name.replace(".blake3", ".json");
                assert!(error.contains(&named), "{name}: {error}");
            }
            fs::remove_file(&file).unwrap();
            let error = Checkpoint::open(&newest).unwrap_err().to_string();
            assert!(error.contains(&name), "{name}: {error}");
            fs::write(&file, whole).unwrap();
        }
        assert!(Checkpoint::open(&newest).is_ok());
    }

    // Promise: parts are in order of rank, and nothing of their making is left.
    #[test]
    fn parts_are_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(&commit(&Store::new(dir.path()), 2)).unwrap();
        assert!(checkpoint.has_parts());
        for (rank, path) in checkpoint.shared_parts().iter().enumerate() {
            assert_eq!(fs::read(path).unwrap(), part(rank).shared());
        }
        for (rank, path) in checkpoint.own_parts().iter().enumerate() {
            assert_eq!(fs::read(path).unwrap(), part(rank).own());
        }
        let all = files(dir.path());
        assert_eq!(all.len(), 1, "{all:?}");
    }
}
