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

/// A supervised contrastive loss beside the task's own, over the samples that a rank computes together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ContrastiveSpec {
    /// How samples are compared.
    pub kind: ContrastiveKind,
    /// The backbone learns (1 - share) of the task's own loss and `share` of the contrastive one
    /// (Gunel et al. 2021, arXiv 2011.01403); above 0, at most 1. The head learns the whole of its own.
    pub share: f64,
    /// Cosines of features are divided by it; above 0. Small ones care for the nearest samples. `sup_con` only.
    pub temperature: f64,
}

impl Default for ContrastiveSpec {
    fn default() -> Self {
        Self {
            kind: ContrastiveKind::SupCon,
            share: 0.9,
            temperature: Self::TEMPERATURE,
        }
    }
}

impl ContrastiveSpec {
    /// The temperature where none is given.
    pub const TEMPERATURE: f64 = 0.1;
}

/// How a contrastive loss compares samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ContrastiveKind {
    /// By a softmax: each sample against all others at once (Khosla et al. 2020, arXiv 2004.11362).
    #[default]
    SupCon,
    /// By pairs: the cosine of two samples is brought to 1 in one class and to 0 in two, squared error, both sorts of
    /// pairs weighing the same, as SetFit does on drawn pairs (Tunstall et al. 2022, arXiv 2209.11055).
    Cosine,
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
