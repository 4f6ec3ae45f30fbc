//! Gradient normalisation.

use super::{Rule, Trouble, gram, keeps, positive};
use crate::face::Facts;
use crate::math::{Learned, softmax};

/// GradNorm (Chen et al. 2018, arXiv 1711.02257): weights w = K·softmax(p) are learned to bring
/// the norms w_k·n_k to mean(w·n)·r_k^α, r_k the task's loss over its first one, relative to the
/// tasks' mean: p descends Σ |w_k·n_k - target_k|, targets held constant. α = 1.5 (paper, LibMTL);
/// softmax as LibMTL (the paper renormalises), Adam of its own (`lr` .025, ours). Norms are those
/// of the whole backbone's gradient (paper: of the last shared layer). Σw = K in the paper too.
/// O(K).
#[derive(Debug)]
pub(crate) struct GradNorm {
    alpha: f64,
    logits: Learned,
    first_loss: Vec<f64>,
}

impl GradNorm {
    pub(crate) fn new(tasks: usize, alpha: f64, rate: f64) -> Self {
        Self {
            alpha,
            logits: Learned::new(tasks, 0.0, rate, 0.0),
            first_loss: vec![0.0; tasks],
        }
    }
}

impl Rule for GradNorm {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let (losses, norms) = (positive(facts)?, gram(facts)?.norms());
        let k = losses.len() as f64;
        for (&task, loss) in facts.tasks.iter().zip(&losses) {
            if self.first_loss[task] == 0.0 {
                self.first_loss[task] = *loss;
            }
        }
        let shares = softmax(&self.logits.of(facts.tasks));
        let weights: Vec<f64> = shares.iter().map(|share| k * share).collect();
        let sizes: Vec<f64> = weights.iter().zip(&norms).map(|(w, n)| w * n).collect();
        let mean = sizes.iter().sum::<f64>() / k;
        let ratios: Vec<f64> = facts
            .tasks
            .iter()
            .zip(&losses)
            .map(|(&task, loss)| loss / self.first_loss[task])
            .collect();
        let mean_ratio = ratios.iter().sum::<f64>() / k;
        // d/dw_k of the sum of distances.
        let slopes: Vec<f64> = (0..losses.len())
            .map(|i| {
                let target = mean * libm::pow(ratios[i] / mean_ratio, self.alpha);
                let distance = sizes[i] - target;
                if distance == 0.0 {
                    0.0
                } else {
                    distance.signum() * norms[i]
                }
            })
            .collect();
        let common: f64 = slopes.iter().zip(&shares).map(|(s, share)| s * share).sum();
        for ((&task, weight), slope) in facts.tasks.iter().zip(&weights).zip(&slopes) {
            self.logits.descend(task, weight * (slope - common));
        }
        Ok(weights)
    }

    keeps!("value": logits.value, "first": logits.first, "second": logits.second,
        "steps": logits.steps, "first_loss": first_loss);
}
