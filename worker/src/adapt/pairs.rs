//! What methods look at, and what several of them do with it.

use crate::model::Context;
use tch::{Kind, TchError, Tensor};

/// Samples of one domain that are computed together.
#[derive(Clone, Copy, Debug)]
pub struct Domain<'a> {
    /// Their features `[n, f]`.
    pub features: &'a Tensor,
    /// What the task's head says of them `[n, c]`.
    pub logits: &'a Tensor,
    /// Their identities for dropout.
    pub keys: &'a [u64],
}

/// Samples of the source and of the target, as many of each: n = m. Only of one source among several there may be
/// fewer than of the target.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// Features of the source `[n, f]`.
    pub source: &'a Tensor,
    /// Features of the target `[m, f]`.
    pub target: &'a Tensor,
    /// Outputs of the task's head for the source `[n, c]`.
    pub source_logits: &'a Tensor,
    /// Outputs of the task's head for the target `[m, c]`.
    pub target_logits: &'a Tensor,
    /// Strength of the method, 0 to 1, for what reverses gradients.
    pub strength: f64,
    /// Seed and step, for dropout of the method's own layers.
    pub context: Context,
    /// Identities of the samples for dropout, of the source and then of the target `[n + m]`.
    pub keys: &'a [u64],
}

impl Pairs<'_> {
    /// Numbers of samples of the source and of the target.
    pub(super) fn counts(&self) -> [i64; 2] {
        [self.source, self.target].map(|x| x.size().first().copied().unwrap_or(0))
    }

    /// Weights `[n + m]` of mean 1 with which both domains weigh the same in a mean over all samples; none if they
    /// have equally many.
    pub(super) fn even(&self) -> Result<Option<Tensor>, TchError> {
        let [source, target] = self.counts();
        if source == target {
            return Ok(None);
        }
        let half = (source + target) as f64 / 2.0;
        let options = (Kind::Float, self.source.device());
        let all = |count: i64| Tensor::f_full([count], half / count.max(1) as f64, options);
        Tensor::f_cat(&[all(source)?, all(target)?], 0).map(Some)
    }

    /// Drops numbers of `x`, which has a row for each sample of the source and then of the target; see
    /// [`Context::dropout`].
    pub(super) fn dropped(&self, x: Tensor, site: u64, p: f64) -> Result<Tensor, TchError> {
        match self.context.kept(&x, self.keys, site, p)? {
            Some(mask) => x.f_mul(&mask),
            None => Ok(x),
        }
    }

    /// Features of the source, then of the target `[n + m, f]`.
    pub(super) fn features(&self) -> Result<Tensor, TchError> {
        Tensor::f_cat(&[self.source, self.target], 0)
    }

    /// Outputs for the source, then for the target `[n + m, c]`.
    pub(super) fn logits(&self) -> Result<Tensor, TchError> {
        Tensor::f_cat(&[self.source_logits, self.target_logits], 0)
    }
}

/// Strength after `done` steps of a warm-up of `steps`: 2 / (1 + exp(-10 p)) - 1 at the share p of it,
/// 1 without one (Ganin et al. 2016, section 5.2.2). TLLib reaches 0.46 after 1,000 steps at first, as
/// it takes exp(-p) with p = steps / 1000 and no end.
#[must_use]
pub fn strength(done: u64, steps: u64) -> f64 {
    if steps == 0 {
        return 1.0;
    }
    let share = (done as f64 / steps as f64).min(1.0);
    2.0 / (1.0 + (-10.0 * share).exp()) - 1.0
}

/// The same numbers, whose gradient comes back multiplied by -`strength` (gradient reversal).
///
/// # Errors
/// If libtorch refuses.
pub fn reversed(x: &Tensor, strength: f64) -> Result<Tensor, TchError> {
    let still = x.f_detach()?;
    // x - strength · (x - x): not a bit of x changes.
    let moving = x.f_sub(&still)?.f_mul_scalar(-strength)?;
    still.f_add(&moving)
}

/// Entropy of each row of probabilities `[b]`, from outputs `[b, c]`, in nats.
pub(super) fn entropies(logits: &Tensor) -> Result<Tensor, TchError> {
    let logs = logits.f_log_softmax(-1, Kind::Float)?;
    logs.f_exp()?
        .f_mul(&logs)?
        .f_sum_dim_intlist(&[-1i64][..], false, Kind::Float)?
        .f_neg()
}
