//! Where the coordinator's records are durable.
//!
//! A [`Store`] is a log of numbered records and the newest snapshot, which replaces the records up
//! to its number. It holds bytes; `codec` gives them their meaning. One conformance suite runs over
//! every implementation.

pub(crate) mod codec;
mod etcd;
mod memory;
mod redb;

pub use self::etcd::EtcdStore;
pub use self::redb::RedbStore;
pub use memory::MemoryStore;

/// A durable log with a snapshot.
pub trait Store: Send + 'static {
    /// Makes `entries` durable as one: all or none. Their numbers are `first`, `first + 1`, ...
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if `first` is not the number after the newest one: someone else
    /// wrote. Then and after every other error nothing was written.
    fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<(), StoreError>;

    /// Everything that is stored.
    fn load(&mut self) -> Result<Log, StoreError>;

    /// Makes a snapshot durable and drops the entries up to `applied`, the newest number that it
    /// contains.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if `applied` was never appended or is older than the snapshot.
    fn snapshot(&mut self, applied: u64, snapshot: &[u8]) -> Result<(), StoreError>;

    /// Whose store this is, and the term of whoever has it open.
    fn lead(&self) -> Lead {
        Lead::default()
    }
}

/// Which coordinator speaks for which cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Grows each time that a coordinator takes the store over.
    pub term: u64,
    /// The cluster; empty if its store does not last.
    pub cluster: String,
}

impl Default for Lead {
    fn default() -> Self {
        Self {
            term: 1,
            cluster: String::new(),
        }
    }
}

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The newest snapshot and the newest number that it contains.
    pub snapshot: Option<(u64, Vec<u8>)>,
    /// The entries after it, in order of their numbers.
    pub entries: Vec<(u64, Vec<u8>)>,
}

impl Log {
    /// The newest number; 0 if nothing was ever stored.
    #[must_use]
    pub fn newest(&self) -> u64 {
        let snapshot = self.snapshot.as_ref().map_or(0, |(applied, _)| *applied);
        self.entries.last().map_or(snapshot, |(number, _)| *number)
    }
}

/// Why a store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another coordinator has the store open.
    #[error(
        "{path} is in use by another coordinator; stop it, or give this one its own --data-dir"
    )]
    InUse {
        /// The store.
        path: String,
    },
    /// The store's content is not what was written.
    #[error(
        "{path} is damaged ({detail}); restore it from a backup, or move it away to start empty"
    )]
    Corrupt {
        /// The store.
        path: String,
        /// What was found.
        detail: String,
    },
    /// The numbers do not fit: someone else wrote, or a bug.
    #[error("the log's newest record is {newest}, can't write at {offered}")]
    Conflict {
        /// The newest number in the store.
        newest: u64,
        /// The number that was to be written.
        offered: u64,
    },
    /// A record can't be turned into bytes or back.
    #[error("record {number} can't be {action}: {detail}")]
    Codec {
        /// The number of the record; 0 for the snapshot.
        number: u64,
        /// `written` or `read`.
        action: &'static str,
        /// Why.
        detail: String,
    },
    /// The store does not answer. What was to be written may have been written.
    #[error("{path} can't be reached: {detail}")]
    Away {
        /// The store.
        path: String,
        /// What was tried last.
        detail: String,
    },
    /// Another coordinator has been elected.
    #[error("{path}: another coordinator leads, term {term} is over")]
    Fenced {
        /// The store.
        path: String,
        /// The term of this one.
        term: i64,
    },
    /// The disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The store.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StoreError {
    /// Whether the same call can succeed if tried again.
    #[must_use]
    pub fn retryable(&self) -> bool {
        use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        match self {
            Self::Away { .. } => true,
            Self::Io { source, .. } => matches!(source.kind(), Interrupted | WouldBlock | TimedOut),
            _ => false,
        }
    }

    /// Whether it ends this coordinator's lead and nothing else: another one leads, or none can.
    #[must_use]
    pub fn ends_lead(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Fenced { .. })
    }
}

/// Checks that `first` follows `newest`.
fn follows(newest: u64, first: u64) -> Result<(), StoreError> {
    if newest.checked_add(1) == Some(first) {
        Ok(())
    } else {
        Err(StoreError::Conflict {
            newest,
            offered: first,
        })
    }
}

/// Checks that a snapshot at `applied` is neither ahead of the log nor behind the last snapshot.
fn within(oldest: u64, newest: u64, applied: u64) -> Result<(), StoreError> {
    if (oldest..=newest).contains(&applied) {
        Ok(())
    } else {
        Err(StoreError::Conflict {
            newest,
            offered: applied,
        })
    }
}
