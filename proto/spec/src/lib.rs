//! Espalier's vocabulary: ids, the job spec with its defaults and validation, and the plan.
//!
//! Everything here is plain data. Nothing here reads a file, the clock or the network, so every
//! crate may import it. Formats (YAML, protobuf) are turned into these types at the edges.

pub mod account;
pub mod adaptation;
mod adaptive;
mod affinity;
pub mod augment;
pub mod balancer;
pub mod check;
mod evaluation;
pub mod exchange;
pub mod group;
mod head;
pub mod id;
pub mod job;
mod join;
pub mod location;
mod loss;
pub mod plan;
pub mod recovery;
pub mod report;
mod resources;
pub mod segmentation;
pub mod span;
mod training;
mod tuning;
pub mod zero_shot;

pub use check::{Violation, check};
pub use group::InputGroups;
pub use id::{Generation, JobId, Rank, Shard, Step, WorkerId};
pub use job::JobSpec;
pub use location::Location;
pub use plan::Plan;
