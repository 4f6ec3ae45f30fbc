//! All heads of a job: one flat block of parameters, one loss per task.

use super::Error;
use crate::data::{Sample, TaskData};
use crate::heads::{self, Head, Linear};
use crate::metrics::Values;
use crate::model::{Block, Context, ParamSpec, mix};
use crate::torch;
use espalier_spec::JobSpec;
use std::ops::Range;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Dropout site of the heads' input; the backbone counts its own from 0.
const SITE: u64 = u64::MAX;

/// The heads of all tasks.
pub struct HeadSet {
    block: Block,
    heads: Vec<Box<dyn Head>>,
    weights: Vec<f64>,
    dropout: f64,
}

/// Loss of one task over some samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum over samples.
    pub sum: f64,
    /// Samples.
    pub count: u64,
}

impl HeadSet {
    /// Heads with their initial weights, a function of the job's seed and each task's name.
    ///
    /// # Errors
    /// If a task's loss settings do not fit.
    pub fn new(
        spec: &JobSpec,
        tasks: &[Arc<TaskData>],
        width: usize,
        device: Device,
    ) -> Result<Self, Error> {
        let mut params = Vec::new();
        let mut values = Vec::new();
        let mut heads = Vec::new();
        for (task, data) in spec.tasks.iter().zip(tasks) {
            let counts = data.train.labels.counts(data.labels.len());
            let head = heads::build(task, data.labels.names(), &counts)?;
            for parameter in heads::parameters(spec.seed, &task.name, head.outputs(), width) {
                let shape = &parameter.shape[..];
                params.push(if parameter.name.ends_with(".weight") {
                    ParamSpec::weight(&parameter.name, shape)
                } else {
                    ParamSpec::bias(&parameter.name, shape)
                });
                values.push(parameter);
            }
            heads.push(head);
        }
        let mut block = Block::new("heads", params, true, device)?;
        for parameter in values {
            let tensor = Tensor::f_from_slice(&parameter.values)?;
            block.load(&parameter.name, &tensor.f_view(&parameter.shape[..])?)?;
        }
        let weights = spec.tasks.iter().map(|task| task.weight).collect();
        Ok(Self {
            block,
            heads,
            weights,
            dropout: spec.backbone.dropout.unwrap_or(0.1),
        })
    }

    /// The parameters.
    #[must_use]
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// The parameters.
    pub fn block_mut(&mut self) -> &mut Block {
        &mut self.block
    }

    /// The head of a task.
    #[must_use]
    pub fn head(&self, task: usize) -> &dyn Head {
        self.heads[task].as_ref()
    }

    /// Outputs [b, C] of a task's head for features [b, h].
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn outputs(&self, task: usize, features: &Tensor) -> Result<Tensor, Error> {
        let weight = self.block.param(task);
        let bias = self.block.param(self.heads.len() + task);
        Ok(Linear { weight, bias }.forward(features, None)?)
    }

    /// Loss and backward of one micro-batch. `samples` are sorted by task and belong to the rows of
    /// `features` [b, h]; every sample's loss is multiplied by its task's weight and by `scale`.
    /// Gradients accumulate in the heads' block and in `features`, if that requires grad. Sums of
    /// the plain losses are added to `sums`.
    ///
    /// # Errors
    /// If targets do not fit the heads or libtorch refuses.
    pub fn backward(
        &self,
        features: &Tensor,
        samples: &[Sample],
        tasks: &[Arc<TaskData>],
        (ctx, scale): (&Context, f64),
        sums: &mut [LossSum],
    ) -> Result<(), Error> {
        let keys: Vec<u64> = samples.iter().map(key).collect();
        let dropped = ctx.dropout(features.shallow_clone(), &keys, SITE, self.dropout)?;
        let mut total: Option<Tensor> = None;
        for (task, rows) in by_task(samples) {
            let length = rows.len() as i64;
            let outputs = self.outputs(task, &dropped.f_narrow(0, rows.start as i64, length)?)?;
            let which = samples[rows].iter().map(|sample| sample.at.sample as usize);
            let targets = targets(&tasks[task], which);
            let losses = self.heads[task].loss(&outputs, &targets)?;
            let sum = losses.f_sum(Kind::Float)?;
            sums[task].sum += sum.f_double_value(&[])?;
            sums[task].count += length as u64;
            let part = sum.f_mul_scalar(self.weights[task] * scale)?;
            total = Some(match total {
                Some(total) => total.f_add(&part)?,
                None => part,
            });
        }
        if let Some(total) = total {
            torch::backward(&[&total], &[&total.f_ones_like()?])?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for HeadSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "HeadSet({} heads, {} numbers)",
            self.heads.len(),
            self.block.len()
        )
    }
}

/// A sample's identity for dropout.
pub(super) fn key(sample: &Sample) -> u64 {
    mix((u64::from(sample.at.task) << 32) | u64::from(sample.at.sample))
}

/// Targets of a task's training samples.
fn targets(task: &TaskData, which: impl IntoIterator<Item = usize>) -> Values {
    task.train.labels.values(task.labels.len(), which)
}

/// Runs of samples of one task.
fn by_task(samples: &[Sample]) -> Vec<(usize, Range<usize>)> {
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        let task = usize::from(sample.at.task);
        match runs.last_mut() {
            Some((last, run)) if *last == task => run.end = index + 1,
            _ => runs.push((task, index..index + 1)),
        }
    }
    runs
}
