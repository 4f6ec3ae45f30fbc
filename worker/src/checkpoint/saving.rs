//! Checkpoints that are written while training goes on: a step boundary costs a rank the copy of its part, and a
//! thread of its own makes that durable. The thread of rank 0 waits for the parts of all ranks and commits them.

use super::{Error, Images, RunState, Store};
use espalier_spec::{JobId, Step};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long rank 0 waits for parts of other ranks.
const PATIENCE: Duration = Duration::from_secs(600);

/// Writes one rank's parts, one checkpoint after another. Dropped, it lets a write that is under way come to its end,
/// but waits no longer for other ranks.
#[derive(Debug)]
pub struct Saving {
    store: Store,
    job: JobId,
    rank: usize,
    ranks: usize,
    keep: usize,
    patience: Duration,
    given_up: Arc<AtomicBool>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    step: Step,
    thread: JoinHandle<Result<Option<PathBuf>, Error>>,
    /// Says nothing; its other side is dropped at the thread's end.
    over: Receiver<()>,
}

/// What became of a checkpoint.
#[derive(Debug)]
pub struct Saved {
    /// Its step.
    pub step: Step,
    /// On rank 0 the directory of the whole checkpoint, which is durable; on others none, their part is.
    pub result: Result<Option<PathBuf>, Error>,
}

impl Saving {
    /// For rank `rank` of `ranks` of a job, of which the `keep` newest checkpoints stay.
    #[must_use]
    pub fn new(store: Store, job: JobId, (rank, ranks): (usize, usize), keep: usize) -> Self {
        Self {
            store,
            job,
            rank,
            ranks,
            keep,
            patience: PATIENCE,
            given_up: Arc::default(),
            running: None,
        }
    }

    /// What became of a checkpoint whose writing has ended since this was asked last.
    pub fn ended(&mut self) -> Option<Saved> {
        let ended = |running: &mut Running| running.thread.is_finished();
        self.running.take_if(ended).map(Running::join)
    }

    /// The same, and waits for one that is being written.
    pub fn wait(&mut self) -> Option<Saved> {
        self.running.take().map(Running::join)
    }

    /// The same, and waits for at most `limit`; none, too, if it is being written still.
    pub fn wait_for(&mut self, limit: Duration) -> Option<Saved> {
        match self.running.as_ref()?.over.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => None,
            // Its thread is at its very end.
            _ => self.wait(),
        }
    }

    /// The step of the checkpoint that is being written.
    #[must_use]
    pub fn writing(&self) -> Option<Step> {
        self.running.as_ref().map(|running| running.step)
    }

    /// Tells rank 0 that this rank has no part of a checkpoint, so that nobody waits for it.
    pub fn excuse(&self, step: Step, why: &str) {
        let writer = self.store.join("step", step);
        let told = writer
            .create()
            .and_then(|()| writer.leave_receipt(self.rank, Err(why.to_owned())));
        if let Err(error) = told {
            tracing::warn!(step = step.0, %error, "rank 0 will wait for this rank's part in vain");
        }
    }

    /// Starts to write this rank's part, two safetensors images. All ranks start the same checkpoints, and none while
    /// one is being written: ask [`Saving::wait`] before.
    ///
    /// # Errors
    /// [`Error::Io`] if there can be no thread.
    pub fn start(&mut self, state: &RunState, part: Images) -> Result<(), Error> {
        let step = state.step;
        let task = Task {
            store: self.store.clone(),
            job: self.job.clone(),
            place: (self.rank, self.ranks),
            keep: self.keep,
            patience: self.patience,
            given_up: Arc::clone(&self.given_up),
            state: state.clone(),
        };
        let builder = thread::Builder::new().name("checkpoint".to_owned());
        let (alive, over) = channel();
        let thread = builder.spawn(move || {
            let _alive: Sender<()> = alive;
            task.run(part)
        });
        let path = self.store.path("step", step);
        let thread = thread.map_err(|e| Error::io("start a thread to write", path, e))?;
        self.running = Some(Running { step, thread, over });
        Ok(())
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl Running {
    fn join(self) -> Saved {
        let panicked = |_| {
            let source = std::io::Error::other("the thread that writes it panicked");
            Err(Error::io("write", format!("step {}", self.step), source))
        };
        Saved {
            step: self.step,
            result: self.thread.join().unwrap_or_else(panicked),
        }
    }
}

/// One checkpoint that a thread writes.
struct Task {
    store: Store,
    job: JobId,
    place: (usize, usize),
    keep: usize,
    patience: Duration,
    given_up: Arc<AtomicBool>,
    state: RunState,
}

impl Task {
    fn run(self, part: Images) -> Result<Option<PathBuf>, Error> {
        let (rank, ranks) = self.place;
        let step = self.state.step;
        if rank == 0 {
            self.store.sweep("step", step);
        }
        let writer = self.store.join("step", step);
        writer.create()?;
        let written = writer.write_part(rank, part.shared(), part.own());
        drop(part);
        let told = written.as_deref().map_err(ToString::to_string);
        let told = writer.leave_receipt(rank, told);
        if rank != 0 {
            written?;
            told?;
            return Ok(None);
        }
        let committed = written.and(told).and_then(|()| {
            let files = writer.gather(ranks, self.patience, &self.given_up)?;
            writer.clone().commit(&self.job, self.state, files)
        });
        match committed {
            Ok(path) => {
                self.store.retain("step", self.keep, step);
                Ok(Some(path))
            }
            Err(error) => {
                writer.abandon();
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::images::tests::images;
    use super::*;
    use crate::checkpoint::Checkpoint;
    use std::fs;
    use std::path::Path;

    fn state(step: u64) -> RunState {
        RunState {
            step: Step(step),
            ..RunState::default()
        }
    }

    fn ranks(dir: &Path, ranks: usize, keep: usize) -> Vec<Saving> {
        let store = Store::new(dir.join("checkpoints"));
        let saving = |rank| Saving::new(store.clone(), JobId::from("job"), (rank, ranks), keep);
        (0..ranks).map(saving).collect()
    }

    fn start(saving: &mut Saving, step: u64) {
        let part = images(0.5, step as f32);
        saving.start(&state(step), part).unwrap();
    }

    // Promise: a checkpoint is there once rank 0 says so, whoever wrote last; old ones go.
    #[test]
    fn ranks_write_and_rank_0_commits() {
        let dir = tempfile::tempdir().unwrap();
        let mut ranks = ranks(dir.path(), 3, 2);
        for step in [10, 20, 30] {
            for rank in [0, 2, 1] {
                start(&mut ranks[rank], step);
            }
            for rank in [2, 1] {
                let saved = ranks[rank].wait().unwrap();
                assert_eq!(saved.result.unwrap(), None);
            }
            let saved = ranks[0].wait().unwrap();
            assert_eq!(saved.step, Step(step));
            let checkpoint = Checkpoint::open(&saved.result.unwrap().unwrap()).unwrap();
            assert_eq!(checkpoint.manifest.state.step, Step(step));
            assert_eq!(checkpoint.manifest.files.len(), 6);
            assert!(ranks[0].wait().is_none());
        }
        let store = Store::new(dir.path().join("checkpoints"));
        assert_eq!(store.steps("step"), [Step(20), Step(30)]);
    }

    // Promise: without one rank's part there is no checkpoint, rank 0 says whose it was, and those before stay.
    #[test]
    fn a_part_that_never_comes_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut ranks = ranks(dir.path(), 2, 1);
        for saving in &mut ranks {
            start(saving, 1);
        }
        for saving in ranks.iter_mut().rev() {
            saving.wait().unwrap().result.unwrap();
        }
        ranks[0].patience = Duration::ZERO;
        start(&mut ranks[0], 2);
        let error = ranks[0].wait().unwrap().result.unwrap_err();
        assert!(matches!(error, Error::Part { rank: 1, .. }), "{error}");
        let found: Vec<_> = fs::read_dir(dir.path().join("checkpoints"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(found, ["step-00000001"]);
    }

    // Promise: a rank that cannot write its part tells rank 0 why, which does not wait.
    #[test]
    fn a_part_that_failed_ends_the_wait() {
        let dir = tempfile::tempdir().unwrap();
        let mut ranks = ranks(dir.path(), 2, 1);
        let store = Store::new(dir.path().join("checkpoints"));
        let writer = store.join("step", Step(2));
        // A directory in the file's place.
        fs::create_dir_all(writer.file("own-00001.safetensors")).unwrap();
        for saving in &mut ranks {
            start(saving, 2);
        }
        ranks[1].wait().unwrap().result.unwrap_err();
        let error = ranks[0].wait().unwrap().result.unwrap_err().to_string();
        assert!(error.contains("rank 1"), "{error}");
        assert!(error.contains("own-00001.safetensors"), "{error}");
        assert!(store.steps("step").is_empty());
        ranks[1].excuse(Step(4), "no memory");
        start(&mut ranks[0], 4);
        let error = ranks[0].wait().unwrap().result.unwrap_err().to_string();
        assert!(error.contains("rank 1: no memory"), "{error}");
    }

    // Promise: training does not stand still for longer than it wants to.
    #[test]
    fn a_wait_has_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let mut ranks = ranks(dir.path(), 2, 1);
        start(&mut ranks[0], 2);
        // Rank 1's part does not come.
        assert!(ranks[0].wait_for(Duration::from_millis(20)).is_none());
        assert_eq!(ranks[0].writing(), Some(Step(2)));
        start(&mut ranks[1], 2);
        let saved = ranks[0].wait_for(Duration::from_secs(60)).unwrap();
        saved.result.unwrap();
        assert!(ranks[0].wait_for(Duration::from_secs(60)).is_none());
    }

    // Promise: who has given up waits for nobody, but takes what is there already.
    #[test]
    fn who_has_given_up_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let mut ranks = ranks(dir.path(), 2, 1);
        ranks[0].given_up.store(true, Ordering::Relaxed);
        start(&mut ranks[0], 2);
        assert_eq!(ranks[0].writing(), Some(Step(2)));
        let error = ranks[0].wait().unwrap().result.unwrap_err();
        assert!(matches!(error, Error::Part { rank: 1, .. }), "{error}");
        start(&mut ranks[1], 3);
        ranks[1].wait().unwrap().result.unwrap();
        start(&mut ranks[0], 3);
        ranks[0].wait().unwrap().result.unwrap();
    }
}
