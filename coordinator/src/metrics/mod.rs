//! What this coordinator counts, and how it is shown to Prometheus.
//!
//! | question | file |
//! | --- | --- |
//! | who is called how often, how do calls end, how long do they take? | `calls.rs` |
//! | which names and labels are there? | `render.rs` |
//! | what is told of jobs as it happens: recoveries, spans? | `observe.rs` |
//! | who asks, and where? | `status.rs` |
//!
//! Labels are bounded: methods that exist, states, causes; jobs only while they have not ended.

mod calls;
mod observe;
mod render;
mod status;

pub use calls::CallsLayer;
pub(crate) use observe::Observer;
pub(crate) use status::{Status, serve_status, traces};

use espalier_core::Figures;
use espalier_spec::recovery::{Cause, Recovery};
use espalier_telemetry::{Format, Histogram, Traces};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a coordinator tells of itself: counts, and spans if somebody takes them.
pub(crate) type Told = (Arc<Metrics>, Option<Traces>);

/// Seconds of a recovery's phases: from what memory does to what a fetch takes.
const PHASES: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// The counts of one coordinator process; shared by all its parts.
#[derive(Debug, Default)]
pub struct Metrics {
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    calls: BTreeMap<calls::Method, calls::Counts>,
    refused: BTreeMap<&'static str, u64>,
    batches: u64,
    records: u64,
    writes: Histogram,
    store_errors: u64,
    term: u64,
    elections: u64,
    leaders: u64,
    recoveries: BTreeMap<&'static str, u64>,
    phases: BTreeMap<&'static str, Histogram>,
    replayed_steps: u64,
    replayed_samples: u64,
}

impl Metrics {
    /// One that has counted nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A call was refused before it was looked at, for one of a few reasons.
    pub fn refused(&self, reason: &'static str) {
        *self.live().refused.entry(reason).or_default() += 1;
    }

    /// How often callers were refused for this reason.
    #[must_use]
    pub fn refusals(&self, reason: &str) -> u64 {
        self.live().refused.get(reason).copied().unwrap_or(0)
    }

    /// The layer that counts calls; over everything that is served.
    #[must_use]
    pub fn layer(self: &Arc<Self>) -> CallsLayer {
        CallsLayer::new(self.clone())
    }

    /// The driver has taken a batch in, whose records took so long to be durable.
    pub(crate) fn batch(&self, records: u64, wrote: Option<Duration>) {
        let mut live = self.live();
        live.batches += 1;
        live.records += records;
        if let Some(time) = wrote {
            live.writes.observe(time.as_secs_f64());
        }
    }

    /// A call of the store failed; it may be tried again.
    pub(crate) fn store_failed(&self) {
        self.live().store_errors += 1;
    }

    /// This coordinator was elected.
    pub(crate) fn elected(&self, term: u64) {
        let mut live = self.live();
        live.elections += 1;
        live.term = term;
    }

    /// Another coordinator leads now, or none does.
    pub(crate) fn leader_changed(&self) {
        self.live().leaders += 1;
    }

    /// A job trains again after an incident.
    pub(crate) fn recovered(&self, recovery: &Recovery) {
        let mut live = self.live();
        *live.recoveries.entry(cause(recovery.cause)).or_default() += 1;
        live.replayed_steps += recovery.replayed_steps();
        live.replayed_samples += recovery.replayed_samples;
        for (phase, time) in phases(recovery) {
            let phase = live.phases.entry(phase);
            let phase = phase.or_insert_with(|| Histogram::new(PHASES));
            phase.observe(time.as_secs_f64());
        }
    }

    /// The text of a scrape; without figures where this coordinator does not lead.
    #[must_use]
    pub fn render(&self, figures: Option<&Figures>, format: Format) -> String {
        render::text(&self.live(), figures, format)
    }

    // Whole even if a holder panicked: at worst one count is missing.
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a cause, as labels have it.
fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Failure => "failure",
        Cause::Drain => "drain",
        Cause::Scale => "scale",
        Cause::Preemption => "preemption",
        Cause::Operator => "operator",
    }
}

/// How long each part of a recovery took, as far as it is known; `total` is from the last sign of life
/// to the first step.
fn phases(recovery: &Recovery) -> Vec<(&'static str, Duration)> {
    let begin = recovery.fault.unwrap_or(recovery.detected);
    let moments = [
        ("detect", recovery.fault.map(|_| recovery.detected)),
        ("agree", recovery.agreed),
        ("connect", recovery.connected),
        ("restore", recovery.restored),
        ("first_step", recovery.first_step),
    ];
    let mut found = Vec::new();
    let mut last = begin;
    for (name, at) in moments {
        if let Some(at) = at {
            found.push((name, Duration::from_millis(at.saturating_sub(last))));
            last = last.max(at);
        }
    }
    if let Some(end) = recovery.first_step {
        let total = end.saturating_sub(begin);
        found.push(("total", Duration::from_millis(total)));
    }
    found
}

#[cfg(test)]
mod tests;
