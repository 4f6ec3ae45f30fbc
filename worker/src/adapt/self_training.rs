//! Self-training: confident predictions are taken for labels (Lee 2013; the threshold of FixMatch, Sohn et
//! al. 2020, arXiv 2001.07685, without its two augmentations).
//!
//! L = 1/n · Σ_i [max p_i ≥ threshold] · -log p_i(argmax p_i), p = softmax(g_t). No gradient goes through
//! the choice, which is a function of the batch alone. Cost: n·c. Default: FixMatch's 0.95.

use super::{Method, Pairs};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

#[derive(Debug)]
pub(super) struct SelfTraining {
    pub(super) threshold: f64,
}

impl Method for SelfTraining {
    fn loss(&self, pairs: &Pairs<'_>, _: &[Linear<'_>]) -> Result<Tensor, TchError> {
        let logs = pairs.target_logits.f_log_softmax(-1, Kind::Float)?;
        let (best, _) = logs.f_max_dim(1, false)?;
        let sure = best.f_detach()?.f_exp()?.f_ge(self.threshold)?;
        best.f_mul(&sure.f_to_kind(Kind::Float)?)?
            .f_mean(Kind::Float)?
            .f_neg()
    }
}
