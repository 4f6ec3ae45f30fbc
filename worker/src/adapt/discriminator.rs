//! A classifier of domains: three linear layers with ReLU between them. TLLib has batch normalisation
//! before each ReLU; here there is none, as its statistics would be each rank's.

use super::Layer;
use crate::heads::Linear;
use tch::{Kind, Reduction, TchError, Tensor};

/// Its layers.
pub(super) fn layers(inputs: usize, hidden: usize) -> Vec<Layer> {
    vec![
        Layer::new("domain.0", inputs, hidden),
        Layer::new("domain.1", hidden, hidden),
        Layer::new("domain.2", hidden, 1),
    ]
}

/// Loss of telling the source (1) from the target (0), both of n rows in `x` `[2n, inputs]`, by binary
/// cross-entropy, a mean over all rows times their `weights` `[2n]`.
pub(super) fn loss(
    x: &Tensor,
    own: &[Linear<'_>],
    weights: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    let judged = through(x, own)?.f_squeeze_dim(1)?;
    let half = judged.size().first().copied().unwrap_or(0) / 2;
    let all = |value: f64| Tensor::f_full([half], value, (Kind::Float, x.device()));
    let domain = Tensor::f_cat(&[all(1.0)?, all(0.0)?], 0)?;
    judged.f_binary_cross_entropy_with_logits(&domain, weights, None::<&Tensor>, Reduction::Mean)
}

/// Linear layers with ReLU between them.
pub(super) fn through(x: &Tensor, own: &[Linear<'_>]) -> Result<Tensor, TchError> {
    let mut x = x.shallow_clone();
    for (index, layer) in own.iter().enumerate() {
        if index > 0 {
            x = x.f_relu()?;
        }
        x = x.f_linear(layer.weight, layer.bias)?;
    }
    Ok(x)
}
