//! The times and limits the machine goes by.

/// Settings of the machine; the shell fills them from its own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Version of this coordinator; workers of another one are refused.
    pub version: String,
    /// Milliseconds between a worker's heartbeats; three missing ones make it unreachable.
    pub heartbeat_interval_ms: u64,
    /// Milliseconds that a worker may be unreachable before its ranks are given up.
    pub gone_after_ms: u64,
    /// Milliseconds that all workers of a job together have to prepare it.
    pub prepare_timeout_ms: u64,
    /// Milliseconds that a worker has to stop a job's ranks at once, or to confirm that they have
    /// ended.
    pub stop_timeout_ms: u64,
    /// Milliseconds that a worker has to write a checkpoint and stop.
    pub checkpoint_timeout_ms: u64,
    /// Generations in a row that may fail for passing reasons without progress, before the job
    /// fails: without a step that none had reached before, and without going on from a later one.
    pub max_restarts: u32,
    /// Milliseconds that a generation of an elastic job runs at least before it is stopped to take in
    /// more workers.
    pub scale_after_ms: u64,
    /// Free workers that load a running job beside those it has, to take a lost one's place; an
    /// elastic job that may take more workers has as many as that anyway.
    pub hot_spares: u32,
}

impl Config {
    /// The defaults, for a coordinator of this version.
    #[must_use]
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            version: version.into(),
            heartbeat_interval_ms: 1_000,
            gone_after_ms: 10_000,
            prepare_timeout_ms: 600_000,
            stop_timeout_ms: 30_000,
            checkpoint_timeout_ms: 600_000,
            max_restarts: 3,
            scale_after_ms: 5_000,
            hot_spares: 1,
        }
    }
}
