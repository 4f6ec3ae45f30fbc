//! How gradients reach the owners of the slices, and what is kept where.

use serde::{Deserialize, Serialize};

/// How gradients reach the owners of the slices, and what is kept where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ExchangeSpec {
    /// The way of the gradients.
    pub sync: SyncKind,
    /// What each rank keeps only its own slices of.
    pub sharding: Sharding,
    /// Type of the tasks' gradients where they travel apart; all else travels as f32.
    pub dtype: ExchangeType,
    /// Compute a block's activations again in its backward pass instead of keeping them: less
    /// memory for about a third more time.
    pub recompute: bool,
    /// Cosines between the tasks' gradients at every step, in reports.
    pub affinity: Affinity,
}

/// The way of the gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SyncKind {
    /// Chosen when the job is planned; the plan says what and why.
    #[default]
    Auto,
    /// Every task's gradient goes to the owner of the slice, who combines them.
    OwnerCombine,
    /// One sum over all ranks: state is whole on every rank and task gradients are not seen apart.
    AllReduce,
}

/// What each rank keeps only its own slices of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Sharding {
    /// Nothing: every rank has it all.
    None,
    /// The optimizer's state.
    #[default]
    Optimizer,
    /// The optimizer's state and the parameters, which are gathered block by block; of the word table
    /// only the rows that a step reads.
    Full,
}

/// Type of the tasks' gradients where they travel apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ExchangeType {
    /// 32 bits: exact.
    #[default]
    F32,
    /// 16 bits: half the traffic of these gradients, which are rounded to 8 bits of mantissa; sums
    /// stay in 32. No effect where gradients are summed on their way, which the plan says.
    Bf16,
}

/// Whether cosines between the tasks' gradients are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// Where they cost nothing: where owners have the tasks' gradients apart anyway.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}
