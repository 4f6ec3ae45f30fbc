//! Files of certificates and keys.

use crate::TlsError;
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

/// The cryptography of all connections.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File {
        path: path.to_owned(),
        source,
    })
}

/// Reads a file that is not to stay in memory.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    read(path).map(Zeroizing::new)
}

/// The certificates of a file, at least one.
pub(crate) fn certificates(
    path: &Path,
    content: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |detail: String| TlsError::Content {
        path: path.to_owned(),
        detail,
        expected: "certificates",
    };
    let found = CertificateDer::pem_slice_iter(content)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    match found.is_empty() {
        true => Err(wrong("it holds no certificate".into())),
        false => Ok(found),
    }
}

/// The key of a file.
pub(crate) fn key(path: &Path, content: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    // What the parser says of a line that it can't read is not shown: it may hold a part of the key.
    PrivateKeyDer::from_pem_slice(content).map_err(|_| TlsError::Content {
        path: path.to_owned(),
        detail: "it holds no private key without a passphrase".into(),
        expected: "a private key (PKCS #8, SEC1 or PKCS #1)",
    })
}

/// The CAs of a file.
pub(crate) fn roots(path: &Path, content: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, content)? {
        roots.add(certificate).map_err(|error| TlsError::Content {
            path: path.to_owned(),
            detail: error.to_string(),
            expected: "certificates of CAs",
        })?;
    }
    Ok(roots)
}

/// Checks that a certificate can be used now; answers when that ends.
pub(crate) fn in_force(path: &Path, der: &[u8]) -> Result<ASN1Time, TlsError> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|error| TlsError::Content {
            path: path.to_owned(),
            detail: error.to_string(),
            expected: "certificates",
        })?;
    let (valid, now) = (certificate.validity(), ASN1Time::now());
    if now > valid.not_after {
        return Err(TlsError::Expired {
            path: path.to_owned(),
            until: valid.not_after.to_string(),
        });
    }
    if now < valid.not_before {
        return Err(TlsError::NotYet {
            path: path.to_owned(),
            from: valid.not_before.to_string(),
        });
    }
    Ok(valid.not_after)
}
