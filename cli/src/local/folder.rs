//! The folder of a local cluster: its lock, what runs, its logs.

use crate::error::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where `espalier up` keeps a cluster if nothing else is said, and where the other verbs look for
/// one.
const DEFAULT: &str = ".espalier/cluster";

/// How often a held lock is tried again, 20 ms apart.
const LOCK_TRIES: u32 = 20;

/// The folder of a local cluster. Held by at most one `espalier up`, through a lock on the file
/// `lock` that the system drops when the process ends, however it ends.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

/// What runs, as written to `up.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Process id of `espalier up`.
    pub(crate) pid: u32,
    /// Address of the coordinator.
    pub(crate) server: String,
    /// Whether coordinator and workers are all up.
    pub(crate) ready: bool,
    /// The child processes.
    pub(crate) processes: Vec<Process>,
    /// Names of the workers that were drained when the cluster came up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) drained: Vec<String>,
}

/// A child process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

impl Default for Folder {
    fn default() -> Self {
        Self(PathBuf::from(DEFAULT))
    }
}

impl Folder {
    /// The folder at a path, or the default one.
    pub(crate) fn new(path: Option<&Path>) -> Self {
        path.map_or_else(Self::default, |path| Self(path.to_path_buf()))
    }

    /// A path in it.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// The folder as people know it.
    pub(crate) fn display(&self) -> String {
        self.0.display().to_string()
    }

    /// The flag with which other verbs find the cluster, and a space; empty where they look by themselves.
    pub(crate) fn server_flag(&self, state: &State) -> String {
        if self.display() == Self::default().display() {
            String::new()
        } else {
            format!("--server {} ", state.server)
        }
    }

    /// What to tell of each drained worker: it is up and yet gets nothing to do.
    pub(crate) fn drained(&self, state: &State) -> Vec<String> {
        let flag = self.server_flag(state);
        let notice = |name: &String| {
            format!(
                "{name} is drained and gets no jobs; `espalier {flag}undrain {name}` takes it back"
            )
        };
        state.drained.iter().map(notice).collect()
    }

    /// Makes the folder and takes it for this process.
    ///
    /// # Errors
    /// A cluster runs in it, or it can't be written.
    pub(crate) fn lock(&self) -> Result<File> {
        let unusable = |what: &str, error: std::io::Error| {
            Error::failure(format!("can't {what} {}: {error}", self.display()))
                .hint("choose another folder with --dir")
        };
        std::fs::create_dir_all(self.join("logs")).map_err(|e| unusable("make the folder", e))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.join("lock"))
            .map_err(|e| unusable("write to", e))?;
        // A look by another command holds the lock for an instant, and a process that is just
        // being started shares it until it runs: only a lasting hold is a cluster.
        let mut locked = file.try_lock();
        for _ in 0..LOCK_TRIES {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                let state = self.state().unwrap_or_default();
                Err(Error::new(
                    Code::Conflict,
                    format!(
                        "a cluster already runs in {} (process {})",
                        self.display(),
                        state.pid
                    ),
                )
                .hint("stop it with `espalier down`, or choose another folder with --dir"))
            }
            Err(TryLockError::Error(error)) => Err(unusable("lock", error)),
        }
    }

    /// Whether an `espalier up` holds the folder.
    pub(crate) fn is_running(&self) -> bool {
        let Ok(file) = File::open(self.join("lock")) else {
            return false;
        };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Address of the cluster that runs here, if one does.
    pub(crate) fn address(&self) -> Option<String> {
        let state = self.state()?;
        (self.is_running() && !state.server.is_empty()).then_some(state.server)
    }

    /// What was last written about what runs.
    pub(crate) fn state(&self) -> Option<State> {
        let text = std::fs::read_to_string(self.join("up.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes what runs, so that a reader sees the old or the new text and nothing between.
    ///
    /// # Errors
    /// The folder can't be written.
    pub(crate) fn write(&self, state: &State) -> Result<()> {
        let path = self.join("up.json");
        let written = serde_json::to_string_pretty(state)
            .map_err(std::io::Error::from)
            .and_then(|text| {
                let part = self.join("up.json.part");
                std::fs::write(&part, text)?;
                std::fs::rename(&part, &path)
            });
        written.map_err(|error| Error::failure(format!("can't write {}: {error}", path.display())))
    }

    /// Forgets what ran.
    pub(crate) fn clear(&self) {
        // If it is not there, all the better.
        let _ = std::fs::remove_file(self.join("up.json"));
    }
}

#[cfg(test)]
mod tests {
    use super::{Folder, Process, State};

    // Promise: who starts a cluster with a drained worker learns which one and how to take it back.
    #[test]
    fn drained_workers_are_told() {
        let state = State {
            server: "http://127.0.0.1:1".to_owned(),
            drained: vec!["worker-2".to_owned()],
            ..State::default()
        };
        assert_eq!(
            Folder::default().drained(&state),
            ["worker-2 is drained and gets no jobs; `espalier undrain worker-2` takes it back"]
        );
        let told = Folder::new(Some(std::path::Path::new("other"))).drained(&state);
        let command = "`espalier --server http://127.0.0.1:1 undrain worker-2`";
        assert!(told[0].contains(command), "{told:?}");
        let told = Folder::default().drained(&State::default());
        assert!(told.is_empty(), "{told:?}");
    }

    #[test]
    fn one_cluster_per_folder() {
        // A held folder is refused with the holder's process id, and is free when it is let go.
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::new(Some(&place.path().join("a/b")));
        assert!(!folder.is_running());
        let lock = folder.lock().expect("free");
        let state = State {
            pid: 4711,
            server: "http://127.0.0.1:1".to_owned(),
            ready: true,
            processes: vec![Process {
                name: "coordinator".to_owned(),
                pid: 1,
            }],
            drained: Vec::new(),
        };
        folder.write(&state).expect("written");
        assert!(folder.is_running());
        assert_eq!(folder.address().as_deref(), Some("http://127.0.0.1:1"));
        let refused = folder.lock().expect_err("held").to_string();
        assert!(
            refused.contains("process 4711") && refused.contains("espalier down"),
            "{refused}"
        );
        drop(lock);
        // Retries, since a process that another test starts right now shares the lock for an instant.
        drop(folder.lock().expect("free again"));
        assert_eq!(folder.state(), Some(state));
    }
}
