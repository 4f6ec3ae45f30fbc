//! Coordinate-wise trimmed mean.

use super::{Rule, Trouble};
use crate::face::{Elementwise, Facts, SliceAt};

/// Trimmed mean (Yin et al. 2018, arXiv 1803.01498): per coordinate the `trim` (1) largest and
/// smallest are left out and the rest is averaged, times K here. With fewer tasks in a step than
/// 2·trim + 1, as many are left out as leave one. O(K log K) a coordinate.
#[derive(Debug)]
pub(crate) struct TrimmedMean {
    trim: usize,
    scale: f32,
}

impl TrimmedMean {
    pub(crate) fn new(trim: f64, scale: f64) -> Self {
        Self {
            // Checked: a whole number of at most a million.
            trim: trim as usize,
            scale: scale as f32,
        }
    }
}

impl Rule for TrimmedMean {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        Ok(vec![1.0; facts.tasks.len()])
    }

    fn elementwise(&self) -> Option<&dyn Elementwise> {
        Some(self)
    }
}

impl Elementwise for TrimmedMean {
    fn combine(&self, _: &SliceAt, gradients: &[&[f32]], out: &mut [f32]) {
        let k = gradients.len();
        let trim = self.trim.min(k.saturating_sub(1) / 2);
        let mut sorted = vec![0.0_f32; k];
        for (i, out) in out.iter_mut().enumerate() {
            for (value, gradient) in sorted.iter_mut().zip(gradients) {
                *value = gradient[i];
            }
            sorted.sort_unstable_by(f32::total_cmp);
            let kept = &sorted[trim..k - trim];
            let sum: f32 = kept.iter().sum();
            *out = sum / kept.len() as f32 * k as f32 * self.scale;
        }
    }
}
