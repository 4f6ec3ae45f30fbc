//! All heads of a job: one flat block of parameters, one loss per task.

use super::Error;
use super::exact::ExactSum;
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

impl LossSum {
    /// Mean over samples; none if there are none.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// Samples of one task in a micro-batch: rows of its features.
pub(super) type Run = (usize, Range<usize>);

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
        Ok(Self {
            block,
            heads,
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

    /// The numbers of the heads' block that are a task's: its weight and its bias.
    #[must_use]
    pub fn ranges(&self, task: usize) -> [Range<usize>; 2] {
        let heads = self.heads.len();
        [self.block.range(task), self.block.range(heads + task)]
    }

    /// Loss and backward of one micro-batch. `samples` are sorted by task and belong to the rows of
    /// `features` [b, h]; every sample's loss is multiplied by its task's `scales`. Gradients
    /// accumulate in the heads' block and in `features`, if that requires grad. The plain losses are
    /// added to `sums`. Returns which rows are which task's.
    ///
    /// # Errors
    /// If targets do not fit the heads or libtorch refuses.
    pub(super) fn backward(
        &self,
        features: &Tensor,
        samples: &[&Sample],
        tasks: &[Arc<TaskData>],
        (ctx, scales): (&Context, &[f64]),
        sums: &mut [ExactSum],
    ) -> Result<Vec<Run>, Error> {
        let mut total: Option<Tensor> = None;
        let runs = self.losses(features, samples, tasks, ctx, |task, losses| {
            each(losses, &mut sums[task])?;
            let part = losses.f_sum(Kind::Float)?.f_mul_scalar(scales[task])?;
            total = Some(match total.take() {
                Some(total) => total.f_add(&part)?,
                None => part,
            });
            Ok(())
        })?;
        if let Some(total) = total {
            torch::backward(&[&total], &[&total.f_ones_like()?])?;
        }
        Ok(runs)
    }

    /// Adds the plain losses of a micro-batch to `sums`; nothing is differentiated.
    ///
    /// # Errors
    /// As [`HeadSet::backward`].
    pub(super) fn measure(
        &self,
        features: &Tensor,
        samples: &[&Sample],
        tasks: &[Arc<TaskData>],
        ctx: &Context,
        sums: &mut [ExactSum],
    ) -> Result<(), Error> {
        tch::no_grad(|| {
            self.losses(features, samples, tasks, ctx, |task, losses| {
                each(losses, &mut sums[task])
            })
        })?;
        Ok(())
    }

    /// Gives each task's losses [b_k].
    fn losses(
        &self,
        features: &Tensor,
        samples: &[&Sample],
        tasks: &[Arc<TaskData>],
        ctx: &Context,
        mut give: impl FnMut(usize, &Tensor) -> Result<(), Error>,
    ) -> Result<Vec<Run>, Error> {
        let keys: Vec<u64> = samples.iter().map(|sample| key(sample)).collect();
        let dropped = ctx.dropout(features.shallow_clone(), &keys, SITE, self.dropout)?;
        let runs = by_task(samples);
        for (task, rows) in &runs {
            let length = rows.len() as i64;
            let outputs = self.outputs(*task, &dropped.f_narrow(0, rows.start as i64, length)?)?;
            let which = samples[rows.clone()].iter();
            let which = which.map(|sample| sample.at.sample as usize);
            let targets = targets(&tasks[*task], which);
            give(*task, &self.heads[*task].loss(&outputs, &targets)?)?;
        }
        Ok(runs)
    }
}

/// Adds each sample's loss.
fn each(losses: &Tensor, sum: &mut ExactSum) -> Result<(), Error> {
    let losses = Vec::<f32>::try_from(&losses.f_detach()?.f_contiguous()?)?;
    losses.iter().for_each(|loss| sum.add(f64::from(*loss)));
    Ok(())
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
fn by_task(samples: &[&Sample]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        let task = usize::from(sample.at.task);
        match runs.last_mut() {
            Some((last, run)) if *last == task => run.end = index + 1,
            _ => runs.push((task, index..index + 1)),
        }
    }
    runs
}
