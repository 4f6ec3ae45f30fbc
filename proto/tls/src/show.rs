//! What certificates hold, for people.

use crate::{TlsError, pem};
use std::net::IpAddr;
use std::path::Path;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// What one certificate holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Who its holder is in a cluster: URIs.
    pub uris: Vec<String>,
    /// DNS names and IP addresses of its holder.
    pub hosts: Vec<String>,
    /// Whether it is a CA's.
    pub authority: bool,
    /// First second that it is valid in, since 1970.
    pub from: i64,
    /// Last second.
    pub until: i64,
    /// Its number, in hexadecimal.
    pub serial: String,
}

/// All certificates of a file, in its order.
///
/// # Errors
///
/// The file can't be read or holds something else.
pub fn inspect(path: &Path) -> Result<Vec<Details>, TlsError> {
    let content = pem::read(path)?;
    let details = |der: &[u8]| -> Result<Details, TlsError> {
        let (_, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|error| TlsError::Content {
                path: path.to_owned(),
                detail: error.to_string(),
                expected: "certificates",
            })?;
        Ok(of(&certificate))
    };
    let all = pem::certificates(path, &content)?;
    all.iter().map(|der| details(der)).collect()
}

fn of(certificate: &X509Certificate<'_>) -> Details {
    let (mut uris, mut hosts) = (Vec::new(), Vec::new());
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => hosts.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => hosts.extend(address(bytes)),
                _ => {}
            }
        }
    }
    let valid = certificate.validity();
    Details {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        uris,
        hosts,
        authority: certificate.is_ca(),
        from: valid.not_before.timestamp(),
        until: valid.not_after.timestamp(),
        serial: certificate.raw_serial_as_string(),
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    address.ok().map(|address| address.to_string())
}
