//! Follows jobs as they happen, for what can't be read off their state: how recoveries went, and spans
//! of generations and jobs.

use super::Metrics;
use espalier_core::{Detail, JobEvent, JobState, Machine, Time};
use espalier_spec::{Generation, JobId};
use espalier_telemetry::Traces;
use espalier_telemetry::trace::{Of, Times};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Looks at jobs after each change of theirs.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    pub(crate) metrics: Arc<Metrics>,
    traces: Option<Traces>,
    /// What happened before was told by who led then.
    since: Time,
    stories: BTreeMap<JobId, Story>,
}

impl Observer {
    /// One that tells what happens from `since` on.
    pub(crate) fn new(metrics: Arc<Metrics>, traces: Option<Traces>, since: Time) -> Self {
        Self {
            metrics,
            traces,
            since,
            stories: BTreeMap::new(),
        }
    }

    /// A job changed.
    pub(crate) fn job(&mut self, machine: &Machine, name: &JobId) {
        let Some((uid, _, last)) = machine.standing(name) else {
            self.stories.remove(name);
            return;
        };
        let known = self.stories.get(name);
        if known.is_some_and(|story| story.uid == uid && story.sequence == last) {
            return;
        }
        let story = self.stories.entry(name.clone()).or_default();
        if story.uid != uid {
            // Another job of the same name.
            *story = Story {
                uid: uid.to_owned(),
                ..Story::default()
            };
        }
        for event in machine.events(name, story.sequence).unwrap_or_default() {
            let told = story.take(event);
            if event.time < self.since {
                continue;
            }
            if let Some(Detail::Recovery(recovery)) = &event.detail {
                self.metrics.recovered(recovery);
            }
            if let Some(traces) = &self.traces {
                told.send(traces, name, &story.uid, event);
            }
        }
    }
}

/// What of a job's events its spans are made of.
#[derive(Debug, Default)]
struct Story {
    uid: String,
    /// Of the newest event that was looked at.
    sequence: u64,
    created: Time,
    /// When its newest generation began to prepare.
    placed: Option<Time>,
    /// The generation that trains, and when it began.
    open: Option<(Generation, Time)>,
}

/// What has ended with an event.
#[derive(Debug, Default, PartialEq)]
struct Told {
    generation: Option<(Generation, Time)>,
    job: Option<Time>,
}

impl Story {
    fn take(&mut self, event: &JobEvent) -> Told {
        if self.sequence == 0 {
            self.created = event.time;
        }
        self.sequence = event.sequence;
        match event.state {
            JobState::Preparing => {
                self.placed.get_or_insert(event.time);
            }
            JobState::Running | JobState::Pausing | JobState::Cancelling => {}
            _ => self.placed = None,
        }
        let trains = matches!(
            event.state,
            JobState::Running | JobState::Pausing | JobState::Cancelling
        );
        let ended = self.open.take_if(|_| !trains);
        if let Some(Detail::Plan(plan)) = &event.detail {
            let begun = self.placed.take().unwrap_or(event.time);
            self.open = Some((plan.generation, begun));
        }
        Told {
            generation: ended,
            job: event.state.is_final().then_some(self.created),
        }
    }
}

impl Told {
    fn send(self, traces: &Traces, name: &JobId, uid: &str, event: &JobEvent) {
        let until = |begun: Time| -> Times { (moment(begun), moment(event.time)) };
        let failure = match &event.detail {
            Some(Detail::Failure(failure)) => Some(failure.message.clone()),
            _ => None,
        };
        if let Some((generation, begun)) = self.generation {
            let of = Of {
                uid,
                generation: generation.0,
            };
            let (message, failed) = (event.message.clone(), failure.is_some());
            traces.generation(of, &name.0, until(begun), message, failed);
        }
        if let Some(created) = self.job {
            let state = event.state.as_str();
            traces.job(uid, &name.0, until(created), state, failure);
        }
    }
}

fn moment(time: Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(time.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_spec::plan::{ExchangePlan, Plan};

    fn event(sequence: u64, state: JobState, started: Option<u64>) -> JobEvent {
        let plan = |generation| Plan {
            job: "toy".into(),
            generation: Generation(generation),
            seats: Vec::new(),
            shards: Vec::new(),
            tasks: Vec::new(),
            blocks: Vec::new(),
            exchange: ExchangePlan::default(),
            reasons: Vec::new(),
        };
        JobEvent {
            sequence,
            time: Time(sequence * 10),
            state,
            message: String::new(),
            detail: started.map(|generation| Detail::Plan(Box::new(plan(generation)))),
        }
    }

    // Promise: a generation's span runs from its placement to whatever ends it, a job's from its creation
    // to its end; generations that never trained have none.
    #[test]
    fn spans_of_a_life() {
        use JobState::{Cancelled, Cancelling, Preparing, Queued, Running};
        let mut story = Story::default();
        let life = [
            (Queued, None),
            (Preparing, None),
            (Queued, None),
            (Preparing, None),
            (Running, Some(2)),
            (Running, None),
            (Preparing, None),
            (Running, Some(3)),
            (Cancelling, None),
            (Cancelled, None),
        ];
        let told: Vec<Told> = (1..)
            .zip(life)
            .map(|(sequence, (state, started))| story.take(&event(sequence, state, started)))
            .collect();
        let generations: Vec<_> = (1_u64..)
            .zip(&told)
            .filter_map(|(sequence, told)| Some((sequence, told.generation?)))
            .collect();
        assert_eq!(
            generations,
            [
                (7, (Generation(2), Time(40))),
                (10, (Generation(3), Time(70))),
            ]
        );
        let jobs: Vec<_> = told.iter().filter_map(|told| told.job).collect();
        assert_eq!(jobs, [Time(10)]);
        assert_eq!(story.sequence, 10);
    }
}
