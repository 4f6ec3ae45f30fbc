//! Traces of jobs, sent to a collector over OTLP.
//!
//! A job is a trace: its uid, a UUID, is the trace's id. Below it are its generations and what an
//! operator did about it, below a generation steps of each rank, now and then one, and below a step its
//! exchange. Ids are derived from what they name, so that processes need not tell each other any.

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SpanData, SpanEvents, SpanExporter as Export, SpanLinks, SpanProcessor as _,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tonic::transport::{ClientTlsConfig, Endpoint};

/// How long a batch may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what waits may take to be sent at the end.
const FAREWELL: Duration = Duration::from_secs(3);

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The address is none.
    #[error("--otlp-endpoint {endpoint}: {message}")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        message: String,
    },
    /// It was asked for outside of a runtime.
    #[error("spans are sent by tokio's runtime, and there is none here: {0}")]
    Runtime(#[from] tokio::runtime::TryCurrentError),
}

/// Reads the address of a collector.
///
/// # Errors
/// What was expected, in words that follow the text.
pub fn endpoint(text: &str) -> Result<String, String> {
    let known = text.starts_with("http://") || text.starts_with("https://");
    match Endpoint::from_shared(text.to_owned()) {
        Ok(_) if known => Ok(text.to_owned()),
        _ => {
            Err("expected the address of a collector's gRPC port, such as http://HOST:4317".into())
        }
    }
}

/// From when to when.
pub type Times = (SystemTime, SystemTime);

/// A generation of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Of<'a> {
    /// The job's uid.
    pub uid: &'a str,
    /// The generation.
    pub generation: u64,
}

/// One step of one rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSpan {
    /// The rank.
    pub rank: u32,
    /// Number of the step, from 0.
    pub step: u64,
    /// When it was.
    pub times: Times,
    /// When its exchange was, first operation to last, if there was one.
    pub exchange: Option<Times>,
    /// Seconds in which it waited for other ranks with nothing to compute.
    pub exposed_seconds: f64,
    /// Bytes that it sent.
    pub bytes: u64,
}

/// Sends spans in the background; dropped ones are told once, and nothing waits for them.
#[derive(Clone, Debug)]
pub struct Traces {
    processor: Arc<BatchSpanProcessor>,
    scope: InstrumentationScope,
}

impl Traces {
    /// Sends to the collector at `endpoint`, as the process `instance` of `service`. Called within
    /// tokio's runtime, which must outlive it.
    ///
    /// # Errors
    /// The address is none; that nobody listens there shows only later, as a line of the log.
    pub fn start(
        endpoint: &str,
        service: &'static str,
        instance: &str,
    ) -> Result<Self, TraceError> {
        let bad = |message: String| TraceError::Endpoint {
            endpoint: endpoint.to_owned(),
            message,
        };
        let runtime = Handle::try_current()?;
        let mut channel = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|error| bad(error.to_string()))?
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE);
        if endpoint.starts_with("https://") {
            let tls = ClientTlsConfig::new().with_native_roots();
            channel = channel
                .tls_config(tls)
                .map_err(|error| bad(error.to_string()))?;
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(channel.connect_lazy())
            .build()
            .map_err(|error| bad(error.to_string()))?;
        let exporter = Exporter {
            inner: Arc::new(exporter),
            runtime,
            endpoint: endpoint.to_owned(),
            failing: AtomicBool::new(false),
        };
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attributes([
                KeyValue::new("service.instance.id", instance.to_owned()),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            ])
            .build();
        processor.set_resource(&resource);
        Ok(Self {
            processor: Arc::new(processor),
            scope: InstrumentationScope::builder("espalier").build(),
        })
    }

    /// A job that has ended.
    pub fn job(
        &self,
        uid: &str,
        name: &str,
        times: Times,
        state: &'static str,
        failure: Option<String>,
    ) {
        let attributes = vec![
            KeyValue::new("espalier.job", name.to_owned()),
            KeyValue::new("espalier.state", state),
        ];
        self.send(uid, (&[1], &[]), "job", times, (attributes, failure));
    }

    /// A generation that has ended.
    pub fn generation(&self, of: Of<'_>, name: &str, times: Times, ended: String, failed: bool) {
        let attributes = vec![
            KeyValue::new("espalier.job", name.to_owned()),
            KeyValue::new("espalier.generation", number(of.generation)),
            KeyValue::new("espalier.ended", ended.clone()),
        ];
        let ids: (&[u64], &[u64]) = (&[2, of.generation], &[1]);
        let failure = failed.then_some(ended);
        self.send(of.uid, ids, "generation", times, (attributes, failure));
    }

    /// What an operator did about a job: the act's name, such as `Pause`, and why it failed if it did.
    pub fn act(
        &self,
        uid: &str,
        name: &str,
        act: &'static str,
        times: Times,
        failure: Option<String>,
    ) {
        let attributes = vec![
            KeyValue::new("espalier.job", name.to_owned()),
            KeyValue::new("espalier.act", act),
        ];
        // Acts have no number, but no two on one job begin at once.
        let begun = times.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let begun = u64::try_from(begun.as_nanos()).unwrap_or(u64::MAX);
        self.send(
            uid,
            (&[5, begun], &[1]),
            "act",
            times,
            (attributes, failure),
        );
    }

    /// A step of a rank, and its exchange.
    pub fn step(&self, of: Of<'_>, span: &StepSpan) {
        let attributes = || {
            vec![
                KeyValue::new("espalier.rank", i64::from(span.rank)),
                KeyValue::new("espalier.step", number(span.step)),
            ]
        };
        let place = [of.generation, span.step, u64::from(span.rank)];
        let own = [&[3][..], &place[..]].concat();
        let ids: (&[u64], &[u64]) = (&own, &[2, of.generation]);
        self.send(of.uid, ids, "step", span.times, (attributes(), None));
        if let Some(times) = span.exchange {
            let mut more = attributes();
            more.push(KeyValue::new(
                "espalier.exposed_seconds",
                span.exposed_seconds,
            ));
            more.push(KeyValue::new("espalier.sent_bytes", number(span.bytes)));
            let below = [&[4][..], &place[..]].concat();
            self.send(of.uid, (&below, &own), "exchange", times, (more, None));
        }
    }

    /// Sends what waits. Blocks a while: not for a thread that drives the runtime.
    pub fn end(&self) {
        // What can't be sent by now is lost, and the exporter has said so.
        let _ = self.processor.shutdown_with_timeout(FAREWELL);
    }

    fn send(
        &self,
        uid: &str,
        (own, above): (&[u64], &[u64]),
        name: &'static str,
        (start, end): Times,
        (attributes, failure): (Vec<KeyValue>, Option<String>),
    ) {
        let trace = trace_id(uid);
        let context = SpanContext::new(
            TraceId::from_bytes(trace),
            SpanId::from_bytes(span_id(trace, own)),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        );
        let parent = match above {
            [] => SpanId::INVALID,
            above => SpanId::from_bytes(span_id(trace, above)),
        };
        self.processor.on_end(SpanData {
            span_context: context,
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: start,
            end_time: end.max(start),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: failure.map_or(Status::Ok, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The trace of a job: its uid. One that is no UUID is hashed.
fn trace_id(uid: &str) -> [u8; 16] {
    if let Ok(uuid) = uuid::Uuid::parse_str(uid) {
        return *uuid.as_bytes();
    }
    let mut id = [0; 16];
    id[..8].copy_from_slice(&hash(uid.bytes()).to_be_bytes());
    id[8..].copy_from_slice(&hash(uid.bytes().rev()).to_be_bytes());
    id
}

/// What names a span within a trace, hashed; never 0.
fn span_id(trace: [u8; 16], words: &[u64]) -> [u8; 8] {
    let words = words.iter().flat_map(|word| word.to_be_bytes());
    hash(trace.into_iter().chain(words)).max(1).to_be_bytes()
}

/// FNV-1a, with its bits mixed at the end (MurmurHash3's last step): the same everywhere and for ever.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Sends on the runtime's threads, which the client needs, and says once when spans are lost.
#[derive(Debug)]
struct Exporter {
    inner: Arc<SpanExporter>,
    runtime: Handle,
    endpoint: String,
    failing: AtomicBool,
}

impl Export for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let (inner, spans) = (Arc::clone(&self.inner), batch.len());
        let sent = self.runtime.spawn(async move { inner.export(batch).await });
        let result = match sent.await {
            Ok(result) => result,
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        };
        match &result {
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!("the collector at {} takes spans again", self.endpoint);
            }
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                let endpoint = &self.endpoint;
                tracing::warn!(
                    spans,
                    "spans are lost, the collector at {endpoint} does not take them: {error}"
                );
            }
            _ => {}
        }
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Nothing is on its way yet.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests;
