//! A classifier of domains: three linear layers with ReLU between them, and dropout behind each ReLU. TLLib
//! has batch normalisation before each ReLU; here there is none, as its statistics would be each rank's.

use super::{Layer, Pairs};
use crate::heads::Linear;
use tch::{Kind, Reduction, TchError, Tensor};

/// Dropout sites of its layers, less their places; those of heads are above it, the backbone counts its own
/// from 0.
const SITE: u64 = u64::MAX - 2;

/// A classifier of domains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Discriminator {
    /// Numbers that it reads of a sample.
    pub(super) inputs: usize,
    /// Width of the hidden layers.
    pub(super) hidden: usize,
    /// Share of what hidden layers give that is dropped in training.
    pub(super) dropout: f64,
}

impl Discriminator {
    /// Its layers.
    pub(super) fn layers(&self) -> Vec<Layer> {
        vec![
            Layer::new("domain.0", self.inputs, self.hidden),
            Layer::new("domain.1", self.hidden, self.hidden),
            Layer::new("domain.2", self.hidden, 1),
        ]
    }

    /// Loss of telling the source (1) from the target (0), rows of `pairs` in `x` `[n + m, inputs]`, by binary
    /// cross-entropy, a mean over all rows times their `weights` `[n + m]`, with both domains weighing the same.
    pub(super) fn loss(
        &self,
        x: &Tensor,
        own: &[Linear<'_>],
        pairs: &Pairs<'_>,
        weights: Option<Tensor>,
    ) -> Result<Tensor, TchError> {
        let drop = |x: Tensor, place: usize| pairs.dropped(x, SITE - place as u64, self.dropout);
        let judged = through(x, own, drop)?.f_squeeze_dim(1)?;
        let [source, target] = pairs.counts();
        let options = (Kind::Float, x.device());
        let all = |count: i64, value: f64| Tensor::f_full([count], value, options);
        let domain = Tensor::f_cat(&[all(source, 1.0)?, all(target, 0.0)?], 0)?;
        let weights = match (weights, pairs.even()?) {
            (Some(weights), Some(even)) => Some(weights.f_mul(&even)?),
            (weights, even) => weights.or(even),
        };
        if let Some(weights) = weights.as_ref().filter(|weights| weights.requires_grad()) {
            // PyTorch's has no gradient with respect to its weights.
            let each = judged.f_binary_cross_entropy_with_logits(
                &domain,
                None::<&Tensor>,
                None::<&Tensor>,
                Reduction::None,
            )?;
            return each.f_mul(weights)?.f_mean(Kind::Float);
        }
        judged.f_binary_cross_entropy_with_logits(
            &domain,
            weights.as_ref(),
            None::<&Tensor>,
            Reduction::Mean,
        )
    }
}

/// Linear layers with ReLU between them, and behind each ReLU what `then` makes of it, which is told the place
/// of the layer that follows.
pub(super) fn through(
    x: &Tensor,
    own: &[Linear<'_>],
    then: impl Fn(Tensor, usize) -> Result<Tensor, TchError>,
) -> Result<Tensor, TchError> {
    let mut x = x.shallow_clone();
    for (place, layer) in own.iter().enumerate() {
        if place > 0 {
            x = then(x.f_relu()?, place)?;
        }
        x = x.f_linear(layer.weight, layer.bias)?;
    }
    Ok(x)
}
