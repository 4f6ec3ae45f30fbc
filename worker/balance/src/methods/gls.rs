//! Losses whose units do not matter: sum of logs, geometric mean.

use super::{Rule, Trouble, positive};
use crate::face::Facts;

/// Scale-invariant baseline (Navon et al. 2022, arXiv 2202.01017): the sum of log losses,
/// w_k = 1/l_k. Sum-like as it is. Losses have to be at least 0; those below 1e-8 count as 1e-8.
/// O(K).
#[derive(Debug)]
pub(crate) struct ScaleInvariant;

impl Rule for ScaleInvariant {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        Ok(positive(facts)?.iter().map(|loss| 1.0 / loss).collect())
    }
}

/// GLS (Chennupati et al. 2019, MultiNet++): the geometric mean of the losses,
/// w_k = (Π l)^(1/K)/l_k. The paper's weights are 1/K of that. By exp of the mean log, so that no
/// product overflows. Losses as for `si`. O(K).
#[derive(Debug)]
pub(crate) struct Geometric;

impl Rule for Geometric {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let losses = positive(facts)?;
        let logs: f64 = losses.iter().map(|loss| libm::log(*loss)).sum();
        let mean = libm::exp(logs / losses.len() as f64);
        Ok(losses.iter().map(|loss| mean / loss).collect())
    }
}
