//! How the operator is, on its status port.

use espalier_telemetry::status::Subject;
use espalier_telemetry::{Format, Text, process};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the API server may be out of reach before the operator is not ready.
const SILENCE: Duration = Duration::from_secs(60);

/// What is known of this operator.
#[derive(Debug, Default)]
pub struct Health {
    /// When the API server last answered.
    reached: Mutex<Option<Instant>>,
    leads: AtomicBool,
    passes: AtomicU64,
    failures: AtomicU64,
    unseen: AtomicU64,
    unscaled: AtomicU64,
}

impl Health {
    /// The API server has answered.
    pub fn reached(&self) {
        if let Ok(mut reached) = self.reached.lock() {
            *reached = Some(Instant::now());
        }
    }

    /// This operator works, or waits for the one that does.
    pub fn leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// A resource was looked at.
    pub fn passed(&self, well: bool) {
        self.passes.fetch_add(1, Ordering::Relaxed);
        if !well {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Resources could not be listed or watched: nothing is known of changes.
    pub fn unseen(&self) {
        self.unseen.fetch_add(1, Ordering::Relaxed);
    }

    /// The workers could not be scaled.
    pub fn unscaled(&self) {
        self.unscaled.fetch_add(1, Ordering::Relaxed);
    }
}

impl Subject for Health {
    fn ready(&self) -> Result<(), String> {
        let reached = self.reached.lock().ok().and_then(|reached| *reached);
        match reached {
            Some(at) if at.elapsed() < SILENCE => Ok(()),
            Some(_) => Err(format!("the API server has not answered for {SILENCE:?}")),
            None => Err("the API server has not answered yet".to_owned()),
        }
    }

    async fn metrics(&self, format: Format) -> String {
        let mut text = Text::new(format);
        text.gauge(
            "espalier_operator_leader",
            "Whether this operator is the one that works.",
        )
        .sample(&[], u64::from(self.leads.load(Ordering::Relaxed)));
        text.counter("espalier_operator_reconciles", "Looks at a resource.")
            .sample(&[], self.passes.load(Ordering::Relaxed));
        text.counter(
            "espalier_operator_reconcile_errors",
            "Looks at a resource that ended in an error and are repeated.",
        )
        .sample(&[], self.failures.load(Ordering::Relaxed));
        text.counter(
            "espalier_operator_watch_errors",
            "Lists and watches of resources that failed and are begun anew.",
        )
        .sample(&[], self.unseen.load(Ordering::Relaxed));
        text.counter(
            "espalier_operator_scale_errors",
            "Looks at the number of workers that ended in an error and are repeated.",
        )
        .sample(&[], self.unscaled.load(Ordering::Relaxed));
        process::write(&mut text);
        text.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: whatever the operator fails at is counted, each kind apart.
    #[tokio::test]
    async fn failures_are_counted() {
        let health = Health::default();
        health.passed(true);
        health.passed(false);
        health.unseen();
        health.unscaled();
        health.unscaled();
        let text = health.metrics(Format::Classic).await;
        for line in [
            "espalier_operator_reconciles_total 2",
            "espalier_operator_reconcile_errors_total 1",
            "espalier_operator_watch_errors_total 1",
            "espalier_operator_scale_errors_total 2",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
    }
}
