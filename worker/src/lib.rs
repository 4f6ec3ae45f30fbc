//! Espalier's worker: data, model, heads, engine, checkpoints and the agent.

pub mod adapt;
pub mod agent;
pub mod allow;
pub mod checkpoint;
pub mod data;
pub mod device;
pub mod engine;
pub mod fetch;
pub mod generate;
pub mod heads;
pub mod metrics;
pub mod model;
pub mod predict;
pub mod torch;
pub mod zero_shot;
