//! A server's end: certificates, and who is let through to it.

use crate::incoming::Incoming;
use crate::keys::Keys;
use crate::{Limits, TlsError};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Files of a server, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate, and those that lead from it to a CA.
    pub cert: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// CAs of clients' certificates; none: clients are asked for none.
    pub client_ca: Option<PathBuf>,
}

/// A server that speaks TLS.
pub struct ServerTls {
    keys: Keys,
}

impl ServerTls {
    /// Loads the files. With a CA of clients, every client must show a certificate that it signed.
    ///
    /// # Errors
    ///
    /// A file can't be read or holds something else, certificate and key don't belong together, or the
    /// certificate is not valid now.
    pub fn load(files: &ServerFiles) -> Result<Self, TlsError> {
        Keys::load(files).map(|keys| Self { keys })
    }

    /// Lets clients through that show no certificate, as nobody: they say who they are otherwise. One
    /// that is shown must still be right.
    ///
    /// # Errors
    ///
    /// TLS refuses the settings.
    pub fn optional_clients(mut self) -> Result<Self, TlsError> {
        self.keys.without_certificates()?;
        Ok(self)
    }

    /// Reads identities of this trust domain; [`crate::TRUST_DOMAIN`] at first. Those of others are nobody.
    #[must_use]
    pub fn trust_domain(mut self, domain: &str) -> Self {
        domain.clone_into(&mut self.keys.domain);
        self
    }

    /// The connections that come to a listener. Must be called inside a tokio runtime.
    #[must_use]
    pub fn incoming(self, listener: TcpListener, limits: Limits) -> Incoming {
        Incoming::new(listener, Some(Arc::new(self.keys)), limits)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are nobody's business.
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}
