//! How processes speak of themselves.
//!
//! | question | module |
//! | --- | --- |
//! | what happened, line by line? | [`log`] |
//! | how much, how often, how long? | [`text`]: what Prometheus reads; [`process`]: of the process itself |
//! | does it live, is it ready? | [`status`] |
//! | what took so long? | [`trace`]: spans of jobs, generations, steps and exchanges over OTLP |
//!
//! Nothing here is global: who has something to say holds what it says it through.

mod guests;
pub mod log;
pub mod process;
pub mod status;
pub mod text;
pub mod trace;

pub use log::LogFormat;
pub use text::{Format, Histogram, Text};
pub use trace::Traces;

use std::net::SocketAddr;

/// Where a process tells how it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Flags {
    /// Address that tells kubelet and Prometheus how this process is, in plain text and without
    /// authentication: grpc.health.v1, /metrics, /healthz, /readyz; default: none
    #[arg(long, env = "ESPALIER_STATUS_LISTEN", value_name = "ADDRESS")]
    pub status_listen: Option<SocketAddr>,
    /// Collector that spans of jobs are sent to over OTLP (gRPC); default: none
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "http://HOST:4317",
        value_parser = trace::endpoint
    )]
    pub otlp_endpoint: Option<String>,
}
