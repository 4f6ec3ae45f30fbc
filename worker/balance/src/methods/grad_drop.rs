//! Gradient sign dropout.

use super::{Rule, Trouble};
use crate::face::{Elementwise, Facts, SliceAt};
use crate::math::{bits, in_stream};

/// GradDrop (Chen et al. 2020, arXiv 2010.06808), on parameters as TorchJD: per coordinate the
/// purity P = (1 + Σg/Σ|g|)/2 is the chance that positive parts stay, else the negative ones do;
/// what stays is added. `leak` (0) of what is dropped stays too. The draw of a coordinate is a
/// function of (seed, step, block, its number in the block). Sum-like as it is. O(K) a coordinate.
#[derive(Debug)]
pub(crate) struct GradDrop {
    leak: f32,
    scale: f32,
}

impl GradDrop {
    pub(crate) fn new(leak: f64, scale: f64) -> Self {
        Self {
            leak: leak as f32,
            scale: scale as f32,
        }
    }
}

impl Rule for GradDrop {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        Ok(vec![1.0; facts.tasks.len()])
    }

    fn elementwise(&self) -> Option<&dyn Elementwise> {
        Some(self)
    }
}

impl Elementwise for GradDrop {
    fn combine(&self, at: &SliceAt, gradients: &[&[f32]], out: &mut [f32]) {
        let stream = bits(&[at.seed, at.step, at.block]);
        for (i, out) in out.iter_mut().enumerate() {
            let (mut sum, mut size) = (0.0_f32, 0.0_f32);
            for gradient in gradients {
                sum += gradient[i];
                size += gradient[i].abs();
            }
            if size == 0.0 {
                *out = 0.0;
                continue;
            }
            let purity = f64::from(0.5 * (1.0 + sum / size));
            let draw = in_stream(stream, at.offset + i as u64);
            let positive = purity > draw;
            *out = 0.0;
            for gradient in gradients {
                let g = gradient[i];
                let stays = if g > 0.0 { positive } else { !positive };
                *out += if stays { g } else { self.leak * g };
            }
            *out *= self.scale;
        }
    }
}
