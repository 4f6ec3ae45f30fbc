//! The signing keys of an issuer: from a file, or from its server, kept and fetched again.
//!
//! Keys are fetched when they get old, and when a token names one that is not known: an issuer changes
//! them without a word. However many odd tokens come, that happens once in [`PAUSE`].

use super::AccessError;
use super::jwt::{Key, keys};
use super::reload::Reloaded;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Least time between two fetches.
const PAUSE: Duration = Duration::from_secs(30);
/// Age from which on keys are fetched again.
const OLD: Duration = Duration::from_secs(600);
/// Age from which on keys are believed no longer, if none could be fetched.
const VOID: Duration = Duration::from_secs(24 * 3600);
/// How long one answer of the server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer that is read.
const LARGEST: usize = 1 << 20;

/// The keys.
#[derive(Debug)]
pub(super) enum Jwks {
    /// Of a file.
    File(Reloaded<Vec<Key>>),
    /// Of a server.
    Server(Server),
}

/// A server, and what it answered last.
#[derive(Debug)]
pub(super) struct Server {
    client: reqwest::Client,
    place: Place,
    state: Mutex<State>,
    /// One fetch at a time; the others wait for it.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
enum Place {
    /// The keys are here.
    Keys(String),
    /// This issuer's configuration says where they are.
    Issuer(String),
}

#[derive(Debug, Default)]
struct State {
    keys: Arc<Vec<Key>>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

impl Jwks {
    /// The keys of an issuer, at `place` (a file or a URL) or where the issuer says.
    ///
    /// # Errors
    ///
    /// A file can't be read or makes no sense. Servers are asked later.
    pub(super) fn new(
        issuer: &str,
        place: Option<&str>,
        ca: Option<&Path>,
    ) -> Result<Self, AccessError> {
        let place = match place {
            Some(url) if url.contains("://") => Place::Keys(url.to_owned()),
            Some(file) => {
                let path = Path::new(file);
                let file = Reloaded::open(path, keys);
                return file
                    .map(Self::File)
                    .map_err(|message| AccessError::file("oidc-jwks", path, message));
            }
            None => Place::Issuer(issuer.trim_end_matches('/').to_owned()),
        };
        Ok(Self::Server(Server {
            client: client(ca)?,
            place,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// The keys that are believed now.
    pub(super) fn get(&self) -> Arc<Vec<Key>> {
        match self {
            Self::File(file) => file.get(),
            Self::Server(server) => server.get(Instant::now()),
        }
    }

    /// Whether they are old enough to be fetched again.
    pub(super) fn old(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Server(server) => server.old(Instant::now()),
        }
    }

    /// Whether they may be fetched again now.
    pub(super) fn may_refresh(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Server(server) => server.may_refresh(Instant::now()),
        }
    }

    /// Fetches them, unless that was tried a moment ago. Failures are logged.
    pub(super) async fn refresh(&self) {
        if let Self::Server(server) = self {
            server.refresh().await;
        }
    }
}

impl Server {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, now: Instant) -> Arc<Vec<Key>> {
        let state = self.state();
        match state.fetched {
            Some(fetched) if now.duration_since(fetched) < VOID => state.keys.clone(),
            _ => Arc::default(),
        }
    }

    fn old(&self, now: Instant) -> bool {
        let fetched = self.state().fetched;
        let old = fetched.is_none_or(|fetched| now.duration_since(fetched) > OLD);
        old && self.may_refresh(now)
    }

    fn may_refresh(&self, now: Instant) -> bool {
        let tried = self.state().tried;
        tried.is_none_or(|tried| now.duration_since(tried) > PAUSE)
    }

    async fn refresh(&self) {
        let _turn = self.turn.lock().await;
        if !self.may_refresh(Instant::now()) {
            return;
        }
        let fetched = self.fetch().await;
        let mut state = self.state();
        state.tried = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                state.keys = Arc::new(keys);
                state.fetched = state.tried;
            }
            Err(error) => tracing::error!(
                "signing keys can't be fetched, tokens of new keys are refused: {error}"
            ),
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let url = match &self.place {
            Place::Keys(url) => url.clone(),
            Place::Issuer(issuer) => {
                let url = format!("{issuer}/.well-known/openid-configuration");
                let text = self.read(&url).await?;
                let found: Configuration = serde_json::from_str(&text)
                    .map_err(|error| format!("{url} is no configuration: {error}"))?;
                if found.issuer.trim_end_matches('/') != issuer {
                    return Err(format!("{url} is of the issuer {}", found.issuer));
                }
                if issuer.starts_with("https://") && !found.jwks_uri.starts_with("https://") {
                    return Err(format!("{url} names keys that are not behind https://"));
                }
                found.jwks_uri
            }
        };
        let text = self.read(&url).await?;
        keys(&text).map_err(|error| format!("{url} {error}"))
    }

    async fn read(&self, url: &str) -> Result<String, String> {
        let failed = |error: reqwest::Error| {
            let mut text = format!("{url}: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            text
        };
        let answer = self.client.get(url).send().await.map_err(failed)?;
        let mut answer = answer.error_for_status().map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LARGEST {
                return Err(format!("{url}: the answer is larger than {LARGEST} bytes"));
            }
        }
        String::from_utf8(bytes).map_err(|_| format!("{url}: the answer is no text"))
    }
}

/// A client of HTTP that trusts these certificates, or those of the system.
fn client(ca: Option<&Path>) -> Result<reqwest::Client, AccessError> {
    let mut roots = rustls::RootCertStore::empty();
    match ca {
        Some(path) => {
            let wrong = |error: String| AccessError::file("oidc-ca", path, error);
            let found = CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))?;
            for certificate in found {
                let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
                roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("holds no certificate".to_owned()));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| AccessError::Client(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(PATIENCE)
        // Keys are where it was said that they are.
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| AccessError::Client(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::jwt::tests::Issuer;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server of HTTP that gives one answer to all; counts them.
    async fn serve(body: impl Fn(&str) -> String + Send + 'static) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<AtomicUsize>::default();
        let (counter, own) = (asked.clone(), url.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap_or(0);
                counter.fetch_add(1, Ordering::SeqCst);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let body = match request.contains("/.well-known/openid-configuration") {
                    true => format!(r#"{{"issuer":"{own}","jwks_uri":"{own}/keys"}}"#),
                    false => body(&request),
                };
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
                let answer = format!("{head} {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (url, asked)
    }

    // Promise: keys are found through the issuer's configuration, and not asked for again and again.
    #[tokio::test]
    async fn keys_are_fetched_once() {
        let published = Issuer::new().published("a");
        let (url, asked) = serve(move |_| published.clone()).await;
        let jwks = Jwks::new(&url, None, None).unwrap();
        assert!(jwks.get().is_empty() && jwks.old());
        jwks.refresh().await;
        assert_eq!(jwks.get().len(), 2);
        assert!(!jwks.old() && !jwks.may_refresh());
        jwks.refresh().await;
        assert_eq!(asked.load(Ordering::SeqCst), 2, "configuration and keys");
    }

    // Promise: a server that answers nonsense takes no key away, and keys that get too old are void.
    #[tokio::test]
    async fn nonsense_and_age() {
        let published = Issuer::new().published("a");
        let first = AtomicUsize::new(0);
        let (url, _) = serve(move |_| match first.fetch_add(1, Ordering::SeqCst) {
            0 => published.clone(),
            _ => "nonsense".to_owned(),
        })
        .await;
        let jwks = Jwks::new(&url, Some(&format!("{url}/keys")), None).unwrap();
        jwks.refresh().await;
        let Jwks::Server(server) = &jwks else {
            panic!("a URL is no file")
        };
        server.state().tried = None;
        jwks.refresh().await;
        assert_eq!(jwks.get().len(), 2);
        let later = Instant::now() + VOID + PAUSE;
        assert!(server.get(later).is_empty());
        assert!(server.old(later));
    }
}
