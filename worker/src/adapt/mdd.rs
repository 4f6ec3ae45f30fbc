//! MDD: margin disparity discrepancy (Zhang et al. 2019, arXiv 1904.05801).
//!
//! A second head f' agrees with the task's head on the source and disagrees on the target, behind a
//! gradient reversal; ŷ is the class that the task's head predicts:
//! L = margin · mean -log p'(ŷ_s) + mean -log(1 - p'(ŷ_t)), 1 - p' not below 1e-6.
//! TLLib's loss; it has reversals of at most 0.1 (`weight: 0.1` is near). Cost: 2n·(f·h + h·c).

use super::{Layer, Method, Pairs, discriminator, reversed};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

/// 1 - p' is not below it.
const LEAST: f64 = 1e-6;

#[derive(Debug)]
pub(super) struct Mdd {
    pub(super) features: usize,
    pub(super) hidden: usize,
    pub(super) classes: usize,
    pub(super) margin: f64,
}

impl Method for Mdd {
    fn layers(&self) -> Vec<Layer> {
        vec![
            Layer::new("second.0", self.features, self.hidden),
            Layer::new("second.1", self.hidden, self.classes),
        ]
    }

    fn reverses(&self) -> bool {
        true
    }

    fn loss(&self, pairs: &Pairs<'_>, own: &[Linear<'_>]) -> Result<Tensor, TchError> {
        let both = reversed(&pairs.features()?, pairs.strength)?;
        let logs =
            discriminator::through(&both, own, |x, _| Ok(x))?.f_log_softmax(-1, Kind::Float)?;
        let said = pairs.logits()?.f_detach()?.f_argmax(1, true)?;
        let own = logs.f_gather(1, &said, false)?;
        let [source, target] = pairs.counts();
        let agrees = own.f_narrow(0, 0, source)?.f_neg()?;
        let other = own.f_narrow(0, source, target)?.f_exp()?;
        let differs = other.f_neg()?.f_add_scalar(1.0)?.f_clamp_min(LEAST)?;
        agrees
            .f_mean(Kind::Float)?
            .f_mul_scalar(self.margin)?
            .f_sub(&differs.f_log()?.f_mean(Kind::Float)?)
    }
}
