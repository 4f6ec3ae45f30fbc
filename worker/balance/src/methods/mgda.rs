//! The shortest vector in the gradients' convex hull.

use super::{Rule, Trouble, gram};
use crate::face::Facts;
use crate::solve::min_norm;

/// MGDA (Désidéri 2012; Sener and Koltun 2018, arXiv 1810.04650): w = K·argmin aᵀGa on the
/// simplex; the paper's weights sum to 1. Exact (libraries iterate: TorchJD 100 steps of
/// Frank-Wolfe to 1e-3, LibMTL 250 to 1e-5). Favours small gradients and stops at a point where
/// some mean of the gradients is 0; `normalize` helps. For `mgda_ub` the Gram matrix is that of
/// the representation's gradients. A few factorisations, K³/3 each.
#[derive(Debug)]
pub(crate) struct Mgda;

impl Rule for Mgda {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let k = facts.tasks.len() as f64;
        Ok(min_norm(gram(facts)?)?.into_iter().map(|a| k * a).collect())
    }
}
