//! Heads that say whether two texts belong to each other.

use super::HeadSet;
use crate::engine::Error;
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use tch::Tensor;

impl HeadSet {
    /// Losses `[b]` of samples of a task from the features `[b, h]` of their pairs with their own class, and
    /// those `[b · n, h]` of their pairs with n others, sample by sample.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn pair_losses(
        &self,
        task: usize,
        own: &Tensor,
        others: &Tensor,
    ) -> Result<Tensor, Error> {
        let samples = own.size().first().copied().unwrap_or(0);
        let own_b1 = self.outputs(task, own, None)?;
        let others_bn = self.outputs(task, others, None)?.f_view([samples, -1])?;
        let outputs = Tensor::f_cat(&[own_b1, others_bn], 1)?;
        let classes = outputs.size().get(1).copied().unwrap_or(0);
        let targets = Values::Single {
            classes: classes.unsigned_abs() as usize,
            values: vec![0; samples.unsigned_abs() as usize],
        };
        Ok(self.heads[task].loss(&outputs, &targets)?)
    }

    /// Where the calibration of a task is among the parameters, if it has one.
    pub(super) fn calibrated(&self, task: usize) -> Option<usize> {
        match (self.heads[task].kind(), self.calibrations[task]) {
            (HeadKind::LabelEmbedding, _) => self.params[task].1,
            (_, layer) => layer.map(|layer| self.params[layer].0),
        }
    }
}
