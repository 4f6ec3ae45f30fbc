//! How a worker speaks of itself: its log, its counts, its spans, its status port.

use super::metrics::Metrics;
use crate::engine::StepTimes;
use espalier_spec::{Generation, Rank};
use espalier_telemetry::status::{self, StatusError, Subject};
use espalier_telemetry::trace::{Of, StepSpan, TraceError};
use espalier_telemetry::{Flags, Format, LogFormat, Traces};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tonic_health::server::HealthReporter;

/// As told on the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct TelemetryFlags {
    /// Format of the log.
    #[arg(long, env = "ESPALIER_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    #[command(flatten)]
    #[allow(missing_docs)] // clap would take them for the command's own
    pub flags: Flags,
    /// Steps of a job from one whose span is sent to the next, with --otlp-endpoint.
    #[arg(
        long,
        env = "ESPALIER_TRACE_EVERY",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub trace_every: u64,
}

/// Why a worker can't speak of itself.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The status port can't be had.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Spans can't be sent.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

impl TelemetryFlags {
    /// Starts the status port and the sending of spans, where they are asked for.
    ///
    /// # Errors
    /// The port can't be had, or the collector's address is none.
    pub async fn start(&self, worker: &str) -> Result<Telemetry, TelemetryError> {
        let traces = match &self.flags.otlp_endpoint {
            Some(endpoint) => Some(Traces::start(endpoint, "espalier-worker", worker)?),
            None => None,
        };
        let telemetry = Telemetry {
            metrics: Arc::default(),
            traces,
            every: self.trace_every,
            uid: Arc::default(),
        };
        if let Some(address) = self.flags.status_listen {
            let listener = status::bind(address).await?;
            if let Ok(address) = listener.local_addr() {
                tracing::info!("tells how it is on {address}");
            }
            let subject = Arc::new(Status(Arc::clone(&telemetry.metrics)));
            // As long as the process: whoever ends it ends this.
            let served = status::serve(
                listener,
                subject,
                HealthReporter::new(),
                std::future::pending(),
            );
            tokio::spawn(async move {
                if let Err(error) = served.await {
                    tracing::error!("the status port failed: {error}");
                }
            });
        }
        Ok(telemetry)
    }
}

struct Status(Arc<Metrics>);

impl Subject for Status {
    fn ready(&self) -> Result<(), String> {
        match self.0.is_member() {
            true => Ok(()),
            false => Err("no coordinator has welcomed this worker yet".to_owned()),
        }
    }

    async fn metrics(&self, format: Format) -> String {
        self.0.render(format)
    }
}

/// What ranks are measured with.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// Counts.
    pub metrics: Arc<Metrics>,
    traces: Option<Traces>,
    /// Steps from one span to the next.
    every: u64,
    /// Of the job; empty: of none.
    uid: Arc<str>,
}

impl Telemetry {
    /// The same for a job.
    #[must_use]
    pub fn of(&self, uid: &str) -> Self {
        Self {
            uid: uid.into(),
            ..self.clone()
        }
    }

    /// A step has ended just now; its span is sent if it is this one's turn.
    pub fn trace_step(
        &self,
        (generation, rank, step): (Generation, Rank, u64),
        took: Duration,
        times: &StepTimes,
        sent: u64,
    ) {
        let Some(traces) = &self.traces else { return };
        if !step.is_multiple_of(self.every.max(1)) {
            return;
        }
        let (now, ended) = (Instant::now(), SystemTime::now());
        let exchange = times.exchange_begun.map(|begun| {
            let begun = ended - now.saturating_duration_since(begun);
            (begun, begun + times.exchange)
        });
        let of = Of {
            uid: &self.uid,
            generation: generation.0,
        };
        let span = StepSpan {
            rank: rank.0,
            step,
            times: (ended - took, ended),
            exchange,
            exposed_seconds: times.waited.as_secs_f64(),
            bytes: sent,
        };
        traces.step(of, &span);
    }

    /// Sends what waits. Blocks a while.
    pub fn end(&self) {
        if let Some(traces) = &self.traces {
            traces.end();
        }
    }
}
