//! What can go wrong while a job is prepared or trained, sorted for the person who must act.

use crate::{checkpoint, data, heads, metrics, model};
use espalier_spec::Rank;
use espalier_spec::report::Failure;

/// Code of the failure of a rank that was told to stop at once.
pub const ABORTED: &str = "aborted";
/// Code of the failure of a rank whose links to another one broke.
pub const PEER_LOST: &str = "peer_lost";

/// What can go wrong while a job is prepared or trained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// The model directory, or an input that the model cannot take.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// A head's settings or targets.
    #[error(transparent)]
    Head(#[from] heads::Error),
    /// Tasks that share inputs which only one of them reads as words.
    #[error(
        "tasks {words} and {texts} share an input_group, but their inputs are lists of words to {words} and whole texts to {texts}, which CSV does not tell apart; give the files as JSON Lines or Parquet with a list of words in each row, or take one of the tasks out of the group"
    )]
    MixedWords {
        /// The task that reads words.
        words: String,
        /// The other one.
        texts: String,
    },
    /// A metric that no evaluation during training would tell.
    #[error(
        "task {task}: metric is {metric}, but no row of the validation data is of {lacks}, so no evaluation would tell it and none could be the best; add such rows to data.validation, or choose another metric"
    )]
    Unmeasurable {
        /// The task.
        task: String,
        /// Its metric.
        metric: &'static str,
        /// The classes that are not there, in words.
        lacks: &'static str,
    },
    /// An adaptation that cannot be.
    #[error(transparent)]
    Adapt(#[from] crate::adapt::Error),
    /// Predictions that cannot be scored.
    #[error(transparent)]
    Metric(#[from] metrics::Error),
    /// Communication with the other ranks.
    #[error(transparent)]
    Comm(#[from] espalier_comm::Error),
    /// A checkpoint or the export.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// Writing failed on some rank; all ranks know.
    #[error("{message}")]
    Persist {
        /// Which rank, and why.
        message: String,
        /// The failure's code there.
        code: String,
        /// Whether the same again can succeed there.
        retryable: bool,
    },
    /// libtorch.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// A task's loss is no number.
    #[error(
        "task {task}: the loss is not finite at step {step}; nothing of this step was applied and checkpoints are intact: lower the learning rate or look at the task's data"
    )]
    LossNotFinite {
        /// The task.
        task: String,
        /// Steps done before.
        step: u64,
    },
    /// The gradient is no number though all losses are.
    #[error(
        "the gradient is not finite at step {step}; nothing of this step was applied and checkpoints are intact: lower the learning rate"
    )]
    GradientNotFinite {
        /// Steps done before.
        step: u64,
    },
    /// One task's gradient is no number.
    #[error(
        "task {task}: the gradient is not finite at step {step}; nothing of this step was applied and checkpoints are intact: lower the learning rate, look at the task's data, or set balancer.on_non_finite: skip_task_step"
    )]
    TaskGradientNotFinite {
        /// The task.
        task: String,
        /// Steps done before.
        step: u64,
    },
    /// The balancer.
    #[error("balancer: {0}")]
    Balance(#[from] espalier_balance::Error),
    /// A device that cannot be used.
    #[error("device {device}: {message}")]
    Device {
        /// Its name.
        device: String,
        /// Why, and what to do.
        message: String,
    },
    /// The plan does not fit what this rank found.
    #[error("the plan does not fit this job: {0}")]
    Plan(String),
    /// The checkpoint to go on from is gone.
    #[error(
        "no whole checkpoint at or below step {step} in {dir}; do all workers see the same --data-dir?"
    )]
    NoCheckpoint {
        /// The step asked for.
        step: u64,
        /// Where it was looked for.
        dir: String,
    },
    /// A rank's part of the snapshot to go on from is in no worker's memory.
    #[error("snapshot of step {step}: the part of {rank} is missing: {message}")]
    NoSnapshot {
        /// The rank.
        rank: Rank,
        /// The snapshot's step.
        step: u64,
        /// Where it was looked for.
        message: String,
    },
}

impl Error {
    /// As the coordinator and people are told.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let (code, retryable) = match self {
            Error::Data(_) | Error::MixedWords { .. } | Error::Unmeasurable { .. } => {
                ("bad_data", false)
            }
            Error::Model(model::Error::Torch(_)) | Error::Torch(_) => ("torch", false),
            Error::Model(model::Error::Forbidden { .. }) => ("not_allowed", false),
            Error::Model(_) => ("bad_model", false),
            Error::Head(_) | Error::Adapt(_) => ("bad_spec", false),
            Error::Metric(_) => ("bad_data", false),
            Error::Comm(espalier_comm::Error::Aborted { .. }) => (ABORTED, true),
            Error::Comm(error) if error.retryable() => (PEER_LOST, true),
            Error::Comm(_) => ("comm", false),
            // A disk may have room again, or be back: the job goes on from what was durable before. How often
            // it tries in vain the coordinator bounds.
            Error::Checkpoint(checkpoint::Error::DiskFull { .. }) => ("disk_full", true),
            Error::Checkpoint(checkpoint::Error::Io { .. }) => ("checkpoint", true),
            Error::Checkpoint(_) => ("checkpoint", false),
            Error::Persist {
                code, retryable, ..
            } => (code.as_str(), *retryable),
            Error::LossNotFinite { .. }
            | Error::GradientNotFinite { .. }
            | Error::TaskGradientNotFinite { .. } => ("nan_loss", false),
            Error::Balance(_) => ("balancer", false),
            Error::Device { .. } => ("bad_device", false),
            Error::Plan(_) => ("internal", false),
            Error::NoCheckpoint { .. } => ("no_checkpoint", false),
            Error::NoSnapshot { .. } => ("no_snapshot", true),
        };
        let lost = match self {
            Error::Comm(
                espalier_comm::Error::PeerLost { peer, .. }
                | espalier_comm::Error::Deadline { peer, .. },
            ) => u32::try_from(*peer).ok().map(Rank),
            _ => None,
        };
        Failure {
            code: code.to_owned(),
            message: self.to_string(),
            retryable,
            lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    // Promise: what a disk refused can be tried again, on the rank that wrote and on those that only heard of it;
    // what was read and is damaged cannot.
    #[test]
    fn what_a_disk_refused_is_tried_again() {
        let failure = |error: checkpoint::Error| Error::from(error).failure();
        let refused =
            |kind: io::ErrorKind| checkpoint::Error::io("write", "a", io::Error::from(kind));
        for (error, code, retryable) in [
            (refused(io::ErrorKind::StorageFull), "disk_full", true),
            (refused(io::ErrorKind::QuotaExceeded), "disk_full", true),
            (refused(io::ErrorKind::FileTooLarge), "checkpoint", true),
            (
                checkpoint::Error::Damaged {
                    path: "a".into(),
                    message: "cut".to_owned(),
                },
                "checkpoint",
                false,
            ),
        ] {
            let found = failure(error);
            assert_eq!((found.code.as_str(), found.retryable), (code, retryable));
            let heard = Error::Persist {
                message: format!("rank 1: {}", found.message),
                code: found.code,
                retryable: found.retryable,
            };
            let heard = heard.failure();
            assert_eq!((heard.code.as_str(), heard.retryable), (code, retryable));
            assert!(heard.message.starts_with("rank 1: "), "{heard:?}");
        }
    }
}
