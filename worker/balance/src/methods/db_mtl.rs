//! Dual balancing.

use super::moco::falling;
use super::{Rule, Trouble, gram, positive};
use crate::error::Error;
use crate::face::{Buffers, Facts, Fallback, Mix};

/// DB-MTL (Lin et al. 2023, arXiv 2308.12029): buffers track the gradients of log losses,
/// y ← q + β_t(y - q), q = g/l, β_t = β/t^σ (β .9, σ 0: LibMTL; the first step mixes with 0);
/// every buffer is brought to the largest one's norm, w_k = max‖y‖/‖y_k‖, and all are added.
/// Sum-like as it is. A buffer of 0 gets 0. Losses as for `si`. O(K).
#[derive(Debug)]
pub(crate) struct DbMtl {
    beta: [f64; 2],
}

impl DbMtl {
    pub(crate) fn new(beta: f64, sigma: f64) -> Self {
        Self {
            beta: [beta, sigma],
        }
    }
}

impl Rule for DbMtl {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let norms = gram(facts)?.norms();
        let top = norms.iter().copied().fold(0.0, f64::max);
        if top == 0.0 {
            return Err(Fallback::Stationary.into());
        }
        let weight = |&norm: &f64| if norm > 0.0 { top / norm } else { 0.0 };
        Ok(norms.iter().map(weight).collect())
    }

    fn buffers(&self) -> Option<&dyn Buffers> {
        Some(self)
    }
}

impl Buffers for DbMtl {
    fn mix(&self, facts: &Facts<'_>) -> Result<Vec<Option<Mix>>, Error> {
        let keep = falling(self.beta, facts.step);
        Ok(positive(facts)?
            .iter()
            .map(|loss| {
                Some(Mix {
                    keep,
                    add: (1.0 - keep) / loss,
                })
            })
            .collect())
    }
}
