//! What can go wrong, told to the person or program that must act.

use std::net::SocketAddr;
use std::time::Duration;

use crate::call::{Kind, OpId};

/// Result with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Failure of an operation or of setting up a communicator.
///
/// After any failed operation (except [`Error::Invalid`]) the communicator is broken: its links
/// are closed, peers are told why, and every later operation returns the first error again.
/// [`Error::retryable`] says whether a new communicator of a later generation may succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody on this rank called [`AbortHandle::abort`](crate::AbortHandle::abort).
    #[error("{what} aborted: {reason} (retryable)")]
    Aborted {
        /// What was going on, such as `all_reduce #7`.
        what: String,
        /// The reason given by the caller of `abort`.
        reason: String,
    },
    /// A peer closed its links or died.
    #[error("lost rank {peer} during {op}: {reason} (retryable in a new generation)")]
    PeerLost {
        /// The rank that is gone.
        peer: usize,
        /// The operation that noticed.
        op: OpId,
        /// Last words of the peer, or how the loss was noticed.
        reason: String,
    },
    /// A peer made no progress in time.
    #[error(
        "{op} waited {waited:.1?} for rank {peer} without progress, limit {limit:.1?} (retryable in a new generation)"
    )]
    Deadline {
        /// The rank that was waited for.
        peer: usize,
        /// The operation that waited.
        op: OpId,
        /// Time since the last byte moved.
        waited: Duration,
        /// The configured limit.
        limit: Duration,
    },
    /// Ranks issued different operations at the same position.
    #[error(
        "rank {rank} issued {ours}, but rank {peer} issued {theirs}; all ranks must issue the same operations in the same order (not retryable)"
    )]
    Mismatch {
        /// This rank.
        rank: usize,
        /// The rank that disagrees.
        peer: usize,
        /// This rank's operation.
        ours: String,
        /// The peer's operation.
        theirs: String,
    },
    /// A peer sent bytes that are not this protocol.
    #[error("rank {peer} broke the protocol during {op}: {detail} (not retryable)")]
    Protocol {
        /// The offender.
        peer: usize,
        /// The operation that noticed.
        op: OpId,
        /// What was found.
        detail: String,
    },
    /// An argument of a call makes no sense; nothing was sent.
    #[error("{kind}: {detail} (not retryable)")]
    Invalid {
        /// The operation that was asked for.
        kind: Kind,
        /// The argument, expected and found.
        detail: String,
    },
    /// The rendezvous description makes no sense.
    #[error("rendezvous of rank {rank}: {detail} (not retryable)")]
    Rendezvous {
        /// This rank.
        rank: usize,
        /// The field, expected and found.
        detail: String,
    },
    /// A peer answered, but does not want this rank.
    #[error("rank {peer} at {addr} refused: {reason} (not retryable)")]
    Refused {
        /// The peer that refused.
        peer: usize,
        /// Where it listens.
        addr: SocketAddr,
        /// Its answer.
        reason: String,
    },
    /// Who answers at a peer's address does not know the generation's secret.
    #[error(
        "rank {peer} at {addr} did not prove that it knows the secret of generation {generation}: it is another process, \
         or was told another secret (retryable in a new generation)"
    )]
    Unauthenticated {
        /// The peer that should be there.
        peer: usize,
        /// Where it listens.
        addr: SocketAddr,
        /// The generation.
        generation: u64,
    },
    /// A peer did not join in time.
    #[error("rank {peer} at {addr} did not join within {waited:.1?}: {reason} (retryable)")]
    Unreachable {
        /// The missing peer.
        peer: usize,
        /// Where it should listen.
        addr: SocketAddr,
        /// How long this rank waited.
        waited: Duration,
        /// The last thing that went wrong.
        reason: String,
    },
    /// The operating system said no on this rank.
    #[error("{what}: {reason} (retryable)")]
    System {
        /// What was tried.
        what: String,
        /// The system's answer.
        reason: String,
    },
    /// A library or device that a communicator needs is not there on this rank.
    #[error("{library} cannot be used: {reason}. {remedy} (not retryable)")]
    Unavailable {
        /// File name of the library.
        library: String,
        /// What was tried, where, and the answer.
        reason: String,
        /// What to install or set.
        remedy: String,
    },
    /// A peer cannot take part in this kind of communicator.
    #[error("rank {peer} cannot take part: {reason} (not retryable)")]
    Unfit {
        /// The rank that said so.
        peer: usize,
        /// Its reason.
        reason: String,
    },
    /// NCCL or the device failed.
    #[error("NCCL of generation {generation}, {what}: {reason} (retryable in a new generation)")]
    Nccl {
        /// The generation of the communicator.
        generation: u64,
        /// The operation, or `set-up` or `closing`.
        what: String,
        /// The rank to blame, where it is known.
        peer: Option<usize>,
        /// The library's or the peer's words.
        reason: String,
    },
    /// Device work did not end in time, and nobody is known to be gone.
    #[error(
        "NCCL of generation {generation}, {what} waited {waited:.1?} for {awaited}, limit {limit:.1?} (retryable in a new generation)"
    )]
    Stalled {
        /// The generation of the communicator.
        generation: u64,
        /// The operation, or `set-up` or `closing`.
        what: String,
        /// What did not come.
        awaited: &'static str,
        /// Time since it began.
        waited: Duration,
        /// The configured limit.
        limit: Duration,
    },
    /// A failed operation was aborted, but the device has not stopped: its memory stays lent.
    #[error(
        "NCCL of generation {generation}, {what}: {cause}; {waited:.1?} after the abort the device still works on it, so its memory is never given back: restart this worker process (not retryable)"
    )]
    Stuck {
        /// The generation of the communicator.
        generation: u64,
        /// The operation.
        what: String,
        /// The failure that led to the abort.
        cause: String,
        /// Time since the abort.
        waited: Duration,
    },
    /// A failed operation's memory can't be taken back from peers that may still write to it.
    #[error(
        "{op}: {cause}; its memory can't be taken back from peers ({reason}), so it is never given back: restart this worker process (not retryable)"
    )]
    Kept {
        /// The operation.
        op: OpId,
        /// The failure.
        cause: String,
        /// What the system said.
        reason: String,
    },
    /// A fault plan asked for this failure.
    #[error("injected fault at {what} (retryable)")]
    Injected {
        /// The operation chosen by the plan.
        what: String,
    },
}

impl Error {
    /// True if a new communicator (a later generation) may succeed with the same program.
    pub fn retryable(&self) -> bool {
        match self {
            Error::Aborted { .. }
            | Error::PeerLost { .. }
            | Error::Deadline { .. }
            | Error::Unreachable { .. }
            | Error::Unauthenticated { .. }
            | Error::System { .. }
            | Error::Nccl { .. }
            | Error::Stalled { .. }
            | Error::Injected { .. } => true,
            Error::Mismatch { .. }
            | Error::Protocol { .. }
            | Error::Invalid { .. }
            | Error::Rendezvous { .. }
            | Error::Unavailable { .. }
            | Error::Unfit { .. }
            | Error::Stuck { .. }
            | Error::Kept { .. }
            | Error::Refused { .. } => false,
        }
    }

    /// True if the operation's memory may still be read or written: it must never be used again.
    pub fn keeps_memory(&self) -> bool {
        matches!(self, Error::Stuck { .. } | Error::Kept { .. })
    }

    /// The rank to blame, if it is another one.
    pub fn peer(&self) -> Option<usize> {
        match self {
            Error::PeerLost { peer, .. }
            | Error::Deadline { peer, .. }
            | Error::Mismatch { peer, .. }
            | Error::Protocol { peer, .. }
            | Error::Refused { peer, .. }
            | Error::Unfit { peer, .. }
            | Error::Unauthenticated { peer, .. }
            | Error::Unreachable { peer, .. } => Some(*peer),
            Error::Nccl { peer, .. } => *peer,
            Error::Aborted { .. }
            | Error::Invalid { .. }
            | Error::Rendezvous { .. }
            | Error::System { .. }
            | Error::Unavailable { .. }
            | Error::Stalled { .. }
            | Error::Stuck { .. }
            | Error::Kept { .. }
            | Error::Injected { .. } => None,
        }
    }

    pub(crate) fn system(what: impl Into<String>, reason: impl std::fmt::Display) -> Error {
        Error::System {
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}
