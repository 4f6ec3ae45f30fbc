//! Batch norms that take up another domain: AdaBN (Li et al. 2016, arXiv 1603.04779).
//!
//! After training, statistics of all batch norms are taken anew over the samples of the task's target, read in an
//! order that the seed shuffles: files sorted by class would make batches of one class. Each batch is normalised by
//! its own mean and variance. What is kept is those of all batches together: the mean of their means, and by the law
//! of total variance the mean of their unbiased variances and the variance of their means. The paper has statistics
//! over the whole target, too. Parameters stay as they were trained.

use super::Error;
use super::trainer::Trainer;
use crate::adapt;
use crate::data::{Input, Split, shuffled};
use crate::model::{Block, Context};
use crate::torch;
use espalier_spec::adaptation::Adapt;
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::Tensor;

/// Samples of a batch. A rest that is smaller is left out, since it would count as much as a whole one.
const BATCH: usize = 128;
/// How names of a norm's statistics end.
const MEAN: &str = ".running_mean";
const VARIANCE: &str = ".running_var";

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
            let places = shuffled(target.len(), self.spec.seed, &task.name);
            self.take_statistics(target, &places)?;
        }
        Ok(())
    }

    /// Takes statistics anew over the samples at these places.
    fn take_statistics(&mut self, target: &Split, places: &[usize]) -> Result<(), Error> {
        let size = BATCH.min(places.len()).max(1);
        let mut whole = Statistics::default();
        for places in places.chunks_exact(size) {
            let inputs = places.iter().map(|&index| target.input(index));
            let inputs = inputs.collect::<Result<Vec<Input>, _>>()?;
            let inputs: Vec<&Input> = inputs.iter().collect();
            let batch = self.batch(&inputs, &vec![0; size])?;
            // All of the batch's own, nothing of what was kept before.
            self.backbone.follow_batches(Some(1.0));
            let seen = self.features(Some(&batch), &Context::eval());
            self.backbone.follow_batches(None);
            seen?;
            // Norms keep where they compute.
            self.backbone
                .blocks()
                .iter()
                .try_for_each(Block::pull_untrained)?;
            whole.add(self.backbone.blocks())?;
        }
        whole.put(self.backbone.blocks_mut())
    }
}

/// Mean of numbers, and the sum of their squared distances from it (Welford 1962).
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Takes in a number; `count` numbers with it.
    fn add(&mut self, number: f32, count: f64) {
        let number = f64::from(number);
        let off = number - self.mean;
        self.mean += off / count;
        self.squares += off * (number - self.mean);
    }
}

/// What batches of equal size said of each channel.
#[derive(Debug, Default)]
struct Statistics {
    batches: f64,
    /// Moments over batches, of the means and of the variances that batches have, by the parameter's name.
    seen: BTreeMap<String, Vec<Moments>>,
}

impl Statistics {
    /// Takes in what norms kept of a batch.
    fn add(&mut self, blocks: &[Block]) -> Result<(), Error> {
        self.batches += 1.0;
        let is_kept = |name: &str| name.ends_with(MEAN) || name.ends_with(VARIANCE);
        for block in blocks {
            let params = block.params().iter().enumerate();
            for (place, param) in params.filter(|(_, param)| is_kept(&param.name)) {
                let own = block.host(place)?;
                let numbers = torch::data(&own)?;
                let moments = self.seen.entry(param.name.clone()).or_default();
                moments.resize(numbers.len(), Moments::default());
                for (moments, number) in moments.iter_mut().zip(numbers) {
                    moments.add(*number, self.batches);
                }
            }
        }
        Ok(())
    }

    /// Makes norms keep what all batches together have.
    fn put(&self, blocks: &mut [Block]) -> Result<(), Error> {
        for block in blocks {
            for (name, _) in block.names() {
                if let Some(values) = self.whole(&name) {
                    block.load(&name, &Tensor::f_from_slice(&values)?)?;
                }
            }
        }
        Ok(())
    }

    /// A statistic over all batches; none if the parameter is no statistic.
    fn whole(&self, name: &str) -> Option<Vec<f32>> {
        let own = self.seen.get(name)?;
        let norm = name.strip_suffix(VARIANCE);
        let means = norm.and_then(|norm| self.seen.get(&format!("{norm}{MEAN}")));
        let between = |channel: usize| {
            let mean = means.and_then(|means| means.get(channel));
            mean.map_or(0.0, |mean| mean.squares / self.batches)
        };
        let channels = own.iter().enumerate();
        let values = channels.map(|(channel, own)| (own.mean + between(channel)) as f32);
        Some(values.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ParamSpec;
    use tch::Device;

    /// Mean and unbiased variance.
    fn moments(numbers: &[f32]) -> [f64; 2] {
        let count = numbers.len() as f64;
        let mean = numbers.iter().copied().map(f64::from).sum::<f64>() / count;
        let squares = numbers.iter().map(|&n| (f64::from(n) - mean).powi(2));
        [mean, squares.sum::<f64>() / (count - 1.0)]
    }

    // Promise: of batches whose means differ, norms keep mean and variance of all numbers together, to the share
    // that one number has of a batch; of one batch what it has.
    #[test]
    fn batches_make_a_whole() {
        let batch = |at: f32| (0..500).map(move |n| at + (n as f32).sin());
        let batches = [0.0, 4.0, -1.0].map(|at| batch(at).collect::<Vec<f32>>());
        for batches in [&batches[..], &batches[1..2]] {
            let specs = [MEAN, VARIANCE].map(|end| ParamSpec::bias(format!("norm{end}"), &[1]));
            let mut block = Block::new("block", specs.into(), false, Device::Cpu).unwrap();
            let mut whole = Statistics::default();
            for numbers in batches {
                for (end, value) in [MEAN, VARIANCE].iter().zip(moments(numbers)) {
                    let value = Tensor::from_slice(&[value as f32]);
                    block.load(&format!("norm{end}"), &value).unwrap();
                }
                whole.add(std::slice::from_ref(&block)).unwrap();
            }
            whole.put(std::slice::from_mut(&mut block)).unwrap();
            let found = [0, 1].map(|place| block.param(place).double_value(&[0]));
            for (found, wanted) in found.iter().zip(moments(&batches.concat())) {
                let error = (found - wanted).abs();
                assert!(error < 0.003 * (1.0 + wanted), "{found}, not {wanted}");
            }
        }
    }
}
