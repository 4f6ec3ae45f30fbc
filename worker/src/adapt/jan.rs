//! JAN: joint maximum mean discrepancy (Long et al. 2017, arXiv 1605.06636).
//!
//! As DAN, with the product of two kernels: that of features (see [`Kernels`]) and one Gaussian of fixed
//! bandwidth `sigma`² of the predicted probabilities. Differences to TLLib as in `mmd`. Cost: (2n)²·(f + c).
//! Defaults: TLLib's.

use super::kernels::{Kernels, discrepancy, gaussian, squared_distances};
use super::{Method, Pairs};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

#[derive(Debug)]
pub(super) struct Jan {
    pub(super) kernels: Kernels,
    pub(super) sigma: f64,
}

impl Method for Jan {
    fn loss(&self, pairs: &Pairs<'_>, _: &[Linear<'_>]) -> Result<Tensor, TchError> {
        let likely = pairs.logits()?.f_softmax(-1, Kind::Float)?;
        let classes = gaussian(&squared_distances(&likely)?, self.sigma * self.sigma)?;
        let joint = self.kernels.of(&pairs.features()?)?.f_mul(&classes)?;
        discrepancy(&joint, pairs.counts())
    }
}
