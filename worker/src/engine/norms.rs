//! Batch norms that take up another domain: AdaBN (Li et al. 2016, arXiv 1603.04779).
//!
//! After training, statistics of all batch norms are taken anew over the samples of the task's target: the mean
//! over batches of a batch's mean and unbiased variance per channel, each batch normalised by its own. The paper
//! has moving averages over the target, too. Parameters stay as they were trained.

use super::Error;
use super::trainer::Trainer;
use crate::adapt;
use crate::data::Input;
use crate::model::Context;
use espalier_spec::adaptation::Adapt;
use std::sync::Arc;

/// Samples of a batch. A rest that is smaller is left out, since it would count as much as a whole one.
const BATCH: usize = 128;

impl Trainer {
    /// Makes statistics those of the target, where a task asks for it. Every rank goes through all of it, so
    /// all have the same to the bit.
    ///
    /// # Errors
    /// If a sample cannot be read or a peer is lost.
    pub fn follow_target(&mut self) -> Result<(), Error> {
        let tasks = Arc::clone(&self.tasks);
        for (task, spec) in tasks.iter().zip(self.spec.tasks.clone()) {
            let asked = spec
                .adaptation
                .is_some_and(|own| own.method == Adapt::Adabn);
            let Some(target) = task.target.as_ref().filter(|_| asked) else {
                continue;
            };
            if !self.backbone.follow_batches(None) {
                let task = task.name.clone();
                return Err(adapt::Error::NoBatchNorm { task }.into());
            }
            let size = BATCH.min(target.len());
            for nth in 0..target.len() / size {
                let inputs = (nth * size..(nth + 1) * size).map(|index| target.input(index));
                let inputs = inputs.collect::<Result<Vec<Input>, _>>()?;
                let inputs: Vec<&Input> = inputs.iter().collect();
                let batch = self.batch(&inputs, &vec![0; size])?;
                self.backbone.follow_batches(Some(1.0 / (nth + 1) as f64));
                let seen = self.features(Some(&batch), &Context::eval());
                self.backbone.follow_batches(None);
                seen?;
            }
        }
        Ok(())
    }
}
