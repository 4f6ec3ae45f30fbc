//! A task's own adapter: a bottleneck with a residual (Houlsby et al. 2019, arXiv 1902.00751) between the
//! shared backbone and the task's head.
//!
//! Shapes: b samples (or words), h hidden width, s width of the bottleneck.

use super::{Error, Linear, Parameter, layer};
use tch::Tensor;

/// Names of its layers, within the head's.
pub const ADAPTER: [&str; 2] = ["adapter_down", "adapter_up"];

/// What a task makes of the backbone's features before its head reads them.
#[derive(Debug)]
pub struct TaskAdapter<'a> {
    /// D [s, h] and d `[s]`.
    pub down: Linear<'a>,
    /// U [h, s] and u `[h]`.
    pub up: Linear<'a>,
}

impl TaskAdapter<'_> {
    /// x + GELU(x·Dᵀ + d)·Uᵀ + u, f32 [b, h], from features x f32 [b, h].
    ///
    /// # Errors
    /// Shapes that don't fit; errors of torch.
    pub fn forward(&self, features: &Tensor) -> Result<Tensor, Error> {
        let low_bs = self.down.forward(features, None)?.f_gelu("none")?;
        Ok(self.up.forward(&low_bs, None)?.f_add(features)?)
    }
}

/// The parameters of the adapter of `task`, layer by layer: D normal with the spread of the uniform
/// distribution in ±1/√h, all others 0, so that it changes nothing at first.
#[must_use]
pub fn adapter(seed: u64, task: &str, size: usize, hidden: usize) -> [[Parameter; 2]; 2] {
    let [down, up] = ADAPTER.map(|part| format!("heads.{task}.{part}"));
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let spread = 1.0 / (3.0 * hidden.max(1) as f64).sqrt();
    let mut up = layer(seed, &up, (hidden, size), 0.0);
    up[0].values.fill(0.0);
    [layer(seed, &down, (size, hidden), spread), up]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch;

    // Promise: an adapter has its formula, and changes nothing at first.
    #[test]
    fn an_adapter_has_its_formula() {
        let tensor = |values: &[f32], size: &[i64]| Tensor::from_slice(values).view(size);
        let x = tensor(&[1.0, 2.0, -3.0, 0.5], &[2, 2]);
        let [first_down, first_up] = adapter(7, "tone", 1, 2)
            .map(|layer| layer.map(|parameter| tensor(&parameter.values, &parameter.shape)));
        let at_first = TaskAdapter {
            down: Linear {
                weight: &first_down[0],
                bias: Some(&first_down[1]),
            },
            up: Linear {
                weight: &first_up[0],
                bias: Some(&first_up[1]),
            },
        };
        assert!(at_first.forward(&x).unwrap().equal(&x));
        let (d, u) = (tensor(&[2.0, 1.0], &[1, 2]), tensor(&[0.5, -1.0], &[2, 1]));
        let (low, high) = (tensor(&[-1.0], &[1]), tensor(&[0.25, 0.0], &[2]));
        let learned = TaskAdapter {
            down: Linear {
                weight: &d,
                bias: Some(&low),
            },
            up: Linear {
                weight: &u,
                bias: Some(&high),
            },
        };
        let found = learned.forward(&x).unwrap().contiguous();
        // GELU(3) = 2.9959502 and GELU(-6.5) = -2.6e-10, by the normal distribution's table.
        let expected = [1.0 + 1.497_975 + 0.25, 2.0 - 2.995_95, -3.0 + 0.25, 0.5];
        for (found, expected) in torch::data(&found).unwrap().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
        }
    }

    // Promise: parameters are named as heads' are, so that they are exported with them.
    #[test]
    fn parameters_belong_to_the_head() {
        let [down, up] = adapter(7, "tone", 3, 8);
        assert_eq!(down[0].name, "heads.tone.adapter_down.weight");
        assert_eq!(
            (down[0].shape.as_slice(), up[0].shape.as_slice()),
            (&[3, 8][..], &[8, 3][..])
        );
        assert_eq!(up[1].name, "heads.tone.adapter_up.bias");
        assert!(down[0].values.iter().any(|value| *value != 0.0));
        assert!(
            up[0]
                .values
                .iter()
                .chain(&up[1].values)
                .all(|value| *value == 0.0)
        );
    }
}
