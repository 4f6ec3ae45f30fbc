//! What can be wrong with certificates, keys and those who show them.

use std::path::PathBuf;

/// Why TLS can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{path}: {detail}; expected {expected} in PEM")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A certificate's time is over.
    #[error(
        "{path}: the certificate expired on {until}; issue a new one, and compare this host's clock"
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// Its last moment.
        until: String,
    },
    /// A certificate's time has not come.
    #[error("{path}: the certificate is valid from {from} only; compare this host's clock")]
    NotYet {
        /// The file.
        path: PathBuf,
        /// Its first moment.
        from: String,
    },
    /// Certificate and key are not each other's.
    #[error("{cert} and {key} do not belong together: {detail}")]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// One flag needs another.
    #[error("{given} needs {missing}, too: a certificate and its key go together")]
    Incomplete {
        /// What was given.
        given: &'static str,
        /// What was not.
        missing: &'static str,
    },
    /// This host trusts nobody.
    #[error("this host has no certificates of CAs to trust ({detail}); pass --tls-ca FILE")]
    NoRoots {
        /// What was found.
        detail: String,
    },
    /// An address is none.
    #[error("{address:?} is no address of a server: {detail}; expected such as https://HOST:PORT")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A server can't be reached, or is not who it should be.
    #[error("{address}: {detail}")]
    Connect {
        /// The server.
        address: String,
        /// What went wrong.
        detail: String,
    },
    /// TLS refused the settings.
    #[error("TLS can't be set up: {0}")]
    Setup(String),
    /// A name can't stand in a certificate.
    #[error("`{found}` is no {what}; expected {expected}")]
    Name {
        /// What was given.
        found: String,
        /// What it should be.
        what: &'static str,
        /// How one looks.
        expected: &'static str,
    },
    /// A CA would be overwritten.
    #[error(
        "{path} is there already, and what it has signed would be worth nothing with another one; choose \
         another directory, or delete it first"
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A certificate could not be made.
    #[error("the certificate can't be made: {0}")]
    Issue(#[from] rcgen::Error),
}
