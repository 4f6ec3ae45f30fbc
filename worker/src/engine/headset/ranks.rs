//! Heads that rank texts by how near they are.

use super::HeadSet;
use crate::engine::Error;
use crate::heads;
use crate::metrics::Values;
use tch::Tensor;

impl HeadSet {
    /// Losses `[b]` of samples of a task from their features `[b, h]` and those `[b · n, h]` of the n texts that
    /// came with each, sample by sample, of which the first belongs to it.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn rank_losses(
        &self,
        task: usize,
        queries: &Tensor,
        candidates: &Tensor,
    ) -> Result<Tensor, Error> {
        let rows = |tensor: &Tensor| tensor.size().first().map_or(0, |rows| rows.unsigned_abs());
        let (samples, classes) = (rows(queries), rows(candidates));
        let each = classes / samples.max(1);
        let targets = Values::Single {
            classes: classes as usize,
            values: (0..samples).map(|sample| (sample * each) as u32).collect(),
        };
        let outputs = self.ranked(task, queries, candidates)?;
        Ok(self.heads[task].loss(&outputs, &targets)?)
    }

    /// Outputs `[b, m]` of queries `[b, h]` of a task among candidates `[m, h]`.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(in crate::engine) fn ranked(
        &self,
        task: usize,
        queries: &Tensor,
        candidates: &Tensor,
    ) -> Result<Tensor, Error> {
        let factor = self.block.param(self.params[task].0);
        Ok(heads::ranked(queries, candidates, factor)?)
    }
}
