//! Information maximisation, as SHOT has it on the target (Liang et al. 2020, arXiv 2002.08546).
//!
//! L = mean H(p) - diversity · H(mean p), p = softmax(g_t): each prediction is sure, all together use all
//! classes. SHOT trains the backbone alone, with the head frozen and without the source; here the source's
//! loss goes on beside it. Cost: n·c.

use super::pairs::entropies;
use super::{Method, Pairs};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

#[derive(Debug)]
pub(super) struct Information {
    pub(super) diversity: f64,
}

impl Method for Information {
    fn loss(&self, pairs: &Pairs<'_>, _: &[Linear<'_>]) -> Result<Tensor, TchError> {
        let each = entropies(pairs.target_logits)?.f_mean(Kind::Float)?;
        let mean = pairs.target_logits.f_softmax(-1, Kind::Float)?.f_mean_dim(
            &[0i64][..],
            false,
            Kind::Float,
        )?;
        // A class that nothing is predicted as adds 0, and its gradient stays finite.
        let logs = mean.f_clamp_min(1e-12)?.f_log()?;
        let spread = mean.f_mul(&logs)?.f_sum(Kind::Float)?;
        each.f_add(&spread.f_mul_scalar(self.diversity)?)
    }
}
