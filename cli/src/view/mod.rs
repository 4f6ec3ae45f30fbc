//! Answers of the coordinator as data with stable names: what `-o json` and `-o yaml` print.

pub(crate) mod affinity;
pub(crate) mod cost;
pub(crate) mod hosts;
mod job;
pub(crate) mod recovery;
mod worker;

pub(crate) use job::{Event, Job, LogLine, STATES, state_name};
pub(crate) use recovery::Recovery;
pub(crate) use worker::{Worker, worker_state};

use crate::error::Error;
use crate::output::text::{moment, now_millis};
use espalier_proto::Violations;
use serde::Serialize;

/// A moment: RFC 3339 in answers, milliseconds for sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    /// Seconds from this moment to now; 0 if it lies in the future.
    pub(crate) fn age(self) -> f64 {
        now_millis().saturating_sub(self.0) as f64 / 1e3
    }
}

impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&moment(self.0))
    }
}

/// The error of an answer that this version of the command can't read.
fn unreadable(what: &str, violations: &Violations) -> Error {
    Error::failure(format!(
        "can't read the coordinator's answer about {what}: {violations}"
    ))
    .hint("`espalier version` shows whether command and coordinator are of one version")
}
