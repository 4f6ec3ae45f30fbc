//! Bargaining: Nash-MTL and FairGrad.

use super::{Rule, Trouble, gram};
use crate::face::{Facts, Fallback};
use crate::solve::fair;

/// Nash-MTL (Navon et al. 2022, arXiv 2202.01017), α = 1: G w = 1/w, so that w_k·(Gw)_k = 1 and
/// the update's norm is √K whatever the gradients' sizes. FairGrad (Ban and Ji 2024, arXiv
/// 2402.15638): G w = w^(-1/α), α = 2 (the authors' scripts; LibMTL 1), towards 0 equal weights.
/// The length is the method's own and kept. Exact to 1e-12 by Newton (the authors iterate conic
/// programs to 1e-3, and clip the update to norm 1: that is training.clip_norm here). A gradient
/// of 0, which has no finite weight, gets 0. About 10·K³/3.
#[derive(Debug)]
pub(crate) struct Fair {
    beta: f64,
}

impl Fair {
    pub(crate) fn new(alpha: f64) -> Self {
        Self { beta: 1.0 / alpha }
    }
}

impl Rule for Fair {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let gram = gram(facts)?;
        let some: Vec<usize> = (0..gram.k()).filter(|&i| gram.get(i, i) > 0.0).collect();
        if some.is_empty() {
            return Err(Fallback::Stationary.into());
        }
        let mut weights = vec![0.0; gram.k()];
        for (&i, w) in some.iter().zip(fair(&gram.part(&some), self.beta)?) {
            weights[i] = w;
        }
        Ok(weights)
    }
}
