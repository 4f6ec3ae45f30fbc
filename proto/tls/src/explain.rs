//! Errors of a connection in words that say what to do.

use crate::TlsError;
use crate::turned_away::SPEAK_TLS;
use rustls::{AlertDescription, CertificateError, Error};
use std::io;

/// What TLS has to do with the failure of a connection or a call, for the client; none if it has nothing
/// to do with it.
#[must_use]
pub fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<Error>() {
            return Some(words(tls));
        }
        if let Some(ours) = error.downcast_ref::<TlsError>() {
            return Some(ours.to_string());
        }
        // An error of IO shows what it holds as itself, and skips it among its sources.
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
        if next.is_none() {
            return by_text(&error.to_string());
        }
    }
    None
}

/// HTTP/2 passes errors of its connection on to its streams as text.
fn by_text(text: &str) -> Option<String> {
    if text.contains(SPEAK_TLS) {
        return Some("the server speaks TLS; use https://".into());
    }
    let alerts = [
        AlertDescription::CertificateRequired,
        AlertDescription::UnknownCA,
        AlertDescription::DecryptError,
        AlertDescription::CertificateExpired,
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateUnknown,
    ];
    let named = |alert: &AlertDescription| {
        let received = Error::AlertReceived(*alert).to_string();
        text.contains(&received)
    };
    let alert = alerts.into_iter().find(named)?;
    Some(words(&Error::AlertReceived(alert)))
}

fn words(error: &Error) -> String {
    use CertificateError as Bad;
    let text = match error {
        Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => {
                "the server's certificate has expired; give the server a new one, and compare the clocks"
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet; compare the clocks"
            }
            Bad::UnknownIssuer | Bad::BadSignature => {
                "the server's certificate was signed by a CA that is not trusted here; name the server's \
                 CA with --tls-ca"
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "the server's certificate is for another name; call it by one that the certificate \
                 holds, or name that with --tls-server-name"
            }
            _ => return format!("the server's certificate is wrong: {bad:?}"),
        },
        Error::AlertReceived(alert) => match *alert {
            AlertDescription::CertificateRequired => {
                "the server wants a certificate; pass --tls-cert and --tls-key"
            }
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "the server does not trust the CA of the certificate that it was shown; show one of \
                 the cluster's CA with --tls-cert and --tls-key"
            }
            AlertDescription::CertificateExpired => {
                "the certificate that the server was shown is not valid now; issue a new one, and compare \
                 the clocks"
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown => {
                "the server refused the certificate that it was shown; issue a new one for a client"
            }
            other => return format!("the server ended the handshake: {other:?}"),
        },
        Error::InvalidMessage(_) => {
            "the server does not speak TLS; use http:// if plain text is wanted, or the port that \
             speaks TLS"
        }
        _ => return error.to_string(),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: what TLS has to do with a failure is found however deep it lies, and nothing is made up.
    #[test]
    fn depths() {
        let alert = Error::AlertReceived(AlertDescription::CertificateRequired);
        let held = io::Error::new(io::ErrorKind::InvalidData, alert.clone());
        let twice = io::Error::other(held);
        assert!(explain(&twice).unwrap().contains("--tls-cert"));
        // As HTTP/2 tells it.
        let text = io::Error::new(io::ErrorKind::InvalidData, alert.to_string());
        assert!(explain(&text).unwrap().contains("--tls-cert"));
        let plain = io::Error::other(format!("connection error received ({SPEAK_TLS:?})"));
        assert!(explain(&plain).unwrap().contains("https://"));
        let other = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        assert_eq!(explain(&other), None);
    }
}
