//! The best model of a run: kept when an evaluation finds it.

use super::Run;
use crate::agent::report::Content;
use crate::agent::watched::Phase;
use crate::engine::{Error, Which};
use espalier_spec::Rank;

impl Run<'_> {
    /// Evaluates, keeps the model if it is the best, and says whether to stop early.
    pub(super) fn evaluate(&mut self) -> Result<bool, Error> {
        self.watched.enter(Phase::Evaluating);
        let step = self.state.step;
        let Some(mut evaluation) = self.trainer.evaluate(Which::Validation, step)? else {
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
}
