//! Weights that depend on nothing that is learned: mean, equal, fixed, random.

use super::{Rule, Trouble};
use crate::face::Facts;
use crate::math::{normal, softmax};

/// The mean over the batch: w_k = weight_k·n_k/Σn, n_k the samples of task k in the step. Every
/// sample weighs the same, times its task's weight. Mean-like, and left so: it is what training
/// without a balancer does. O(K).
#[derive(Debug)]
pub(crate) struct Mean {
    weights: Vec<f64>,
}

impl Mean {
    pub(crate) fn new(weights: &[f64]) -> Self {
        Self {
            weights: weights.to_vec(),
        }
    }
}

impl Rule for Mean {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let even = vec![1; facts.tasks.len()];
        let samples = facts.samples.unwrap_or(&even);
        let all: u64 = samples.iter().sum();
        Ok(facts
            .tasks
            .iter()
            .zip(samples)
            .map(|(&task, &n)| self.weights[task] * n as f64 / all.max(1) as f64)
            .collect())
    }
}

/// Equal weighting (w_k = 1; linear scalarisation) and fixed weighting (w_k = the task's weight).
/// Tuned fixed weights are the baseline that every other method has to beat (arXiv 2505.10347,
/// 2310.08910). O(K).
#[derive(Debug)]
pub(crate) struct Fixed {
    weights: Vec<f64>,
}

impl Fixed {
    pub(crate) fn new(weights: &[f64]) -> Self {
        Self {
            weights: weights.to_vec(),
        }
    }
}

impl Rule for Fixed {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        Ok(facts.tasks.iter().map(|&task| self.weights[task]).collect())
    }
}

/// RLW (Lin et al. 2022, arXiv 2111.10603): w = K·softmax(z), z_k ~ N(0, 1) anew at every step,
/// a function of (seed, step, task). The paper's weights sum to 1. O(K).
#[derive(Debug)]
pub(crate) struct Random;

impl Rule for Random {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let drawn: Vec<f64> = facts
            .tasks
            .iter()
            .map(|&task| normal(facts.seed, facts.step, task as u64))
            .collect();
        let k = facts.tasks.len() as f64;
        Ok(softmax(&drawn).into_iter().map(|w| k * w).collect())
    }
}
