//! What a job asks of the cluster.

use crate::recovery::WorkerRange;
use serde::{Deserialize, Serialize};

/// What a job asks of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Ranks (devices) the job trains on; default: every rank of the cluster at the time the job
    /// is placed for the first time, at most one per shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<u32>,
    /// Shards (logical ranks) that every step's batch is split into; default: one per rank. Fix it
    /// to train alike on other numbers of ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<u32>,
    /// Kind of device.
    pub device: Device,
    /// Between how many workers the job may run. Its ranks stay as many as they are and share devices
    /// where there are fewer of these; bits do not depend on it. Default: each rank has a device of its
    /// own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkerRange>,
}

/// Kind of device that a rank computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// A GPU where every rank has one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}
