//! Gradient surgery: each gradient changed against the others, one after another.

use super::{Rule, Trouble, gram, keeps};
use crate::face::Facts;
use crate::gram::{Gram, dot};
use crate::math::shuffled;

/// PCGrad (Yu et al. 2020, arXiv 2001.06782): each gradient is projected off every original
/// gradient that it conflicts with, in random order; the update is the sum (as LibMTL and TorchJD;
/// sum-like as it is). Done on coefficients: c = e_i; for j: d = (Gc)_j, if d < 0: c_j -= d/G_jj.
/// The order is a function of (seed, step, task) and changes the answer for K > 2. O(K³).
#[derive(Debug)]
pub(crate) struct PcGrad;

impl Rule for PcGrad {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        Ok(projected_all(gram(facts)?, &orders(facts)))
    }
}

/// The order in which each present task meets the others.
fn orders(facts: &Facts<'_>) -> Vec<Vec<usize>> {
    let (k, seed, step) = (facts.tasks.len(), facts.seed, facts.step);
    facts
        .tasks
        .iter()
        .map(|&task| shuffled(k, seed, step, task as u64))
        .collect()
}

/// The sum of all gradients' coefficients, each projected in its order.
pub(crate) fn projected_all(gram: &Gram, orders: &[Vec<usize>]) -> Vec<f64> {
    let mut weights = vec![0.0; gram.k()];
    for (i, order) in orders.iter().enumerate() {
        let c = projected(gram, i, order);
        weights.iter_mut().zip(&c).for_each(|(w, c)| *w += c);
    }
    weights
}

/// Coefficients of g_i projected off the others in `order`.
fn projected(gram: &Gram, i: usize, order: &[usize]) -> Vec<f64> {
    let mut c = vec![0.0; gram.k()];
    c[i] = 1.0;
    let mut products = gram.row(i).to_vec();
    for &j in order {
        if j != i && products[j] < 0.0 {
            let less = products[j] / gram.get(j, j);
            c[j] -= less;
            for (product, g) in products.iter_mut().zip(gram.row(j)) {
                *product -= less * g;
            }
        }
    }
    c
}

/// GradVac (Wang et al. 2021, arXiv 2010.05874): as PCGrad, but each pair's cosine φ is raised to
/// a target t, the moving average of what it was: if φ < t, g_i += g_j·‖g_i‖(t√(1-φ²) - φ√(1-t²))
/// / (‖g_j‖√(1-t²)); then t ← (1-β)t + βφ, always. β = .5 (LibMTL, TorchJD; 1e-2 in the paper), t
/// begins at 0, so that the first step is PCGrad's. One group: the whole backbone. Sum-like. O(K³).
#[derive(Debug)]
pub(crate) struct GradVac {
    beta: f64,
    tasks: usize,
    target: Vec<f64>,
}

impl GradVac {
    pub(crate) fn new(tasks: usize, beta: f64) -> Self {
        Self {
            beta,
            tasks,
            target: vec![0.0; tasks * tasks],
        }
    }

    /// The sum of all gradients' coefficients, each changed in its order.
    pub(crate) fn vaccinated(
        &mut self,
        gram: &Gram,
        tasks: &[usize],
        orders: &[Vec<usize>],
    ) -> Vec<f64> {
        let norms = gram.norms();
        let mut weights = vec![0.0; gram.k()];
        for (i, order) in orders.iter().enumerate() {
            let mut c = vec![0.0; gram.k()];
            c[i] = 1.0;
            // G c and cᵀGc as c changes.
            let mut products = gram.row(i).to_vec();
            let mut square = gram.get(i, i);
            for &j in order {
                let norm = square.max(0.0).sqrt();
                if j == i || norms[j] == 0.0 || norm == 0.0 {
                    continue;
                }
                let phi = (products[j] / (norm * norms[j])).clamp(-1.0, 1.0);
                let target = &mut self.target[tasks[i] * self.tasks + tasks[j]];
                let (rest, target_rest) = (other_leg(phi), other_leg(*target));
                if phi < *target && target_rest > 1e-8 {
                    let more =
                        norm * (*target * rest - phi * target_rest) / (norms[j] * target_rest);
                    c[j] += more;
                    for (product, g) in products.iter_mut().zip(gram.row(j)) {
                        *product += more * g;
                    }
                    square = dot(&products, &c);
                }
                *target = (1.0 - self.beta) * *target + self.beta * phi;
            }
            weights.iter_mut().zip(&c).for_each(|(w, c)| *w += c);
        }
        weights
    }
}

impl Rule for GradVac {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        Ok(self.vaccinated(gram(facts)?, facts.tasks, &orders(facts)))
    }

    keeps!("target": target);
}

/// √(1 - x²).
fn other_leg(x: f64) -> f64 {
    (1.0 - x * x).max(0.0).sqrt()
}
