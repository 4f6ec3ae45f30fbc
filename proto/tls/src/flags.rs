//! Flags of clients: the same for every program.

use crate::{ClientFiles, ClientTls, TlsError};
use std::path::PathBuf;

/// Flags of a client's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct ClientFlags {
    /// Certificates of the CAs that may have signed the coordinator's; default: those that this host trusts
    #[arg(
        long,
        global = true,
        env = "ESPALIER_TLS_CA",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub tls_ca: Option<PathBuf>,
    /// Certificate to show to the coordinator
    #[arg(
        long,
        global = true,
        env = "ESPALIER_TLS_CERT",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(
        long,
        global = true,
        env = "ESPALIER_TLS_KEY",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub tls_key: Option<PathBuf>,
    /// Name that the coordinator's certificate must hold; default: the one in its address
    #[arg(
        long,
        global = true,
        env = "ESPALIER_TLS_SERVER_NAME",
        value_name = "NAME",
        hide_env_values = true
    )]
    pub tls_server_name: Option<String>,
}

impl ClientFlags {
    /// The files that they name.
    #[must_use]
    pub fn files(&self) -> ClientFiles {
        ClientFiles {
            ca: self.tls_ca.clone(),
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            server_name: self.tls_server_name.clone(),
        }
    }

    /// The client that they describe.
    ///
    /// # Errors
    ///
    /// As [`ClientTls::load`].
    pub fn load(&self) -> Result<ClientTls, TlsError> {
        ClientTls::load(&self.files())
    }
}
