//! All heads of a job: one flat block of parameters, one loss per task.

use super::Error;
use super::exact::ExactSum;
use super::kernel::{dot, pair, pairs};
use super::words::Words;
use crate::data::{Sample, TaskData};
use crate::heads::{self, Head, Level, Linear};
use crate::metrics::Values;
use crate::model::{Batch, Block, Context, Leaves, ParamSpec, mix};
use crate::torch;
use espalier_spec::job::ContrastiveSpec;
use espalier_spec::{InputGroups, JobSpec};
use std::ops::Range;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Dropout sites of the heads' input, features and rows; the backbone counts its own from 0.
const SITE: u64 = u64::MAX;
const ROW_SITE: u64 = u64::MAX - 1;

/// The heads of all tasks.
pub struct HeadSet {
    block: Block,
    heads: Vec<Box<dyn Head>>,
    contrastive: Vec<Option<ContrastiveSpec>>,
    groups: InputGroups,
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

/// What heads read: the samples of a micro-batch, sorted by task, and what the backbone made of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) samples: &'a [&'a Sample],
    pub(super) batch: &'a Batch,
    pub(super) leaves: &'a Leaves,
}

/// What a backward of the heads is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadPass<'a> {
    pub(super) ctx: &'a Context,
    /// Every sample's loss is multiplied by its task's.
    pub(super) scales: &'a [f64],
    /// The only task whose losses are taken; all if none.
    pub(super) only: Option<usize>,
}

/// Gradients of the features by task, where tasks share samples and weights are not known yet.
#[derive(Debug)]
pub(super) struct FeatureGradients {
    /// The features as heads saw them, with the graph back to the features.
    dropped: Tensor,
    /// Each task's rows and their gradient [rows, h].
    parts: Vec<(Run, Tensor)>,
    /// The same of heads that read words: vectors of tokens, and gradients of all of them by task.
    rows: Option<Tensor>,
    row_parts: Vec<(usize, Tensor)>,
}

impl FeatureGradients {
    /// Scalar products of all pairs of `tasks` tasks, as indexed by [`pair`]. Samples are taken one
    /// by one and added exactly: which rank has which changes no bit.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn products(&self, tasks: usize) -> Result<Vec<ExactSum>, Error> {
        let mut sums = vec![ExactSum::default(); pairs(tasks)];
        for (place, ((a, rows), left)) in self.parts.iter().enumerate() {
            for ((b, others), right) in &self.parts[place..] {
                if rows != others {
                    continue;
                }
                let width = (left.numel() / rows.len().max(1)).max(1);
                let (left, right) = (torch::data(left)?, torch::data(right)?);
                let samples = left.chunks_exact(width).zip(right.chunks_exact(width));
                let sum = &mut sums[pair(*a, *b, tasks)];
                samples.for_each(|(left, right)| sum.add(f64::from(dot(left, right))));
            }
        }
        Ok(sums)
    }

    /// Brings the weighted sum to the features' gradient.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn combine(self, weights: &[f64]) -> Result<(), Error> {
        let total = self.dropped.f_zeros_like()?;
        for ((task, rows), grad) in &self.parts {
            let mut place = total.f_narrow(0, rows.start as i64, rows.len() as i64)?;
            let _ = place.f_add_(&grad.f_mul_scalar(weights[*task])?)?;
        }
        torch::backward(&[&self.dropped], &[&total])?;
        if let Some(rows) = &self.rows {
            let mut total = rows.f_zeros_like()?;
            for (task, grad) in &self.row_parts {
                let _ = total.f_add_(&grad.f_mul_scalar(weights[*task])?)?;
            }
            torch::backward(&[rows], &[&total])?;
        }
        Ok(())
    }
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
            for parameter in heads::parameters(spec.seed, &task.name, head.shape(), width) {
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
            contrastive: spec.tasks.iter().map(|t| t.loss.contrastive).collect(),
            groups: InputGroups::of(&spec.tasks),
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

    /// Whether a head reads the vectors of tokens, not only pooled features.
    #[must_use]
    pub fn wants_rows(&self) -> bool {
        self.heads.iter().any(|head| head.level() == Level::Word)
    }

    /// Outputs [b, C] of a task's head for features [b, h], or [w, C] for vectors of words [w, h].
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

    /// Loss and backward of one micro-batch. Gradients accumulate in the heads' block and in the
    /// leaves, if those require grad. The plain losses are added to `sums`. Returns which rows of the
    /// features are which task's.
    ///
    /// # Errors
    /// If targets do not fit the heads or libtorch refuses.
    pub(super) fn backward(
        &self,
        seen: Seen<'_>,
        tasks: &[Arc<TaskData>],
        how: HeadPass<'_>,
        sums: &mut [ExactSum],
    ) -> Result<Vec<Run>, Error> {
        let mut total: Option<Tensor> = None;
        let mut runs = Vec::new();
        let dropped = self.dropped(seen, how.ctx)?;
        self.losses(&dropped, seen, tasks, how.only, |run, losses| {
            each(losses, &mut sums[run.0])?;
            let part = losses.f_sum(Kind::Float)?.f_mul_scalar(how.scales[run.0])?;
            total = Some(match total.take() {
                Some(total) => total.f_add(&part)?,
                None => part,
            });
            runs.push(run);
            Ok(())
        })?;
        if let Some(total) = total {
            torch::backward(&[&total], &[&total.f_ones_like()?])?;
        }
        Ok(runs)
    }

    /// The same, but the leaves' gradients are given task by task: the leaves have none until the
    /// parts are combined.
    ///
    /// # Errors
    /// As [`HeadSet::backward`].
    pub(super) fn backward_by_task(
        &self,
        seen: Seen<'_>,
        tasks: &[Arc<TaskData>],
        how: HeadPass<'_>,
        sums: &mut [ExactSum],
    ) -> Result<FeatureGradients, Error> {
        let dropped = self.dropped(seen, how.ctx)?;
        let cut = |x: &Tensor| x.f_detach()?.f_set_requires_grad(true);
        let leaves = Leaves {
            features: cut(&dropped.features)?,
            rows: dropped.rows.as_ref().map(cut).transpose()?,
        };
        let (mut parts, mut row_parts) = (Vec::new(), Vec::new());
        self.losses(&leaves, seen, tasks, how.only, |run, losses| {
            each(losses, &mut sums[run.0])?;
            let scale = losses.f_ones_like()?.f_mul_scalar(how.scales[run.0])?;
            torch::backward(&[losses], &[&scale])?;
            match (self.heads[run.0].level(), &leaves.rows) {
                (Level::Word, Some(rows)) => {
                    row_parts.push((run.0, rows.f_grad()?.f_contiguous()?));
                    torch::set_grad(rows, &Tensor::new())?;
                }
                _ => {
                    let (start, length) = (run.1.start as i64, run.1.len() as i64);
                    let grad = leaves.features.f_grad()?;
                    let grad = grad.f_narrow(0, start, length)?.f_contiguous()?;
                    torch::set_grad(&leaves.features, &Tensor::new())?;
                    parts.push((run, grad));
                }
            }
            Ok(())
        })?;
        Ok(FeatureGradients {
            dropped: dropped.features,
            parts,
            rows: dropped.rows,
            row_parts,
        })
    }

    /// Adds the plain losses of a micro-batch to `sums`; nothing is differentiated.
    ///
    /// # Errors
    /// As [`HeadSet::backward`].
    pub(super) fn measure(
        &self,
        seen: Seen<'_>,
        tasks: &[Arc<TaskData>],
        ctx: &Context,
        sums: &mut [ExactSum],
    ) -> Result<(), Error> {
        tch::no_grad(|| {
            let dropped = self.dropped(seen, ctx)?;
            self.losses(&dropped, seen, tasks, None, |(task, _), losses| {
                each(losses, &mut sums[task])
            })
        })
    }

    /// What heads read, after dropout.
    fn dropped(&self, seen: Seen<'_>, ctx: &Context) -> Result<Leaves, Error> {
        let keys: Vec<u64> = seen.samples.iter().map(|sample| key(sample)).collect();
        let features = seen.leaves.features.shallow_clone();
        let rows = match (&seen.leaves.rows, seen.batch) {
            (Some(rows), Batch::Tokens(tokens)) => Some(ctx.dropout(
                rows.shallow_clone(),
                &tokens.layout.row_keys,
                ROW_SITE,
                self.dropout,
            )?),
            _ => None,
        };
        Ok(Leaves {
            features: ctx.dropout(features, &keys, SITE, self.dropout)?,
            rows,
        })
    }

    /// Gives each task's rows of the features and the losses of those that have a label; a task that
    /// shares its inputs has the rows of the task that leads it. Nothing of a task without a label.
    fn losses(
        &self,
        dropped: &Leaves,
        seen: Seen<'_>,
        tasks: &[Arc<TaskData>],
        only: Option<usize>,
        mut give: impl FnMut(Run, &Tensor) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (leader, run) in by_task(seen.samples) {
            for task in self.groups.members(leader) {
                if only.is_some_and(|only| only != task) {
                    continue;
                }
                let sample = |place: usize| seen.samples[place].at.sample as usize;
                let has_label = |place: &usize| tasks[task].train.has_label(sample(*place));
                let places: Vec<usize> = run.clone().filter(has_label).collect();
                if places.is_empty() {
                    continue;
                }
                let targets = targets(&tasks[task], places.iter().map(|place| sample(*place)));
                let losses = match (self.heads[task].level(), &dropped.rows) {
                    (Level::Word, Some(rows)) => {
                        let inputs = places.iter().map(|place| &seen.samples[*place].input);
                        let words = Words::of(seen.batch, places.iter().copied(), inputs);
                        let outputs = self.outputs(task, &words.vectors(rows)?)?;
                        self.heads[task].loss(&outputs, &words.kept(targets))?
                    }
                    _ => {
                        let features = rows_of(&dropped.features, &run, &places)?;
                        self.sample_losses(task, &features, &targets)?
                    }
                };
                give((task, run.clone()), &losses)?;
            }
        }
        Ok(())
    }

    /// Losses [b] of a task from its samples' features [b, h], that of contrast included.
    fn sample_losses(
        &self,
        task: usize,
        features: &Tensor,
        targets: &Values,
    ) -> Result<Tensor, Error> {
        let loss = |features: &Tensor| {
            let outputs = self.outputs(task, features)?;
            Ok::<_, Error>(self.heads[task].loss(&outputs, targets)?)
        };
        match self.contrastive[task] {
            None => loss(features),
            Some(spec) => {
                let own = loss(&heads::dampened(features, spec)?)?;
                Ok(own.f_add(&heads::contrastive(features, targets, spec)?)?)
            }
        }
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

/// The rows `places` of features, which are all or some of `run`.
fn rows_of(features: &Tensor, run: &Range<usize>, places: &[usize]) -> Result<Tensor, Error> {
    if places.len() == run.len() {
        return Ok(features.f_narrow(0, run.start as i64, run.len() as i64)?);
    }
    let places: Vec<i64> = places.iter().map(|place| *place as i64).collect();
    let places = Tensor::f_from_slice(&places)?.f_to_device(features.device())?;
    Ok(features.f_index_select(0, &places)?)
}

/// A sample's identity for dropout.
pub(super) fn key(sample: &Sample) -> u64 {
    mix((u64::from(sample.at.task) << 32) | u64::from(sample.at.sample))
}

/// Targets of a task's training samples.
fn targets(task: &TaskData, which: impl IntoIterator<Item = usize>) -> Values {
    task.values(&task.train, which)
}

/// Runs of samples drawn for one task.
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

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: products are those of the tasks' gradients of the same samples, and what comes to the
    // features is their weighted sum.
    #[test]
    fn feature_gradients_multiply_and_add_up() {
        let tensor = |values: &[f32]| Tensor::from_slice(values).view([2, 2]);
        let features = Tensor::zeros([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let gradients = FeatureGradients {
            dropped: features.f_mul_scalar(2.0).unwrap(),
            parts: vec![
                ((0, 0..2), tensor(&[1.0, 2.0, 3.0, 4.0])),
                ((1, 0..2), tensor(&[-1.0, 0.5, 0.0, 2.0])),
            ],
            rows: None,
            row_parts: Vec::new(),
        };
        let products = gradients.products(2).unwrap();
        let products: Vec<f64> = products.iter().map(ExactSum::value).collect();
        assert_eq!(products, [30.0, 8.0, 5.25]);
        gradients.combine(&[1.0, 10.0]).unwrap();
        let grad = features.grad();
        assert_eq!(torch::data(&grad).unwrap(), [-18.0, 14.0, 6.0, 48.0]);
    }
}
