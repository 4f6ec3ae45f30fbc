//! Files that are read again when they change.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What shows that a file is another one, or was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    seconds: i64,
    nanos: i64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            length: metadata.len(),
            seconds: metadata.mtime(),
            nanos: metadata.mtime_nsec(),
        }
    }

    fn read(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|found| Self::of(&found))
    }
}

/// Whether a file of YAML has nothing in it but space and comments. Such a file names nobody: who empties it
/// takes away what it gave, and it may be filled later.
pub(super) fn says_nothing(text: &str) -> bool {
    let silent = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    text.lines().all(silent)
}

/// What a file says, as of its last version that made sense.
#[derive(Debug)]
pub(super) struct Reloaded<T> {
    path: PathBuf,
    read: fn(&str) -> Result<T, String>,
    state: Mutex<(Option<Stamp>, Arc<T>)>,
}

impl<T> Reloaded<T> {
    /// Reads the file for the first time.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn open(path: &Path, read: fn(&str) -> Result<T, String>) -> Result<Self, String> {
        // Before it is read: a change in between is found later.
        let stamp = Stamp::read(path);
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let value = Arc::new(read(&text)?);
        Ok(Self {
            path: path.to_owned(),
            read,
            state: Mutex::new((stamp, value)),
        })
    }

    /// What it says now. One that is gone or makes no sense leaves what it said before in force, and is
    /// said once.
    pub(super) fn get(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::read(&self.path);
        if stamp == state.0 {
            return state.1.clone();
        }
        state.0 = stamp;
        let path = self.path.display();
        let text = std::fs::read_to_string(&self.path).map_err(|error| error.to_string());
        match text.and_then(|text| (self.read)(&text)) {
            Ok(value) => {
                tracing::info!("{path} has changed and is in force");
                state.1 = Arc::new(value);
            }
            Err(error) => tracing::error!(
                "{path} has changed and can't be used: {error}; what it said before stays in force"
            ),
        }
        state.1.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn number(text: &str) -> Result<u32, String> {
        text.trim().parse().map_err(|_| "no number".to_owned())
    }

    // Promise: a change is in force with the next question; nonsense and a lost file change nothing.
    #[test]
    fn changes_are_taken_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let write = |text: &str| {
            // As careful hands do it: never half written.
            let partial = directory.path().join("partial");
            std::fs::write(&partial, text).unwrap();
            std::fs::rename(&partial, &path).unwrap();
        };
        write("1");
        let file = Reloaded::open(&path, number).unwrap();
        assert_eq!(*file.get(), 1);
        write("2");
        assert_eq!(*file.get(), 2);
        write("two");
        assert_eq!(*file.get(), 2);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*file.get(), 2);
        write("3");
        assert_eq!(*file.get(), 3);
        assert!(Reloaded::open(&directory.path().join("none"), number).is_err());
    }
}
