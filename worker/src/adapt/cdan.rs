//! CDAN and CDAN+E: conditional adversarial training (Long et al. 2018, arXiv 1705.10667).
//!
//! As DANN, but D reads the products of features and predicted probabilities, f ⊗ softmax(g), so that
//! domains are matched class by class. With `entropy` a sample weighs 1 + exp(-H(softmax(g))), brought to
//! the mean 1 over both domains together. No gradient goes through the probabilities, nor through the
//! weights. That is TLLib's way. In the authors' code (thuml/CDAN) each domain's weights have the mean 1, the
//! discriminator's gradient passes the weights' reversal hook, and D drops half of what its hidden layers
//! give: `dropout: 0.5`.
//! Cost: D's first layer has f·c inputs; TLLib's random projection for large ones is not here.

use super::discriminator::Discriminator;
use super::pairs::entropies;
use super::{Layer, Method, Pairs, reversed};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

#[derive(Debug)]
pub(super) struct Cdan {
    pub(super) discriminator: Discriminator,
    pub(super) entropy: bool,
}

impl Method for Cdan {
    fn layers(&self) -> Vec<Layer> {
        self.discriminator.layers()
    }

    fn reverses(&self) -> bool {
        true
    }

    fn loss(&self, pairs: &Pairs<'_>, own: &[Linear<'_>]) -> Result<Tensor, TchError> {
        let both = reversed(&pairs.features()?, pairs.strength)?;
        let logits = pairs.logits()?.f_detach()?;
        let likely = logits.f_softmax(-1, Kind::Float)?;
        let joint = likely.f_unsqueeze(2)?.f_bmm(&both.f_unsqueeze(1)?)?;
        let joint = joint.f_flatten(1, 2)?;
        let weights = match self.entropy {
            true => {
                let sure = entropies(&logits)?.f_neg()?.f_exp()?.f_add_scalar(1.0)?;
                Some(sure.f_div(&sure.f_mean(Kind::Float)?)?)
            }
            false => None,
        };
        self.discriminator.loss(&joint, own, pairs, weights)
    }
}
