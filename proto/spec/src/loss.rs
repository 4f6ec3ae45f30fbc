//! Details of a task's loss.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Details of a task's loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LossSpec {
    /// Weights of the classes.
    #[serde(default)]
    pub class_weights: ClassWeights,
    /// Share of probability spread over all classes, 0 (off) to below 1; `single_label` only.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Let the backbone learn to bring samples of a class together and those of others apart;
    /// `single_label` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contrastive: Option<ContrastiveSpec>,
}

/// A supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362) beside the task's own, over
/// the samples that a rank computes together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ContrastiveSpec {
    /// The backbone learns (1 - share) of the task's own loss and `share` of the contrastive one
    /// (Gunel et al. 2021, arXiv 2011.01403); above 0, at most 1. The head learns the whole of its own.
    pub share: f64,
    /// Cosines of features are divided by it; above 0. Small ones care for the nearest samples.
    pub temperature: f64,
}

impl Default for ContrastiveSpec {
    fn default() -> Self {
        Self {
            share: 0.9,
            temperature: 0.1,
        }
    }
}

/// Weights of the classes in a loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ClassWeights {
    /// All classes weigh 1.
    #[default]
    None,
    /// n / (classes · n_class), so that every class weighs the same in sum.
    Balanced,
    /// Given per class; classes not named weigh 1.
    Given(BTreeMap<String, f64>),
}
