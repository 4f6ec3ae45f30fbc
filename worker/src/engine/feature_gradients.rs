//! What heads say about the features, kept apart by task until their weights are known.

use super::Error;
use super::costs::Run;
use super::exact::ExactSum;
use super::kernel::{dot, pair, pairs};
use crate::torch;
use tch::Tensor;

/// Gradients of the features by task, where tasks share samples and weights are not known yet.
#[derive(Debug)]
pub(super) struct FeatureGradients {
    /// The features as heads saw them, with the graph back to the features.
    pub(super) dropped: Tensor,
    /// Each task's rows and their gradient [rows, h].
    pub(super) parts: Vec<(Run, Tensor)>,
    /// The same of heads that read words or frames: vectors of all, and gradients of all of them by task.
    pub(super) rows: Option<Tensor>,
    pub(super) row_parts: Vec<(usize, Tensor)>,
}

impl FeatureGradients {
    /// Scalar products of all pairs of `tasks` tasks, as indexed by [`pair`]. Samples are taken one
    /// by one and added exactly: which rank has which changes no bit.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn products(&self, tasks: usize) -> Result<Vec<ExactSum>, Error> {
        let mut sums = vec![ExactSum::default(); pairs(tasks)];
        let parts = self.parts.iter();
        let parts = parts.map(|(run, grad)| Ok((run, torch::numbers(grad)?)));
        let parts: Vec<(&Run, Vec<f32>)> = parts.collect::<Result<_, Error>>()?;
        for (place, ((a, rows), left)) in parts.iter().enumerate() {
            for ((b, others), right) in &parts[place..] {
                if rows != others {
                    continue;
                }
                let width = (left.len() / rows.len().max(1)).max(1);
                let samples = left.chunks_exact(width).zip(right.chunks_exact(width));
                let sum = &mut sums[pair(*a, *b, tasks)];
                samples.for_each(|(left, right)| sum.add(f64::from(dot(left, right))));
            }
        }
        Ok(sums)
    }

    /// Brings the weighted sum to the features' gradient. What has no weight takes no part: it may be
    /// no number.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn combine(self, weights: &[f64]) -> Result<(), Error> {
        let total = self.dropped.f_zeros_like()?;
        let wanted = |task: &usize| weights[*task] != 0.0;
        for ((task, rows), grad) in self.parts.iter().filter(|((task, _), _)| wanted(task)) {
            let mut place = total.f_narrow(0, rows.start as i64, rows.len() as i64)?;
            let _ = place.f_add_(&grad.f_mul_scalar(weights[*task])?)?;
        }
        torch::backward(&[&self.dropped], &[&total])?;
        if let Some(rows) = &self.rows {
            let mut total = rows.f_zeros_like()?;
            for (task, grad) in self.row_parts.iter().filter(|(task, _)| wanted(task)) {
                let _ = total.f_add_(&grad.f_mul_scalar(weights[*task])?)?;
            }
            torch::backward(&[rows], &[&total])?;
        }
        Ok(())
    }
}

/// Adds a gradient of all rows to that of its task, whose parts follow each other: of many parts there is one
/// in memory, and one that is the sum. They are of different rows, so that no bit depends on what is added first.
///
/// # Errors
/// If libtorch refuses.
pub(super) fn add_rows(
    row_parts: &mut Vec<(usize, Tensor)>,
    task: usize,
    grad: Tensor,
) -> Result<(), Error> {
    match row_parts.last_mut() {
        Some((last, sum)) if *last == task => {
            let _ = sum.f_add_(&grad)?;
        }
        _ => row_parts.push((task, grad)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

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

    // Promise: a task of weight 0 takes no part, be its gradient no number, neither by the features nor
    // by the vectors of words.
    #[test]
    fn what_has_no_weight_takes_no_part() {
        let leaf = || Tensor::zeros([1, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let (features, words) = (leaf(), leaf());
        let good = || Tensor::from_slice(&[1.0f32, 2.0]).view([1, 2]);
        let bad = || Tensor::from_slice(&[f32::NAN, f32::INFINITY]).view([1, 2]);
        let gradients = FeatureGradients {
            dropped: features.f_mul_scalar(2.0).unwrap(),
            parts: vec![((0, 0..1), good()), ((1, 0..1), bad())],
            rows: Some(words.f_mul_scalar(1.0).unwrap()),
            row_parts: vec![(0, good()), (1, bad())],
        };
        gradients.combine(&[3.0, 0.0]).unwrap();
        let (features, words) = (features.grad(), words.grad());
        assert_eq!(torch::data(&features).unwrap(), [6.0, 12.0]);
        assert_eq!(torch::data(&words).unwrap(), [3.0, 6.0]);
    }

    // Promise: a task has one gradient of all rows, however many parts its samples come in.
    #[test]
    fn parts_of_a_task_are_one_gradient() {
        let mut all = Vec::new();
        for (task, values) in [(0, [1f32, 0.0]), (0, [0.0, 2.0]), (1, [3.0, 0.0])] {
            add_rows(&mut all, task, Tensor::from_slice(&values)).unwrap();
        }
        let found: Vec<_> = all
            .iter()
            .map(|(task, grad)| (*task, torch::data(grad).unwrap().to_vec()))
            .collect();
        assert_eq!(found, [(0, vec![1.0, 2.0]), (1, vec![3.0, 0.0])]);
    }
}
