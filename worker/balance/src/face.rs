//! The face of the crate: what a step brings, what a balancer answers.

use crate::error::Error;
use crate::gram::Gram;
use crate::state::State;
use std::fmt;

/// What the engine knows at a step about the tasks that take part in it. All lists have one entry
/// per present task, in order of `tasks`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The step, from 0.
    pub step: u64,
    /// The job's seed.
    pub seed: u64,
    /// Passes over the data that are done.
    pub epoch: u64,
    /// Indices of the tasks in the job, ascending.
    pub tasks: &'a [usize],
    /// Mean loss of each over its samples of this step, unweighted.
    pub losses: &'a [f64],
    /// Samples of each in this step, over all ranks; only `mean` uses them. None: equally many.
    pub samples: Option<&'a [u64]>,
    /// The Gram matrix of the gradients of `losses`, unscaled. For [`Gradients::Buffers`] that of
    /// the buffers (but of the gradients in [`Buffers::mix`]), for [`Gradients::Representation`]
    /// that of the representation's gradients.
    pub gram: Option<&'a Gram>,
    /// J₁·J₂ᵀ of the gradients of two independent batches, row-major, not symmetric.
    pub cross: Option<&'a [f64]>,
    /// What [`crate::accumulate`] answered for each, summed over all slices.
    pub excess: Option<&'a [f64]>,
}

/// What a balancer needs from the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// What of the gradients.
    pub gradients: Gradients,
    /// Whether the losses of the same batch are wanted after the step too: [`Balancer::observe`].
    pub losses_after: bool,
}

/// What a balancer needs of the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradients {
    /// Nothing: the weights are known from the losses, before the backward pass.
    Losses,
    /// [`Facts::gram`].
    Gram,
    /// One f32 buffer per task, mixed as [`Balancer::buffers`] says; then [`Facts::gram`] of the
    /// buffers. The update is Σ w_k·buffer_k.
    Buffers,
    /// One f32 accumulator per task, fed by [`crate::accumulate`]; then [`Facts::excess`].
    Excess,
    /// The slices themselves: [`Balancer::elementwise`] makes the update.
    Elementwise,
    /// [`Facts::cross`]. The update is made of the mean of both batches' gradients.
    TwoBatches,
    /// [`Facts::gram`] of the gradients of the representation.
    Representation,
}

/// The answer to a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// w_k per present task; the update is Σ w_k g_k.
    pub values: Vec<f64>,
    /// Why all weights are equal although the method would have had them otherwise.
    pub fallback: Option<Fallback>,
    /// Positions (in [`Facts::tasks`]) of the tasks left out because they are not finite. Their
    /// weight is 0, but their gradient must not be touched: 0·NaN is NaN.
    pub dropped: Vec<usize>,
}

/// Why a step fell back to equal weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fallback {
    /// The tasks' gradients cancel: no direction lowers all losses.
    #[error("the tasks' gradients cancel each other, no direction lowers all losses")]
    Stationary,
    /// The solver stopped before its answer was exact.
    #[error("the solver did not converge")]
    NotSolved,
    /// The answer has weights that are no finite numbers.
    #[error("the method's weights are not finite numbers")]
    NotFinite,
}

/// Finds the weights of a job's tasks, step by step.
pub trait Balancer: Send + fmt::Debug {
    /// What the engine has to supply; the same over the whole job.
    fn needs(&self) -> Needs;

    /// The weights of this step. Calls go in order of steps, each once, with the same numbers on
    /// all ranks; the answers are then the same on all ranks, to the bit.
    ///
    /// # Errors
    /// Tasks that are not finite (unless they are to be skipped), facts that are missing or of the
    /// wrong shape, a negative loss where the method has no meaning for it.
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Weights, Error>;

    /// Takes the losses of the step's batch after the step ([`Needs::losses_after`]).
    fn observe(&mut self, tasks: &[usize], losses_after: &[f64]);

    /// How buffers are mixed, for [`Gradients::Buffers`].
    fn buffers(&self) -> Option<&dyn Buffers>;

    /// How slices are combined, for [`Gradients::Elementwise`].
    fn elementwise(&self) -> Option<&dyn Elementwise>;

    /// How many steps fell back to equal weights since the job began.
    fn fallbacks(&self) -> u64;

    /// All that later steps depend on.
    fn state(&self) -> State;

    /// Goes on from a state, to the bit.
    ///
    /// # Errors
    /// The state is another method's or for another number of tasks.
    fn restore(&mut self, state: &State) -> Result<(), Error>;
}

/// Buffers that track gradients: y_k ← keep·y_k + add·g_k, before [`Balancer::weights`]. They
/// begin at 0 and are the engine's to keep, with the slices of their owner.
pub trait Buffers {
    /// How each present task's buffer is mixed; [`Facts::gram`] is that of the gradients (only its
    /// diagonal is used). None: the task is not finite and to be skipped; leave its buffer alone
    /// and the task out of the step.
    ///
    /// # Errors
    /// As [`Balancer::weights`].
    fn mix(&self, facts: &Facts<'_>) -> Result<Vec<Option<Mix>>, Error>;
}

/// y ← keep·y + add·g.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Factor on the buffer.
    pub keep: f64,
    /// Factor on the gradient.
    pub add: f64,
}

/// Where a slice lies, for what is random per coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceAt {
    /// The job's seed.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// Which block.
    pub block: u64,
    /// Number of the slice's first coordinate in the block.
    pub offset: u64,
}

/// Makes the update of a slice out of the tasks' gradients of it.
pub trait Elementwise {
    /// `out` ← the update. All slices are of `out`'s length; at least one gradient. A block's
    /// update is the same however it is cut into slices.
    fn combine(&self, at: &SliceAt, gradients: &[&[f32]], out: &mut [f32]);
}
