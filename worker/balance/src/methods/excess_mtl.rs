//! Weights by estimated excess risk.

use super::{Rule, Trouble, keeps};
use crate::error::Error;
use crate::face::Facts;
use crate::math::{Shares, softmax};

/// Adds the squares of a slice's gradient to its accumulator, S += g², and answers the slice's
/// part of the task's excess risk, Σ g²/√(S + 1e-7), to be summed over all slices.
pub fn accumulate(sum: &mut [f32], gradient: &[f32]) -> f64 {
    let mut excess = 0.0;
    for (sum, g) in sum.iter_mut().zip(gradient) {
        let square = g * g;
        *sum += square;
        excess += f64::from(square) / (f64::from(*sum) + 1e-7).sqrt();
    }
    excess
}

/// ExcessMTL (He et al. 2024, ICML): weights grow with the task's excess risk e_k, estimated by
/// AdaGrad's curvature and in units of its own mean over the first `warmup` steps:
/// w_k ∝ w_k·exp(η·e_k/e_k⁰), Σw = K (LibMTL; the paper and TorchJD: 1). η = .01 (LibMTL; TorchJD
/// 1). Until a task's unit is known its e counts as 1, where LibMTL and TorchJD take the raw
/// excess at the first step, which has the gradients' unit. O(K), and a buffer per task.
#[derive(Debug)]
pub(crate) struct Excess {
    eta: f64,
    warmup: f64,
    shares: Shares,
    unit: Vec<f64>,
    seen: Vec<f64>,
}

impl Excess {
    pub(crate) fn new(tasks: usize, eta: f64, warmup: f64) -> Self {
        Self {
            eta,
            warmup,
            shares: Shares::new(tasks),
            unit: vec![0.0; tasks],
            seen: vec![0.0; tasks],
        }
    }
}

impl Rule for Excess {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let excess = facts.excess.ok_or(Error::Shape {
            what: "the facts of a step",
            expected: "an excess per task".to_owned(),
            found: "none".to_owned(),
        })?;
        let mut risks = Vec::with_capacity(excess.len());
        for (&task, &value) in facts.tasks.iter().zip(excess) {
            if self.seen[task] < self.warmup {
                self.seen[task] += 1.0;
                self.unit[task] += (value - self.unit[task]) / self.seen[task];
                risks.push(1.0);
            } else {
                risks.push(value / (self.unit[task] + 1e-7));
            }
        }
        let (shares, sum) = self.shares.take(facts.tasks);
        let logits: Vec<f64> = shares
            .iter()
            .zip(&risks)
            .map(|(share, risk)| libm::log(share.max(1e-300)) + self.eta * risk)
            .collect();
        let shares = softmax(&logits);
        self.shares.put(facts.tasks, &shares, sum);
        let k = shares.len() as f64;
        Ok(shares.iter().map(|share| k * share).collect())
    }

    keeps!("shares": shares.value, "unit": unit, "seen": seen);
}
