//! An incident of a job: what ended a generation, and what it took until the next one trained.

use super::{Moment, unreadable};
use crate::error::Result;
use espalier_proto::{Wire, v1};
use espalier_spec::recovery::{self, Cause, Source};
use serde::Serialize;

/// An incident.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Recovery {
    /// The generation that went on.
    pub(crate) generation: u64,
    /// Why the one before it ended.
    pub(crate) cause: Cause,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) worker: String,
    pub(crate) reason: String,
    /// Most steps that were known to be done before.
    pub(crate) reached_step: u64,
    /// Steps done where it went on.
    pub(crate) from_step: u64,
    /// Whether its ranks have said so; until then it is where they were told to go on.
    #[serde(skip)]
    pub(crate) is_taken_up: bool,
    /// Where its state came from.
    pub(crate) source: Source,
    pub(crate) replayed_steps: u64,
    pub(crate) replayed_samples: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault_time: Option<Moment>,
    pub(crate) detected_time: Moment,
    /// How long each part took; what has not been reached is absent.
    pub(crate) seconds: Seconds,
}

/// The parts of an incident, one after another.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Seconds {
    /// From the last sign of life of what was lost until that was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detect: Option<f64>,
    /// Until all workers of the next generation had prepared it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agree: Option<f64>,
    /// Until all ranks were connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connect: Option<f64>,
    /// Until all ranks had their state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restore: Option<f64>,
    /// Until the first step was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_step: Option<f64>,
    /// All of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total: Option<f64>,
}

impl Recovery {
    /// Reads an incident of `what`.
    ///
    /// # Errors
    /// It comes from a version that this one can't read.
    pub(crate) fn read(message: v1::Recovery, what: &str) -> Result<Self> {
        let read = recovery::Recovery::from_wire(message);
        read.map(Self::from)
            .map_err(|violations| unreadable(what, &violations))
    }
}

impl From<recovery::Recovery> for Recovery {
    fn from(read: recovery::Recovery) -> Self {
        let detected = Some(read.detected);
        let begun = read.fault.or(detected);
        let seconds = Seconds {
            detect: between(read.fault, detected),
            agree: between(detected, read.agreed),
            connect: between(read.agreed, read.connected),
            restore: between(read.connected, read.restored),
            first_step: between(read.restored, read.first_step),
            total: between(begun, read.first_step),
        };
        Self {
            replayed_steps: read.replayed_steps(),
            generation: read.generation.0,
            cause: read.cause,
            worker: read.worker.map(|worker| worker.0).unwrap_or_default(),
            reason: read.reason,
            reached_step: read.reached.0,
            from_step: read.from.0,
            is_taken_up: read.restored.or(read.first_step).is_some(),
            source: read.source,
            replayed_samples: read.replayed_samples,
            fault_time: read.fault.map(Moment),
            detected_time: Moment(read.detected),
            seconds,
        }
    }
}

fn between(from: Option<u64>, to: Option<u64>) -> Option<f64> {
    Some(to?.saturating_sub(from?) as f64 / 1e3)
}

/// A cause's name in answers.
pub(crate) fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Failure => "failure",
        Cause::Drain => "drain",
        Cause::Scale => "scale",
        Cause::Preemption => "preemption",
        Cause::Operator => "operator",
    }
}

/// A source's name in answers.
pub(crate) fn source_name(source: Source) -> &'static str {
    match source {
        Source::Beginning => "beginning",
        Source::Checkpoint => "checkpoint",
        Source::Snapshot => "snapshot",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A worker that was killed, three steps after a snapshot.
    pub(crate) fn killed() -> v1::Recovery {
        let time = |millis: u64| Some(espalier_proto::time::timestamp(1_764_000_000_000 + millis));
        v1::Recovery {
            generation: 2,
            cause: v1::recovery::Cause::Failure.into(),
            worker: "b".to_owned(),
            reason: "worker b was lost".to_owned(),
            reached_step: 13,
            from_step: 10,
            source: v1::recovery::Source::Snapshot.into(),
            replayed_steps: 3,
            replayed_samples: 96,
            fault_time: time(0),
            detected_time: time(250),
            agreed_time: time(300),
            connected_time: time(420),
            restored_time: time(500),
            first_step_time: None,
        }
    }

    // Promise: each part of an incident is its own time, and what was not reached yet is absent.
    #[test]
    fn parts_are_told_apart() {
        let read = Recovery::read(killed(), "job x").expect("readable");
        let json = serde_json::to_value(&read).expect("JSON");
        let expected = serde_json::json!({
            "detect": 0.25, "agree": 0.05, "connect": 0.12, "restore": 0.08,
        });
        assert_eq!(json["seconds"], expected);
        assert_eq!(json["cause"], cause_name(Cause::Failure));
        assert_eq!(json["source"], source_name(Source::Snapshot));
        assert_eq!(json["replayed_steps"], 3);
        assert_eq!(json["fault_time"], "2025-11-24T16:00:00.000Z");
        let mut done = killed();
        done.first_step_time = Some(espalier_proto::time::timestamp(1_764_000_001_500));
        let read = Recovery::read(done, "job x").expect("readable");
        assert_eq!(read.seconds.total, Some(1.5));
    }
}
