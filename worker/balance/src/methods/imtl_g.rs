//! Impartial multi-task learning, gradients.

use super::config::equal_cosines;
use super::{Rule, Trouble, gram};
use crate::face::{Facts, Fallback};
use crate::solve::pseudo_inverse_times;

/// IMTL-G (Liu et al. 2021, ICLR): equal projections on every gradient's direction,
/// w = K·v/Σv, v = G⁺n, n_k = ‖g_k‖ (the paper's sum to 1; TorchJD's generalisation to dependent
/// gradients). Weights may be negative; a gradient of 0 gets 0. If Σv is 0 there is no such
/// update: equal weights, reported (TorchJD: no update). K³/3, or an eigenproblem if gradients
/// depend on each other.
#[derive(Debug)]
pub(crate) struct ImtlG;

impl Rule for ImtlG {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let gram = gram(facts)?;
        let v = equal_cosines(gram).unwrap_or_else(|| pseudo_inverse_times(gram, &gram.norms()));
        let sum: f64 = v.iter().sum();
        let size: f64 = v.iter().map(|value| value.abs()).sum();
        if sum.abs() <= 1e-12 * size || size == 0.0 {
            return Err(Fallback::Stationary.into());
        }
        let k = v.len() as f64;
        Ok(v.iter().map(|value| k * value / sum).collect())
    }
}
