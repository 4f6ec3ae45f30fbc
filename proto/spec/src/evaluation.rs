//! Evaluation: when, and which checkpoint is best.

use serde::{Deserialize, Serialize};

/// When tasks are evaluated and what follows from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSpec {
    /// Evaluate on the validation files every so many steps and at the end. Default: at the end
    /// only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    /// Samples per batch of evaluation, per rank.
    pub batch_size: u32,
    /// Keep and export the model of the best evaluation (mean over tasks of what `select_by` names)
    /// instead of the last one.
    pub select_best: bool,
    /// What makes an evaluation the best.
    pub select_by: SelectBy,
    /// Stop when this many evaluations in a row brought no better model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<u32>,
}

impl Default for EvaluationSpec {
    fn default() -> Self {
        Self {
            every_steps: None,
            batch_size: 64,
            select_best: true,
            select_by: SelectBy::Metric,
            early_stopping_patience: None,
        }
    }
}

/// How the evaluations of one task depart from `evaluation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskEvaluationSpec {
    /// Evaluate the task only every so many steps, a multiple of `evaluation.every_steps`, at the first
    /// evaluation and at the end. In evaluations between them its figure of the last one counts for what is the
    /// best.
    pub every_steps: u64,
}

/// What makes an evaluation the best. All but `metric` need no labels: they look at the predictions on a
/// task's target samples, or, of a task without `adaptation`, on its validation samples; on 2,000 of
/// them, evenly spaced, if there are more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SelectBy {
    /// The largest metric of each task on its validation files (`mse`: the smallest).
    #[default]
    Metric,
    /// The least mean entropy of the predictions.
    Entropy,
    /// Entropy of the mean prediction less the mean of their entropies: sure, but not all alike.
    InformationMaximisation,
    /// The largest soft neighbourhood density: predictions in dense clusters (Saito et al. 2021, arXiv
    /// 2108.10860, temperature 0.05).
    SoftNeighbourhoodDensity,
}

impl SelectBy {
    /// The name in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SelectBy::Metric => "metric",
            SelectBy::Entropy => "entropy",
            SelectBy::InformationMaximisation => "information_maximisation",
            SelectBy::SoftNeighbourhoodDensity => "soft_neighbourhood_density",
        }
    }
}
