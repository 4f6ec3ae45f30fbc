//! Stopping a communicator from another thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::{Error, Result};

/// Stops everything a communicator does or will do. Cloneable; may exist before the communicator,
/// so that a rendezvous can be given up too.
///
/// Aborting is final: a new generation takes a new handle.
#[derive(Debug, Clone)]
pub struct AbortHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Set once; the event stays readable from then on and wakes whoever polls.
    reason: OnceLock<String>,
    event: OwnedFd,
}

impl AbortHandle {
    /// A handle that has not been used.
    ///
    /// # Errors
    ///
    /// [`Error::System`] when the process is out of file descriptors.
    pub fn new() -> Result<AbortHandle> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::system("create an event for aborting", e))?;
        Ok(AbortHandle {
            inner: Arc::new(Inner {
                reason: OnceLock::new(),
                event,
            }),
        })
    }

    /// Makes the running, the waiting and all later operations of this rank fail with
    /// [`Error::Aborted`], and tells the peers, whose operations fail with
    /// [`Error::PeerLost`]. Only the first reason counts.
    pub fn abort(&self, reason: impl Into<String>) {
        if self.inner.reason.set(reason.into()).is_ok() {
            // Can only fail when the counter overflows, and then the event is readable anyway.
            let _ = rustix::io::write(&self.inner.event, &1u64.to_ne_bytes());
        }
    }

    /// The reason, if aborted.
    pub fn reason(&self) -> Option<&str> {
        self.inner.reason.get().map(String::as_str)
    }

    /// `Err(Aborted)` naming `what`, if aborted.
    pub(crate) fn check(&self, what: impl std::fmt::Display) -> Result<()> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(Error::Aborted {
                what: what.to_string(),
                reason: reason.to_string(),
            }),
        }
    }

    /// Readable once aborted.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.inner.event.as_fd()
    }
}
