//! All heads of a job: one flat block of parameters, one loss per task.

use super::Error;
use super::exact::ExactSum;
use super::feature_gradients::FeatureGradients;
use super::micro::Micro;
use super::words::Words;
use crate::data::{Sample, TaskData};
use crate::heads::{self, Head, Level, Linear};
use crate::metrics::Values;
use crate::model::{Batch, Block, Context, Leaves, ParamSpec, mix};
use crate::torch;
use espalier_spec::job::{ContrastiveSpec, HeadKind};
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
    /// Places of each task's two parameters in the block.
    params: Vec<[usize; 2]>,
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

/// What heads read: a micro-batch, its samples sorted by task, and what the backbone made of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) samples: &'a [&'a Sample],
    pub(super) micro: &'a Micro,
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
        let mut params = Vec::new();
        let mut values = Vec::new();
        let mut heads = Vec::new();
        for (task, data) in spec.tasks.iter().zip(tasks) {
            let counts = data.train.labels.counts(data.labels.len());
            let head = heads::build(task, data.labels.names(), &counts)?;
            for parameter in heads::parameters(spec.seed, &task.name, head.shape(), width) {
                let shape = &parameter.shape[..];
                let param = match parameter.decays {
                    true => ParamSpec::weight(&parameter.name, shape),
                    false => ParamSpec::bias(&parameter.name, shape),
                };
                params.push(ParamSpec {
                    trained: parameter.trained,
                    ..param
                });
                values.push(parameter);
            }
            heads.push(head);
        }
        let mut block = Block::new("heads", params, true, device)?;
        for parameter in &values {
            let tensor = Tensor::f_from_slice(&parameter.values)?;
            block.load(&parameter.name, &tensor.f_view(&parameter.shape[..])?)?;
        }
        let params = places(&block, &values)?;
        Ok(Self {
            block,
            heads,
            params,
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

    /// Outputs [b, C] of a task's head for features [b, h], or [w, C] for vectors of words [w, h];
    /// `classes` are the vectors [C, h] of classes that are known by their description.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn outputs(
        &self,
        task: usize,
        features: &Tensor,
        classes: Option<&Tensor>,
    ) -> Result<Tensor, Error> {
        let [first, second] = self.params[task].map(|place| self.block.param(place));
        if let Some(classes) = classes {
            return Ok(heads::scaled(&heads::cosines(features, classes)?, first)?);
        }
        let (weight, bias) = (first, second);
        Ok(Linear { weight, bias }.forward(features, None)?)
    }

    /// What is taken from the cosines of classes that a task was trained on.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn calibration(&self, task: usize) -> Result<f64, Error> {
        let values = Vec::<f32>::try_from(&self.block.param(self.params[task][1]).f_detach()?)?;
        Ok(values.first().map_or(0.0, |value| f64::from(*value)))
    }

    /// Sets it, the same on all ranks.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn set_calibration(&mut self, task: usize, value: f64) -> Result<(), Error> {
        let name = self.block.params()[self.params[task][1]].name.clone();
        #[expect(clippy::cast_possible_truncation, reason = "parameters are 32-bit")]
        let value = Tensor::f_from_slice(&[value as f32])?;
        Ok(self.block.load(&name, &value)?)
    }

    /// The trained numbers of the heads' block that are a task's.
    #[must_use]
    pub fn ranges(&self, task: usize) -> Vec<Range<usize>> {
        let [first, second] = self.params[task];
        match self.heads[task].kind() {
            // Its calibration is not trained, and lies elsewhere.
            HeadKind::LabelEmbedding => vec![self.block.range(first)],
            _ => vec![self.block.range(first), self.block.range(second)],
        }
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
        runs.extend(seen.micro.classes.iter().cloned());
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
                    let grad = leaves.features.f_grad()?;
                    let classes = seen.micro.classes.iter().filter(|own| own.0 == run.0);
                    for (task, rows) in std::iter::once(&run).chain(classes) {
                        let (start, length) = (rows.start as i64, rows.len() as i64);
                        let grad = grad.f_narrow(0, start, length)?.f_contiguous()?;
                        parts.push(((*task, rows.clone()), grad));
                    }
                    torch::set_grad(&leaves.features, &Tensor::new())?;
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
        let features = seen.leaves.features.shallow_clone();
        let rows = match (&seen.leaves.rows, &seen.micro.batch) {
            (Some(rows), Batch::Tokens(tokens)) => Some(ctx.dropout(
                rows.shallow_clone(),
                &tokens.layout.row_keys,
                ROW_SITE,
                self.dropout,
            )?),
            _ => None,
        };
        Ok(Leaves {
            features: ctx.dropout(features, &seen.micro.keys, SITE, self.dropout)?,
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
                        let words = Words::of(&seen.micro.batch, places.iter().copied(), inputs);
                        let outputs = self.outputs(task, &words.vectors(rows)?, None)?;
                        self.heads[task].loss(&outputs, &words.kept(targets))?
                    }
                    _ => {
                        let features = rows_of(&dropped.features, &run, &places)?;
                        match (&tasks[task].classes, seen.micro.classes_of(task)) {
                            (Some(classes), Some(rows)) => {
                                let each = classes.templates.len();
                                let (start, length) = (rows.start as i64, rows.len() as i64);
                                let texts = dropped.features.f_narrow(0, start, length)?;
                                let vectors = heads::class_vectors(&texts, each)?;
                                let outputs = self.outputs(task, &features, Some(&vectors))?;
                                self.heads[task].loss(&outputs, &classes.trained(targets))?
                            }
                            _ => self.sample_losses(task, &features, &targets)?,
                        }
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
            let outputs = self.outputs(task, features, None)?;
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

/// Places of the parameters in the block, two by two.
fn places(block: &Block, values: &[heads::Parameter]) -> Result<Vec<[usize; 2]>, Error> {
    let place = |wanted: &heads::Parameter| {
        let mut all = block.params().iter();
        let found = all.position(|param| param.name == wanted.name);
        found.ok_or_else(|| Error::Plan(format!("no parameter {}", wanted.name)))
    };
    let (pairs, _) = values.as_chunks::<2>();
    let pair = |[first, second]: &[heads::Parameter; 2]| Ok([place(first)?, place(second)?]);
    pairs.iter().map(pair).collect()
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
