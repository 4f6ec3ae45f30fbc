//! Data: from a task's files to the samples that each rank computes in each step.
//!
//! Reading: [`source`] reads Parquet, JSON Lines and CSV cell by cell, [`labels`] turns cells into
//! targets, [`tokens`] turns text into token ids, [`media`] images and sounds into numbers, `mask` masks into
//! classes of pixels, [`dataset`] puts them together into a
//! [`TaskData`].
//!
//! Serving: [`order`] says which samples are in which step, a pure function of (seed, step), and
//! [`shard`] which shard computes which of them. [`loader`] prepares a rank's part ahead of time.
//! Nothing here knows models, devices or the network, and nothing here depends on timing: the same
//! job and seed give the same samples in the same order on any number of ranks.

mod adaptive;
mod audio;
pub mod augment;
mod cell;
pub mod dataset;
mod error;
mod features;
mod fit;
#[cfg(test)]
mod fuzz;
mod image;
pub mod inputs;
pub mod labels;
pub mod loader;
mod mask;
pub mod media;
mod mix;
pub mod order;
pub mod passage;
mod sampling;
pub mod shard;
pub mod source;
pub mod tokens;
pub mod vectors;

pub use adaptive::{Followed, Follower, agreements};
pub use augment::{Augmenter, Window};
pub use cell::Cell;
pub use dataset::{Classes, Modality, Shelf, Split, Stream, TaskData, load, load_beside};
pub use error::{Error, Place, Problem};
pub use features::Features;
pub use inputs::{Begun, Input, Inputs, NO_TOKEN};
pub use labels::{LabelSet, Labels, Masks};
pub use loader::{Loader, LoaderOptions, RankStep, Sample, ShardBatch};
pub use mask::mask_png;
pub use media::MediaReader;
pub use order::{Order, OrderTask, SampleRef, StepBatch, shuffled, total_steps};
pub use passage::Passage;
pub use shard::Placement;
pub use tokens::{Encoded, Tokenizer};
