//! Why the driver ends, and what it says to callers that it turns away.

use crate::store::StoreError;
use espalier_core::ReplayError;
use espalier_proto::{ApiError, ErrorKind};

/// Why the driver stopped or could not start.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
    /// The store's code panicked.
    #[error(
        "the store failed with a bug: {0}; restart, and restore the data directory if it recurs"
    )]
    Panicked(String),
    /// The store was not heard of for too long: another coordinator may have been elected.
    #[error("the lead has lapsed")]
    Lapsed,
    /// The log does not make sense.
    #[error("the store can't be replayed: {0}")]
    Replay(#[from] ReplayError),
}

/// The error of a coordinator that stops, or whose lead is over.
pub(crate) fn stopped() -> ApiError {
    ApiError::new(
        ErrorKind::Unavailable,
        "COORDINATOR_STOPPING",
        "the coordinator stops or another one takes over; nothing was acknowledged, try again",
    )
}

/// A refusal of the machine as the wire's error.
pub(crate) fn refusal(error: espalier_core::Error) -> ApiError {
    let kind = match error.kind {
        espalier_core::ErrorKind::NotFound => ErrorKind::NotFound,
        espalier_core::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        espalier_core::ErrorKind::FailedPrecondition => ErrorKind::FailedPrecondition,
        espalier_core::ErrorKind::InvalidArgument => ErrorKind::InvalidArgument,
    };
    ApiError::new(kind, error.reason, error.message)
}
