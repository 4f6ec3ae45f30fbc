//! All heads of a job: one flat block of parameters, one loss per task.

mod maps;
mod next;
mod pairs;
mod ranks;
mod space;
mod start;

use super::Error;
use super::costs::{Cost, Run, Tally, adaptation, by_task, sample_losses, targets};
use super::feature_gradients::{FeatureGradients, add_rows};
use super::micro::Micro;
use super::words::Words;
use crate::adapt::Adaptation;
use crate::data::{Sample, TaskData};
use crate::heads::{self, Head, Level, Linear, TaskAdapter};
use crate::model::{Batch, Block, Context, FeatureMap, Frames, Leaves, mix};
use crate::torch;
use espalier_spec::InputGroups;
use espalier_spec::job::{ContrastiveSpec, HeadKind};
use std::ops::Range;
use std::sync::Arc;
use tch::Tensor;

/// Dropout sites of the heads' input, features and rows; the backbone counts its own from 0.
const SITE: u64 = u64::MAX;
pub(super) const ROW_SITE: u64 = u64::MAX - 1;
/// Parameters of heads begin with it; those of adaptations, which are not exported, do not.
const EXPORTED: &str = "heads.";

/// The heads of all tasks, and the layers of their adaptations.
pub struct HeadSet {
    block: Block,
    heads: Vec<Box<dyn Head>>,
    /// Places in the block of the parameters of each layer, weight and bias if it has one: heads first,
    /// in order of tasks, then adaptations' own and tasks' adapters'.
    params: Vec<(usize, Option<usize>)>,
    contrastive: Vec<Option<ContrastiveSpec>>,
    /// Adaptations of tasks, and which of the layers are their own.
    adaptations: Vec<Option<(Adaptation, Range<usize>)>>,
    /// Which of the layers are the two of a task's own adapter.
    adapters: Vec<Option<[usize; 2]>>,
    /// Which layer, if any, maps a task's features into the space of its classes' vectors: the map, and the
    /// vectors in place of biases.
    spaces: Vec<Option<usize>>,
    /// Which layer, if any, is a task's calibration by itself.
    calibrations: Vec<Option<usize>>,
    groups: InputGroups,
    /// How frames are read out of the last block's output.
    pub(super) frames: Option<Frames>,
    /// How the backbone holds the map of features that heads of places read.
    map: Option<FeatureMap>,
    pub(super) dropout: f64,
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

    /// Whether a head reads what the last block gives, not only pooled features.
    #[must_use]
    pub fn wants_rows(&self) -> bool {
        let levels = [Level::Word, Level::Token, Level::Frame, Level::Place];
        levels.into_iter().any(|level| self.has(level))
    }

    pub(super) fn has(&self, level: Level) -> bool {
        self.heads.iter().any(|head| head.level() == level)
    }

    /// Outputs [b, C] of a task's head for features [b, h], [w, C] for vectors of words [w, h], or
    /// [b, t, C] for frames [b, t, w];
    /// `classes` are the vectors [C, h] of classes that are known by their description, or those [C, d] that
    /// were given.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn outputs(
        &self,
        task: usize,
        features: &Tensor,
        classes: Option<&Tensor>,
    ) -> Result<Tensor, Error> {
        if let Some(classes) = classes {
            let cosines = heads::cosines(&self.projected(task, features)?, classes)?;
            return Ok(heads::scaled(&cosines, self.linear(task).weight)?);
        }
        Ok(self.read(task, features)?.1)
    }

    /// What a task's head reads of features [b, h], which is what its own adapter makes of them if it has one, and
    /// what the head makes of that.
    fn read(&self, task: usize, features: &Tensor) -> Result<(Tensor, Tensor), Error> {
        let adapted = match self.adapters[task].map(|layers| layers.map(|l| self.linear(l))) {
            Some([down, up]) => TaskAdapter { down, up }.forward(features)?,
            None => features.shallow_clone(),
        };
        let outputs = self.linear(task).forward(&adapted, None)?;
        Ok((adapted, outputs))
    }

    /// A layer of the block.
    fn linear(&self, layer: usize) -> Linear<'_> {
        let (weight, bias) = self.params[layer];
        Linear {
            weight: self.block.param(weight),
            bias: bias.map(|place| self.block.param(place)),
        }
    }

    /// What is taken from the cosines of classes that a task was trained on.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn calibration(&self, task: usize) -> Result<f64, Error> {
        let Some(place) = self.calibrated(task) else {
            return Ok(0.0);
        };
        let values = Vec::<f32>::try_from(&self.block.host(place)?)?;
        Ok(values.first().map_or(0.0, |value| f64::from(*value)))
    }

    /// Sets it, the same on all ranks.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn set_calibration(&mut self, task: usize, value: f64) -> Result<(), Error> {
        let Some(place) = self.calibrated(task) else {
            return Ok(());
        };
        let name = self.block.params()[place].name.clone();
        #[expect(clippy::cast_possible_truncation, reason = "parameters are 32-bit")]
        let value = Tensor::f_from_slice(&[value as f32])?;
        Ok(self.block.load(&name, &value)?)
    }

    /// The trained numbers of the heads' block that are a task's: of its head, its adaptation and its
    /// adapter.
    #[must_use]
    pub fn ranges(&self, task: usize) -> Vec<Range<usize>> {
        let own = self.adaptations[task].as_ref();
        let own = own.map_or(0..0, |(_, own)| own.clone());
        let adapter = self.adapters[task].into_iter().flatten();
        let own = own.chain(adapter).chain(self.spaces[task]);
        let places = std::iter::once(task).chain(own);
        let places = places.flat_map(|layer| {
            let (weight, bias) = self.params[layer];
            std::iter::once(weight).chain(bias)
        });
        // What is not trained, such as a calibration, lies elsewhere.
        let trained = places.filter(|place| !self.block.params()[*place].is_frozen());
        trained.map(|place| self.block.range(place)).collect()
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
            if matches!(self.heads[cost.task].level(), Level::Token | Level::Place) {
                // Now, so that the memory of these logits is free before the next ones take theirs.
                cost.backward(how.scales[cost.task])?;
                runs.extend(cost.runs());
                return Ok(());
            }
            let part = cost.sum()?.f_mul_scalar(how.scales[cost.task])?;
            total = Some(match total.take() {
                Some(total) => total.f_add(&part)?,
                None => part,
            });
            runs.extend(cost.runs());
            Ok(())
        })?;
        // Nothing is to be differentiated where a frozen backbone's texts are ranked alone.
        if let Some(total) = total.filter(Tensor::requires_grad) {
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
                    add_rows(&mut row_parts, cost.task, grad.f_contiguous()?)?;
                    torch::set_grad(rows, &Tensor::new())?;
                }
            }
            let grad = leaves.features.f_grad()?;
            if grad.defined() {
                let classes = seen.micro.classes.iter();
                let classes = classes.filter(|own| own.0 == cost.task).cloned();
                for run in cost.runs().chain(classes) {
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

    /// What heads read, after dropout; there is none before a vocabulary or a map.
    fn dropped(&self, seen: Seen<'_>, ctx: &Context) -> Result<Leaves, Error> {
        let features = seen.leaves.features.shallow_clone();
        let rows = match (&seen.leaves.rows, &seen.micro.batch) {
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
            // Both never stand in one job: `check` sees to it.
            (Some(rows), Batch::Images(_)) if self.has(Level::Place) => Some(rows.shallow_clone()),
            (Some(rows), Batch::Images(_)) => self.dropped_frames(rows, &seen.micro.keys, ctx)?,
            _ => None,
        };
        Ok(Leaves {
            features: ctx.dropout(features, &seen.micro.keys, SITE, self.dropout)?,
            rows,
        })
    }

    /// Gives what the labelled samples of each task cost; a task that shares its inputs has the rows of
    /// the task that leads it. Nothing of a task without a label.
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
                if let (Level::Token, Some(rows)) = (self.heads[task].level(), &dropped.rows) {
                    self.next_costs((task, run.clone()), rows, seen, &mut give)?;
                    continue;
                }
                if let (Level::Place, Some(rows)) = (self.heads[task].level(), &dropped.rows) {
                    self.map_costs(&tasks[task], (task, run.clone()), (rows, seen), &mut give)?;
                    continue;
                }
                let sample = |place: usize| seen.samples[place].at.sample as usize;
                let has_label = |place: &usize| tasks[task].train.has_label(sample(*place));
                let places: Vec<usize> = run.clone().filter(has_label).collect();
                if places.is_empty() {
                    continue;
                }
                let read = |features: &Tensor| self.read(task, features);
                let adaptation = match &self.adaptations[task] {
                    Some((how_to, layers)) if !own.target.is_empty() => {
                        let layers: Vec<_> = layers.clone().map(|l| self.linear(l)).collect();
                        let how_to = (how_to, &layers[..], how.ctx);
                        let seen = (&dropped.features, seen, &*tasks[task]);
                        Some(adaptation(how_to, read, seen, &own)?)
                    }
                    _ => None,
                };
                give(Cost {
                    task,
                    rows: run.clone(),
                    target: own.target.clone(),
                    losses: self.losses(&tasks[task], task, (dropped, seen), (&run, &places))?,
                    adaptation,
                })?;
            }
        }
        Ok(())
    }

    /// Losses of the labelled ones, `places`, of a task's samples `run`.
    fn losses(
        &self,
        data: &TaskData,
        task: usize,
        (dropped, seen): (&Leaves, Seen<'_>),
        (run, places): (&Range<usize>, &[usize]),
    ) -> Result<Tensor, Error> {
        let sample = |place: &usize| seen.samples[*place].at.sample as usize;
        let targets = targets(data, places.iter().map(sample));
        let head = self.heads[task].as_ref();
        if let (HeadKind::Span, Some(rows)) = (head.kind(), &dropped.rows) {
            return self.trained_spans((data, task), rows, seen, places);
        }
        if let (Level::Word, Some(rows)) = (head.level(), &dropped.rows) {
            let inputs = places.iter().map(|place| &seen.samples[*place].input);
            let words = Words::of(&seen.micro.batch, places.iter().copied(), inputs);
            let outputs = self.outputs(task, &words.vectors(rows)?, None)?;
            return Ok(head.loss(&outputs, &words.kept(targets))?);
        }
        if let (Level::Frame, Some(frames)) = (head.level(), &dropped.rows) {
            let outputs = self.outputs(task, &rows_of(frames, run, places)?, None)?;
            return Ok(head.loss(&outputs, &targets)?);
        }
        let features = rows_of(&dropped.features, run, places)?;
        if let (HeadKind::Entailment, Some(rows)) = (head.kind(), seen.micro.classes_of(task)) {
            let (start, length) = (rows.start as i64, rows.len() as i64);
            let others = dropped.features.f_narrow(0, start, length)?;
            return self.pair_losses(task, &features, &others);
        }
        if let (HeadKind::Ranking, Some(rows)) = (head.kind(), seen.micro.classes_of(task)) {
            let (start, length) = (rows.start as i64, rows.len() as i64);
            let candidates = dropped.features.f_narrow(0, start, length)?;
            return self.rank_losses(task, &features, &candidates);
        }
        if let Some(classes) = &data.classes
            && let Some(vectors) = self.trained_vectors(task, classes)?
        {
            let outputs = self.outputs(task, &features, Some(&vectors))?;
            return Ok(head.loss(&outputs, &classes.trained(targets))?);
        }
        if let (Some(classes), Some(rows)) = (&data.classes, seen.micro.classes_of(task)) {
            let (start, length) = (rows.start as i64, rows.len() as i64);
            let texts = dropped.features.f_narrow(0, start, length)?;
            let vectors = heads::class_vectors(&texts, classes.templates.len())?;
            let outputs = self.outputs(task, &features, Some(&vectors))?;
            return Ok(head.loss(&outputs, &classes.trained(targets))?);
        }
        let outputs = |features: &Tensor| self.outputs(task, features, None);
        sample_losses(head, outputs, &features, &targets, self.contrastive[task])
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
    let target = u64::from(sample.at.target) << 63;
    mix(target | (u64::from(sample.at.task) << 32) | u64::from(sample.at.sample))
}
