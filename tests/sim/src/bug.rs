//! Mistakes that simulated processes make when told so, to show that the judge finds them. Only
//! with the feature `planted`.

/// A planted mistake, in the shell around the core, in the worker, in the store or in the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The leader answers and orders before its records are durable.
    AckBeforePersist,
    /// The store takes records of a leader whose term is over.
    FenceIgnored,
    /// An old generation's checkpoint is told again as the new one's.
    StaleReportRelabelled,
    /// A failed write is taken for a done one.
    LostRecord,
    /// A client draws a new request id when it asks again.
    NewRequestId,
    /// A rank restores the newest part it finds, not the one of the common step.
    MixedRestore,
    /// Snapshots are mirrored to the worker that has them already.
    BuddyIsSelf,
    /// A stop at a step boundary counts a step that was not done.
    HandoverSkipsStep,
    /// A generation goes on one step after the one that its state is of.
    LateReplay,
    /// A worker that was told to stop is taken for one that has stopped.
    SeatsGivenEarly,
    /// A broken control stream is taken for the worker's death.
    DeadOnControlLoss,
    /// The leader goes on after its lease has ended.
    ActsAfterLease,
    /// A checkpoint is reported before it is durable.
    CheckpointTooEarly,
    /// A new leader reads a copy of the log that lags behind.
    StaleRead,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 14] = [
        Bug::AckBeforePersist,
        Bug::FenceIgnored,
        Bug::StaleReportRelabelled,
        Bug::LostRecord,
        Bug::NewRequestId,
        Bug::MixedRestore,
        Bug::BuddyIsSelf,
        Bug::HandoverSkipsStep,
        Bug::LateReplay,
        Bug::SeatsGivenEarly,
        Bug::DeadOnControlLoss,
        Bug::ActsAfterLease,
        Bug::CheckpointTooEarly,
        Bug::StaleRead,
    ];

    /// The bug of this name, such as `FenceIgnored`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}
