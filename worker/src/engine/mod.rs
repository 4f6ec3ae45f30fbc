//! The engine: trains one rank of a job. The only module that knows data, model, heads,
//! communication and checkpoints together.

mod adamw;
mod error;
mod evaluate;
mod exchange;
mod headset;
mod owner;
mod persist;
mod progress;
mod rows;
mod run;
mod schedule;
mod sources;
mod step;
mod trainer;

pub use error::{ABORTED, Error};
pub use headset::{HeadSet, LossSum};
pub use run::{Ending, RankContext, Tell, run_rank};
pub use sources::{Sources, inputs};
pub use step::StepReport;
pub use trainer::{Trainer, pack};
