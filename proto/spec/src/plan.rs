//! The plan: what the coordinator decides and the ranks of one generation obey.

use crate::exchange::{ExchangeType, Sharding};
use crate::{Generation, JobId, Rank, Shard, WorkerId};
use serde::{Deserialize, Serialize};

/// A rank's place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The rank.
    pub rank: Rank,
    /// The worker that hosts it.
    pub worker: WorkerId,
    /// Which of the worker's devices, from 0.
    pub device: u32,
}

/// What a rank's worker found out about a job while it prepared it; the same on all ranks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Blocks of the model in order, heads last.
    pub blocks: Vec<BlockProfile>,
    /// Tasks in the order of the job spec.
    pub tasks: Vec<TaskProfile>,
    /// Digest of the versions of the files that were fetched from URLs; empty if there are none.
    #[serde(default)]
    pub fetched: String,
}

impl Profile {
    /// Whether both workers fetched files, but not the same versions of them. Of one that says nothing nobody
    /// knows: it may be of an older release.
    #[must_use]
    pub fn fetched_others(&self, other: &Self) -> bool {
        let both = !self.fetched.is_empty() && !other.fetched.is_empty();
        both && self.fetched != other.fetched
    }

    /// Whether another worker found the same model and data.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        !self.fetched_others(other) && self.blocks == other.blocks && self.tasks == other.tasks
    }
}

/// Size of one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockProfile {
    /// Name, such as `encoder.layer.3`.
    pub name: String,
    /// Trainable numbers in it; 0 if it is frozen.
    pub trainable: u64,
    /// All numbers in it.
    pub total: u64,
}

/// Cost of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskProfile {
    /// Name of the task.
    pub name: String,
    /// Training samples.
    pub train_samples: u64,
    /// Share p_k of this task's samples in a batch.
    pub share: f64,
    /// Mean cost of a sample: tokens for text, 1 for images.
    pub sample_cost: f64,
}

/// What every rank of a generation obeys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The job.
    pub job: JobId,
    /// The generation this plan is for.
    pub generation: Generation,
    /// The world: seats in order of rank.
    pub seats: Vec<Seat>,
    /// Shards of each rank, in order: they tile 0 to the number of shards.
    pub shards: Vec<Vec<Shard>>,
    /// Tasks in the order of the job spec.
    pub tasks: Vec<TaskPlacement>,
    /// Blocks in order; each block's slices tile it.
    pub blocks: Vec<BlockPlacement>,
    /// How gradients travel.
    #[serde(default)]
    pub exchange: ExchangePlan,
    /// Why the plan is so, in sentences for people.
    pub reasons: Vec<String>,
}

/// How gradients travel: what was decided where the job spec may leave it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExchangePlan {
    /// The way of the gradients.
    pub sync: SyncPath,
    /// What each rank keeps only its own slices of.
    pub sharding: Sharding,
    /// Whether a rank sends one gradient for each of its tasks, else one for all of them.
    pub apart: bool,
    /// Type of the numbers that travel.
    pub dtype: ExchangeType,
}

/// The way of the gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncPath {
    /// To the owners of the slices, who combine them.
    #[default]
    OwnerCombine,
    /// Summed over all ranks.
    AllReduce,
}

/// Which shards serve a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskPlacement {
    /// Name of the task.
    pub task: String,
    /// Shards that compute samples of the task, in order; never empty.
    pub shards: Vec<Shard>,
    /// Predicted share of the job's work that each of them does for this task; sums over all tasks
    /// to 1.
    pub load: Vec<f64>,
}

/// Who owns which slice of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockPlacement {
    /// Name of the block.
    pub block: String,
    /// End of each rank's slice in numbers, in order of rank; rank r owns `ends[r-1]..ends[r]`.
    /// Empty if the block is frozen.
    pub ends: Vec<u64>,
}

impl BlockPlacement {
    /// The slice of `rank` in numbers; empty if the block is frozen.
    #[must_use]
    pub fn slice(&self, rank: Rank) -> std::ops::Range<u64> {
        let index = rank.0 as usize;
        let end = self.ends.get(index).copied().unwrap_or(0);
        let start = if index == 0 {
            0
        } else {
            self.ends.get(index - 1).copied().unwrap_or(end)
        };
        start..end
    }
}
