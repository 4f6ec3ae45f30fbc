//! What is persisted: the changes of the durable state, in order, one after another.
//!
//! State that must survive changes by applying records and in no other way. A later version adds
//! variants; those that exist never change their meaning. The texts are made for a format that
//! names its fields (JSON).

use crate::event::Time;
use crate::state::State;
use serde::{Deserialize, Serialize};

/// One durable change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// Version 1.
    V1(Change),
}

/// A change of the durable state, version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Placeholder.
    None(Time),
}

/// The whole durable state after a number of records: replaces them in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Snapshot {
    /// Version 1.
    V1 {
        /// Records that are contained: their sequence numbers are 1 to this one.
        applied: u64,
        /// The state after them.
        state: Box<State>,
    },
}

/// A log that can't be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A record is missing.
    #[error(
        "record {expected} is missing from the log: the next one found is {found}; restore the store from a backup"
    )]
    Gap {
        /// Sequence number of the record that should have come.
        expected: u64,
        /// Sequence number of the one that came.
        found: u64,
    },
    /// A record contradicts the state before it.
    #[error(
        "record {sequence} doesn't fit the state before it: {message}; restore the store from a backup"
    )]
    Contradiction {
        /// Sequence number of the record.
        sequence: u64,
        /// What does not fit.
        message: String,
    },
}
