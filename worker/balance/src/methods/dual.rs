//! Projections on the dual cone, where no task's loss rises: UPGrad and DualProj.

use super::{Rule, Trouble, gram};
use crate::face::{Facts, Fallback};
use crate::gram::Gram;
use crate::solve::complementary;

/// UPGrad (Quinton and Rey 2024, arXiv 2406.16232): each gradient is projected on the cone where
/// no task loses, and the projections are added (the paper: averaged). The projection of Σ u_k·g_k
/// has the weights v that minimise vᵀG'v, v ≥ u; G' = G/trace + reg·I, `reg` 1e-4 (TorchJD,
/// LibMTL), without which gradients that depend on each other have no single answer. Exact. TorchJD
/// and LibMTL take G for 0 if its trace is below 1e-4; here the size of gradients does not matter.
/// K problems of a few factorisations.
#[derive(Debug)]
pub(crate) struct UpGrad {
    reg: f64,
}

impl UpGrad {
    pub(crate) fn new(reg: f64) -> Self {
        Self { reg }
    }
}

impl Rule for UpGrad {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let gram = regular(gram(facts)?, self.reg)?;
        let k = gram.k();
        let mut weights = vec![1.0; k];
        for i in 0..k {
            // v = e_i + x, x ≥ 0: the linear part is G'e_i.
            let x = complementary(gram.values(), gram.row(i)).ok_or(Fallback::NotSolved)?;
            weights.iter_mut().zip(&x).for_each(|(w, x)| *w += x);
        }
        Ok(weights)
    }
}

/// DualProj (GEM; Lopez-Paz and Ranzato 2017, arXiv 1706.08840): the sum of the gradients (the
/// paper: their mean) projected on the cone where no task loses. As `upgrad`, but one problem.
#[derive(Debug)]
pub(crate) struct DualProj {
    reg: f64,
}

impl DualProj {
    pub(crate) fn new(reg: f64) -> Self {
        Self { reg }
    }
}

impl Rule for DualProj {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let gram = regular(gram(facts)?, self.reg)?;
        let sum = gram.times(&vec![1.0; gram.k()]);
        let x = complementary(gram.values(), &sum).ok_or(Fallback::NotSolved)?;
        Ok(x.iter().map(|x| 1.0 + x).collect())
    }
}

/// G/trace + reg·I.
fn regular(gram: &Gram, reg: f64) -> Result<Gram, Fallback> {
    let (k, trace) = (gram.k(), gram.trace());
    if trace <= 0.0 {
        return Err(Fallback::Stationary);
    }
    let mut values: Vec<f64> = gram.values().iter().map(|value| value / trace).collect();
    for i in 0..k {
        values[i * k + i] += reg.max(1e-12);
    }
    // Symmetric as it was.
    Gram::new(values).map_err(|_| Fallback::NotFinite)
}
