//! Writing: a batch's records, and a snapshot in their place now and then.

use super::{Driver, DriverError};
use crate::metrics::Metrics;
use crate::store::{StoreError, codec};
use espalier_core::Record;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pauses before a write is tried again.
const RETRIES: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

impl Driver {
    /// Makes records durable, and compacts the store when it is time.
    pub(super) async fn persist(
        &mut self,
        first: u64,
        records: Vec<Record>,
    ) -> Result<(), DriverError> {
        let (count, begun) = (records.len() as u64, Instant::now());
        let metrics = Arc::clone(&self.observer.metrics);
        if records.is_empty() {
            metrics.batch(0, None);
            return Ok(());
        }
        let applied = self.machine.applied();
        let due = applied.saturating_sub(self.snapshot_at) >= self.snapshot_every;
        let snapshot = due.then(|| self.machine.snapshot());
        let Some(mut store) = self.store.take() else {
            return Err(DriverError::Panicked(
                "it did not come back from its last call".into(),
            ));
        };
        let counted = Arc::clone(&metrics);
        let write = move || {
            let entries = codec::encode_all(first, &records)?;
            retrying(&counted, || store.append(first, &entries))?;
            if let Some(snapshot) = snapshot {
                let bytes = codec::encode(0, &snapshot)?;
                match retrying(&counted, || store.snapshot(applied, &bytes)) {
                    // The records are there: the log is longer than it need be, until the next one.
                    Err(error) if !error.ends_lead() => {
                        tracing::warn!("the store could not be compacted: {error}");
                    }
                    written => written?,
                }
            }
            Ok::<_, StoreError>(store)
        };
        let written = tokio::task::spawn_blocking(write).await;
        self.store = Some(written.map_err(|panic| DriverError::Panicked(panic.to_string()))??);
        metrics.batch(count, Some(begun.elapsed()));
        if due {
            self.snapshot_at = applied;
        }
        Ok(())
    }
}

/// Runs on a thread that may block.
fn retrying(
    metrics: &Metrics,
    mut attempt: impl FnMut() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut attempt = || attempt().inspect_err(|_| metrics.store_failed());
    for pause in RETRIES {
        match attempt() {
            Err(error) if error.retryable() => {
                tracing::warn!("the store failed, tries again in {pause:?}: {error}");
                std::thread::sleep(pause);
            }
            result => return result,
        }
    }
    attempt()
}
