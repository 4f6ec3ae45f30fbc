//! What a worker counts of its ranks, and how it is shown to Prometheus. No label grows with jobs.

use crate::agent::watched::STAGES;
use crate::engine::StepTimes;
use espalier_telemetry::{Format, Histogram, Text, process};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Seconds of a step and its stages: from tiny models to large ones.
const STEP: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];
/// Seconds of snapshots and checkpoints.
const KEEP: &[f64] = &[
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// The counts of one worker process; shared by its ranks.
#[derive(Debug, Default)]
pub struct Metrics {
    live: Mutex<Live>,
}

#[derive(Debug)]
struct Live {
    steps: Histogram,
    stages: [Histogram; STAGES.len()],
    balance: Histogram,
    sent: u64,
    exchange: f64,
    exposed: f64,
    snapshots: Histogram,
    snapshot_bytes: u64,
    pauses: Histogram,
    checkpoint_bytes: u64,
    checkpoints: u64,
    failed: u64,
    stalls: u64,
    connected: bool,
    welcomes: u64,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            steps: Histogram::new(STEP),
            stages: std::array::from_fn(|_| Histogram::new(STEP)),
            balance: Histogram::new(STEP),
            sent: 0,
            exchange: 0.0,
            exposed: 0.0,
            snapshots: Histogram::new(KEEP),
            snapshot_bytes: 0,
            pauses: Histogram::new(KEEP),
            checkpoint_bytes: 0,
            checkpoints: 0,
            failed: 0,
            stalls: 0,
            connected: false,
            welcomes: 0,
        }
    }
}

impl Metrics {
    /// A rank did a step: how long it took with its samples' fetching, each stage of it, and what it sent.
    pub fn step(
        &self,
        took: Duration,
        stages: [Duration; STAGES.len()],
        times: &StepTimes,
        sent: u64,
    ) {
        let mut live = self.live();
        live.steps.observe(took.as_secs_f64());
        for (stage, time) in live.stages.iter_mut().zip(stages) {
            stage.observe(time.as_secs_f64());
        }
        live.balance.observe(times.balancing.as_secs_f64());
        live.exchange += times.exchange.as_secs_f64();
        live.exposed += times.waited.as_secs_f64();
        live.sent += sent;
    }

    /// A rank took a snapshot of so many bytes.
    pub fn snapshot(&self, took: Duration, bytes: u64) {
        let mut live = self.live();
        live.snapshots.observe(took.as_secs_f64());
        live.snapshot_bytes += bytes;
    }

    /// A rank stood still so long for a checkpoint, of which it gave so many bytes to be written.
    pub fn checkpoint(&self, paused: Duration, bytes: u64) {
        let mut live = self.live();
        live.pauses.observe(paused.as_secs_f64());
        live.checkpoint_bytes += bytes;
    }

    /// A rank's part of a checkpoint is durable, or could not be written.
    pub fn saved(&self, good: bool) {
        let mut live = self.live();
        match good {
            true => live.checkpoints += 1,
            false => live.failed += 1,
        }
    }

    /// A rank made no progress for too long.
    pub fn stalled(&self) {
        self.live().stalls += 1;
    }

    /// A coordinator has welcomed this worker.
    pub fn welcomed(&self) {
        let mut live = self.live();
        live.welcomes += 1;
        live.connected = true;
    }

    /// The stream to the coordinator has ended.
    pub fn parted(&self) {
        self.live().connected = false;
    }

    /// Whether a coordinator ever welcomed it: then it is part of a cluster, and a coordinator that is
    /// away for a while does not change that.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.live().welcomes > 0
    }

    /// The text of a scrape.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        let mut text = Text::new(format);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        text.info("espalier_worker_build", "Which worker this is.", &version);
        let live = self.live();
        steps(&mut text, &live);
        kept(&mut text, &live);
        text.counter(
            "espalier_worker_stalls",
            "Times that a rank made no progress for too long.",
        )
        .sample(&[], live.stalls);
        text.gauge(
            "espalier_worker_connected",
            "1 while a coordinator is there, 0 while there is none.",
        )
        .sample(&[], u64::from(live.connected));
        text.counter(
            "espalier_worker_welcomes",
            "Times that a coordinator welcomed this worker; more than one: it had lost it.",
        )
        .sample(&[], live.welcomes);
        drop(live);
        process::write(&mut text);
        text.end()
    }

    // Whole even if a holder panicked: at worst one count is missing.
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn steps(text: &mut Text, live: &Live) {
    text.counter("espalier_worker_steps", "Steps of this worker's ranks.")
        .sample(&[], live.steps.count());
    text.histogram(
        "espalier_worker_step_duration_seconds",
        "Time of a step, from waiting for its samples to its end.",
    )
    .buckets(&[], &live.steps);
    let mut family = text.histogram(
        "espalier_worker_stage_duration_seconds",
        "Time of a step by stage. exchange: until all gradients came and all ranks agreed; balance is a part \
         of exchange and update.",
    );
    for (stage, times) in STAGES.into_iter().zip(&live.stages) {
        family.buckets(&[("stage", stage)], times);
    }
    family.buckets(&[("stage", "balance")], &live.balance);
    text.counter(
        "espalier_worker_exchange_sent_bytes",
        "Bytes that ranks sent to each other.",
    )
    .sample(&[], live.sent);
    text.counter(
        "espalier_worker_exchange_seconds",
        "Time of exchanges from first to last operation, hidden behind computing or not.",
    )
    .number(&[], live.exchange);
    text.counter(
        "espalier_worker_exchange_exposed_seconds",
        "Time in which ranks waited for others with nothing to compute.",
    )
    .number(&[], live.exposed);
}

fn kept(text: &mut Text, live: &Live) {
    text.histogram(
        "espalier_worker_snapshot_duration_seconds",
        "Time that a snapshot in memory cost, waiting for slower ranks left out.",
    )
    .buckets(&[], &live.snapshots);
    text.counter(
        "espalier_worker_snapshot_bytes",
        "Bytes of this worker's parts of snapshots.",
    )
    .sample(&[], live.snapshot_bytes);
    text.histogram(
        "espalier_worker_checkpoint_pause_seconds",
        "Time that training stood still for a checkpoint.",
    )
    .buckets(&[], &live.pauses);
    text.counter(
        "espalier_worker_checkpoint_bytes",
        "Bytes of this worker's parts of checkpoints that are written beside training.",
    )
    .sample(&[], live.checkpoint_bytes);
    text.counter(
        "espalier_worker_checkpoints",
        "Parts of checkpoints of this worker that are durable; of rank 0: the whole.",
    )
    .sample(&[], live.checkpoints);
    text.counter(
        "espalier_worker_checkpoints_failed",
        "Checkpoints that could not be written.",
    )
    .sample(&[], live.failed);
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: what ranks do is counted once, stage by stage, and a worker is a member from its first
    // welcome on, whether the coordinator is there or not.
    #[test]
    fn a_worker_counts() {
        let metrics = Metrics::default();
        assert!(!metrics.is_member());
        metrics.welcomed();
        metrics.parted();
        assert!(metrics.is_member());
        let mut stages = [Duration::ZERO; STAGES.len()];
        stages[0] = Duration::from_millis(200);
        let times = StepTimes {
            waited: Duration::from_millis(250),
            exchange: Duration::from_millis(500),
            ..StepTimes::default()
        };
        for _ in 0..2 {
            metrics.step(Duration::from_secs(1), stages, &times, 100);
        }
        metrics.snapshot(Duration::from_millis(20), 4096);
        metrics.checkpoint(Duration::from_millis(20), 5000);
        metrics.saved(true);
        metrics.saved(false);
        metrics.stalled();
        let text = metrics.render(Format::Classic);
        for line in [
            "espalier_worker_steps_total 2",
            "espalier_worker_step_duration_seconds_sum 2",
            "espalier_worker_stage_duration_seconds_sum{stage=\"fetch\"} 0.4",
            "espalier_worker_stage_duration_seconds_count{stage=\"balance\"} 2",
            "espalier_worker_exchange_sent_bytes_total 200",
            "espalier_worker_exchange_seconds_total 1",
            "espalier_worker_exchange_exposed_seconds_total 0.5",
            "espalier_worker_snapshot_bytes_total 4096",
            "espalier_worker_checkpoint_bytes_total 5000",
            "espalier_worker_checkpoints_total 1",
            "espalier_worker_checkpoints_failed_total 1",
            "espalier_worker_stalls_total 1",
            "espalier_worker_connected 0",
            "espalier_worker_welcomes_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
