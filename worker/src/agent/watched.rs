//! What a rank is doing, for whoever watches it from another thread.

use espalier_comm::{AbortHandle, Flight};
use espalier_spec::Rank;
use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Stages of a step that are timed, in order.
pub const STAGES: [&str; 5] = ["fetch", "forward", "backward", "exchange", "update"];

/// What a rank is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It makes its model.
    Loading,
    /// It waits for its peers.
    Connecting,
    /// It takes up a state.
    Restoring,
    /// It computes what a frozen backbone makes of all samples.
    Caching,
    /// It waits for a step's samples.
    Fetching,
    /// A block's forward.
    Forward(usize),
    /// A block's backward.
    Backward(usize),
    /// All ranks agree on what the step was.
    Agreeing,
    /// Owners step their slices and send them.
    Updating,
    /// An evaluation.
    Evaluating,
    /// A checkpoint.
    Checkpointing,
    /// The end: the best model is tested and exported.
    Exporting,
    /// Nothing any more.
    Ended,
}

impl Phase {
    /// Whether it is a part of training; what comes before has limits of its own, after it comes nothing.
    #[must_use]
    pub fn trains(self) -> bool {
        !matches!(
            self,
            Phase::Loading | Phase::Connecting | Phase::Restoring | Phase::Caching | Phase::Ended
        )
    }

    /// Whether it is mostly writing to a disk, which has no steps that could be seen.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self, Phase::Checkpointing | Phase::Exporting)
    }

    /// Its place among [`STAGES`], if it is a part of a step.
    fn stage(self) -> Option<usize> {
        match self {
            Phase::Fetching => Some(0),
            Phase::Forward(_) => Some(1),
            Phase::Backward(_) => Some(2),
            Phase::Agreeing => Some(3),
            Phase::Updating => Some(4),
            _ => None,
        }
    }

    fn code(self) -> u64 {
        let (kind, block) = match self {
            Phase::Loading => (0, 0),
            Phase::Connecting => (1, 0),
            Phase::Restoring => (2, 0),
            Phase::Caching => (3, 0),
            Phase::Fetching => (4, 0),
            Phase::Forward(block) => (5, block),
            Phase::Backward(block) => (6, block),
            Phase::Agreeing => (7, 0),
            Phase::Updating => (8, 0),
            Phase::Evaluating => (9, 0),
            Phase::Checkpointing => (10, 0),
            Phase::Exporting => (11, 0),
            Phase::Ended => (12, 0),
        };
        (block as u64) << 8 | kind
    }

    fn of(code: u64) -> Self {
        let block = (code >> 8) as usize;
        match code & 0xff {
            0 => Phase::Loading,
            1 => Phase::Connecting,
            2 => Phase::Restoring,
            3 => Phase::Caching,
            4 => Phase::Fetching,
            5 => Phase::Forward(block),
            6 => Phase::Backward(block),
            7 => Phase::Agreeing,
            8 => Phase::Updating,
            9 => Phase::Evaluating,
            10 => Phase::Checkpointing,
            11 => Phase::Exporting,
            _ => Phase::Ended,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Loading => f.write_str("loading"),
            Phase::Connecting => f.write_str("connecting"),
            Phase::Restoring => f.write_str("restoring"),
            Phase::Caching => f.write_str("caching features"),
            Phase::Fetching => f.write_str("fetching samples"),
            Phase::Forward(block) => write!(f, "forward of block {block}"),
            Phase::Backward(block) => write!(f, "backward of block {block}"),
            Phase::Agreeing => f.write_str("agreeing"),
            Phase::Updating => f.write_str("updating"),
            Phase::Evaluating => f.write_str("evaluating"),
            Phase::Checkpointing => f.write_str("checkpointing"),
            Phase::Exporting => f.write_str("exporting"),
            Phase::Ended => f.write_str("ended"),
        }
    }
}

/// A rank, seen from other threads.
#[derive(Debug)]
pub struct Watched {
    rank: Rank,
    flight: Flight,
    abort: OnceLock<AbortHandle>,
    phase: AtomicU64,
    step: AtomicU64,
    /// Grows with every phase and step.
    changes: AtomicU64,
    stages: Mutex<Stages>,
}

/// Times of a step's stages; only the rank itself changes them.
#[derive(Debug, Default)]
struct Stages {
    /// The one that it is in, and since when.
    now: Option<(usize, Instant)>,
    spent: [Duration; STAGES.len()],
}

impl Stages {
    fn enter(&mut self, stage: Option<usize>) {
        let now = Instant::now();
        if let Some((before, since)) = self.now {
            self.spent[before] += now - since;
        }
        self.now = stage.map(|stage| (stage, now));
    }
}

impl Watched {
    /// A rank that loads.
    #[must_use]
    pub fn new(rank: Rank) -> Self {
        Self {
            rank,
            flight: Flight::new(),
            abort: OnceLock::new(),
            phase: AtomicU64::new(Phase::Loading.code()),
            step: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            stages: Mutex::default(),
        }
    }

    /// How long it was in each stage since this was asked last.
    pub fn take_stages(&self) -> [Duration; STAGES.len()] {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.enter(None);
        std::mem::take(&mut stages.spent)
    }

    /// Which one.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// The recorder of its communicator.
    #[must_use]
    pub fn flight(&self) -> &Flight {
        &self.flight
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Relaxed))
    }

    /// Steps done.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    /// As long as these stay, it makes no progress.
    #[must_use]
    pub fn signs(&self) -> (u64, u64) {
        (self.changes.load(Ordering::Relaxed), self.flight.moves())
    }

    /// Names what stops its communication.
    pub fn stops_by(&self, abort: AbortHandle) {
        // Only the first counts, and there is one.
        let _ = self.abort.set(abort);
    }

    /// Stops its communication.
    pub fn abort(&self, reason: &str) {
        if let Some(abort) = self.abort.get() {
            abort.abort(reason);
        }
    }

    /// It begins to do something.
    pub fn enter(&self, phase: Phase) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.enter(phase.stage());
        drop(stages);
        self.phase.store(phase.code(), Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// So many steps are done.
    pub fn set_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    static OWN: RefCell<Option<Arc<Watched>>> = const { RefCell::new(None) };
}

/// Says that this thread is a rank's.
pub fn sign(watched: Arc<Watched>) {
    OWN.with(|own| *own.borrow_mut() = Some(watched));
}

/// This thread's rank begins to do something; nothing happens in a thread that is no rank's.
pub fn enter(phase: Phase) {
    OWN.with(|own| {
        if let Some(own) = &*own.borrow() {
            own.enter(phase);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: time is counted to the stage that a rank is in, and once.
    #[test]
    fn stages_are_timed() {
        let watched = Watched::new(Rank(0));
        let begun = Instant::now();
        watched.enter(Phase::Fetching);
        watched.enter(Phase::Forward(0));
        let forward = Instant::now();
        while forward.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        watched.enter(Phase::Backward(0));
        watched.enter(Phase::Evaluating);
        let stages = watched.take_stages();
        let all: Duration = stages.iter().sum();
        assert!(all <= begun.elapsed(), "{stages:?}");
        assert!(stages[1] >= Duration::from_millis(1), "{stages:?}");
        assert_eq!(stages[3..], [Duration::ZERO; 2]);
        assert_eq!(watched.take_stages(), [Duration::ZERO; STAGES.len()]);
    }

    // Promise: every phase is seen from another thread as what it is, and each is a sign of progress.
    #[test]
    fn phases_are_seen_from_outside() {
        let watched = Arc::new(Watched::new(Rank(3)));
        assert_eq!(watched.phase(), Phase::Loading);
        let phases = [
            Phase::Loading,
            Phase::Connecting,
            Phase::Restoring,
            Phase::Caching,
            Phase::Fetching,
            Phase::Forward(11),
            Phase::Backward(300),
            Phase::Agreeing,
            Phase::Updating,
            Phase::Evaluating,
            Phase::Checkpointing,
            Phase::Exporting,
            Phase::Ended,
        ];
        enter(Phase::Updating);
        assert_eq!(watched.phase(), Phase::Loading, "no rank's thread");
        let own = Arc::clone(&watched);
        std::thread::spawn(move || {
            sign(Arc::clone(&own));
            for phase in phases {
                let before = own.signs();
                enter(phase);
                assert_eq!(own.phase(), phase);
                assert_ne!(own.signs(), before);
            }
        })
        .join()
        .unwrap();
        assert_eq!(watched.phase(), Phase::Ended);
        assert!(phases[4..12].iter().all(|phase| phase.trains()));
        let mut others = phases[..4].iter().chain(&phases[12..]);
        assert!(!others.any(|phase| phase.trains()));
    }
}
