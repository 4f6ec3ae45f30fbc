//! Real handshakes over loopback.

mod clients;
mod limits;
mod servers;

use crate::limits::Refused;
use crate::{
    Ca, Caller, ClientFiles, ClientTls, Connection, Incoming, Issued, Limits, ServerFiles,
    ServerTls, explain, pem, plain,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt;
use tonic::transport::Uri;

/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where servers are called.
const HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

/// Certificates in a directory of their own.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, issued: &Issued) -> PathBuf {
        let directory = self.0.path().join(name);
        issued.save(&directory).unwrap();
        directory
    }

    /// A server's certificate.
    fn server(&self, ca: &Ca) -> ServerFiles {
        let directory = self.put("server", &ca.issue_server(&HOSTS, 1).unwrap());
        ServerFiles {
            cert: directory.join("tls.crt"),
            key: directory.join("tls.key"),
            client_ca: Some(directory.join("ca.crt")),
        }
    }
}

/// A client that shows what lies in a directory.
fn client(directory: &Path) -> ClientTls {
    let files = ClientFiles {
        ca: Some(directory.join("ca.crt")),
        cert: Some(directory.join("tls.crt")),
        key: Some(directory.join("tls.key")),
        server_name: None,
    };
    ClientTls::load(&files).unwrap()
}

/// A server that sends back what it gets.
struct Server {
    address: SocketAddr,
    callers: UnboundedReceiver<Caller>,
    refusals: UnboundedReceiver<&'static str>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn tls(files: &ServerFiles, limits: Limits) -> Self {
        let server = ServerTls::load(files).unwrap();
        Self::start(limits, |listener, limits| server.incoming(listener, limits)).await
    }

    async fn plain(limits: Limits) -> Self {
        Self::start(limits, plain).await
    }

    async fn start(limits: Limits, open: impl FnOnce(TcpListener, Limits) -> Incoming) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, refusals) = unbounded_channel();
        let (seen, callers) = unbounded_channel();
        let refused = Refused::to(move |reason| {
            let _ = count.send(reason);
        });
        let mut incoming = open(listener, Limits { refused, ..limits });
        let task = tokio::spawn(async move {
            while let Some(Ok(connection)) = incoming.next().await {
                let _ = seen.send(connection.caller().clone());
                tokio::spawn(send_back(connection));
            }
        });
        Self {
            address,
            callers,
            refusals,
            task,
        }
    }

    async fn caller(&mut self) -> Caller {
        soon("a caller", self.callers.recv()).await.unwrap()
    }

    async fn refusal(&mut self) -> &'static str {
        soon("a refusal", self.refusals.recv()).await.unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A call of a client: its connection, or what it is told.
    async fn call(&self, client: &ClientTls) -> Result<TlsStream<TcpStream>, String> {
        let address = format!("https://{}", self.address);
        let uri: Uri = address.parse().unwrap();
        let dialled = soon("a handshake", client.dial(&uri, address)).await;
        let mut stream = dialled.map_err(|error| error.to_string())?;
        echo(&mut stream).await.map_err(|error| told(&error))?;
        Ok(stream)
    }

    /// A call of a client that looks at nothing but the server's CA before it shows what it has.
    async fn careless(&self, ca: &Path, own: Option<&Path>) -> Result<(), String> {
        let roots = pem::roots(ca, &pem::read(ca).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(pem::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => config.with_no_client_auth(),
            Some(directory) => {
                let (cert, key) = (directory.join("tls.crt"), directory.join("tls.key"));
                let chain = pem::certificates(&cert, &pem::read(&cert).unwrap()).unwrap();
                let key = pem::key(&key, &pem::read(&key).unwrap()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = self.connect().await;
        let connected = soon("a handshake", connector.connect(name, stream)).await;
        let mut stream = connected.map_err(|error| told(&error))?;
        echo(&mut stream).await.map_err(|error| told(&error))
    }
}

async fn send_back(connection: Connection) {
    let (mut from, mut to) = tokio::io::split(connection);
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// Sends a byte and waits for it.
async fn echo(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let round = async {
        stream.write_all(b"x").await?;
        stream.flush().await?;
        let mut back = [0];
        stream.read_exact(&mut back).await?;
        Ok::<(), io::Error>(())
    };
    soon("an echo", round).await
}

fn told(error: &io::Error) -> String {
    explain(error).unwrap_or_else(|| error.to_string())
}
