//! What a forward pass must know besides its batch; dropout that depends on nothing else.

use super::{Error, mask};
use crate::torch;
use tch::{Device, TchError, Tensor};

/// What a forward pass must know besides its batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Dropout is on.
    pub train: bool,
    /// Seed of the job.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// Backward computes activations again instead of keeping them.
    pub recompute: bool,
    /// Blocks below this one are not trained at this step.
    pub from: usize,
}

impl Context {
    /// For evaluation: no dropout.
    #[must_use]
    pub fn eval() -> Self {
        Self::default()
    }

    /// Drops numbers of `x` [rows, width]: which ones is a function of (seed, step, site, row key,
    /// column) alone, so neither packing nor rank nor order matters. `site` counts the places of a
    /// model that drop.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn dropout(&self, x: Tensor, row_keys: &[u64], site: u64, p: f64) -> Result<Tensor, Error> {
        match self.kept(&x, row_keys, site, p)? {
            Some(mask) => Ok(x.f_mul(&mask)?),
            None => Ok(x),
        }
    }

    /// What [`Context::dropout`] multiplies `x` by: 0 or 1 / (1 - `p`); none where nothing is dropped.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn kept(
        &self,
        x: &Tensor,
        row_keys: &[u64],
        site: u64,
        p: f64,
    ) -> Result<Option<Tensor>, TchError> {
        if !self.train || p <= 0.0 {
            return Ok(None);
        }
        let size = x.size();
        let width = size.last().copied().unwrap_or(1) as usize;
        let mask = match x.device() {
            Device::Cpu => torch::dropout_mask(row_keys, width, self.key(site), p)?,
            device => mask::on(device, row_keys, width, (self.key(site), p))?,
        };
        mask.f_view(&size[..]).map(Some)
    }

    fn key(&self, site: u64) -> u64 {
        mix(mix(mix(self.seed) ^ self.step) ^ site)
    }
}

/// The finalizer of splitmix64 (Steele, Lea and Flood 2014) after its increment.
#[must_use]
pub fn mix(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    // Promise: a mask depends on its row's key, not on the place of the row; rates are right.
    #[test]
    fn masks_follow_their_rows() {
        let context = Context {
            train: true,
            seed: 7,
            step: 3,
            ..Context::default()
        };
        let ones = |rows: i64| Tensor::ones([rows, 64], (Kind::Float, Device::Cpu));
        let both = context.dropout(ones(2), &[11, 22], 5, 0.1).unwrap();
        let swapped = context.dropout(ones(2), &[22, 11], 5, 0.1).unwrap();
        assert!(both.get(0).equal(&swapped.get(1)) && both.get(1).equal(&swapped.get(0)));
        assert!(!both.get(0).equal(&both.get(1)));
        let keys: Vec<u64> = (0..4096).collect();
        let many = context.dropout(ones(4096), &keys, 5, 0.1).unwrap();
        let dropped = many
            .eq(0.0)
            .to_kind(Kind::Double)
            .mean(Kind::Double)
            .double_value(&[]);
        assert!((dropped - 0.1).abs() < 2e-3, "{dropped}");
        let mean = many.mean(Kind::Double).double_value(&[]);
        assert!((mean - 1.0).abs() < 3e-3, "{mean}");
    }
}
