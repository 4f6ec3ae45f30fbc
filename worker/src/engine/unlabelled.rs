//! How good a model seems without labels, by its predictions on a task's target: what chooses a checkpoint
//! where `evaluation.select_by` says so. Larger is better.
//!
//! Shapes: n samples, c classes; probabilities row-major.

use super::Error;
use super::trainer::Trainer;
use crate::agent::watched::{Phase, enter};
use crate::data::{Input, Split};
use crate::model::Context;
use crate::torch;
use espalier_comm::CommunicatorExt;
use espalier_spec::job::SelectBy;
use std::sync::Arc;
use tch::Kind;

/// Most samples that are looked at.
const MOST: usize = 2000;
/// Temperature of soft neighbourhood density; the paper's.
const TEMPERATURE: f64 = 0.05;

impl Trainer {
    /// What `evaluation.select_by` names, of each task that is `due`: its index and the score. All ranks
    /// call it together and get the same.
    ///
    /// # Errors
    /// If a sample cannot be read or a peer is lost.
    pub(super) fn unlabelled(&mut self, due: &[bool]) -> Result<Vec<(usize, f64)>, Error> {
        let by = self.spec.evaluation.select_by;
        let mut scores = Vec::new();
        let tasks = Arc::clone(&self.tasks);
        for (index, task) in tasks.iter().enumerate().filter(|(index, _)| due[*index]) {
            if let Some(split) = task.target.as_ref().or(task.validation.as_ref()) {
                let likely = self.probabilities(index, split)?;
                scores.push((index, score(by, &likely, task.labels.len())));
            }
        }
        Ok(scores)
    }

    /// Probabilities [n, c] of a task's classes for samples of a split, evenly spaced.
    fn probabilities(&mut self, task: usize, split: &Split) -> Result<Vec<f32>, Error> {
        let comm = self.exchange.comm();
        let (rank, size) = (comm.rank(), comm.size());
        let count = split.len().min(MOST);
        let mut costs = Vec::with_capacity(count);
        for place in 0..count {
            let index = place * split.len() / count;
            costs.push((split.cost(index)?, index));
        }
        costs.sort_unstable();
        let mine: Vec<usize> = costs.iter().skip(rank).step_by(size).map(|c| c.1).collect();
        let batches: Vec<&[usize]> = mine.chunks(self.evaluation_batch()).collect();
        let most = count.div_ceil(size).div_ceil(self.evaluation_batch());
        let mut bytes = Vec::new();
        for pass in 0..self.equally_many(batches.len(), most) {
            enter(Phase::Evaluating);
            let batch = batches.get(pass).copied().unwrap_or_default();
            let inputs = batch.iter().map(|&index| split.input(index));
            let inputs = inputs.collect::<Result<Vec<Input>, _>>()?;
            let packed = match inputs.is_empty() {
                true => None,
                false => {
                    let inputs: Vec<&Input> = inputs.iter().collect();
                    Some(self.batch(&inputs, &vec![0; inputs.len()])?)
                }
            };
            if let Some(leaves) = self.features(packed.as_ref(), &Context::eval())? {
                let likely = tch::no_grad(|| {
                    let outputs = self.heads.outputs(task, &leaves.features, None)?;
                    Ok::<_, Error>(outputs.f_softmax(-1, Kind::Float)?)
                })?;
                let numbers = torch::numbers(&likely)?;
                bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
        }
        let classes = self.tasks[task].labels.len();
        let mut rows = vec![Vec::new(); split.len()];
        let parts = self.exchange.comm().all_gather_bytes(bytes)?;
        for (rank, part) in parts.iter().enumerate() {
            let (words, _) = part.as_chunks::<4>();
            let numbers: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
            let which = costs.iter().skip(rank).step_by(size);
            for ((_, index), row) in which.zip(numbers.chunks_exact(classes.max(1))) {
                rows[*index] = row.to_vec();
            }
        }
        Ok(rows.concat())
    }
}

/// What probabilities [n, c] are worth.
fn score(by: SelectBy, likely: &[f32], classes: usize) -> f64 {
    let rows: Vec<&[f32]> = likely.chunks_exact(classes.max(1)).collect();
    if rows.is_empty() {
        return 0.0;
    }
    let count = rows.len() as f64;
    let each = || {
        let of = |row: &&[f32]| entropy(row.iter().map(|&p| f64::from(p)));
        rows.iter().map(of).sum::<f64>() / count
    };
    match by {
        SelectBy::Metric => 0.0,
        SelectBy::Entropy => -each(),
        SelectBy::InformationMaximisation => {
            let mut mean = vec![0.0; classes];
            for row in &rows {
                let places = mean.iter_mut().zip(*row);
                places.for_each(|(sum, &p)| *sum += f64::from(p) / count);
            }
            entropy(mean) - each()
        }
        SelectBy::SoftNeighbourhoodDensity => density(&rows),
    }
}

/// -Σ p·ln p.
fn entropy(likely: impl IntoIterator<Item = f64>) -> f64 {
    let terms = likely.into_iter().filter(|p| *p > 0.0);
    -terms.map(|p| p * p.ln()).sum::<f64>()
}

/// Soft neighbourhood density (Saito et al. 2021, arXiv 2108.10860): with z the rows at length 1, the mean
/// over i of the entropy of softmax_j(z_i·z_j / T), j ≠ i. Many near neighbours: large.
fn density(rows: &[&[f32]]) -> f64 {
    let unit: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| {
            let norm = row.iter().map(|&p| f64::from(p).powi(2)).sum::<f64>();
            let norm = norm.sqrt().max(1e-12);
            row.iter().map(|&p| f64::from(p) / norm).collect()
        })
        .collect();
    let mut sum = 0.0;
    for (i, one) in unit.iter().enumerate() {
        // No cosine is above 1: exponents are at most 0.
        let near = unit.iter().enumerate().filter(|(j, _)| *j != i);
        let near = near.map(|(_, other)| {
            let cosine: f64 = one.iter().zip(other).map(|(a, b)| a * b).sum();
            ((cosine - 1.0) / TEMPERATURE).exp()
        });
        let near: Vec<f64> = near.collect();
        let all = near.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        sum += entropy(near.into_iter().map(|weight| weight / all));
    }
    sum / unit.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: sure predictions are better than unsure ones, diverse ones better than all the same, and
    // dense neighbourhoods better than sparse ones, with the values of the formulas.
    #[test]
    fn scores_say_what_they_are_for() {
        let (sure, unsure) = ([1.0, 0.0, 0.0, 1.0], [0.5; 4]);
        let same = [1.0, 0.0, 1.0, 0.0];
        let entropy = |likely| score(SelectBy::Entropy, likely, 2);
        assert_eq!((entropy(&sure), entropy(&same)), (0.0, 0.0));
        assert!((entropy(&unsure) + 2f64.ln()).abs() < 1e-12);
        let information = |likely| score(SelectBy::InformationMaximisation, likely, 2);
        assert!((information(&sure) - 2f64.ln()).abs() < 1e-12);
        assert_eq!((information(&same), information(&unsure)), (0.0, 0.0));
        // Each of four has one neighbour at cosine 1 and two at 0.
        let clusters = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
        let far = (-1.0f64 / TEMPERATURE).exp();
        let shares = [1.0, far, far].map(|weight| weight / (1.0 + 2.0 * far));
        let expected = super::entropy(shares);
        let found = score(SelectBy::SoftNeighbourhoodDensity, &clusters, 2);
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        let dense = score(SelectBy::SoftNeighbourhoodDensity, &[0.7, 0.3].repeat(4), 2);
        assert!((dense - 3f64.ln()).abs() < 1e-9 && dense > found);
    }
}
