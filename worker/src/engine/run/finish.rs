//! The end of a run: the best model is taken, tested and exported.

use super::{Ending, Run};
use crate::agent::report::Content;
use crate::agent::watched::Phase;
use crate::engine::{Error, Which};
use espalier_spec::Rank;
use std::path::{Path, PathBuf};

impl Run<'_> {
    /// Takes the best model, tests it and exports it.
    pub(super) fn finish(&mut self) -> Result<Ending, Error> {
        self.watched.enter(Phase::Exporting);
        let mut step = self.state.step;
        if self.context.spec.evaluation.select_best
            && let Some((_, best)) = self.state.best
            && best != step
            && self.take_best(best)?
        {
            step = best;
        }
        self.trainer.follow_target()?;
        if let Some(evaluation) = self.trainer.evaluate(Which::Test, step)? {
            self.metrics.evaluation(&evaluation);
            (self.tell)(Content::Evaluation(evaluation));
        }
        for task in self.trainer.tasks().iter() {
            let lost = task.splits().map(|split| split.lost()).sum::<u64>();
            if lost > 0 && self.context.rank == Rank(0) {
                tracing::warn!(
                    task = task.name,
                    lost,
                    "answers lie beyond backbone.max_tokens and were learned as if there were none"
                );
            }
        }
        let target = self.context.spec.output.as_ref().map(PathBuf::from);
        let target = target.unwrap_or_else(|| self.context.dir.join("export"));
        self.watched.enter(Phase::Exporting);
        self.trainer.export(&target, step)?;
        if self.context.rank == Rank(0) {
            tracing::info!(step = step.0, path = %target.display(), "exported");
        }
        self.wait_for_upload();
        Ok(Ending::Exported(absolute(&target)))
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}
