//! Multipliers from two independent batches: SDMGrad and MoDo.

use super::{Rule, Trouble, keeps};
use crate::error::Error;
use crate::face::Facts;
use crate::gram::dot;
use crate::math::Shares;
use crate::solve::onto_simplex;

fn cross<'a>(facts: &Facts<'a>) -> Result<&'a [f64], Error> {
    facts.cross.ok_or(Error::Shape {
        what: "the facts of a step",
        expected: "products between two batches".to_owned(),
        found: "none".to_owned(),
    })
}

/// (J₁J₂ᵀ)·v.
fn times(cross: &[f64], v: &[f64]) -> Vec<f64> {
    cross.chunks(v.len()).map(|row| dot(row, v)).collect()
}

/// SDMGrad (Xiao et al. 2023, arXiv 2305.18409), as the authors' code and TorchJD: the min-norm
/// point with a pull λ (.3) to the mean gradient p, by `iterations` (20) projected steps with
/// momentum (.5) and `lr` (10) on A(a + λp), A = J₁J₂ᵀ in units of the mean norm squared;
/// w = K·(a + λp)/(1 + λ) (the paper's sum to 1). a goes on from step to step. 20·K².
#[derive(Debug)]
pub(crate) struct SdmGrad {
    lambda: f64,
    rate: f64,
    momentum: f64,
    iterations: usize,
    shares: Shares,
}

impl SdmGrad {
    pub(crate) fn new(tasks: usize, param: impl Fn(&str) -> f64) -> Self {
        Self {
            lambda: param("lambda"),
            rate: param("lr"),
            momentum: param("momentum"),
            // Checked: a whole number from 1.
            iterations: param("iterations") as usize,
            shares: Shares::new(tasks),
        }
    }
}

impl Rule for SdmGrad {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let cross = cross(facts)?;
        let k = facts.tasks.len();
        let (mut a, sum) = self.shares.take(facts.tasks);
        let pull = self.lambda / k as f64;
        let norms: f64 = (0..k).map(|i| cross[i * k + i].max(0.0).sqrt()).sum();
        let unit = (norms / k as f64) * (norms / k as f64) + 1e-8;
        let mut speed = vec![0.0; k];
        for _ in 0..self.iterations {
            let point: Vec<f64> = a.iter().map(|a| a + pull).collect();
            for (speed, slope) in speed.iter_mut().zip(times(cross, &point)) {
                *speed = self.momentum * *speed + slope / unit;
            }
            let moved: Vec<f64> = a
                .iter()
                .zip(&speed)
                .map(|(a, s)| a - self.rate * s)
                .collect();
            a = onto_simplex(&moved);
        }
        self.shares.put(facts.tasks, &a, sum);
        let factor = k as f64 / (1.0 + self.lambda);
        Ok(a.iter().map(|a| factor * (a + pull)).collect())
    }

    keeps!("shares": shares.value);
}

/// MoDo (Chen et al. 2024, JMLR 25): λ ← projection on the simplex of λ - γ(J₁J₂ᵀλ + ρλ), from
/// 1/K; w = K·λ (the paper's sum to 1). γ .1, ρ .1 (TorchJD, LibMTL). K².
#[derive(Debug)]
pub(crate) struct MoDo {
    gamma: f64,
    rho: f64,
    shares: Shares,
}

impl MoDo {
    pub(crate) fn new(tasks: usize, param: impl Fn(&str) -> f64) -> Self {
        Self {
            gamma: param("gamma"),
            rho: param("rho"),
            shares: Shares::new(tasks),
        }
    }
}

impl Rule for MoDo {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let cross = cross(facts)?;
        let (lambda, sum) = self.shares.take(facts.tasks);
        let moved: Vec<f64> = times(cross, &lambda)
            .iter()
            .zip(&lambda)
            .map(|(slope, lambda)| lambda - self.gamma * (slope + self.rho * lambda))
            .collect();
        let lambda = onto_simplex(&moved);
        self.shares.put(facts.tasks, &lambda, sum);
        let k = lambda.len() as f64;
        Ok(lambda.iter().map(|lambda| k * lambda).collect())
    }

    keeps!("shares": shares.value);
}
