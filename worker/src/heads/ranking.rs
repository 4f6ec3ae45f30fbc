//! Which text belongs to another, by the cosine of what the backbone makes of both.
//!
//! Of b queries each learns to be nearer to its own candidate than to those of the other queries, and to the other
//! ones that came with them (multiple negatives ranking: Henderson et al. 2017, arXiv 1705.00652, with cosines times
//! a factor as `MultipleNegativesRankingLoss` of sentence-transformers has it). So the loss of a sample depends on
//! the samples that are computed together: those of a shard's part of a step.
//!
//! Shapes: b queries, n candidates that came with each, m = b · n candidates, h hidden width.

use super::{Error, Head, Parameter, SingleLabel, cosines, unit};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::Tensor;

/// What cosines are multiplied by: the scale of sentence-transformers.
const FACTOR: f32 = 20.0;

/// Ranking of texts by their nearness. It learns nothing of its own.
#[derive(Debug)]
pub struct Ranking;

impl Ranking {
    /// Its only parameter, `heads.<task>.factor` `[1]`: what cosines are multiplied by. It is not trained.
    #[must_use]
    pub fn factor(task: &str) -> Parameter {
        Parameter {
            name: format!("heads.{task}.factor"),
            shape: vec![1],
            values: vec![FACTOR],
            decays: false,
            trained: false,
        }
    }

    /// The same decisions and losses over the candidates that `outputs` has.
    fn over(outputs: &Tensor) -> SingleLabel {
        let width = outputs.size().get(1).copied().unwrap_or(0);
        let names = vec![String::new(); width.unsigned_abs() as usize];
        SingleLabel::new(names, None, 0.0)
    }
}

impl Head for Ranking {
    fn kind(&self) -> HeadKind {
        HeadKind::Ranking
    }

    /// Of a query and a candidate.
    fn outputs(&self) -> usize {
        1
    }

    /// Cross-entropy over the candidates `[b, m]`, of which targets name each query's own:
    /// -log( exp(s_own) / Σ_c exp(s_c) ).
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        Self::over(outputs).loss(outputs, targets)
    }

    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        Self::over(outputs).decide(outputs)
    }

    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        Self::over(outputs).scores(outputs)
    }

    fn config(&self) -> Map<String, Value> {
        Map::new()
    }
}

/// Outputs f32 `[b, m]` of queries `[b, h]` among candidates `[m, h]`: cosines times `factor` `[1]`.
///
/// # Errors
/// If libtorch refuses.
pub fn ranked(queries: &Tensor, candidates: &Tensor, factor: &Tensor) -> Result<Tensor, Error> {
    Ok(cosines(queries, &unit(candidates)?)?.f_mul(factor)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn rows(numbers: &[f32]) -> Tensor {
        Tensor::from_slice(numbers).view([-1, 2])
    }

    fn losses(queries: &Tensor, candidates: &Tensor, own: &[u32]) -> Vec<f32> {
        let factor = Tensor::from_slice(&Ranking::factor("search").values);
        let outputs = ranked(queries, candidates, &factor).unwrap();
        let targets = Values::Single {
            classes: candidates.size()[0] as usize,
            values: own.to_vec(),
        };
        let losses = Ranking.loss(&outputs, &targets).unwrap();
        Vec::<f32>::try_from(losses).unwrap()
    }

    #[track_caller]
    fn near(found: &[f32], expected: [f64; 2]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found}, not {expected}"
            );
        }
    }

    // Promise: the loss is that of the formula, whatever the lengths of vectors. Cosines of two queries with two
    // candidates are ((0.8, 0.6), (0.6, 0.8)), so that 20 times their difference is 4; with what does not belong to
    // them ((0.6, -1), (-0.8, 0)) more.
    #[test]
    fn losses_are_those_of_the_formula() {
        let queries = rows(&[3.0, 0.0, 0.0, 0.5]);
        let positives = [4.0, 3.0, 0.6, 0.8];
        let alone = (1.0 + (-4f64).exp()).ln();
        near(&losses(&queries, &rows(&positives), &[0, 1]), [alone; 2]);

        // Own candidate and one that is none of it, query by query.
        let all = [4.0, 3.0, 0.6, -0.8, 0.6, 0.8, -2.0, 0.0];
        let first = (1.0 + 2.0 * (-4f64).exp() + (-36f64).exp()).ln();
        let second = (1.0 + (-4f64).exp() + (-32f64).exp() + (-16f64).exp()).ln();
        near(&losses(&queries, &rows(&all), &[0, 2]), [first, second]);

        // One text alone has nothing to be told apart from.
        let one = losses(&rows(&[1.0, 2.0]), &rows(&[3.0, -1.0]), &[0]);
        assert_eq!(one, [0.0]);
    }

    // Promise: the gradient is that of the formula. With p the share of the other candidate, that of a query at
    // length 1 is 20 p (other - own) less what would only change the length.
    #[test]
    fn gradients_are_those_of_the_formula() {
        let queries = rows(&[1.0, 0.0, 0.0, 1.0]).set_requires_grad(true);
        let candidates = rows(&[0.8, 0.6, 0.6, 0.8]);
        let factor = Tensor::from_slice(&[FACTOR]);
        let outputs = ranked(&queries, &candidates, &factor).unwrap();
        let values = vec![0, 1];
        let losses = Ranking
            .loss(&outputs, &Values::Single { classes: 2, values })
            .unwrap();
        losses.sum(Kind::Float).backward();
        let p = 1.0 / (1.0 + 4f64.exp());
        // other - own is (-0.2, 0.2) for the first query and (0.2, -0.2) for the second.
        let pull = 20.0 * p * 0.2;
        let grad = queries.grad();
        let found = Vec::<f32>::try_from(grad.flatten(0, -1)).unwrap();
        for (found, expected) in found.iter().zip([0.0, pull, pull, 0.0]) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found}, not {expected}"
            );
        }
    }
}
