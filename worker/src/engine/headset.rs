//! All heads of a job: one flat block of parameters, one loss per task.

use super::Error;
use super::costs::{Cost, Run, Tally, adaptation, by_task, sample_losses, targets};
use super::feature_gradients::FeatureGradients;
use super::words::Words;
use crate::adapt::Adaptation;
use crate::data::{Sample, TaskData, total_steps};
use crate::heads::{self, Head, Level, Linear, Parameter};
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
/// Parameters of heads begin with it; those of adaptations, which are not exported, do not.
const EXPORTED: &str = "heads.";

/// The heads of all tasks, and the layers of their adaptations.
pub struct HeadSet {
    block: Block,
    heads: Vec<Box<dyn Head>>,
    contrastive: Vec<Option<ContrastiveSpec>>,
    /// Adaptations of tasks, and which of the block's layers are their own.
    adaptations: Vec<Option<(Adaptation, Range<usize>)>>,
    /// Linear layers in the block: heads first, in order of tasks.
    layers: usize,
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
        let groups = InputGroups::of(&spec.tasks);
        let mut values: Vec<Parameter> = Vec::new();
        let mut heads = Vec::new();
        for (task, data) in spec.tasks.iter().zip(tasks) {
            let counts = data.train.labels.counts(data.labels.len());
            let head = heads::build(task, data.labels.names(), &counts)?;
            let own = heads::parameters(spec.seed, &task.name, head.outputs(), width);
            values.extend(own);
            heads.push(head);
        }
        let led = tasks.iter().enumerate().filter(|(k, _)| groups.leads(*k));
        let steps = total_steps(
            &spec.training,
            led.map(|(_, task)| task.train.len() as u64).sum(),
        );
        let mut layers = heads.len();
        let mut adaptations = Vec::with_capacity(heads.len());
        for (task, head) in spec.tasks.iter().zip(&heads) {
            let Some(how) = &task.adaptation else {
                adaptations.push(None);
                continue;
            };
            let shape = (width, head.outputs());
            let adaptation = Adaptation::new(&task.name, how, shape, steps)?;
            let first = layers;
            for layer in adaptation.layers() {
                let name = format!("adaptation.{}.{}", task.name, layer.name);
                let shape = (layer.outputs, layer.inputs);
                values.extend(heads::layer(spec.seed, &name, shape, layer.deviation()));
                layers += 1;
            }
            adaptations.push(Some((adaptation, first..layers)));
        }
        let param = |parameter: &Parameter| {
            let shape = &parameter.shape[..];
            if parameter.name.ends_with(".weight") {
                ParamSpec::weight(&parameter.name, shape)
            } else {
                ParamSpec::bias(&parameter.name, shape)
            }
        };
        let params = values.iter().map(param).collect();
        let mut block = Block::new("heads", params, true, device)?;
        for parameter in values {
            let tensor = Tensor::f_from_slice(&parameter.values)?;
            block.load(&parameter.name, &tensor.f_view(&parameter.shape[..])?)?;
        }
        Ok(Self {
            block,
            heads,
            contrastive: spec.tasks.iter().map(|t| t.loss.contrastive).collect(),
            adaptations,
            layers,
            groups,
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
        Ok(self.linear(task).forward(features, None)?)
    }

    /// A layer of the block: weights come first.
    fn linear(&self, layer: usize) -> Linear<'_> {
        Linear {
            weight: self.block.param(layer),
            bias: self.block.param(self.layers + layer),
        }
    }

    /// The numbers of the heads' block that are a task's: weights and biases of its head and of its
    /// adaptation.
    #[must_use]
    pub fn ranges(&self, task: usize) -> Vec<Range<usize>> {
        let own = self.adaptations[task].as_ref();
        let own = own.map_or(0..0, |(_, own)| own.clone());
        let layers = std::iter::once(task).chain(own);
        let of = |layer| [layer, self.layers + layer].map(|param| self.block.range(param));
        layers.flat_map(of).collect()
    }

    /// Names and values of the heads' parameters, without those of adaptations.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn export(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let mut all = self.block.export()?;
        all.retain(|(name, _)| name.starts_with(EXPORTED));
        Ok(all)
    }

    /// Whether a task learns from samples of another domain.
    #[must_use]
    pub fn adapts(&self) -> bool {
        self.adaptations.iter().any(Option::is_some)
    }

    /// Loss and backward of one micro-batch. Gradients accumulate in the heads' block and in the
    /// leaves, if those require grad. The plain losses are added to `tally`. Returns which rows of the
    /// features are which task's.
    ///
    /// # Errors
    /// If targets do not fit the heads or libtorch refuses.
    pub(super) fn backward(
        &self,
        seen: Seen<'_>,
        tasks: &[Arc<TaskData>],
        how: HeadPass<'_>,
        tally: &mut Tally<'_>,
    ) -> Result<Vec<Run>, Error> {
        let mut total: Option<Tensor> = None;
        let mut runs = Vec::new();
        let dropped = self.dropped(seen, how.ctx)?;
        self.costs(&dropped, seen, tasks, how, |cost| {
            tally.add(&cost)?;
            let part = cost.sum()?.f_mul_scalar(how.scales[cost.task])?;
            total = Some(match total.take() {
                Some(total) => total.f_add(&part)?,
                None => part,
            });
            runs.extend(cost.runs());
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
        tally: &mut Tally<'_>,
    ) -> Result<FeatureGradients, Error> {
        let dropped = self.dropped(seen, how.ctx)?;
        let cut = |x: &Tensor| x.f_detach()?.f_set_requires_grad(true);
        let leaves = Leaves {
            features: cut(&dropped.features)?,
            rows: dropped.rows.as_ref().map(cut).transpose()?,
        };
        let (mut parts, mut row_parts) = (Vec::new(), Vec::new());
        self.costs(&leaves, seen, tasks, how, |cost| {
            tally.add(&cost)?;
            cost.backward(how.scales[cost.task])?;
            if let Some(rows) = &leaves.rows {
                let grad = rows.f_grad()?;
                if grad.defined() {
                    row_parts.push((cost.task, grad.f_contiguous()?));
                    torch::set_grad(rows, &Tensor::new())?;
                }
            }
            let grad = leaves.features.f_grad()?;
            if grad.defined() {
                for run in cost.runs() {
                    let (start, length) = (run.1.start as i64, run.1.len() as i64);
                    parts.push((run, grad.f_narrow(0, start, length)?.f_contiguous()?));
                }
                torch::set_grad(&leaves.features, &Tensor::new())?;
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

    /// Adds the plain losses of a micro-batch to `tally`; nothing is differentiated.
    ///
    /// # Errors
    /// As [`HeadSet::backward`].
    pub(super) fn measure(
        &self,
        seen: Seen<'_>,
        tasks: &[Arc<TaskData>],
        ctx: &Context,
        tally: &mut Tally<'_>,
    ) -> Result<(), Error> {
        let how = HeadPass {
            ctx,
            scales: &[],
            only: None,
        };
        tch::no_grad(|| {
            let dropped = self.dropped(seen, ctx)?;
            self.costs(&dropped, seen, tasks, how, |cost| tally.add(&cost))
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

    /// Gives what each task's samples cost; a task that shares its inputs has the rows of the task that
    /// leads it.
    fn costs(
        &self,
        dropped: &Leaves,
        seen: Seen<'_>,
        tasks: &[Arc<TaskData>],
        how: HeadPass<'_>,
        mut give: impl FnMut(Cost) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for own in by_task(seen.samples) {
            let run = own.rows.clone();
            for task in self.groups.members(own.task) {
                if how.only.is_some_and(|only| only != task) {
                    continue;
                }
                let which = seen.samples[run.clone()].iter();
                let which = which.map(|sample| sample.at.sample as usize);
                let targets = targets(&tasks[task], which);
                let outputs = |features: &Tensor| self.outputs(task, features);
                let head = self.heads[task].as_ref();
                let losses = match (head.level(), &dropped.rows) {
                    (Level::Word, Some(rows)) => {
                        let inputs = seen.samples[run.clone()].iter().map(|s| &s.input);
                        let words = Words::of(seen.batch, run.clone(), inputs);
                        let outputs = outputs(&words.vectors(rows)?)?;
                        head.loss(&outputs, &words.kept(targets))?
                    }
                    _ => {
                        let (start, length) = (run.start as i64, run.len() as i64);
                        let features = dropped.features.f_narrow(0, start, length)?;
                        sample_losses(head, outputs, &features, &targets, self.contrastive[task])?
                    }
                };
                let adaptation = match &self.adaptations[task] {
                    Some((how_to, layers)) if !own.target.is_empty() => {
                        let layers: Vec<_> = layers.clone().map(|l| self.linear(l)).collect();
                        let how_to = (how_to, &layers[..], how.ctx.step);
                        Some(adaptation(how_to, outputs, &dropped.features, &own)?)
                    }
                    _ => None,
                };
                give(Cost {
                    task,
                    rows: run.clone(),
                    target: own.target.clone(),
                    losses,
                    adaptation,
                })?;
            }
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
    let target = u64::from(sample.at.target) << 63;
    mix(target | (u64::from(sample.at.task) << 32) | u64::from(sample.at.sample))
}
