//! Conflict-free direction by pseudo-inverse.

use super::{Rule, Trouble, gram};
use crate::face::{Facts, Fallback};
use crate::gram::Gram;
use crate::solve::{Cholesky, pseudo_inverse_times};

/// ConFIG (Liu et al. 2024, arXiv 2408.11104): the direction with equal cosines to all gradients,
/// as long as the gradients' projections on it together. From G alone: with cosines C,
/// v = Σ c_k·g_k/‖g_k‖, c = C⁺1, û = v/‖v‖, u = (Σ g_k·û)·û. The length is the paper's, a sum of
/// K projections. A gradient of 0 gets 0. Directions are counted as dependent below 1e-8 of each
/// other (a matrix's own pseudo-inverse sees 1e-16). K³/3, or an eigenproblem.
#[derive(Debug)]
pub(crate) struct Config;

impl Rule for Config {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let gram = gram(facts)?;
        let c = equal_cosines(gram).unwrap_or_else(|| {
            let unit = inverse(&gram.norms());
            let ones: Vec<f64> = unit.iter().map(|d| f64::from(u8::from(*d > 0.0))).collect();
            let c = pseudo_inverse_times(&gram.scaled(&unit), &ones);
            c.iter().zip(&unit).map(|(c, d)| c * d).collect()
        });
        let square = gram.quadratic(&c);
        if square <= 0.0 {
            return Err(Fallback::Stationary.into());
        }
        let projections: f64 = gram.times(&c).iter().sum();
        Ok(c.iter().map(|c| c * (projections / square)).collect())
    }
}

/// 1/n, and 0 for 0.
fn inverse(norms: &[f64]) -> Vec<f64> {
    norms
        .iter()
        .map(|&norm| if norm > 0.0 { 1.0 / norm } else { 0.0 })
        .collect()
}

/// v with G v = n, the norms: equal cosines to all gradients. None if gradients depend on each
/// other.
pub(super) fn equal_cosines(gram: &Gram) -> Option<Vec<f64>> {
    let norms = gram.norms();
    if norms.contains(&0.0) {
        return None;
    }
    let factor = Cholesky::new(gram.k(), |i, j| gram.get(i, j));
    (factor.least_pivot > 1e-9).then(|| factor.solve(&norms))
}
