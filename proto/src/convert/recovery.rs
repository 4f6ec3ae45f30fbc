//! Recovery: where a generation goes on from, how far it is, what an incident cost.

use super::{Bad, Wire, at, text};
use crate::{time, v1};
use espalier_spec::recovery::{Cause, Milestone, Recovery, Restore, Source};
use espalier_spec::{Generation, Rank, Step, WorkerId};

impl Wire for Restore {
    type Message = v1::Restore;

    fn to_wire(&self) -> v1::Restore {
        v1::Restore {
            step: self.step.0,
            providers: self.providers.iter().map(|rank| rank.0).collect(),
        }
    }

    fn read(m: v1::Restore, _bad: &mut Bad, _path: &str) -> Self {
        Restore {
            step: Step(m.step),
            providers: m.providers.into_iter().map(Rank).collect(),
        }
    }
}

impl Wire for Recovery {
    type Message = v1::Recovery;

    fn to_wire(&self) -> v1::Recovery {
        use v1::recovery as wire;
        let cause = match self.cause {
            Cause::Failure => wire::Cause::Failure,
            Cause::Drain => wire::Cause::Drain,
            Cause::Scale => wire::Cause::Scale,
            Cause::Preemption => wire::Cause::Preemption,
            Cause::Operator => wire::Cause::Operator,
        };
        let source = match self.source {
            Source::Beginning => wire::Source::Beginning,
            Source::Checkpoint => wire::Source::Checkpoint,
            Source::Snapshot => wire::Source::Snapshot,
        };
        v1::Recovery {
            generation: self.generation.0,
            cause: cause.into(),
            worker: self
                .worker
                .as_ref()
                .map(|worker| worker.0.clone())
                .unwrap_or_default(),
            reason: self.reason.clone(),
            reached_step: self.reached.0,
            from_step: self.from.0,
            source: source.into(),
            replayed_steps: self.replayed_steps(),
            replayed_samples: self.replayed_samples,
            fault_time: self.fault.map(time::timestamp),
            detected_time: Some(time::timestamp(self.detected)),
            agreed_time: self.agreed.map(time::timestamp),
            connected_time: self.connected.map(time::timestamp),
            restored_time: self.restored.map(time::timestamp),
            first_step_time: self.first_step.map(time::timestamp),
        }
    }

    fn read(m: v1::Recovery, bad: &mut Bad, path: &str) -> Self {
        use v1::recovery as wire;
        let cause = bad.choice(
            m.cause,
            || at(path, "cause"),
            "failure, drain, scale, preemption or operator",
        );
        let source = bad.choice(
            m.source,
            || at(path, "source"),
            "beginning, checkpoint or snapshot",
        );
        let millis = |time: &Option<_>| time.as_ref().map(time::millis);
        Recovery {
            generation: Generation(m.generation),
            cause: match cause {
                wire::Cause::Unspecified | wire::Cause::Failure => Cause::Failure,
                wire::Cause::Drain => Cause::Drain,
                wire::Cause::Scale => Cause::Scale,
                wire::Cause::Preemption => Cause::Preemption,
                wire::Cause::Operator => Cause::Operator,
            },
            worker: text(m.worker).map(WorkerId),
            reason: m.reason,
            reached: Step(m.reached_step),
            from: Step(m.from_step),
            source: match source {
                wire::Source::Unspecified | wire::Source::Beginning => Source::Beginning,
                wire::Source::Checkpoint => Source::Checkpoint,
                wire::Source::Snapshot => Source::Snapshot,
            },
            replayed_samples: m.replayed_samples,
            fault: millis(&m.fault_time),
            detected: millis(&m.detected_time).unwrap_or_default(),
            agreed: millis(&m.agreed_time),
            connected: millis(&m.connected_time),
            restored: millis(&m.restored_time),
            first_step: millis(&m.first_step_time),
        }
    }
}

/// Reads how far a generation is; none if it is not said.
#[must_use]
pub fn milestone(milestone: v1::milestone_report::Milestone) -> Option<Milestone> {
    use v1::milestone_report::Milestone as Wired;
    match milestone {
        Wired::Unspecified => None,
        Wired::Connected => Some(Milestone::Connected),
        Wired::Restored => Some(Milestone::Restored),
        Wired::FirstStep => Some(Milestone::FirstStep),
    }
}

/// Writes how far a generation is.
#[must_use]
pub fn milestone_to_wire(milestone: Milestone) -> v1::milestone_report::Milestone {
    use v1::milestone_report::Milestone as Wired;
    match milestone {
        Milestone::Connected => Wired::Connected,
        Milestone::Restored => Wired::Restored,
        Milestone::FirstStep => Wired::FirstStep,
    }
}
