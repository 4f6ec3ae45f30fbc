//! Copies of checkpoints, made while training goes on by a thread of rank 0. One that fails is a warning; the next
//! checkpoint is another try.

use super::copies::{Copies, Opened, runtime};
use super::{Error, Store};
use crate::fetch;
use espalier_spec::job::CheckpointSpec;
use espalier_spec::location::shown;
use espalier_spec::{Rank, Step};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the end of a run waits for the last copy.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pause between looks of that wait.
const LOOK: Duration = Duration::from_millis(50);

/// Copies checkpoints to where the job wants them, one after another; of those that wait only the newest. Dropped, it
/// ends a copy that is under way.
#[derive(Debug)]
pub struct Uploading {
    url: String,
    /// The job's directory.
    dir: PathBuf,
    store: Store,
    keep: usize,
    patience: Duration,
    next: Option<Waiting>,
    running: Option<Running>,
}

/// A checkpoint to copy.
#[derive(Debug)]
struct Waiting {
    step: Step,
    checkpoint: Opened,
    best: Option<Opened>,
}

#[derive(Debug)]
struct Running {
    step: Step,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), Error>>,
}

impl Uploading {
    /// For a rank of the job in `dir`, whose checkpoints are in `store`; none if they are copied nowhere, or not by
    /// this rank.
    #[must_use]
    pub fn of(spec: &CheckpointSpec, rank: Rank, dir: &Path, store: &Store) -> Option<Self> {
        let url = spec.upload.clone().filter(|_| rank.0 == 0)?;
        Some(Self {
            url,
            dir: dir.to_owned(),
            store: store.clone(),
            keep: spec.keep as usize,
            patience: PATIENCE,
            next: None,
            running: None,
        })
    }

    /// Copies a checkpoint that is durable, as soon as the one before is.
    pub fn add(&mut self, step: Step, path: &Path) {
        // Open files stay when newer checkpoints take the place of this one.
        let opened = Opened::new(path).and_then(|checkpoint| {
            let best = checkpoint.best().map(|best| self.store.path("best", best));
            // A better one may have taken its place; then a run that goes on from here finds that again.
            let best = best.filter(|path| path.is_dir());
            Ok(Waiting {
                step,
                best: best.map(|path| Opened::new(&path)).transpose()?,
                checkpoint,
            })
        });
        match opened {
            Ok(waiting) => {
                if let Some(before) = self.next.replace(waiting) {
                    tracing::warn!(
                        step = before.step.0,
                        "checkpoint is not copied: a newer one is there, and the one before is still being copied"
                    );
                }
            }
            Err(error) => self.failed(step, &error),
        }
        self.look();
    }

    /// Tells of a copy that has ended, and begins the next.
    pub fn look(&mut self) {
        if let Some(running) = self.running.take_if(|running| running.thread.is_finished()) {
            let step = running.step;
            match running.join() {
                Ok(()) => tracing::info!(step = step.0, to = shown(&self.url), "checkpoint copied"),
                Err(error) => self.failed(step, &error),
            }
        }
        if self.running.is_none()
            && let Some(next) = self.next.take()
        {
            self.begin(next);
        }
    }

    /// Waits until the newest checkpoint is copied, or the copy has failed, for at most ten minutes and as long as
    /// `goes_on` says so.
    pub fn wait(&mut self, goes_on: &dyn Fn() -> bool) {
        let begun = Instant::now();
        let mut told = false;
        self.look();
        while let Some(step) = self.running.as_ref().map(|running| running.step) {
            let step = self.next.as_ref().map_or(step, |next| next.step).0;
            if !told {
                told = true;
                tracing::info!(
                    step,
                    to = shown(&self.url),
                    "waiting until the checkpoint is copied"
                );
            }
            let is_late = begun.elapsed() >= self.patience;
            if is_late || !goes_on() {
                let why = if is_late {
                    "it takes too long"
                } else {
                    "told to stop"
                };
                tracing::warn!(
                    step,
                    why,
                    "checkpoint is not copied; the one on disk is whole"
                );
                self.stop();
                return;
            }
            std::thread::sleep(LOOK);
            self.look();
        }
    }

    fn begin(&mut self, waiting: Waiting) {
        let step = waiting.step;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (url, dir, keep) = (self.url.clone(), self.dir.clone(), self.keep);
        let thread = std::thread::Builder::new().name("copy".to_owned());
        let thread = thread.spawn(move || {
            let stop = || stopped.load(Ordering::Relaxed);
            let copies = Copies::open(&url, &dir, &stop)?;
            runtime()?.block_on(copies.add(waiting.checkpoint, waiting.best, keep))
        });
        match thread {
            Ok(thread) => self.running = Some(Running { step, stop, thread }),
            Err(error) => {
                let path = self.store.path("step", step);
                self.failed(step, &Error::io("start a thread to copy", path, error));
            }
        }
    }

    fn failed(&self, step: Step, error: &Error) {
        if !matches!(error, Error::Copy(fetch::Error::Stopped)) {
            let next = "checkpoint is not copied; the next one will be tried, training goes on";
            tracing::warn!(step = step.0, %error, "{next}");
        }
    }

    fn stop(&mut self) {
        self.next = None;
        if let Some(running) = self.running.take() {
            running.stop.store(true, Ordering::Relaxed);
            // What became of it no longer matters.
            let _ = running.join();
        }
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    fn join(self) -> Result<(), Error> {
        let panicked = |_| {
            let source = std::io::Error::other("the thread that copies it panicked");
            Err(Error::io("copy", format!("step {}", self.step), source))
        };
        self.thread.join().unwrap_or_else(panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{RunState, bring_back};
    use espalier_spec::JobId;
    use std::fs;

    const GO_ON: fn() -> bool = || true;

    fn commit(store: &Store, step: u64) -> PathBuf {
        let writer = store.begin("step", Step(step)).unwrap();
        let files = writer.write_part(0, &[step as u8; 9], b"own").unwrap();
        let state = RunState {
            step: Step(step),
            ..RunState::default()
        };
        writer.commit(&JobId::from("job"), state, files).unwrap()
    }

    fn uploading(place: &Path, dir: &Path, store: &Store) -> Uploading {
        let spec = CheckpointSpec {
            upload: Some(format!("file://{}", place.display())),
            ..CheckpointSpec::default()
        };
        assert!(Uploading::of(&spec, Rank(1), dir, store).is_none());
        Uploading::of(&spec, Rank(0), dir, store).unwrap()
    }

    // Promise: a checkpoint is copied although it was removed here meanwhile, and a job that lost its directory gets
    // the bytes back.
    #[test]
    fn what_was_copied_is_brought_back() {
        let dir = tempfile::tempdir().unwrap();
        let (job, place) = (dir.path().join("job-1"), dir.path().join("copies"));
        let store = Store::new(job.join("checkpoints"));
        let mut uploading = uploading(&place, &job, &store);
        let mut bytes = Vec::new();
        for step in [1, 2] {
            let path = commit(&store, step);
            bytes = fs::read(path.join("part-00000.safetensors")).unwrap();
            uploading.add(Step(step), &path);
            fs::remove_dir_all(&path).unwrap();
            uploading.wait(&GO_ON);
        }
        let url = uploading.url.clone();
        bring_back(&url, &job, &store, Step(9), &|| false).unwrap();
        assert_eq!(store.steps("step"), [Step(2)]);
        let part = store.path("step", Step(2)).join("part-00000.safetensors");
        assert_eq!(fs::read(part).unwrap(), bytes);
        // Another job of the same name finds nothing.
        let other = dir.path().join("job-2");
        let store = Store::new(other.join("checkpoints"));
        bring_back(&url, &other, &store, Step(9), &|| false).unwrap();
        assert!(store.steps("step").is_empty());
    }

    // Promise: a place that takes nothing ends nothing; the next checkpoint is copied once it does.
    #[test]
    fn a_failure_is_tried_again_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (job, place) = (dir.path().join("job-1"), dir.path().join("copies"));
        fs::write(&place, "a file in the place's way").unwrap();
        let store = Store::new(job.join("checkpoints"));
        let mut uploading = uploading(&place, &job, &store);
        uploading.add(Step(1), &commit(&store, 1));
        uploading.wait(&GO_ON);
        fs::remove_file(&place).unwrap();
        uploading.add(Step(2), &commit(&store, 2));
        uploading.wait(&GO_ON);
        assert!(place.join("job-1/step-00000002/manifest.json").is_file());
        assert!(!place.join("job-1/step-00000001").exists());
    }

    // Promise: the end waits no longer than it may, and not at all once told to stop.
    #[test]
    fn the_wait_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let (job, place) = (dir.path().join("job-1"), dir.path().join("copies"));
        let store = Store::new(job.join("checkpoints"));
        let mut uploading = uploading(&place, &job, &store);
        let stop = Arc::new(AtomicBool::new(false));
        let endless = || {
            let flag = Arc::clone(&stop);
            let thread = std::thread::spawn(move || {
                while !flag.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                Ok(())
            });
            Some(Running {
                step: Step(1),
                stop: Arc::clone(&stop),
                thread,
            })
        };
        uploading.running = endless();
        uploading.wait(&|| false);
        assert!(uploading.running.is_none());
        assert!(stop.swap(false, Ordering::Relaxed));
        uploading.running = endless();
        uploading.patience = Duration::ZERO;
        uploading.wait(&GO_ON);
        assert!(uploading.running.is_none());
    }
}
