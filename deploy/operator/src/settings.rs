//! Settings of the operator: flags and environment, their defaults, their rules.

use crate::lease::Timing;
use crate::scale::Bounds;
use clap::{Parser, Subcommand};
use espalier_telemetry::LogFormat;
use espalier_tls::ClientFlags;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Espalier's operator: TrainingJob resources of Kubernetes become jobs.
#[derive(Clone, Debug, Parser)]
#[command(name = "espalier-operator", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the program does.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Work as the operator until SIGTERM
    Run(Box<Settings>),
    /// Print the definition of TrainingJob as YAML
    Crd,
}

/// Settings of the operator.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Address of the coordinator; of several, separated by commas
    #[arg(
        long,
        env = "ESPALIER_SERVER",
        value_name = "https://HOST:PORT",
        default_value = "https://espalier-coordinator:7443"
    )]
    pub coordinator: String,
    /// Whom it trusts, and who it says it is
    #[command(flatten)]
    pub tls: ClientFlags,
    /// File with a token to show to the coordinator; read again for each connection
    #[arg(long, env = "ESPALIER_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Namespace whose TrainingJobs become jobs; default: all
    #[arg(long, env = "ESPALIER_WATCH_NAMESPACE", value_name = "NAME")]
    pub watch_namespace: Option<String>,
    /// Namespace of the lease and of the workers; default: the one that the operator runs in
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// Name of this operator among others; default: the host's
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// Name of the lease of the operator that works
    #[arg(long, default_value = "espalier-operator", value_name = "NAME")]
    pub lease: String,
    /// StatefulSet of the workers
    #[arg(long, default_value = "espalier-worker", value_name = "NAME")]
    pub worker_set: String,
    /// Workers there are at least
    #[arg(long, default_value_t = 0)]
    pub min_workers: u32,
    /// Workers there are at most; default: their number is not changed
    #[arg(long)]
    pub max_workers: Option<u32>,
    /// Devices of one worker
    #[arg(long, default_value_t = 1)]
    pub devices_per_worker: u32,
    /// Seconds that workers must be needless before they are drained and given up
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub scale_down_after: u64,
    /// Address that tells kubelet and Prometheus how the operator is, in plain text: /healthz, /readyz,
    /// /metrics; default: none
    #[arg(long, env = "ESPALIER_STATUS_LISTEN", value_name = "ADDRESS")]
    pub status_listen: Option<SocketAddr>,
    /// Collector that spans of what is done about jobs are sent to over OTLP (gRPC); default: none
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "http://HOST:4317",
        value_parser = espalier_telemetry::trace::endpoint
    )]
    pub otlp_endpoint: Option<String>,
    /// Form of the log on standard error
    #[arg(long, env = "ESPALIER_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// How long the lease lasts, and how often it is renewed.
    #[arg(skip)]
    pub timing: Timing,
}

/// Settings that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Bounds that nothing lies between.
    #[error("--min-workers is {min}, expected at most --max-workers, {max}")]
    Bounds {
        /// At least.
        min: u32,
        /// At most.
        max: u32,
    },
    /// A floor of what is not changed.
    #[error(
        "--min-workers is {0} without --max-workers, so the number of workers is not changed; give both"
    )]
    Floor(u32),
    /// Workers without devices.
    #[error("--devices-per-worker is 0, expected at least 1")]
    Devices,
}

impl Settings {
    /// Checks the rules that connect settings.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if let Some(max) = self.max_workers
            && self.min_workers > max
        {
            let min = self.min_workers;
            return Err(SettingsError::Bounds { min, max });
        }
        if self.max_workers.is_none() && self.min_workers > 0 {
            return Err(SettingsError::Floor(self.min_workers));
        }
        if self.devices_per_worker == 0 {
            return Err(SettingsError::Devices);
        }
        Ok(())
    }

    /// Between how many workers there may be; none: their number is not changed.
    #[must_use]
    pub fn bounds(&self) -> Option<Bounds> {
        let min = self.min_workers;
        self.max_workers.map(|max| Bounds { min, max })
    }

    /// How long workers must be needless before they are given up.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.scale_down_after)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(flags: &[&str]) -> Settings {
        let flags = ["espalier-operator", "run"].iter().chain(flags);
        match Cli::try_parse_from(flags).unwrap().verb {
            Verb::Run(settings) => *settings,
            Verb::Crd => panic!("another verb was asked for"),
        }
    }

    // Promise: without bounds nothing is scaled, and bounds that contradict each other are refused.
    #[test]
    fn bounds() {
        assert_eq!(parse(&[]).bounds(), None);
        let both = parse(&["--min-workers", "1", "--max-workers", "4"]);
        assert_eq!(both.validate(), Ok(()));
        assert_eq!(both.bounds(), Some(Bounds { min: 1, max: 4 }));
        let crossed = parse(&["--min-workers", "5", "--max-workers", "4"]);
        let error = crossed.validate().unwrap_err().to_string();
        assert!(error.contains("--max-workers, 4"), "{error}");
        let floor = parse(&["--min-workers", "2"]);
        assert_eq!(floor.validate(), Err(SettingsError::Floor(2)));
        let none = parse(&["--devices-per-worker", "0"]);
        assert_eq!(none.validate(), Err(SettingsError::Devices));
    }

    // Promise: the definition is printed by its verb, with no settings at all.
    #[test]
    fn verbs() {
        let cli = Cli::try_parse_from(["espalier-operator", "crd"]).unwrap();
        assert!(matches!(cli.verb, Verb::Crd));
        let server = parse(&[]).coordinator;
        assert_eq!(server, "https://espalier-coordinator:7443");
    }
}
