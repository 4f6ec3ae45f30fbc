//! Whether a certificate that was verified still holds: CAs are taken out, and time passes.

use crate::keys::Keys;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Least time between two looks at a certificate.
const SHORTEST: Duration = Duration::from_millis(100);

/// Whether a caller's certificate still holds. One that was not shown does for ever.
#[derive(Clone, Debug)]
pub struct Standing(watch::Receiver<bool>);

impl Standing {
    /// That of a caller without a certificate.
    pub(crate) fn lasting() -> Self {
        Self(watch::channel(false).1)
    }

    /// Whether the certificate has ended, or its CA is no longer trusted.
    #[must_use]
    pub fn is_void(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the certificate holds no longer; for ever where that does not happen.
    pub async fn voided(&mut self) {
        // An error: there was no certificate, or its connection is over.
        let over = self.0.wait_for(|void| *void).await.is_err();
        if over {
            pending::<()>().await;
        }
    }
}

/// A certificate of an open connection. Looked at until this is dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) standing: Standing,
    task: AbortHandle,
}

impl Watched {
    /// Looks after a chain that was verified, the holder's certificate first. Must be called inside a tokio
    /// runtime.
    pub(crate) fn begin(
        keys: Arc<Keys>,
        chain: Vec<CertificateDer<'static>>,
        every: Duration,
    ) -> Self {
        let (void, standing) = watch::channel(false);
        let mut shown = Shown::new(chain);
        let task = tokio::spawn(async move {
            loop {
                sleep(every.max(SHORTEST)).await;
                if !keys.trusts(&mut shown, every).await {
                    void.send_replace(true);
                    return;
                }
            }
        });
        Self {
            standing: Standing(standing),
            task: task.abort_handle(),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a client has shown.
pub(crate) struct Shown {
    chain: Vec<CertificateDer<'static>>,
    /// Last second that the holder's certificate is valid in, since 1970, if it can be read.
    until: Option<u64>,
    /// Version of the CAs that it was found good with.
    version: Option<u64>,
}

impl Shown {
    fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        let until = chain.first().and_then(|leaf| {
            let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
            u64::try_from(certificate.validity().not_after.timestamp()).ok()
        });
        Self {
            chain,
            until,
            version: None,
        }
    }

    /// Whether it would be let in by CAs of this version. Verified again where they are others, and once its
    /// time is over.
    pub(crate) fn holds(&mut self, version: u64, clients: Option<&dyn ClientCertVerifier>) -> bool {
        let now = UnixTime::now();
        let known = self.version == Some(version);
        if known && self.until.is_some_and(|until| now.as_secs() <= until) {
            return true;
        }
        let (Some((leaf, others)), Some(clients)) = (self.chain.split_first(), clients) else {
            return false;
        };
        self.version = Some(version);
        clients.verify_client_cert(leaf, others, now).is_ok()
    }
}
