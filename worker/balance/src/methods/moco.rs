//! Tracked gradients and multipliers.

use super::{Rule, Trouble, gram, keeps};
use crate::error::Error;
use crate::face::{Buffers, Facts, Mix};
use crate::math::{Shares, softmax};

/// MoCo (Fernando et al. 2023, ICLR) as LibMTL has it: buffers track y ← y - β_t(y - q),
/// q = l·g/‖g‖, β_t = β/t^σ (t from 1); multipliers λ ← softmax(λ - γ_t(YYᵀ + ρI)λ), from 1/K;
/// w = K·λ (LibMTL's sum to 1). The softmax of multipliers, not a projection on the simplex, pulls
/// them to even. Defaults LibMTL's: β .5, γ .1, both σ .5, ρ 0. O(K²).
#[derive(Debug)]
pub(crate) struct MoCo {
    beta: [f64; 2],
    gamma: [f64; 2],
    rho: f64,
    shares: Shares,
}

impl MoCo {
    pub(crate) fn new(tasks: usize, param: impl Fn(&str) -> f64) -> Self {
        Self {
            beta: [param("beta"), param("beta_sigma")],
            gamma: [param("gamma"), param("gamma_sigma")],
            rho: param("rho"),
            shares: Shares::new(tasks),
        }
    }
}

/// rate/t^sigma, t = step + 1.
pub(super) fn falling([rate, sigma]: [f64; 2], step: u64) -> f64 {
    rate / libm::pow(step as f64 + 1.0, sigma)
}

impl Rule for MoCo {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let gram = gram(facts)?;
        let (lambda, sum) = self.shares.take(facts.tasks);
        let gamma = falling(self.gamma, facts.step);
        let moved: Vec<f64> = gram
            .times(&lambda)
            .iter()
            .zip(&lambda)
            .map(|(product, lambda)| lambda - gamma * (product + self.rho * lambda))
            .collect();
        let lambda = softmax(&moved);
        self.shares.put(facts.tasks, &lambda, sum);
        let k = lambda.len() as f64;
        Ok(lambda.iter().map(|lambda| k * lambda).collect())
    }

    fn buffers(&self) -> Option<&dyn Buffers> {
        Some(self)
    }

    keeps!("shares": shares.value);
}

impl Buffers for MoCo {
    fn mix(&self, facts: &Facts<'_>) -> Result<Vec<Option<Mix>>, Error> {
        let beta = falling(self.beta, facts.step);
        let norms = gram(facts)?.norms();
        Ok(norms
            .iter()
            .zip(facts.losses)
            .map(|(norm, loss)| {
                let unit = if *norm > 0.0 { loss / norm } else { 0.0 };
                Some(Mix {
                    keep: 1.0 - beta,
                    add: beta * unit,
                })
            })
            .collect())
    }
}
