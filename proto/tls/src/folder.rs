//! Certificates on disk, laid out as cert-manager does: `ca.crt`, `tls.crt`, `tls.key`.

use crate::TlsError;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// Name of the CA's certificate.
pub(crate) const CA_CERT: &str = "ca.crt";
/// Name of the certificate.
pub(crate) const CERT: &str = "tls.crt";
/// Name of the key.
pub(crate) const KEY: &str = "tls.key";

/// A certificate that was made, in PEM.
pub struct Issued {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: Zeroizing<String>,
    /// The CA's certificate.
    pub ca: String,
}

impl Issued {
    /// Writes `ca.crt`, `tls.crt` and `tls.key` into a directory. Each file is replaced whole; only the
    /// owner may read the key.
    ///
    /// # Errors
    ///
    /// A file can't be written.
    pub fn save(&self, directory: &Path) -> Result<(), TlsError> {
        fs::create_dir_all(directory).map_err(|source| TlsError::File {
            path: directory.to_owned(),
            source,
        })?;
        write(directory, CA_CERT, self.ca.as_bytes(), 0o644)?;
        write(directory, KEY, self.key.as_bytes(), 0o600)?;
        write(directory, CERT, self.cert.as_bytes(), 0o644)
    }
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys are nobody's business.
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

fn write(directory: &Path, name: &str, content: &[u8], mode: u32) -> Result<(), TlsError> {
    let path = directory.join(name);
    let partial = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    written().map_err(|source| {
        // What is left of it is of no use.
        let _ = fs::remove_file(&partial);
        TlsError::File {
            path: path.clone(),
            source,
        }
    })
}
