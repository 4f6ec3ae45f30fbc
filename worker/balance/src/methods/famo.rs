//! Fast adaptive multitask optimization.

use super::{Rule, Trouble, keeps, positive};
use crate::face::Facts;
use crate::math::{Learned, SMALLEST_LOSS, softmax};

/// FAMO (Liu et al. 2023, arXiv 2306.03792): z = softmax(ξ), the update descends
/// c·Σ z_k·log l_k, c = 1/Σ(z/l), so w_k = K·c·z_k/l_k (the paper's sum to 1). After the step the
/// same batch's losses are computed again; δ_k = log l_k before - log l_k after, and ξ descends
/// (∂z/∂ξ)ᵀδ by Adam (`lr` .025, paper) with weight decay (`decay` 1e-3: Algorithm 2, LibMTL,
/// TorchJD; the authors' code 1e-5). Losses as for `si`. One more forward pass; O(K).
#[derive(Debug)]
pub(crate) struct Famo {
    logits: Learned,
    /// Losses of the last step by task, and whether they wait to be observed.
    before: Vec<f64>,
    waits: Vec<f64>,
}

impl Famo {
    pub(crate) fn new(tasks: usize, rate: f64, decay: f64) -> Self {
        Self {
            logits: Learned::new(tasks, 0.0, rate, decay),
            before: vec![0.0; tasks],
            waits: vec![0.0; tasks],
        }
    }
}

impl Rule for Famo {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let losses = positive(facts)?;
        self.waits.fill(0.0);
        for (&task, loss) in facts.tasks.iter().zip(&losses) {
            self.before[task] = *loss;
            self.waits[task] = 1.0;
        }
        let z = softmax(&self.logits.of(facts.tasks));
        let pulls: Vec<f64> = z.iter().zip(&losses).map(|(z, loss)| z / loss).collect();
        let sum: f64 = pulls.iter().sum();
        let k = losses.len() as f64;
        Ok(pulls.iter().map(|pull| k * pull / sum).collect())
    }

    fn observe(&mut self, tasks: &[usize], losses: &[f64]) {
        let (tasks, falls): (Vec<usize>, Vec<f64>) = tasks
            .iter()
            .zip(losses)
            .filter(|&(&task, loss)| {
                self.waits.get(task) == Some(&1.0) && loss.is_finite() && *loss >= 0.0
            })
            .map(|(&task, loss)| {
                let after = loss.max(SMALLEST_LOSS);
                (task, libm::log(self.before[task]) - libm::log(after))
            })
            .unzip();
        let z = softmax(&self.logits.of(&tasks));
        let mean: f64 = z.iter().zip(&falls).map(|(z, fall)| z * fall).sum();
        for ((&task, z), fall) in tasks.iter().zip(&z).zip(&falls) {
            self.logits.descend(task, z * (fall - mean));
        }
        self.waits.fill(0.0);
    }

    keeps!("value": logits.value, "first": logits.first, "second": logits.second,
        "steps": logits.steps, "before": before, "waits": waits);
}
