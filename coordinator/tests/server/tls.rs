//! The coordinator over TLS: who comes in, new certificates under load, strangers, etcd over TLS.

use crate::kit::{Node, config_with, hello, said, soon, until};
use espalier_coordinator::etcd::Etcd;
use espalier_coordinator::{Config, Error, serve, start_configured};
use espalier_proto::v1::coordinator_message::Message as Order;
use espalier_proto::v1::worker_message::Message;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_proto::{ApiError, ErrorKind};
use espalier_tls::{Ca, ClientFiles, ClientTls, Issued, Kind, explain};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::slice::from_ref;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// A directory with a CA's certificates in it.
struct Place {
    dir: TempDir,
    ca: Ca,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
            ca: Ca::create("espalier", 1).unwrap(),
        };
        place.serve_with(&place.ca);
        place
    }

    fn put(&self, name: &str, issued: &Issued) -> PathBuf {
        let directory = self.dir.path().join(name);
        issued.save(&directory).unwrap();
        directory
    }

    /// Writes the coordinator's certificate, and the CA of its clients.
    fn serve_with(&self, ca: &Ca) {
        let hosts = ["127.0.0.1", "localhost"];
        let issued = ca.issue(Kind::Coordinator, "a", &hosts, 1).unwrap();
        self.put("coordinator", &issued);
    }

    fn config(&self, more: &[&str]) -> Config {
        let file = |name: &str| {
            let path = self.dir.path().join("coordinator").join(name);
            path.display().to_string()
        };
        let (cert, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
        let mut flags = vec!["--tls-cert", &cert, "--tls-key", &key];
        flags.extend(["--tls-client-ca", &ca]);
        flags.extend(more);
        config_with(&self.dir.path().join("data"), &flags)
    }

    /// A client with a certificate of this name.
    fn client(&self, ca: &Ca, kind: Kind, name: &str) -> ClientTls {
        client(&self.put(name, &ca.issue(kind, name, &[], 1).unwrap()))
    }
}

fn client(directory: &Path) -> ClientTls {
    let files = ClientFiles {
        ca: Some(directory.join("ca.crt")),
        cert: Some(directory.join("tls.crt")),
        key: Some(directory.join("tls.key")),
        server_name: None,
    };
    ClientTls::load(&files).unwrap()
}

/// Calls a coordinator over a connection of its own; why it could not, otherwise.
async fn call(node: &Node, tls: &ClientTls) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("https://{}", node.address)).unwrap();
    let endpoint = tls.endpoint(endpoint).unwrap();
    let told = |error: &(dyn std::error::Error + 'static)| {
        explain(error).unwrap_or_else(|| format!("{error:?}"))
    };
    let connected = soon("a connection", endpoint.connect()).await;
    let channel = connected.map_err(|error| told(&error))?;
    match healthy(&channel).await {
        Ok(()) => Ok(channel),
        Err(status) => Err(told(&status)),
    }
}

async fn healthy(channel: &Channel) -> Result<(), tonic::Status> {
    let mut health = HealthClient::new(channel.clone());
    let asked = health.check(HealthCheckRequest::default());
    soon("an answer", asked).await.map(drop)
}

// Promise: workers and users come in with certificates of the cluster's CA, and nobody else does: not
// without one, not with another CA's, not in plain text.
#[tokio::test]
async fn who_comes_in() {
    let place = Place::new();
    let ada = place.client(&place.ca, Kind::User, "ada");
    let node = Node::secured(&place.config(&[]), &ada).await;
    healthy(&node.channel).await.unwrap();
    let worker = place.client(&place.ca, Kind::Worker, "w");
    call(&node, &worker).await.unwrap();

    let nobody = ClientTls::load(&ClientFiles {
        ca: Some(place.dir.path().join("coordinator/ca.crt")),
        ..ClientFiles::default()
    });
    assert!(call(&node, &nobody.unwrap()).await.is_err());
    // It trusts the coordinator, and shows what another CA signed.
    let other = Ca::create("espalier", 1).unwrap();
    let foreign = place.put("foreign", &other.issue(Kind::User, "ada", &[], 1).unwrap());
    let trusted = place.dir.path().join("coordinator/ca.crt");
    std::fs::copy(trusted, foreign.join("ca.crt")).unwrap();
    assert!(call(&node, &client(&foreign)).await.is_err());
    call(&node, &worker).await.unwrap();

    let mut plain = TcpStream::connect(node.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon("an answer", plain.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.contains("use https://"), "{answer}");
    drop(plain);
    node.stop().await;
}

// Promise: a new CA and a new certificate are taken up while a worker's stream is open; who comes with the
// old CA's certificate stays outside, and what was opened with it ends: the stream with the reason, then the
// connection.
#[tokio::test]
async fn rotation_during_a_stream() {
    let place = Place::new();
    let worker = place.client(&place.ca, Kind::Worker, "w");
    let config = place.config(&[]);
    let node = Node::secured(&config, &worker).await;
    let (reports, outbound) = mpsc::channel(4);
    let first = said(Message::Hello(hello("w")));
    reports.send(first).await.unwrap();
    let mut client = WorkerServiceClient::new(node.channel.clone());
    let opened = soon("the stream", client.connect(ReceiverStream::new(outbound))).await;
    let mut orders = opened.unwrap().into_inner();
    let welcome = soon("a welcome", orders.message()).await.unwrap();
    assert!(matches!(
        welcome.and_then(|order| order.message),
        Some(Order::Welcome(_))
    ));

    let new = Ca::create("espalier", 1).unwrap();
    place.serve_with(&new);
    let ada = place.client(&new, Kind::User, "ada");
    // Files are looked at every few seconds.
    until("the new certificate", async || call(&node, &ada).await.ok()).await;
    let error = call(&node, &worker).await.unwrap_err();
    assert!(error.contains("not trusted here"), "{error}");

    let end = soon("the stream's end", orders.message()).await;
    let end = ApiError::from(&end.unwrap_err());
    assert_eq!(end.kind, ErrorKind::Unauthenticated);
    assert_eq!(end.reason, "CERTIFICATE_VOID");
    until("the connection's end", async || {
        healthy(&node.channel).await.err()
    })
    .await;
    drop(reports);
    node.stop().await;
}

// Promise: connections that never finish their handshake hold nobody up.
#[tokio::test]
async fn half_open_handshakes() {
    let place = Place::new();
    let ada = place.client(&place.ca, Kind::User, "ada");
    let config = place.config(&["--handshake-timeout", "200ms"]);
    let node = Node::secured(&config, &ada).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(&[0x16, 3, 1]).await.unwrap();
        silent.push(stream);
    }
    call(&node, &ada).await.unwrap();
    for mut stream in silent {
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = soon("the end", stream.read_to_end(&mut rest)).await;
    }
    node.stop().await;
}

// Promise: a coordinator whose certificates don't load does not start, and says which file it is.
#[tokio::test]
async fn certificates_that_do_not_load() {
    let place = Place::new();
    let config = place.config(&[]);
    std::fs::write(place.dir.path().join("coordinator/tls.key"), "nonsense").unwrap();
    let listener = serve::bind(config.listen).await.unwrap();
    let error = start_configured(&config, listener).await.unwrap_err();
    assert!(matches!(error, Error::Tls(_)), "{error}");
    assert!(error.to_string().contains("tls.key"), "{error}");
}

/// An etcd that asks for certificates; it ends with this value.
struct SecureEtcd(Child);

impl Drop for SecureEtcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl SecureEtcd {
    fn start(directory: &Path, certificates: &Path) -> (Self, String) {
        let url = format!("https://127.0.0.1:{}", crate::kit::etcd::free_port());
        let peer = format!("http://127.0.0.1:{}", crate::kit::etcd::free_port());
        let child = Command::new(crate::kit::etcd::program())
            .arg("--data-dir")
            .arg(directory.join("etcd"))
            .args([
                "--listen-client-urls",
                &url,
                "--advertise-client-urls",
                &url,
            ])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .arg("--client-cert-auth")
            .arg("--trusted-ca-file")
            .arg(certificates.join("ca.crt"))
            .arg("--cert-file")
            .arg(certificates.join("tls.crt"))
            .arg("--key-file")
            .arg(certificates.join("tls.key"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        (Self(child), url)
    }
}

// Promise: a coordinator keeps its state in an etcd that wants certificates, and one without is told
// that it can't be reached.
#[tokio::test]
async fn etcd_over_tls() {
    let place = Place::new();
    let hosts = ["127.0.0.1", "localhost"];
    let served = place.put("etcd", &place.ca.issue_server(&hosts, 1).unwrap());
    let (_etcd, url) = SecureEtcd::start(place.dir.path(), &served);
    let own = place.put(
        "a",
        &place.ca.issue(Kind::Coordinator, "a", &[], 1).unwrap(),
    );
    let with = Etcd::over(from_ref(&url), Duration::from_secs(2), &client(&own)).unwrap();
    until("an answer of etcd", async || with.get("any").await.ok()).await;

    let trusting = ClientTls::load(&ClientFiles {
        ca: Some(own.join("ca.crt")),
        ..ClientFiles::default()
    });
    let without = Etcd::over(from_ref(&url), Duration::from_secs(2), &trusting.unwrap());
    assert!(without.unwrap().get("any").await.is_err());

    let file = |name: &str| own.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.crt"), file("tls.crt"), file("tls.key"));
    let store = format!("etcd:{url}");
    let mut flags = vec!["--store", &store, "--etcd-ca", &ca];
    flags.extend(["--etcd-cert", &cert, "--etcd-key", &key]);
    let ada = place.client(&place.ca, Kind::User, "ada");
    let node = Node::secured(&place.config(&flags), &ada).await;
    // It serves jobs once it leads, which it learns from its etcd.
    until("the lead", async || {
        let mut health = HealthClient::new(node.channel.clone());
        let request = HealthCheckRequest {
            service: "espalier.v1.JobService".into(),
        };
        let answer = health.check(request).await.ok()?.into_inner();
        (answer.status == ServingStatus::Serving as i32).then_some(())
    })
    .await;
    node.stop().await;
}
