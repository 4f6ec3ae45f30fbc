//! Balancers: how the gradients of K tasks become one update.
//!
//! Everything here is about plain numbers: losses, the K×K Gram matrix G of the tasks' gradients,
//! weights. No torch, no clock, no source of randomness: what is random is a function of (seed,
//! step), so that all ranks find the same weights without asking each other, and `exp`, `ln`,
//! `pow` and `cos` are libm's, so that every machine finds the same bits.
//!
//! # The convention
//!
//! An update is u = Σ w_k g_k, where g_k is the gradient of task k's mean loss over its samples of
//! the step. Updates are **sum-like**: with K tasks of orthogonal gradients of one length and
//! losses of 1, every method's weights are 1, as those of `equal` are. Papers whose weights sum to
//! 1 there (mean-like: RLW, GLS, FAMO, MGDA, CAGrad, IMTL-G, Aligned-MTL, UPGrad, DualProj, MoCo,
//! ExcessMTL, SDMGrad, MoDo, trimmed mean) are multiplied by K, the number of tasks in the step.
//! The exceptions, left as their papers have them: `mean` (the mean over the batch), `uw` (starts
//! at 1/2), `cagrad` (1 + c over its rescale). The methods `nash_mtl`, `fairgrad`, `si` and
//! `db_mtl` set a length of their own, which is kept. `scale` multiplies last.
//!
//! # Around a method
//!
//! [`build`] wraps the method; a step passes through, in this order: tasks that are not finite are
//! refused or dropped; `update_every`; log losses (g/l); `normalize`; the method; weights brought
//! back to the gradients as they came; `smoothing`; `scale`. A method that finds no solution
//! leaves the step with weights of 1 and says why ([`Weights::fallback`]); such a step enters
//! neither the smoothing nor what `update_every` keeps.
//!
//! Tasks that take no part in a step are left out of [`Facts`]; nothing stands in for them, and
//! their state waits for them under their index.

mod build;
mod error;
mod face;
mod gram;
mod math;
mod methods;
mod pipeline;
mod solve;
mod state;

pub use build::build;
pub use error::Error;
pub use face::{
    Balancer, Buffers, Elementwise, Facts, Fallback, Gradients, Mix, Needs, SliceAt, Weights,
};
pub use gram::Gram;
pub use methods::excess_mtl::accumulate;
pub use state::State;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod properties;
