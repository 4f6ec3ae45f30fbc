//! CDAN and CDAN+E: conditional adversarial training (Long et al. 2018, arXiv 1705.10667).
//!
//! As DANN, but D reads the products of features and predicted probabilities, f ⊗ softmax(g), so that
//! domains are matched class by class. With `entropy` a sample weighs 1 + exp(-H(softmax(g))), brought to
//! the mean 1 over both domains together. No gradient goes through the probabilities, nor through the
//! weights. That is TLLib's way. With `reversed_entropy` it is that of the authors' code (thuml/CDAN): the weights
//! have the mean 1 in each domain, their sums have no gradient, and D's loss is a function of the entropies, too,
//! through a reversal of the same strength: H gets -strength · ∂L/∂H. In that code D also drops half of what its
//! hidden layers give: `dropout: 0.5`; and it has 1e-5 beside the probability in the logarithm of H.
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
    pub(super) reversed_entropy: bool,
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
        let weights = match (self.entropy, self.reversed_entropy) {
            (false, _) => None,
            (true, false) => {
                let sure = sureness(&entropies(&logits)?)?;
                Some(sure.f_div(&sure.f_mean(Kind::Float)?)?)
            }
            (true, true) => Some(by_domain(pairs)?),
        };
        self.discriminator.loss(&joint, own, pairs, weights)
    }
}

/// 1 + exp(-H) of entropies.
fn sureness(entropies: &Tensor) -> Result<Tensor, TchError> {
    entropies.f_neg()?.f_exp()?.f_add_scalar(1.0)
}

/// Weights `[n + m]` of mean 1 in each domain, whose gradient comes back to the entropies reversed.
fn by_domain(pairs: &Pairs<'_>) -> Result<Tensor, TchError> {
    let entropies = reversed(&entropies(&pairs.logits()?)?, pairs.strength)?;
    let sure = sureness(&entropies)?;
    let of = |start: i64, count: i64| {
        let own = sure.f_narrow(0, start, count)?;
        own.f_div(&own.f_detach()?.f_mean(Kind::Float)?)
    };
    let [source, target] = pairs.counts();
    Tensor::f_cat(&[of(0, source)?, of(source, target)?], 0)
}
