//! Learned scales per task: uncertainty weighting and IMTL's losses.

use super::{Rule, Trouble, keeps};
use crate::face::Facts;
use crate::math::Learned;

/// UW (Kendall et al. 2018, arXiv 1705.07115): minimises Σ l_k·e^(-s_k)/2 + s_k/2 over log
/// variances s too; w_k = e^(-s_k)/2, left as it is (1/2 at the start). Here s is learned by an
/// Adam of its own (`lr` 0.01, ours; papers use the model's optimizer); `init` 0 (TorchJD; LibMTL
/// -0.5). If a loss goes to 0, its weight grows without bound. O(K).
#[derive(Debug)]
pub(crate) struct Uncertainty {
    variance: Learned,
}

impl Uncertainty {
    pub(crate) fn new(tasks: usize, init: f64, rate: f64) -> Self {
        Self {
            variance: Learned::new(tasks, init, rate, 0.0),
        }
    }
}

impl Rule for Uncertainty {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let mut weights = Vec::with_capacity(facts.tasks.len());
        for (&task, loss) in facts.tasks.iter().zip(facts.losses) {
            let weight = 0.5 * libm::exp(-self.variance.value[task]);
            self.variance.descend(task, 0.5 - weight * loss);
            weights.push(weight);
        }
        Ok(weights)
    }

    keeps!("value": variance.value, "first": variance.first, "second": variance.second,
        "steps": variance.steps);
}

/// IMTL-L (Liu et al. 2021, ICLR): minimises Σ e^(s_k)·l_k - s_k over scales s too;
/// w_k = e^(s_k), which is 1 at the start. Learned as in `uw`. O(K).
#[derive(Debug)]
pub(crate) struct Impartial {
    scale: Learned,
}

impl Impartial {
    pub(crate) fn new(tasks: usize, rate: f64) -> Self {
        Self {
            scale: Learned::new(tasks, 0.0, rate, 0.0),
        }
    }
}

impl Rule for Impartial {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let mut weights = Vec::with_capacity(facts.tasks.len());
        for (&task, loss) in facts.tasks.iter().zip(facts.losses) {
            let weight = libm::exp(self.scale.value[task]);
            self.scale.descend(task, weight * loss - 1.0);
            weights.push(weight);
        }
        Ok(weights)
    }

    keeps!("value": scale.value, "first": scale.first, "second": scale.second,
        "steps": scale.steps);
}
