//! What the state machine asks of NCCL and the device, and how long it waits for them.

use std::time::Duration;

use super::dynamic::Said;
use crate::call::OpId;
use crate::error::{Error, Result};

/// What the library says about what it was asked for last, and about all that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    Busy,
    Done,
    Failed(String),
}

/// How far the device is with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Behind work that was on this rank's own stream before it.
    Queued,
    Running,
    Passed,
}

/// The handful of calls that the machine needs. None of them blocks.
pub(crate) trait Driver {
    /// An operation with its memory.
    type Work;

    /// Begins to make the communicator.
    fn init(&mut self) -> Said<()>;
    fn word(&mut self) -> Word;
    /// Whether all peers mean the same; None while not all have said so.
    fn agreed(&mut self, op: OpId, work: &mut Self::Work) -> Option<Result<()>>;
    /// Hands the operation to the library, behind the work it depends on.
    fn launch(&mut self, work: &mut Self::Work) -> Said<()>;
    /// Called once the library has put it on the stream: everything up to here belongs to it.
    fn mark(&mut self, work: &mut Self::Work) -> Said<()>;
    fn reached(&mut self, work: &Self::Work) -> Said<Reached>;
    /// A peer that is known to be gone, and why.
    fn lost(&mut self) -> Option<(usize, String)>;
    /// Tells the peers that this rank gives up.
    fn farewell(&mut self, why: &Error);
    /// Begins to abort. Called at most once, and nothing but `released` after it.
    fn abort(&mut self);
    /// True once the abort is over and the device has let go of everything.
    fn released(&mut self) -> bool;
    /// Begins to close in good order.
    fn finalize(&mut self) -> Said<()>;
    /// Frees what was closed in good order.
    fn destroy(&mut self);
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Set-up.
    pub(crate) init: Duration,
    /// An operation, from the moment that it is its turn.
    pub(crate) operation: Duration,
    /// After an abort, until the device has let go.
    pub(crate) release: Duration,
    /// Closing in good order.
    pub(crate) close: Duration,
    /// Between a failure and blame: the links to a dead peer and NCCL notice at different times.
    pub(crate) grace: Duration,
}
