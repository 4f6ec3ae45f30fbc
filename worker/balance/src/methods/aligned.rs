//! Independent component alignment.

use super::{Rule, Trouble, gram};
use crate::face::{Facts, Fallback};
use crate::gram::dot;
use crate::solve::Eigen;

/// Aligned-MTL (Senushkin et al. 2023, arXiv 2305.19000): the gradient matrix with all singular
/// values made equal, summed: G = VΛVᵀ without eigenvalues below K·ε of the largest,
/// w = √λ·VΛ^(-1/2)Vᵀ1, λ the smallest (`scale_mode` 0), the median (1, the lower one of two) or
/// the mean (2) of the rest. As LibMTL; TorchJD's are 1/K of it. For `aligned_ub` the Gram matrix
/// is that of the representation's gradients. One eigenproblem.
#[derive(Debug)]
pub(crate) struct Aligned {
    mode: f64,
}

impl Aligned {
    pub(crate) fn new(mode: f64) -> Self {
        Self { mode }
    }
}

impl Rule for Aligned {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let eigen = Eigen::new(gram(facts)?);
        let values = &eigen.values[..eigen.rank()];
        if values.is_empty() {
            return Err(Fallback::Stationary.into());
        }
        let rank = values.len();
        let level = match self.mode {
            0.0 => values[rank - 1],
            1.0 => values[rank / 2],
            _ => values.iter().sum::<f64>() / rank as f64,
        };
        let k = facts.tasks.len();
        let ones = vec![1.0; k];
        let mut weights = vec![0.0; k];
        for (value, vector) in values.iter().zip(&eigen.vectors) {
            let share = (level / value).sqrt() * dot(vector, &ones);
            for (weight, part) in weights.iter_mut().zip(vector) {
                *weight += share * part;
            }
        }
        Ok(weights)
    }
}
