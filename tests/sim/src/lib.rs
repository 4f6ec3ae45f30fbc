//! A whole cluster in one thread and one seed: the coordinator's real core, and models of all that
//! is around it.
//!
//! ```text
//!   clients ──requests──┐                   ┌──records, lease──> store
//!                       ├─> coordinators ───┤
//!   workers ──streams───┘   (espalier_core) └──orders──> workers ──steps──> ranks, disk
//! ```
//!
//! Time is simulated, and all chance comes from the seed: which of two messages is first, what is
//! lost, who dies when, whose clock jumps. So a seed is a story, and one that breaks a promise can
//! be played again. The [`judge`](crate::Broken) looks on from outside and knows what really
//! happened.

mod agent;
mod bug;
mod chain;
mod client;
mod dice;
mod elect;
mod fault;
mod judge;
mod lead;
mod net;
mod ranks;
mod snapshot;
mod store;
mod story;
mod take;
mod worker;
mod world;

pub use bug::Bug;
pub use judge::Broken;
pub use story::{Outcome, Setup, last_events, run, trace};
