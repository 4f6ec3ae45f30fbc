//! A client's end: whom it trusts, and who it says it is.

use crate::{TlsError, explain, pem};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use zeroize::Zeroizing;

const HTTPS: &str = "https";

/// Files of a client, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// CAs of servers; none: those that this host trusts.
    pub ca: Option<PathBuf>,
    /// Certificate that says who calls, and those that lead from it to a CA.
    pub cert: Option<PathBuf>,
    /// The certificate's key.
    pub key: Option<PathBuf>,
    /// Name that servers' certificates must hold; none: the one in the address.
    pub server_name: Option<String>,
}

/// A client that speaks TLS where an address begins with `https://`. Its files are read for every
/// connection; without any, it trusts whom this host trusts and shows no certificate.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    files: ClientFiles,
}

/// What the files hold.
struct Contents {
    ca: Option<Vec<u8>>,
    own: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl ClientTls {
    /// Checks the files.
    ///
    /// # Errors
    ///
    /// A file can't be read or holds something else, certificate and key don't belong together, one of
    /// them is missing, or the certificate is not valid now.
    pub fn load(files: &ClientFiles) -> Result<Self, TlsError> {
        let client = Self {
            files: files.clone(),
        };
        let contents = client.read()?;
        if contents.ca.is_some() || contents.own.is_some() {
            // Whom this host trusts is asked only by those who need it.
            let roots = client.given_roots(&contents)?;
            client.config(roots.unwrap_or_else(RootCertStore::empty), &contents)?;
        }
        Ok(client)
    }

    /// Whether files were given: then an address without a scheme means `https://`.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.files != ClientFiles::default()
    }

    /// An endpoint with what the files hold now; one of plain text as it is.
    ///
    /// # Errors
    ///
    /// As [`ClientTls::load`].
    pub fn endpoint(&self, endpoint: Endpoint) -> Result<Endpoint, TlsError> {
        if endpoint.uri().scheme_str() != Some(HTTPS) {
            return Ok(endpoint);
        }
        let contents = self.read()?;
        // The same again by tonic; but this says which file is wrong.
        let roots = self.given_roots(&contents)?;
        self.config(roots.unwrap_or_else(RootCertStore::empty), &contents)?;
        let mut config = ClientTlsConfig::new();
        config = match contents.ca {
            Some(ca) => config.ca_certificate(Certificate::from_pem(ca)),
            None => config.with_native_roots(),
        };
        if let Some((cert, key)) = contents.own {
            config = config.identity(Identity::from_pem(cert, key.as_slice()));
        }
        if let Some(name) = &self.files.server_name {
            config = config.domain_name(name);
        }
        endpoint.tls_config(config).map_err(|error| {
            let mut innermost: &dyn std::error::Error = &error;
            while let Some(source) = innermost.source() {
                innermost = source;
            }
            TlsError::Setup(innermost.to_string())
        })
    }

    /// A channel to an address that connects when it is used, again where the connection was lost, and
    /// reads the files each time: for those who keep a channel for long. `shape` sets what else the
    /// endpoint is to have. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// The address is none.
    pub fn lazy(
        &self,
        address: &str,
        shape: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, TlsError> {
        let bad = |detail: String| TlsError::Address {
            address: address.to_owned(),
            detail,
        };
        let endpoint = |text: String| Endpoint::from_shared(text).map_err(|e| bad(e.to_string()));
        let named = endpoint(address.to_owned())?;
        if named.uri().host().is_none() {
            return Err(bad("it names no host".into()));
        }
        if named.uri().scheme_str() != Some(HTTPS) {
            return Ok(shape(named).connect_lazy());
        }
        // tonic would speak TLS itself, with files read once: for it this is plain text over our own
        // connections, and requests name the address as it is.
        let origin = named.uri().clone();
        let inner = endpoint(address.replacen("https://", "http://", 1))?.origin(origin);
        let (client, address) = (self.clone(), address.to_owned());
        let connector = tower::service_fn(move |uri: Uri| {
            let (client, address) = (client.clone(), address.clone());
            async move { client.dial(&uri, address).await.map(TokioIo::new) }
        });
        Ok(shape(inner).connect_with_connector_lazy(connector))
    }

    pub(crate) async fn dial(
        &self,
        uri: &Uri,
        address: String,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let failed = |error: std::io::Error| TlsError::Connect {
            detail: explain(&error).unwrap_or_else(|| error.to_string()),
            address: address.clone(),
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(443);
        let name = self.files.server_name.as_deref().unwrap_or(host).to_owned();
        let contents = self.read()?;
        let roots = match self.given_roots(&contents)? {
            Some(roots) => roots,
            None => native_roots()?,
        };
        let config = self.config(roots, &contents)?;
        let name = ServerName::try_from(name.clone()).map_err(|_| TlsError::Name {
            found: name,
            what: "name of a server",
            expected: "a DNS name or an IP address",
        })?;
        let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.map_err(failed)
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let own = match (&self.files.cert, &self.files.key) {
            (Some(cert), Some(key)) => Some((pem::read(cert)?, pem::read_secret(key)?)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(TlsError::Incomplete {
                    given: "--tls-cert",
                    missing: "--tls-key",
                });
            }
            (None, Some(_)) => {
                return Err(TlsError::Incomplete {
                    given: "--tls-key",
                    missing: "--tls-cert",
                });
            }
        };
        Ok(Contents {
            ca: self.files.ca.as_deref().map(pem::read).transpose()?,
            own,
        })
    }

    fn given_roots(&self, contents: &Contents) -> Result<Option<RootCertStore>, TlsError> {
        match (&self.files.ca, &contents.ca) {
            (Some(path), Some(content)) => pem::roots(path, content).map(Some),
            _ => Ok(None),
        }
    }

    fn config(&self, roots: RootCertStore, contents: &Contents) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(pem::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Setup(error.to_string()))?
            .with_root_certificates(roots);
        let own = (&self.files.cert, &self.files.key, &contents.own);
        let mut config = match own {
            (Some(cert), Some(key), Some(own)) => {
                let (chain, secret) = own_certificate((cert, key), own)?;
                let made = builder.with_client_auth_cert(chain, secret);
                made.map_err(|error| TlsError::Pair {
                    cert: cert.clone(),
                    key: key.clone(),
                    detail: error.to_string(),
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

type Pair = (
    Vec<rustls::pki_types::CertificateDer<'static>>,
    rustls::pki_types::PrivateKeyDer<'static>,
);

fn own_certificate(
    (cert, key): (&Path, &Path),
    (chain, secret): &(Vec<u8>, Zeroizing<Vec<u8>>),
) -> Result<Pair, TlsError> {
    let chain = pem::certificates(cert, chain)?;
    if let Some(leaf) = chain.first() {
        pem::in_force(cert, leaf)?;
    }
    Ok((chain, pem::key(key, secret)?))
}

/// The CAs that this host trusts.
fn native_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let detail = found.errors.first().map(ToString::to_string);
        return Err(TlsError::NoRoots {
            detail: detail.unwrap_or_else(|| "none found".into()),
        });
    }
    Ok(roots)
}
