//! What a server shows and whom it trusts, taken from files that may change while it runs.

use crate::pem;
use crate::server::ServerFiles;
use crate::standing::Shown;
use crate::{TRUST_DOMAIN, TlsError};
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// What the files held.
#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &ServerFiles) -> Result<Self, TlsError> {
        Ok(Self {
            cert: pem::read(&files.cert)?,
            key: pem::read_secret(&files.key)?,
            client_ca: files.client_ca.as_deref().map(pem::read).transpose()?,
        })
    }
}

/// What was made of them.
struct Made {
    config: Arc<ServerConfig>,
    /// Whom the CAs have signed; none: clients are asked for no certificate.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

struct Current {
    contents: Contents,
    made: Made,
    /// Another one for other files.
    version: u64,
    looked: Instant,
    /// What was wrong with the files when they were looked at last.
    complaint: String,
}

/// A server's certificate, its key, and the CAs of its clients.
pub(crate) struct Keys {
    files: ServerFiles,
    /// Clients may come without a certificate.
    pub(crate) optional: bool,
    /// Trust domain of identities.
    pub(crate) domain: String,
    current: Mutex<Current>,
    /// One look at a time: what was read later is in force later.
    turn: Mutex<()>,
}

impl Keys {
    pub(crate) fn load(files: &ServerFiles) -> Result<Self, TlsError> {
        let contents = Contents::read(files)?;
        let made = build(files, &contents, false)?;
        Ok(Self {
            files: files.clone(),
            optional: false,
            domain: TRUST_DOMAIN.to_owned(),
            current: Mutex::new(Current {
                contents,
                made,
                version: 0,
                looked: Instant::now(),
                complaint: String::new(),
            }),
            turn: Mutex::default(),
        })
    }

    /// Lets clients come without a certificate.
    pub(crate) fn without_certificates(&mut self) -> Result<(), TlsError> {
        self.optional = true;
        let mut current = self.lock();
        let made = build(&self.files, &current.contents, true)?;
        current.made = made;
        Ok(())
    }

    /// What the next connection is served with. Looks at the files if that was last done this long ago.
    pub(crate) async fn config(self: &Arc<Self>, every: Duration) -> Arc<ServerConfig> {
        self.look_if_due(every).await;
        Arc::clone(&self.lock().made.config)
    }

    /// Whether a client with these certificates would be let in now. Looks at the files likewise.
    pub(crate) async fn trusts(self: &Arc<Self>, shown: &mut Shown, every: Duration) -> bool {
        self.look_if_due(every).await;
        let (version, clients) = {
            let current = self.lock();
            (current.version, current.made.clients.clone())
        };
        shown.holds(version, clients.as_deref())
    }

    async fn look_if_due(self: &Arc<Self>, every: Duration) {
        let due = {
            let mut current = self.lock();
            let due = current.looked.elapsed() >= every;
            if due {
                current.looked = Instant::now();
            }
            due
        };
        if due {
            let keys = Arc::clone(self);
            // Files may lie on a disk that is slow. A panic leaves the old ones in force.
            let _ = tokio::task::spawn_blocking(move || keys.look()).await;
        }
    }

    /// Takes up new files; those that don't load leave the old ones in force.
    fn look(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let found = Contents::read(&self.files).and_then(|contents| {
            if contents == self.lock().contents {
                return Ok(None);
            }
            let made = build(&self.files, &contents, self.optional)?;
            Ok(Some((contents, made)))
        });
        let mut current = self.lock();
        match found {
            Ok(None) => current.complaint.clear(),
            Ok(Some((contents, made))) => {
                current.contents = contents;
                current.made = made;
                current.version += 1;
                current.complaint.clear();
                let cert = self.files.cert.display();
                tracing::info!("took up new certificates from {cert}");
            }
            Err(error) => {
                let complaint = error.to_string();
                if current.complaint != complaint {
                    tracing::error!(
                        "new certificates don't load, the old ones stay in force: {complaint}"
                    );
                    current.complaint = complaint;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        // Whoever panicked with it had written whole values.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn build(files: &ServerFiles, contents: &Contents, optional: bool) -> Result<Made, TlsError> {
    let setup = |error: &dyn std::fmt::Display| TlsError::Setup(error.to_string());
    let chain = pem::certificates(&files.cert, &contents.cert)?;
    if let Some(leaf) = chain.first() {
        pem::in_force(&files.cert, leaf)?;
    }
    let key = pem::key(&files.key, &contents.key)?;
    let builder = ServerConfig::builder_with_provider(pem::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?;
    let clients = match (&files.client_ca, &contents.client_ca) {
        (Some(path), Some(content)) => {
            let roots = Arc::new(pem::roots(path, content)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, pem::provider());
            let verifier = match optional {
                true => verifier.allow_unauthenticated(),
                false => verifier,
            };
            Some(verifier.build().map_err(|error| setup(&error))?)
        }
        _ => None,
    };
    let builder = match &clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Pair {
            cert: files.cert.clone(),
            key: files.key.clone(),
            detail: error.to_string(),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A session that is resumed skips the check of the client's certificate, which may have ended since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Made {
        config: Arc::new(config),
        clients,
    })
}
