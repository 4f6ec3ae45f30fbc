//! `TrainingJob`, the resource: what somebody wants, and what is known of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Keeps a resource until its job is gone.
pub const FINALIZER: &str = "espalier.dev/job";

/// What somebody wants: a job, and how Kubernetes treats it.
///
/// The definition that is installed is [`crate::crd::definition`]'s, with the schema of job files in it.
#[derive(Clone, Debug, Default, PartialEq, CustomResource, Serialize, Deserialize)]
#[kube(
    group = "espalier.dev",
    version = "v1alpha1",
    kind = "TrainingJob",
    plural = "trainingjobs",
    shortname = "tj",
    namespaced,
    status = "TrainingJobStatus",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct TrainingJobSpec {
    /// The job file as an object, without `name` and `namespace`: those are the resource's.
    #[serde(default)]
    pub job: Value,
    /// Hold no ranks: a job that runs is paused with a checkpoint, one that was not submitted yet waits.
    #[serde(default)]
    pub suspend: bool,
    /// Seconds after the job's end until the resource and its job are deleted. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<u32>,
}

/// What is known of the job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainingJobStatus {
    /// Name of the job in the cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub job_name: String,
    /// The job's uid; absent until the coordinator has confirmed that it is this resource's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// With which id the job is submitted: written before the first try, so that any later one, of another
    /// operator too, finds the same job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Uid of a job that never ran and gives way to a changed one: written before it is cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Where the job is in its life: the one word that all conditions follow from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why it is there, in a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Steps done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// Steps in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_steps: Option<i64>,
    /// The newest change of the spec that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the exported model is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub export_path: String,
    /// Workers that the job wants now; 0 where it wants none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers_wanted: Option<i64>,
    /// When the job ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What follows from the state, for `kubectl wait`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Where a `TrainingJob` is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Not submitted yet.
    Pending,
    /// Not submitted since it is suspended.
    Suspended,
    /// Refused: it is no valid job, or its name is taken.
    Rejected,
    /// Waits for ranks.
    Queued,
    /// Workers load model and data.
    Preparing,
    /// Trains.
    Running,
    /// Writes its checkpoint and gives its ranks back.
    Pausing,
    /// Holds no ranks.
    Paused,
    /// Stops its ranks.
    Cancelling,
    /// Done; the model is exported.
    Succeeded,
    /// Ended by an error.
    Failed,
    /// Ended by somebody.
    Cancelled,
    /// The coordinator does not know the job any more.
    Lost,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 13] = [
        Self::Pending,
        Self::Suspended,
        Self::Rejected,
        Self::Queued,
        Self::Preparing,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Lost,
    ];

    /// Its name, as it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Suspended => "Suspended",
            Self::Rejected => "Rejected",
            Self::Queued => "Queued",
            Self::Preparing => "Preparing",
            Self::Running => "Running",
            Self::Pausing => "Pausing",
            Self::Paused => "Paused",
            Self::Cancelling => "Cancelling",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Lost => "Lost",
        }
    }

    /// Whether nothing will follow.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Lost
        )
    }

    /// Whether the job holds ranks or is about to, so that it can't be another job any more.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        matches!(
            self,
            Self::Preparing | Self::Running | Self::Pausing | Self::Cancelling
        )
    }
}

impl TrainingJob {
    /// Namespace and name, for messages and keys.
    #[must_use]
    pub fn key(&self) -> (String, String) {
        (
            self.metadata.namespace.clone().unwrap_or_default(),
            self.metadata.name.clone().unwrap_or_default(),
        )
    }

    /// Whether somebody has deleted it.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether it is kept until its job is gone.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let finalizers = self.metadata.finalizers.as_deref().unwrap_or_default();
        finalizers.iter().any(|finalizer| finalizer == FINALIZER)
    }
}
