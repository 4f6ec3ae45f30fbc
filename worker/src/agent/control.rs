//! How orders reach the ranks of a job.

use super::limits::Limits;
use super::telemetry::Telemetry;
use super::watched::Watched;
use espalier_spec::Rank;
use espalier_spec::report::Failure;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const GO_ON: u8 = 0;
const HANDOVER: u8 = 1;
const LEAVE: u8 = 2;
const CHECKPOINT: u8 = 3;
const ABORT: u8 = 4;

/// What the ranks of a job have been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Go on training.
    GoOn,
    /// Stop at the next step boundary, after a snapshot that other workers hold too.
    Handover,
    /// The same, because this worker leaves: what it holds in memory goes with it.
    Leave,
    /// Stop at the next step boundary, after a checkpoint.
    Checkpoint,
    /// Stop at once.
    Abort,
}

type Abort = Box<dyn Fn() + Send>;

/// Shared by the agent and the ranks of one generation of a job on one worker.
#[derive(Default)]
pub struct Control {
    told: AtomicU8,
    step: AtomicU64,
    aborts: Mutex<Vec<Abort>>,
    limits: Limits,
    telemetry: Telemetry,
    /// The ranks, in the order in which they began.
    watched: Mutex<Vec<Arc<Watched>>>,
    /// Why the worker has given the job up.
    given_up: OnceLock<Failure>,
}

impl Control {
    /// One with limits of waiting.
    #[must_use]
    pub fn with(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The same, and what its ranks are measured with.
    #[must_use]
    pub fn measured(self, telemetry: Telemetry) -> Self {
        Self { telemetry, ..self }
    }

    /// What its ranks are measured with.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// How long ranks may wait for others.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A rank begins; what it does is seen through what this returns.
    pub fn watch(&self, rank: Rank) -> Arc<Watched> {
        let watched = Arc::new(Watched::new(rank));
        let mut all = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&watched));
        watched
    }

    /// The ranks that have begun.
    pub fn watched(&self) -> Vec<Arc<Watched>> {
        let all = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }

    /// Stops at once, because of this; only the first reason counts. Peers hear it.
    pub fn give_up(&self, failure: Failure) {
        for watched in self.watched() {
            watched.abort(&failure.message);
        }
        let _ = self.given_up.set(failure);
        self.abort();
    }

    /// Why the job was given up, if it was.
    pub fn given_up(&self) -> Option<&Failure> {
        self.given_up.get()
    }

    /// What the ranks have been told.
    pub fn told(&self) -> Told {
        match self.told.load(Ordering::Acquire) {
            GO_ON => Told::GoOn,
            HANDOVER => Told::Handover,
            LEAVE => Told::Leave,
            CHECKPOINT => Told::Checkpoint,
            _ => Told::Abort,
        }
    }

    /// Asks for a stop at the next step boundary, with a checkpoint.
    pub fn stop_at_boundary(&self) {
        self.told.fetch_max(CHECKPOINT, Ordering::AcqRel);
    }

    /// Asks for a stop at the next step boundary, with a snapshot.
    pub fn hand_over(&self) {
        self.told.fetch_max(HANDOVER, Ordering::AcqRel);
    }

    /// Asks for the same because this worker leaves.
    pub fn leave(&self) {
        self.told.fetch_max(LEAVE, Ordering::AcqRel);
    }

    /// Stops at once: pending communication is aborted.
    pub fn abort(&self) {
        self.told.fetch_max(ABORT, Ordering::AcqRel);
        if let Ok(aborts) = self.aborts.lock() {
            aborts.iter().for_each(|abort| abort());
        }
    }

    /// Names what `abort` must call; called at once if the abort came before.
    pub fn on_abort(&self, abort: impl Fn() + Send + 'static) {
        if let Ok(mut aborts) = self.aborts.lock() {
            if self.told() == Told::Abort {
                abort();
            }
            aborts.push(Box::new(abort));
        }
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    /// Says how many steps are done.
    pub fn set_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Control {{ told: {:?}, step: {} }}",
            self.told(),
            self.step()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    // Promise: an abort reaches communicators made before and after it.
    #[test]
    fn abort_reaches_what_came_before_and_after() {
        let control = Control::default();
        let count = Arc::new(AtomicU8::new(0));
        let bump = |count: &Arc<AtomicU8>| {
            let count = Arc::clone(count);
            move || {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        control.on_abort(bump(&count));
        control.abort();
        control.on_abort(bump(&count));
        assert_eq!(count.load(Ordering::SeqCst), 2);
        control.stop_at_boundary();
        assert_eq!(control.told(), Told::Abort, "an abort is never weakened");
    }

    // Promise: of several orders the one that keeps more counts, in whatever order they come.
    #[test]
    fn a_checkpoint_is_not_weakened_to_a_handover() {
        let control = Control::default();
        control.hand_over();
        assert_eq!(control.told(), Told::Handover);
        control.leave();
        control.hand_over();
        assert_eq!(control.told(), Told::Leave);
        control.stop_at_boundary();
        control.leave();
        assert_eq!(control.told(), Told::Checkpoint);
    }
}
