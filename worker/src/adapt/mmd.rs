//! DAN: maximum mean discrepancy under several kernels (Long et al. 2015, arXiv 1502.02791).
//!
//! L = |mean φ(f_s) - mean φ(f_t)|² where φ is the map of a sum of Gaussian kernels; see [`Kernels`].
//! The paper learns the kernels' shares and sums four samples at a time; here, as in TLLib, kernels weigh
//! alike and all pairs count. TLLib leaves out a sample's kernel with itself and adds 2 / (n - 1); here it
//! is counted, so that equal domains have exactly 0. Cost: (2n)²·f. Defaults: TLLib's five kernels.

use super::kernels::{Kernels, discrepancy};
use super::{Method, Pairs};
use crate::heads::Linear;
use tch::{TchError, Tensor};

#[derive(Debug)]
pub(super) struct Mmd {
    pub(super) kernels: Kernels,
}

impl Method for Mmd {
    fn loss(&self, pairs: &Pairs<'_>, _: &[Linear<'_>]) -> Result<Tensor, TchError> {
        discrepancy(&self.kernels.of(&pairs.features()?)?, pairs.counts())
    }
}
