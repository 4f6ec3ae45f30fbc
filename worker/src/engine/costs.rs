//! What a set of samples costs: losses by labels, contrast, and adaptation to another domain.

use super::Error;
use super::exact::ExactSum;
use super::headset::Seen;
use crate::adapt::{Adaptation, Domain, Weighed};
use crate::data::{Sample, TaskData};
use crate::heads::{self, Head, Linear};
use crate::metrics::Values;
use crate::model::Context;
use crate::torch;
use espalier_spec::job::ContrastiveSpec;
use std::ops::Range;
use tch::{Kind, Tensor};

/// Samples of one task in a micro-batch: rows of its features.
pub(super) type Run = (usize, Range<usize>);

/// One task's samples of a micro-batch, and those of its target, which follow them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) task: usize,
    pub(super) rows: Range<usize>,
    pub(super) target: Range<usize>,
}

/// What one task's samples of a micro-batch cost.
#[derive(Debug)]
pub(super) struct Cost {
    pub(super) task: usize,
    /// Rows of the features: of its samples, and of its target's.
    pub(super) rows: Range<usize>,
    pub(super) target: Range<usize>,
    /// Loss of each sample (or word), by its label.
    pub(super) losses: Tensor,
    /// Loss of the pairs of samples and targets, a mean.
    pub(super) adaptation: Option<Weighed>,
}

impl Cost {
    /// Which rows of the features it reads.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> {
        let target = Some((self.task, self.target.clone()));
        let target = target.filter(|(_, rows)| !rows.is_empty());
        std::iter::once((self.task, self.rows.clone())).chain(target)
    }

    /// What the adaptation's mean is multiplied by to stand beside the sum of losses.
    fn factor(&self, weighed: &Weighed) -> f64 {
        weighed.factor * self.rows.len() as f64
    }

    /// The sum over samples, a scalar.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn sum(&self) -> Result<Tensor, Error> {
        let own = self.losses.f_sum(Kind::Float)?;
        Ok(match &self.adaptation {
            Some(weighed) => own.f_add(&weighed.loss.f_mul_scalar(self.factor(weighed))?)?,
            None => own,
        })
    }

    /// Differentiates the sum times `scale`.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn backward(&self, scale: f64) -> Result<(), Error> {
        let own = self.losses.f_ones_like()?.f_mul_scalar(scale)?;
        match &self.adaptation {
            Some(weighed) => {
                let factor = scale * self.factor(weighed);
                let factor = weighed.loss.f_ones_like()?.f_mul_scalar(factor)?;
                torch::backward(&[&self.losses, &weighed.loss], &[&own, &factor])?;
            }
            None => torch::backward(&[&self.losses], &[&own])?,
        }
        Ok(())
    }
}

/// Sums of plain losses by task.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    /// By labels.
    pub(super) losses: &'a mut [ExactSum],
    /// Of adaptations, times pairs; may be empty where none is of interest.
    pub(super) adaptation: &'a mut [ExactSum],
}

impl Tally<'_> {
    /// Adds what some samples cost.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn add(&mut self, cost: &Cost) -> Result<(), Error> {
        let losses = cost.losses.f_detach()?.f_contiguous()?;
        let sum = &mut self.losses[cost.task];
        let losses = Vec::<f32>::try_from(&losses)?;
        losses.iter().for_each(|loss| sum.add(f64::from(*loss)));
        if let (Some(weighed), Some(sum)) =
            (cost.adaptation.as_ref(), self.adaptation.get_mut(cost.task))
        {
            let mean = f64::try_from(&weighed.loss.f_detach()?)?;
            sum.add(mean * cost.rows.len() as f64);
        }
        Ok(())
    }
}

/// Losses [b] of a task from its samples' features [b, h], that of contrast included.
///
/// # Errors
/// If targets do not fit the head or libtorch refuses.
pub(super) fn sample_losses(
    head: &dyn Head,
    outputs: impl Fn(&Tensor) -> Result<Tensor, Error>,
    features: &Tensor,
    targets: &Values,
    contrastive: Option<ContrastiveSpec>,
) -> Result<Tensor, Error> {
    let loss = |features: &Tensor| Ok::<_, Error>(head.loss(&outputs(features)?, targets)?);
    match contrastive {
        None => loss(features),
        Some(spec) => {
            let own = loss(&heads::dampened(features, spec)?)?;
            Ok(own.f_add(&heads::contrastive(features, targets, spec)?)?)
        }
    }
}

/// Loss of a task's pairs, from the features of all samples [b, h] of a micro-batch, by an adaptation with its
/// own layers. `read` gives what the task's head reads of features [n, h], and its outputs.
///
/// # Errors
/// If libtorch refuses.
pub(super) fn adaptation(
    (how, layers, ctx): (&Adaptation, &[Linear<'_>], &Context),
    read: impl Fn(&Tensor) -> Result<(Tensor, Tensor), Error>,
    (features, seen, data): (&Tensor, Seen<'_>, &TaskData),
    own: &Own,
) -> Result<Weighed, Error> {
    if own.rows.len() != own.target.len() {
        return Err(Error::Plan(format!(
            "{} samples came with {} of the target",
            own.rows.len(),
            own.target.len()
        )));
    }
    let of = |rows: &Range<usize>| features.f_narrow(0, rows.start as i64, rows.len() as i64);
    let (source, target) = (read(&of(&own.rows)?)?, read(&of(&own.target)?)?);
    let source = Domain {
        features: &source.0,
        logits: &source.1,
        keys: &seen.micro.keys[own.rows.clone()],
    };
    let target = Domain {
        features: &target.0,
        logits: &target.1,
        keys: &seen.micro.keys[own.target.clone()],
    };
    let file = |sample: &&Sample| data.train.file(sample.at.sample as usize);
    let files: Vec<usize> = seen.samples[own.rows.clone()].iter().map(file).collect();
    Ok(how.loss(source, target, &files, layers, ctx)?)
}

/// Targets of a task's training samples.
pub(super) fn targets(task: &TaskData, which: impl IntoIterator<Item = usize>) -> Values {
    task.values(&task.train, which)
}

/// Runs of samples drawn for one task.
pub(super) fn by_task(samples: &[&Sample]) -> Vec<Own> {
    let mut runs: Vec<Own> = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        let task = usize::from(sample.at.task);
        if runs.last().is_none_or(|last| last.task != task) {
            runs.push(Own {
                task,
                rows: index..index,
                target: index..index,
            });
        }
        if let Some(own) = runs.last_mut() {
            if !sample.at.target {
                own.rows.end = index + 1;
                own.target.start = index + 1;
            }
            own.target.end = index + 1;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Input, SampleRef};

    // Promise: a task's samples and those of its target are told apart, tasks without one have none.
    #[test]
    fn samples_and_targets_are_runs_of_their_own() {
        let sample = |task, target| Sample {
            at: SampleRef {
                task,
                sample: 0,
                epoch: 0,
                target,
            },
            input: Input::Numbers(Vec::new().into()),
            more: Vec::new(),
            window: None,
        };
        let all = [(0, false), (0, false), (0, true), (0, true), (2, false)];
        let all = all.map(|(task, target)| sample(task, target));
        let runs = by_task(&all.iter().collect::<Vec<_>>());
        let own = |task, rows, target| Own { task, rows, target };
        assert_eq!(runs, [own(0, 0..2, 2..4), own(2, 4..5, 5..5)]);
    }
}
