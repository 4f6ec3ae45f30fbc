//! All heads of a job: one flat block of parameters, one loss per task.

use super::Error;
use super::exact::ExactSum;
use super::feature_gradients::FeatureGradients;
use super::next::{Next, parts};
use super::words::Words;
use crate::data::{Sample, TaskData};
use crate::heads::{self, CausalLm, Head, Level, Linear, Parameter};
use crate::metrics::Values;
use crate::model::{Backbone, Batch, Block, Context, Leaves, ParamSpec, mix};
use crate::torch;
use espalier_spec::job::{ContrastiveSpec, HeadKind, TaskSpec};
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
    /// Which parameters are each head's: weight, and bias if it has one.
    places: Vec<(usize, Option<usize>)>,
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

impl HeadSet {
    /// Heads with their initial weights, a function of the job's seed and each task's name; those that
    /// predict the next token start as the backbone's own vocabulary matrix.
    ///
    /// # Errors
    /// If a task's loss settings or its head do not fit.
    pub fn new(
        spec: &JobSpec,
        tasks: &[Arc<TaskData>],
        backbone: &dyn Backbone,
        device: Device,
    ) -> Result<Self, Error> {
        let mut params = Vec::new();
        let mut values = Vec::new();
        let mut heads = Vec::new();
        for (task, data) in spec.tasks.iter().zip(tasks) {
            let (head, parameters) = match task.head {
                HeadKind::CausalLm => next_token(task, backbone)?,
                _ => {
                    let counts = data.train.labels.counts(data.labels.len());
                    let head = heads::build(task, data.labels.names(), &counts)?;
                    let (outputs, width) = (head.outputs(), backbone.width());
                    let parameters = heads::parameters(spec.seed, &task.name, outputs, width);
                    (head, parameters.to_vec())
                }
            };
            for parameter in parameters {
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
        let place = |task: &TaskSpec, part: &str| {
            let name = format!("heads.{}.{part}", task.name);
            block.params().iter().position(|param| param.name == name)
        };
        let places = |task: &TaskSpec| (place(task, "weight").unwrap_or(0), place(task, "bias"));
        Ok(Self {
            places: spec.tasks.iter().map(places).collect(),
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
        self.has(Level::Word) || self.has(Level::Token)
    }

    fn has(&self, level: Level) -> bool {
        self.heads.iter().any(|head| head.level() == level)
    }

    /// Outputs [b, C] of a task's head for features [b, h], or [w, C] for vectors of words [w, h].
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn outputs(&self, task: usize, features: &Tensor) -> Result<Tensor, Error> {
        let (weight, bias) = self.places[task];
        let weight = self.block.param(weight);
        let bias = bias.map(|place| self.block.param(place));
        Ok(Linear { weight, bias }.forward(features, None)?)
    }

    /// Mean loss [b] over each sample's places that another token follows, from the vectors of all rows.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn next_losses(
        &self,
        task: usize,
        rows: &Tensor,
        next: &Next,
    ) -> Result<Tensor, Error> {
        let outputs = self.outputs(task, &next.vectors(rows)?)?;
        Ok(self.heads[task].loss(&outputs, &next.targets)?)
    }

    /// The numbers of the heads' block that are a task's: its weight and its bias, empty if it has none.
    #[must_use]
    pub fn ranges(&self, task: usize) -> [Range<usize>; 2] {
        let (weight, bias) = self.places[task];
        let bias = bias.map_or(0..0, |place| self.block.range(place));
        [self.block.range(weight), bias]
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
            if self.heads[run.0].level() == Level::Token {
                // Now, so that the memory of these logits is free before the next ones take theirs.
                torch::backward(&[&part], &[&part.f_ones_like()?])?;
                runs.push(run);
                return Ok(());
            }
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
                (Level::Word | Level::Token, Some(rows)) => {
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

    /// What heads read, after dropout; there is none before a vocabulary.
    fn dropped(&self, seen: Seen<'_>, ctx: &Context) -> Result<Leaves, Error> {
        let keys: Vec<u64> = seen.samples.iter().map(|sample| key(sample)).collect();
        let features = seen.leaves.features.shallow_clone();
        let rows = match (&seen.leaves.rows, seen.batch) {
            (Some(rows), Batch::Tokens(tokens)) => Some(ctx.dropout(
                rows.shallow_clone(),
                &tokens.layout.row_keys,
                ROW_SITE,
                if self.has(Level::Word) {
                    self.dropout
                } else {
                    0.0
                },
            )?),
            _ => None,
        };
        Ok(Leaves {
            features: ctx.dropout(features, &keys, SITE, self.dropout)?,
            rows,
        })
    }

    /// Gives each task's rows of the features and its losses [rows]; a task that shares its inputs
    /// has the rows of the task that leads it.
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
                if let (Level::Token, Some(rows)) = (self.heads[task].level(), &dropped.rows) {
                    let tokens = |index: usize| seen.samples[index].input.cost();
                    for part in parts(run.clone(), tokens, self.heads[task].outputs()) {
                        let inputs = seen.samples[part.clone()].iter().map(|s| &s.input);
                        let next = Next::of(seen.batch, part.clone(), inputs);
                        give((task, part), &self.next_losses(task, rows, &next)?)?;
                    }
                    continue;
                }
                let which = seen.samples[run.clone()].iter();
                let which = which.map(|sample| sample.at.sample as usize);
                let targets = targets(&tasks[task], which);
                let losses = match (self.heads[task].level(), &dropped.rows) {
                    (Level::Word, Some(rows)) => {
                        let inputs = seen.samples[run.clone()].iter().map(|s| &s.input);
                        let words = Words::of(seen.batch, run.clone(), inputs);
                        let outputs = self.outputs(task, &words.vectors(rows)?)?;
                        self.heads[task].loss(&outputs, &words.kept(targets))?
                    }
                    _ => {
                        let (start, length) = (run.start as i64, run.len() as i64);
                        let features = dropped.features.f_narrow(0, start, length)?;
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

/// A head that predicts the next token, and its matrix as the backbone has it.
fn next_token(
    task: &TaskSpec,
    backbone: &dyn Backbone,
) -> Result<(Box<dyn Head>, Vec<Parameter>), Error> {
    let Some(decoder) = backbone.decoder() else {
        let task = task.name.clone();
        return Err(heads::Error::NoDecoder { task }.into());
    };
    let matrix = decoder.vocabulary()?.f_contiguous()?;
    let head = CausalLm::new(matrix.size()[0].unsigned_abs() as usize);
    let weight = Parameter {
        name: format!("heads.{}.weight", task.name),
        shape: matrix.size(),
        values: torch::data(&matrix)?.to_vec(),
    };
    Ok((Box::new(head), vec![weight]))
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
