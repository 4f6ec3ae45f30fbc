//! Coordinate-wise trimmed mean.

use super::{Rule, Trouble};
use crate::face::{Elementwise, Facts, SliceAt};

/// Trimmed mean (Yin et al. 2018, arXiv 1803.01498): per coordinate the `trim` (1) largest and
/// smallest are left out and the rest is averaged, times K here. With fewer tasks in a step than
/// 2·trim + 1, as many are left out as leave one. O(K log K) a coordinate,
/// O(K) where one is left out.
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
        let factor = k as f32 / (k - 2 * trim) as f32 * self.scale;
        if trim == 1 {
            for (i, out) in out.iter_mut().enumerate() {
                *out = inner_sum(gradients, i) * factor;
            }
            return;
        }
        let mut sorted = vec![0.0_f32; k];
        for (i, out) in out.iter_mut().enumerate() {
            for (value, gradient) in sorted.iter_mut().zip(gradients) {
                *value = gradient[i];
            }
            sorted.sort_unstable_by(f32::total_cmp);
            *out = sorted[trim..k - trim].iter().sum::<f32>() * factor;
        }
    }
}

/// The sum of a coordinate without one of the smallest and one of the largest: no sorting for the
/// usual case. The two are found first, so that an outlier never enters the sum.
fn inner_sum(gradients: &[&[f32]], i: usize) -> f32 {
    let (mut least, mut most) = (0, 0);
    for (task, gradient) in gradients.iter().enumerate() {
        if gradient[i] < gradients[least][i] {
            least = task;
        }
        if gradient[i] >= gradients[most][i] {
            most = task;
        }
    }
    let inner = gradients.iter().enumerate();
    inner
        .filter(|(task, _)| *task != least && *task != most)
        .map(|(_, gradient)| gradient[i])
        .sum()
}
