//! Settings of the coordinator: flags and environment, their defaults, their rules.

mod access;
mod data_plane;
mod store;
mod tls;

pub use access::AccessArgs;
pub use data_plane::{DataPlane, DataPlaneFlags};
pub use espalier_telemetry::LogFormat;
pub use store::StoreAt;
pub use tls::{ClientCertificates, Tls};

use clap::Parser;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Version of this binary; workers must have the same.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Every default that is the shell's own; those of the machine are `espalier_core::Config::new`'s.
mod defaults {
    pub(super) const PORT: u16 = 7443;
    pub(super) const DATA_DIR: &str = ".espalier/coordinator";
    pub(super) const MAX_MESSAGE_BYTES: usize = 4 << 20;
    pub(super) const MAX_WATCHES: usize = 1024;
    pub(super) const SNAPSHOT_EVERY: u64 = 4096;
    pub(super) const CLUSTER: &str = "default";
    pub(super) const LEASE_TTL_MS: u64 = 1500;
}

/// Espalier's coordinator: keeps jobs and workers, decides who trains what.
#[derive(Clone, Debug, Parser)]
#[command(name = "espalier-coordinator", version, about)]
pub struct Config {
    /// Address to serve gRPC on; port 0 takes any free one
    #[arg(long, env = "ESPALIER_LISTEN", default_value_t = listen())]
    pub listen: SocketAddr,
    /// Directory of everything that must survive a restart
    #[arg(long, env = "ESPALIER_DATA_DIR", default_value = defaults::DATA_DIR)]
    pub data_dir: PathBuf,
    /// Where jobs and workers are kept: redb (in the data directory), redb:DIRECTORY, or
    /// etcd:https://HOST:2379,... for several coordinators of which one leads
    #[arg(
        long,
        env = "ESPALIER_STORE",
        value_name = "STORE",
        default_value = "redb"
    )]
    pub store: StoreAt,
    /// Address that clients, workers and other coordinators reach this one at; default: where it
    /// listens
    #[arg(long, env = "ESPALIER_ADVERTISE", value_name = "URL")]
    pub advertise: Option<String>,
    /// Name of the cluster among others in one etcd
    #[arg(long, env = "ESPALIER_CLUSTER", value_name = "NAME", default_value = defaults::CLUSTER)]
    pub cluster: String,
    /// How long the leader may be silent before another coordinator takes over
    #[arg(long, default_value_t = Period::of(defaults::LEASE_TTL_MS))]
    pub lease_ttl: Period,
    /// Serve beyond this host without encryption or without asking who calls, and call an etcd beyond it
    /// in plain text: anyone who reaches the port can run jobs
    #[arg(long, env = "ESPALIER_INSECURE")]
    pub insecure: bool,
    /// Encryption
    #[command(flatten)]
    pub tls: Tls,
    /// File that gets the bound address once the coordinator serves
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// Form of the log on standard error
    #[arg(long, env = "ESPALIER_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    #[command(flatten)]
    #[allow(missing_docs)] // clap would take them for the command's own
    pub telemetry: espalier_telemetry::Flags,
    /// How often workers say that they are alive; three missing ones make one unreachable
    #[arg(long, default_value_t = Period::of(machine().heartbeat_interval_ms))]
    pub heartbeat_interval: Period,
    /// How long a worker may be unreachable before its ranks are given up
    #[arg(long, default_value_t = Period::of(machine().gone_after_ms))]
    pub gone_after: Period,
    /// How long the workers of a job may take to load model and data
    #[arg(long, default_value_t = Period::of(machine().prepare_timeout_ms))]
    pub prepare_timeout: Period,
    /// How long a worker may take to stop a job's ranks
    #[arg(long, default_value_t = Period::of(machine().stop_timeout_ms))]
    pub stop_timeout: Period,
    /// How long a worker may take to write a checkpoint and stop
    #[arg(long, default_value_t = Period::of(machine().checkpoint_timeout_ms))]
    pub checkpoint_timeout: Period,
    /// Failures for passing reasons, without progress between them, that a job survives
    #[arg(long, default_value_t = machine().max_restarts)]
    pub max_restarts: u32,
    /// How long an elastic job runs at least before it stops to take in more workers
    #[arg(long, default_value_t = Period::of(machine().scale_after_ms))]
    pub scale_after: Period,
    /// Free workers that load a running job too, to take a lost one's place at once
    #[arg(long, default_value_t = machine().hot_spares)]
    pub hot_spares: u32,
    /// Largest message that is accepted, in bytes
    #[arg(long, default_value_t = defaults::MAX_MESSAGE_BYTES)]
    pub max_message_bytes: usize,
    /// Watches and log tails that may be open at once
    #[arg(long, default_value_t = defaults::MAX_WATCHES)]
    pub max_watches: usize,
    /// Records after which the store is compacted to a snapshot
    #[arg(long, default_value_t = defaults::SNAPSHOT_EVERY, hide = true)]
    pub snapshot_every: u64,
    /// Who may do what
    #[command(flatten)]
    pub access: AccessArgs,
    /// What ranks send each other
    #[command(flatten)]
    pub data_plane: DataPlaneFlags,
}

/// Settings that contradict each other or make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Anybody on the network could read what is said, or steer the cluster.
    #[error(
        "--listen {address} can be reached from other hosts: pass {missing}; or listen on 127.0.0.1 or \
         [::1], or pass --insecure if everybody on the network may do everything"
    )]
    Exposed {
        /// Where it would listen.
        address: SocketAddr,
        /// The flags that are missing.
        missing: &'static str,
    },
    /// Anybody on the way to etcd could read what is kept, or change it.
    #[error(
        "--store etcd:{0} is plain text beyond this host: pass https://HOST:PORT, with --etcd-ca, --etcd-cert and \
         --etcd-key, or pass --insecure if everybody on the network may read and change what is kept"
    )]
    ExposedStore(String),
    /// Other coordinators could not say where this one is.
    #[error(
        "--listen {0} is no address that others can reach, and with --store etcd clients and workers are \
         sent to the leader's: pass --advertise https://HOST:PORT, or http:// without TLS"
    )]
    Advertise(SocketAddr),
    /// One flag needs another.
    #[error("--{given} needs --{missing}, too")]
    Incomplete {
        /// What was given.
        given: &'static str,
        /// What was not.
        missing: &'static str,
    },
    /// Others would speak TLS to plain text, or the other way round.
    #[error(
        "--advertise {advertise} is not what is served here: expected {scheme}://HOST:PORT; TLS is on with \
         --tls-cert and --tls-key"
    )]
    Scheme {
        /// What was given.
        advertise: String,
        /// What it should begin with.
        scheme: &'static str,
    },
    /// A key for data that is not encrypted.
    #[error(
        "--data-key-file {0}: with --data-plane plain nothing is encrypted with it; pass --data-plane encrypted, or \
         leave the file out"
    )]
    UselessKey(String),
    /// A number is outside its range.
    #[error("--{flag} is {found}, expected {expected}")]
    Range {
        /// The flag.
        flag: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
}

impl Config {
    /// Checks the rules that connect settings.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.tls.validate(self.advertise.as_deref())?;
        if !self.listen.ip().is_loopback() && !self.insecure {
            const ENCRYPT: &str = "--tls-cert and --tls-key, so that what is said is encrypted";
            const ASK: &str = "--token-file, --oidc-issuer or --tls-client-ca, so that callers are asked who they are";
            const BOTH: &str = "--tls-cert and --tls-key, so that what is said is encrypted, and \
                                --token-file, --oidc-issuer or --tls-client-ca, so that callers are \
                                asked who they are";
            let asks = self.access.knows_tokens() || self.asks_for_certificates();
            let missing = match (self.encrypts(), asks) {
                (true, true) => None,
                (false, true) => Some(ENCRYPT),
                (true, false) => Some(ASK),
                (false, false) => Some(BOTH),
            };
            if let Some(missing) = missing {
                let address = self.listen;
                return Err(ConfigError::Exposed { address, missing });
            }
        }
        if let Some(endpoint) = self.store.exposed().filter(|_| !self.insecure) {
            return Err(ConfigError::ExposedStore(endpoint.to_owned()));
        }
        self.access.validate()?;
        let beat = self.heartbeat_interval;
        if beat.0 < Duration::from_millis(10) {
            return Err(range("heartbeat-interval", &beat, "at least 10ms".into()));
        }
        if self.gone_after < beat {
            let expected = format!("at least the heartbeat interval, {beat}");
            return Err(range("gone-after", &self.gone_after, expected));
        }
        if !(65_536..=1 << 30).contains(&self.max_message_bytes) {
            let expected = "64 KiB (65536) to 1 GiB (1073741824)".into();
            return Err(range(
                "max-message-bytes",
                &self.max_message_bytes,
                expected,
            ));
        }
        if self.access.max_job_bytes > self.max_message_bytes {
            let expected = format!(
                "at most max-message-bytes, {}: a larger job can't be sent",
                self.max_message_bytes
            );
            return Err(range("max-job-bytes", &self.access.max_job_bytes, expected));
        }
        if self.max_watches == 0 || self.max_watches > 1 << 20 {
            return Err(range(
                "max-watches",
                &self.max_watches,
                "1 to 1048576".into(),
            ));
        }
        if matches!(self.store, StoreAt::Etcd(_))
            && self.advertise.is_none()
            && self.listen.ip().is_unspecified()
        {
            return Err(ConfigError::Advertise(self.listen));
        }
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.cluster.is_empty() || !self.cluster.chars().all(word) {
            let expected = "letters, digits, `-`, `_` and `.`".into();
            let found = format!("`{}`", self.cluster);
            return Err(range("cluster", &found, expected));
        }
        if self.lease_ttl.0 < Duration::from_millis(300) {
            let expected = "at least 300ms".into();
            return Err(range("lease-ttl", &self.lease_ttl, expected));
        }
        if self.snapshot_every == 0 {
            return Err(range("snapshot-every", &0, "at least 1".into()));
        }
        self.data_plane.validate()
    }

    /// Whether what is said is encrypted.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        self.tls.is_on()
    }

    /// Whether clients may prove who they are with certificates.
    #[must_use]
    pub fn asks_for_certificates(&self) -> bool {
        self.tls.is_on() && self.tls.tls_client_ca.is_some()
    }

    /// The machine's part of the settings.
    #[must_use]
    pub fn machine(&self) -> espalier_core::Config {
        espalier_core::Config {
            version: VERSION.to_owned(),
            heartbeat_interval_ms: self.heartbeat_interval.millis(),
            gone_after_ms: self.gone_after.millis(),
            prepare_timeout_ms: self.prepare_timeout.millis(),
            stop_timeout_ms: self.stop_timeout.millis(),
            checkpoint_timeout_ms: self.checkpoint_timeout.millis(),
            max_restarts: self.max_restarts,
            scale_after_ms: self.scale_after.millis(),
            hot_spares: self.hot_spares,
        }
    }
}

fn range(flag: &'static str, found: &dyn fmt::Display, expected: String) -> ConfigError {
    ConfigError::Range {
        flag,
        found: found.to_string(),
        expected,
    }
}

/// A length of time as people write it: `500ms`, `10s`, `5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    fn of(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.millis() {
            ms if ms > 0 && ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms > 0 && ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no length of time, expected such as 500ms, 10s or 5m");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        number.checked_mul(factor).map(Self::of).ok_or_else(bad)
    }
}

fn listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, defaults::PORT))
}

fn machine() -> espalier_core::Config {
    espalier_core::Config::new(VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Config {
        let flags = std::iter::once("espalier-coordinator").chain(flags.iter().copied());
        Config::try_parse_from(flags).unwrap()
    }

    // Promise: plain text is not served to the network by accident.
    #[test]
    fn listening_beyond_this_host_must_be_asked_for() {
        assert_eq!(parse(&[]).validate(), Ok(()));
        assert_eq!(parse(&["--listen", "[::1]:0"]).validate(), Ok(()));
        let open = parse(&["--listen", "0.0.0.0:7443"]);
        let error = open.validate().unwrap_err().to_string();
        assert!(
            error.contains("--tls-cert") && error.contains("--token-file"),
            "{error}"
        );
        let tokens = ["--listen", "0.0.0.0:7443", "--token-file", "tokens.yaml"];
        let error = parse(&tokens).validate().unwrap_err().to_string();
        assert!(
            error.contains("--tls-cert") && !error.contains("--token-file"),
            "{error}"
        );
        assert_eq!(
            parse(&["--listen", "0.0.0.0:7443", "--insecure"]).validate(),
            Ok(())
        );
        let mut known = vec!["--listen", "0.0.0.0:7443", "--tls-cert", "a"];
        known.extend(["--tls-key", "b", "--tls-client-ca", "c"]);
        assert_eq!(parse(&known).validate(), Ok(()));
    }

    // Promise: times are read as they are shown, and nonsense is refused.
    #[test]
    fn periods() {
        for text in ["500ms", "1s", "90s", "10m", "0ms"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "s",
            "10",
            "-1s",
            "1.5s",
            "10 s",
            "99999999999999999999s",
            "9999999999999999h",
        ] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
        let short = parse(&["--gone-after", "100ms"])
            .validate()
            .unwrap_err()
            .to_string();
        assert!(
            short.contains("gone-after") && short.contains("1s"),
            "{short}"
        );
    }

    // Promise: nobody is sent to an address that can't be reached.
    #[test]
    fn who_is_sent_here_must_arrive() {
        let etcd = ["--store", "etcd:http://a:2379", "--insecure"];
        let with = |flags: &[&str]| parse(&[&etcd[..], flags].concat()).validate();
        assert_eq!(with(&[]), Ok(()));
        let open = ["--listen", "0.0.0.0:7443"];
        let error = with(&open).unwrap_err().to_string();
        assert!(error.contains("--advertise"), "{error}");
        let named = [&open[..], &["--advertise", "http://here:7443"]].concat();
        assert_eq!(with(&named), Ok(()));
        let error = with(&["--cluster", "a/b"]).unwrap_err().to_string();
        assert!(error.contains("cluster"), "{error}");
    }
}
