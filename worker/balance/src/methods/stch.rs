//! Smooth Tchebycheff scalarisation.

use super::{Rule, Trouble, keeps, positive};
use crate::face::Facts;
use crate::math::softmax;

/// STCH (Lin et al. 2024, arXiv 2402.19078) as LibMTL has it: K·µ·log Σ exp(log(l_k/nadir_k)/µ),
/// so w_k = K·softmax(log(l/nadir)/µ)_k / l_k. In epochs 0 to `warmup` (4) log losses are summed
/// (w_k = 1/l_k); the mean losses of epoch `warmup` are the nadir. With `warmup` 0 there is none:
/// the nadir is a task's first loss. µ = 1; towards 0 only the worst task counts. O(K).
#[derive(Debug)]
pub(crate) struct Stch {
    mu: f64,
    warmup: f64,
    sum: Vec<f64>,
    count: Vec<f64>,
}

impl Stch {
    pub(crate) fn new(tasks: usize, mu: f64, warmup: f64) -> Self {
        Self {
            mu,
            warmup,
            sum: vec![0.0; tasks],
            count: vec![0.0; tasks],
        }
    }
}

impl Rule for Stch {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let losses = positive(facts)?;
        let epoch = facts.epoch as f64;
        let warm = self.warmup > 0.0 && epoch <= self.warmup;
        for (&task, loss) in facts.tasks.iter().zip(&losses) {
            // A task that was never there in the warm-up begins at its first loss.
            if (warm && epoch == self.warmup) || (!warm && self.count[task] == 0.0) {
                self.sum[task] += loss;
                self.count[task] += 1.0;
            }
        }
        if warm {
            return Ok(losses.iter().map(|loss| 1.0 / loss).collect());
        }
        let heights: Vec<f64> = facts
            .tasks
            .iter()
            .zip(&losses)
            .map(|(&task, loss)| {
                let nadir = self.sum[task] / self.count[task];
                libm::log(loss / nadir) / self.mu
            })
            .collect();
        let k = losses.len() as f64;
        let shares = softmax(&heights);
        Ok(shares.iter().zip(&losses).map(|(s, l)| k * s / l).collect())
    }

    keeps!("sum": sum, "count": count);
}

#[cfg(test)]
mod tests {
    use super::{Rule, Stch};
    use crate::face::Facts;

    fn after_warmup(mu: f64) -> Vec<f64> {
        let mut stch = Stch::new(3, mu, 4.0);
        let mut facts = Facts {
            epoch: 4,
            tasks: &[0, 1, 2],
            losses: &[1.0, 1.0, 1.0],
            ..Facts::default()
        };
        assert_eq!(stch.weights(&facts).unwrap(), [1.0; 3]);
        facts.epoch = 5;
        facts.losses = &[0.5, 2.0, 1.0];
        stch.weights(&facts).unwrap()
    }

    #[test]
    fn a_soft_maximum() {
        // With nadir 1: .857143 each for µ = 1, nearly all on the worst task for µ = .1.
        for (mu, expected) in [(1.0, [0.857143; 3]), (0.1, [6e-6, 1.498535, 0.002927])] {
            for (found, expected) in after_warmup(mu).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{mu}: {found} {expected}");
            }
        }
    }
}
