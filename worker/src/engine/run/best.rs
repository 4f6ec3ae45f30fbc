//! The best model of a run: kept when an evaluation finds it, taken at the end; what becomes of a damaged one.

use super::Run;
use crate::agent::report::Content;
use crate::agent::watched::Phase;
use crate::checkpoint;
use crate::engine::selection::due;
use crate::engine::{Error, Which};
use espalier_spec::{Rank, Step};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often ranks tell each other that one of them still brings something back.
const LOOK: Duration = Duration::from_millis(200);

impl Run<'_> {
    /// Evaluates the tasks that are due, keeps the model if it is the best, and says whether to stop early.
    pub(super) fn evaluate(&mut self) -> Result<bool, Error> {
        self.watched.enter(Phase::Evaluating);
        let step = self.state.step;
        let last = &mut self.state.figures;
        let due = due(&self.context.spec, last, (step.0, self.total));
        let what = (Which::Validation, step);
        let Some(mut evaluation) = self.trainer.evaluate_due(what, &due, last)? else {
            return Ok(false);
        };
        // A figure that is no number is never the best, and JSON would not keep it.
        let gains = evaluation.selection.is_finite()
            && self
                .state
                .best
                .is_none_or(|(best, _)| evaluation.selection > best);
        if gains {
            self.state.evaluations_without_gain = 0;
            evaluation.best = self.keep_best(evaluation.selection)?;
        } else {
            self.state.evaluations_without_gain += 1;
        }
        self.metrics.evaluation(&evaluation);
        (self.tell)(Content::Evaluation(evaluation));
        let patience = self.context.spec.evaluation.early_stopping_patience;
        Ok(patience.is_some_and(|patience| self.state.evaluations_without_gain >= patience))
    }

    /// Keeps the model as the best one so far, and says whether it is kept. If it cannot be written, the best one before
    /// stays and training goes on; all ranks hear of it, so all have the same best one.
    fn keep_best(&mut self, selection: f64) -> Result<bool, Error> {
        let step = self.state.step;
        let before = self.state.best.replace((selection, step));
        if !self.context.spec.evaluation.select_best {
            return Ok(true);
        }
        let error = match self.trainer.save_best(&self.store, &self.state) {
            Ok(_) => return Ok(true),
            Err(error @ Error::Persist { .. }) => error,
            Err(error) => return Err(error),
        };
        // The last model is at hand: it is exported without being read again.
        let is_last = step.0 >= self.total;
        if !is_last {
            self.state.best = before;
        }
        if self.context.rank == Rank(0) {
            self.context.control.telemetry().metrics.saved(false);
            tracing::error!(
                step = step.0,
                %error,
                "the best model so far cannot be kept; training goes on"
            );
        }
        Ok(is_last)
    }
    /// Where the run goes on from a checkpoint whose best model is damaged or gone, a later evaluation chooses anew.
    /// Rank 0, which wrote it, looks, and all do as it says.
    pub(super) fn check_best(&mut self) -> Result<(), Error> {
        let is_kept = self.context.spec.evaluation.select_best;
        let Some((_, best)) = self.state.best.filter(|_| is_kept) else {
            return Ok(());
        };
        let mut is_whole = true;
        if self.context.rank == Rank(0)
            && let Err(error) = self.store.open("best", best)
        {
            is_whole = false;
            tracing::error!(
                step = best.0,
                %error,
                "the best model so far cannot be read: the next evaluation chooses one anew"
            );
        }
        if !self.trainer.all_say(is_whole)? {
            self.state.best = None;
        }
        Ok(())
    }

    /// Takes up the best model, from its copy if it is not whole here, and says whether it could: all ranks say the
    /// same.
    pub(super) fn take_best(&mut self, best: Step) -> Result<bool, Error> {
        if self.trainer.load_best(&self.store, best)? {
            return Ok(true);
        }
        if self.context.spec.checkpoint.upload.is_some() {
            self.bring_best(best)?;
            if self.trainer.load_best(&self.store, best)? {
                return Ok(true);
            }
        }
        if self.context.rank == Rank(0) {
            tracing::error!(
                best = best.0,
                last = self.state.step.0,
                "the best model is damaged or gone, and there is no copy of it: the last one is taken in its place"
            );
        }
        Ok(false)
    }

    /// Brings the best model back from its copy, on the ranks that do not find it whole. All wait, and hear from each
    /// other meanwhile.
    fn bring_best(&self, best: Step) -> Result<(), Error> {
        let Some(url) = &self.context.spec.checkpoint.upload else {
            return Ok(());
        };
        let (dir, store) = (self.context.dir.as_path(), &self.store);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let bring = scope.spawn(|| {
                let stop = || over.load(Ordering::Relaxed);
                checkpoint::bring_best(url, (dir, store), best, &stop)
            });
            let wait = || -> Result<(), Error> {
                while !self.trainer.all_say(bring.is_finished())? {
                    // A sign of life: a store that does not answer is given up by itself.
                    self.watched.enter(Phase::Exporting);
                    thread::sleep(LOOK);
                }
                Ok(())
            };
            let waited = wait();
            over.store(true, Ordering::Relaxed);
            // A panic was reported by the thread itself.
            if let Ok(Err(error)) = bring.join() {
                tracing::warn!(step = best.0, %error, "the best model cannot be brought back");
            }
            waited
        })
    }
}
