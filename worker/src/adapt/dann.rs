//! DANN: domain-adversarial training (Ganin et al. 2016, arXiv 1505.07818).
//!
//! A classifier D tells from features which domain a sample is of; behind a gradient reversal the backbone
//! learns to mislead it:
//! L = 1/2n · Σ -log D(f_s) + 1/2n · Σ -log(1 - D(f_t)), and -strength · ∂L/∂f comes to the features.
//! Cost: D forward and backward, 2n·(f·h + h²). TLLib's loss; the paper's digits have one hidden layer.

use super::discriminator::Discriminator;
use super::{Layer, Method, Pairs, reversed};
use crate::heads::Linear;
use tch::{TchError, Tensor};

#[derive(Debug)]
pub(super) struct Dann {
    pub(super) discriminator: Discriminator,
}

impl Method for Dann {
    fn layers(&self) -> Vec<Layer> {
        self.discriminator.layers()
    }

    fn reverses(&self) -> bool {
        true
    }

    fn loss(&self, pairs: &Pairs<'_>, own: &[Linear<'_>]) -> Result<Tensor, TchError> {
        let both = reversed(&pairs.features()?, pairs.strength)?;
        self.discriminator.loss(&both, own, pairs, None)
    }
}
