//! The engine: trains one rank of a job. The only module that knows data, model, heads,
//! communication and checkpoints together.

mod adamw;
mod agree;
mod balancing;
mod cache;
mod combine;
mod decide;
mod error;
mod evaluate;
mod exact;
mod exchange;
mod forward;
mod headset;
mod kernel;
mod lanes;
mod memory;
mod metrics;
mod own_rows;
mod owner;
mod passes;
mod persist;
mod prefix;
mod progress;
mod rows;
mod run;
mod schedule;
mod sources;
mod step;
mod table;
mod thaw;
mod tracks;
mod trainer;
mod update;
mod words;

pub use error::{ABORTED, Error};
pub use evaluate::Which;
pub use headset::{HeadSet, LossSum};
pub use run::{Ending, RankContext, Tell, run_rank};
pub use sources::{Sources, inputs};
pub use step::{StepReport, StepTimes};
pub use trainer::{Trainer, pack};
pub use words::Words;
