//! Settings of encryption: the coordinator's certificate, whom it lets through, etcd's certificates.

use super::{ConfigError, Period};
use clap::{Args, ValueEnum};
use espalier_tls::{
    ClientFiles, ClientTls, Incoming, Limits, ServerFiles, ServerTls, TRUST_DOMAIN, TlsError, plain,
};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;

/// Encryption of what the coordinator serves, and of its calls to etcd.
#[derive(Clone, Debug, Args)]
pub struct Tls {
    /// Certificate to serve with; with it only TLS is spoken. New files are taken up without a restart
    #[arg(long, env = "ESPALIER_COORDINATOR_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, env = "ESPALIER_COORDINATOR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Certificates of the CAs that sign those of workers and clients, who must show one
    #[arg(long, env = "ESPALIER_COORDINATOR_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate; default: required, unless they can show a token
    #[arg(
        long,
        env = "ESPALIER_COORDINATOR_TLS_CLIENT_CERTIFICATES",
        value_name = "WHETHER",
        value_enum
    )]
    pub tls_client_certificates: Option<ClientCertificates>,
    /// Domain of identities in certificates: spiffe://DOMAIN/worker/NAME
    #[arg(
        long,
        env = "ESPALIER_COORDINATOR_TLS_TRUST_DOMAIN",
        value_name = "DOMAIN",
        default_value = TRUST_DOMAIN
    )]
    pub tls_trust_domain: String,
    /// How long a connection may take to say its first word and to finish its handshake
    #[arg(long, default_value_t = Period(Limits::default().handshake_time))]
    pub handshake_timeout: Period,
    /// Connections that may be open at once
    #[arg(long, default_value_t = Limits::default().connections)]
    pub max_connections: usize,
    /// Certificates of the CAs that may have signed etcd's; default: those that this host trusts
    #[arg(long, env = "ESPALIER_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// Certificate to show to etcd
    #[arg(long, env = "ESPALIER_ETCD_CERT", value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, env = "ESPALIER_ETCD_KEY", value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
}

/// Whether clients must show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientCertificates {
    /// Nobody comes in without one
    Required,
    /// Who shows none is nobody, until a token says who
    Optional,
}

impl Tls {
    /// Checks the rules that connect these settings.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn validate(&self, advertise: Option<&str>) -> Result<(), ConfigError> {
        let pairs = [
            ("tls-cert", &self.tls_cert, "tls-key", &self.tls_key),
            ("etcd-cert", &self.etcd_cert, "etcd-key", &self.etcd_key),
        ];
        for (cert, has_cert, key, has_key) in pairs {
            let (given, missing) = match (has_cert, has_key) {
                (Some(_), None) => (cert, key),
                (None, Some(_)) => (key, cert),
                _ => continue,
            };
            return Err(ConfigError::Incomplete { given, missing });
        }
        if self.tls_client_ca.is_some() && !self.is_on() {
            return Err(ConfigError::Incomplete {
                given: "tls-client-ca",
                missing: "tls-cert",
            });
        }
        if self.tls_client_certificates.is_some() && self.tls_client_ca.is_none() {
            return Err(ConfigError::Incomplete {
                given: "tls-client-certificates",
                missing: "tls-client-ca",
            });
        }
        if let Some(address) = advertise
            && address.starts_with("https://") != self.is_on()
        {
            return Err(ConfigError::Scheme {
                advertise: address.to_owned(),
                scheme: self.scheme(),
            });
        }
        let range = |flag, found: String, expected: &str| ConfigError::Range {
            flag,
            found,
            expected: expected.to_owned(),
        };
        if !(Duration::from_millis(100)..=Duration::from_secs(300))
            .contains(&self.handshake_timeout.0)
        {
            let found = self.handshake_timeout.to_string();
            return Err(range("handshake-timeout", found, "100ms to 5m"));
        }
        if !(1..=1 << 20).contains(&self.max_connections) {
            let found = self.max_connections.to_string();
            return Err(range("max-connections", found, "1 to 1048576"));
        }
        Ok(())
    }

    /// Whether the coordinator speaks TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// Whether nobody comes in without a certificate; `tokens`: callers can show those instead.
    #[must_use]
    pub fn requires_certificates(&self, tokens: bool) -> bool {
        let required = match self.tls_client_certificates {
            Some(whether) => whether == ClientCertificates::Required,
            None => !tokens,
        };
        self.is_on() && self.tls_client_ca.is_some() && required
    }

    /// Scheme of the coordinator's address.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match self.is_on() {
            true => "https",
            false => "http",
        }
    }

    /// Limits of connections.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            handshake_time: self.handshake_timeout.0,
            connections: self.max_connections,
            ..Limits::default()
        }
    }

    /// Connections to a listener, encrypted or not; `tokens`: callers can show those instead of
    /// certificates. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// The certificates don't load.
    pub fn incoming(
        &self,
        listener: TcpListener,
        limits: Limits,
        tokens: bool,
    ) -> Result<Incoming, TlsError> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(plain(listener, limits));
        };
        let files = ServerFiles {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: self.tls_client_ca.clone(),
        };
        let mut server = ServerTls::load(&files)?.trust_domain(&self.tls_trust_domain);
        if !self.requires_certificates(tokens) {
            server = server.optional_clients()?;
        }
        Ok(server.incoming(listener, limits))
    }

    /// A client of etcd's.
    ///
    /// # Errors
    ///
    /// The certificates don't load.
    pub fn etcd(&self) -> Result<ClientTls, TlsError> {
        ClientTls::load(&ClientFiles {
            ca: self.etcd_ca.clone(),
            cert: self.etcd_cert.clone(),
            key: self.etcd_key.clone(),
            server_name: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;
    use clap::Parser;

    // Promise: half a pair, and a name that others can't use, are refused with what is missing.
    #[test]
    fn what_belongs_together() {
        let check = |flags: &[&str]| {
            let flags = std::iter::once("espalier-coordinator").chain(flags.iter().copied());
            Config::try_parse_from(flags).unwrap().validate()
        };
        let pair = ["--tls-cert", "a", "--tls-key", "b"];
        assert_eq!(check(&pair), Ok(()));
        let with = |more: &[&str]| check(&[&pair[..], more].concat());
        assert_eq!(with(&["--advertise", "https://a:1"]), Ok(()));
        for (result, word) in [
            (check(&["--tls-cert", "a"]), "--tls-key"),
            (check(&["--tls-key", "a"]), "--tls-cert"),
            (check(&["--tls-client-ca", "a"]), "--tls-cert"),
            (check(&["--etcd-cert", "a"]), "--etcd-key"),
            (
                with(&["--tls-client-certificates", "optional"]),
                "--tls-client-ca",
            ),
            (with(&["--advertise", "http://a:1"]), "https://"),
            (check(&["--advertise", "https://a:1"]), "http://"),
            (check(&["--handshake-timeout", "0s"]), "100ms"),
            (check(&["--max-connections", "0"]), "max-connections"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
