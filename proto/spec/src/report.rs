//! What ranks report while a job runs: progress, evaluations, checkpoints, results.

pub use crate::affinity::{AFFINITY_MEMORY, Affinity, TaskGradient, TaskPair};

use crate::job::Metric;
use crate::{Rank, Step};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far a job is; replaced by the next one, never kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: Step,
    /// Steps in all.
    pub total_steps: u64,
    /// Samples trained on since the job began.
    pub samples: u64,
    /// Real tokens (no padding) trained on since the job began; 0 for images.
    pub tokens: u64,
    /// Samples a second over the last few seconds, all ranks together.
    pub samples_per_second: f64,
    /// Tokens a second over the last few seconds, all ranks together.
    pub tokens_per_second: f64,
    /// Seconds left at the current pace; none before the pace is known.
    pub eta_seconds: Option<f64>,
    /// Learning rate of the backbone at this step.
    pub learning_rate: f64,
    /// Global L2 norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Loss per task: mean over the samples of the last steps, in order of the job spec. A task
    /// that was in none of them is absent.
    pub losses: BTreeMap<String, f64>,
    /// Milliseconds that a sample of each task takes, measured over the last steps; a task not
    /// measured yet is absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub task_milliseconds: BTreeMap<String, f64>,
    /// How the tasks' gradients relate; only where they reach the owners apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// What the exchange costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<ExchangeStats>,
    /// What the reporting rank keeps in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryStats>,
}

/// What the exchange costs the reporting rank: means over the last steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExchangeStats {
    /// Bytes that it sends to other ranks in a step.
    pub bytes_sent_per_step: u64,
    /// Seconds that the exchange of a step takes from its first operation to its last, hidden
    /// behind computing or not.
    pub seconds_per_step: f64,
    /// Seconds of these in which it waited for other ranks with nothing to compute.
    pub exposed_seconds_per_step: f64,
    /// Seconds of a step spent on the balancer: Gram matrix, weights, combination.
    pub balance_seconds_per_step: f64,
    /// Steps since the job began in which the balancer found no weights and all tasks weighed the
    /// same.
    pub fallbacks: u64,
    /// Gradients of single tasks left out since the job began, since they were not finite.
    pub skipped_tasks: u64,
    /// Why the balancer last found no weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_fallback: Option<String>,
}

/// What the reporting rank keeps in memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// Parameters.
    pub parameter_bytes: u64,
    /// Gradients.
    pub gradient_bytes: u64,
    /// State of the optimizer.
    pub optimizer_bytes: u64,
    /// Buffers of the exchange.
    pub buffer_bytes: u64,
    /// Most bytes of parameters that were there at once in steps and evaluations.
    pub peak_parameter_bytes: u64,
    /// Most memory that its process ever had, all of the process's ranks together.
    pub peak_resident_bytes: u64,
}

/// Figures of one evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The step after which it was made.
    pub step: Step,
    /// `validation` or `test`.
    pub split: String,
    /// Figures of each task that was evaluated.
    pub tasks: BTreeMap<String, TaskScores>,
    /// The number that selects the best checkpoint: mean over tasks of each task's metric, its last one where a
    /// task was not evaluated.
    pub selection: f64,
    /// Whether this is the best evaluation so far.
    pub best: bool,
}

/// Figures of one task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskScores {
    /// Samples evaluated.
    pub samples: u64,
    /// Mean loss.
    pub loss: f64,
    /// Each metric that the head knows.
    pub metrics: BTreeMap<Metric, f64>,
    /// The metrics of always predicting the most frequent class (or the mean) of the training data.
    pub baseline: BTreeMap<Metric, f64>,
    /// Intersection over union of each class that is there or was found (`segmentation`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub class_iou: BTreeMap<String, f64>,
}

/// A durable recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Steps done at it.
    pub step: Step,
    /// Its directory on the workers.
    pub path: String,
    /// Whether it holds the best model so far.
    pub best: bool,
}

/// Why a job failed, for the person who must act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// A stable word: `bad_data`, `bad_model`, `nan_loss`, `disk_full`, `fetch`, `peer_lost`, `internal`, ...
    pub code: String,
    /// What happened, where, what was expected, what to do.
    pub message: String,
    /// Whether the same job can succeed if tried again.
    pub retryable: bool,
    /// The rank of another worker that is to blame: its links broke or it stopped answering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Rank>,
}
