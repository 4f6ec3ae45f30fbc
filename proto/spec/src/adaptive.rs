//! A sampler that follows how tasks learn.

use serde::{Deserialize, Serialize};

/// Draws tasks the more, the slower their losses fall, or the more their gradients agree. The run is cut into stages of `every_steps` steps.
/// L_k(s) is task k's mean loss over the samples of stage s, l_k its moving average, and
/// r_k = l_k / L_k(0), the inverse training rate of Chen et al. 2018 (`GradNorm`, arXiv 1711.02257). Then
/// p_k ∝ n_k^(1/T) · r_k^alpha, where the second factor is kept within 1/10 and 10. The shares of stage s
/// follow from losses of the stages up to s - 2, so a batch depends on no loss of the `every_steps` steps
/// before it, which are being prepared meanwhile; the first two stages have r_k = 1. Tasks of one input
/// group are drawn together: by the mean of their r_k.
///
/// With `by: affinity`, r_k = 1 + a_k: a_k is the moving average of A_k(s), which is the mean over the steps of
/// stage s of the mean cosine between task k's gradient on the backbone and that of each other task in the step.
/// So r_k goes from 0 (against all others) over 1 (across them) to 2 (along with them).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AdaptiveSpec {
    /// Strength; 0 follows no loss. Default 1.
    pub alpha: f64,
    /// Steps of a stage, at least 8. Default 50.
    pub every_steps: u64,
    /// Share of the average before in the moving average, 0 to below 1. Default 0.5.
    pub smoothing: f64,
    /// T of the shares to start with; default 1: in proportion to the numbers of samples.
    pub temperature: f64,
    /// What is followed. Default `losses`.
    pub by: AdaptiveBy,
}

/// What shares follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AdaptiveBy {
    /// How fast losses fall.
    #[default]
    Losses,
    /// How much gradients agree, which must travel apart for it.
    Affinity,
}

impl AdaptiveBy {
    /// The name in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AdaptiveBy::Losses => "losses",
            AdaptiveBy::Affinity => "affinity",
        }
    }
}

impl AdaptiveSpec {
    /// The least number of steps of a stage: more than a loader prepares ahead.
    pub const LEAST: u64 = 8;
}

impl Default for AdaptiveSpec {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            every_steps: 50,
            smoothing: 0.5,
            temperature: 1.0,
            by: AdaptiveBy::Losses,
        }
    }
}
