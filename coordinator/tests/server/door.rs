//! A coordinator that asks everybody who they are, and those who try to get past it.

use crate::kit::{config_with, hello, said, soon, spec};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use espalier_coordinator::metrics::Metrics;
use espalier_coordinator::{Error, serve, start_configured};
use espalier_proto::v1;
use espalier_proto::v1::cluster_service_client::ClusterServiceClient;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::worker_message::Message;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_tls::{Ca, ClientFiles, ClientTls, Issued, Kind};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

pub(crate) const ISSUER: &str = "https://id.example";
pub(crate) const AUDIENCE: &str = "espalier";

/// A header that goes with every call.
#[derive(Clone)]
pub(crate) struct Header(Option<(&'static str, String)>);

impl Header {
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) fn bearer(token: &str) -> Self {
        Self(Some(("authorization", format!("Bearer {token}"))))
    }

    pub(crate) fn of(name: &'static str, value: &str) -> Self {
        Self(Some((name, value.to_owned())))
    }
}

impl Interceptor for Header {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some((name, value)) = &self.0 {
            let value = value.parse().unwrap();
            request.metadata_mut().insert(*name, value);
        }
        Ok(request)
    }
}

type Line = InterceptedService<Channel, Header>;

/// Somebody with a connection and a header.
#[derive(Clone)]
pub(crate) struct Someone {
    channel: Channel,
    header: Header,
}

impl Someone {
    pub(crate) fn new(channel: &Channel, header: Header) -> Self {
        Self {
            channel: channel.clone(),
            header,
        }
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Line> {
        JobServiceClient::with_interceptor(self.channel.clone(), self.header.clone())
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Line> {
        ClusterServiceClient::with_interceptor(self.channel.clone(), self.header.clone())
    }

    pub(crate) fn workers(&self) -> WorkerServiceClient<Line> {
        WorkerServiceClient::with_interceptor(self.channel.clone(), self.header.clone())
    }
}

/// A coordinator in this process.
pub(crate) struct Guarded {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Guarded {
    pub(crate) async fn start(directory: &Path, flags: &[&str]) -> Self {
        let config = config_with(&directory.join("data"), flags);
        let listener = serve::bind(config.listen).await.unwrap();
        let coordinator = start_configured(&config, listener).await.unwrap();
        let (address, metrics) = (coordinator.address(), coordinator.metrics());
        let (stop, stopped) = oneshot::channel();
        let signal = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(coordinator.serve_until(signal));
        Self {
            address,
            metrics,
            stop,
            task,
        }
    }

    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        soon("a clean stop", self.task).await.unwrap().unwrap();
    }
}

pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs()
}

/// An entry of the file of tokens. The token is `esp_` and the name.
pub(crate) fn entry(name: &str, role: &str, more: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, format!("esp_{name}").as_bytes());
    let hash: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("- name: \"{name}\"\n  sha256: \"{hash}\"\n  role: {role}\n{more}")
}

/// Writes a file as careful hands do it: never half written.
pub(crate) fn put(path: &Path, text: &str) {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text).unwrap();
    std::fs::rename(&partial, path).unwrap();
}

/// An issuer of JSON Web Tokens, with one key, `k`.
pub(crate) struct Issuer(EcdsaKeyPair);

impl Issuer {
    pub(crate) fn new() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap())
    }

    pub(crate) fn published(&self) -> String {
        let point = self.0.public_key().as_ref();
        let (x, y) = (&point[1..33], &point[33..]);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "x": x, "y": y});
        json!({ "keys": [key] }).to_string()
    }

    /// A good token of a viewer, with other words in its header and its claims.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        let mut all = [
            json!({"alg": "ES256", "kid": "k"}),
            json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now() + 300,
                   "espalier_roles": "viewer"}),
        ];
        for (whole, more) in all.iter_mut().zip([header, claims]) {
            for (name, value) in more.as_object().unwrap() {
                whole[name.as_str()] = value.clone();
            }
        }
        let [header, claims] = all.map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let text = format!("{header}.{claims}");
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Certificates, tokens and keys in a directory.
pub(crate) struct House {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) ca: Ca,
    pub(crate) issuer: Issuer,
}

impl House {
    pub(crate) fn new() -> Self {
        let house = Self {
            directory: tempfile::tempdir().unwrap(),
            ca: Ca::create("espalier", 2).unwrap(),
            issuer: Issuer::new(),
        };
        let hosts = ["127.0.0.1", "localhost"];
        let server = house.ca.issue(Kind::Coordinator, "a", &hosts, 2).unwrap();
        server.save(&house.path("server")).unwrap();
        let team = "  namespaces: [vision]\n";
        let tokens = [
            entry("admin", "admin", ""),
            entry("vera", "viewer", team),
            entry("sam", "submitter", team),
            entry("flood", "viewer", ""),
            entry("gone", "admin", ""),
            entry("late", "admin", "  expires: 2020-01-01T00:00:00Z\n"),
            entry("one", "worker", ""),
        ];
        put(&house.path("tokens.yaml"), &tokens.concat());
        put(&house.path("roles.yaml"), "- {name: ada, role: viewer}\n");
        put(&house.path("keys.json"), &house.issuer.published());
        house
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn flags(&self) -> Vec<String> {
        let file = |name: &str| self.path(name).display().to_string();
        let flags = [
            ("--tls-cert", file("server/tls.crt")),
            ("--tls-key", file("server/tls.key")),
            ("--tls-client-ca", file("server/ca.crt")),
            ("--tls-client-certificates", "optional".to_owned()),
            ("--handshake-timeout", "300ms".to_owned()),
            ("--token-file", file("tokens.yaml")),
            ("--certificate-roles", file("roles.yaml")),
            ("--oidc-issuer", ISSUER.to_owned()),
            ("--oidc-audience", AUDIENCE.to_owned()),
            ("--oidc-jwks", file("keys.json")),
            ("--max-rate", "50".to_owned()),
            ("--max-caller-watches", "3".to_owned()),
            ("--max-job-bytes", "8192".to_owned()),
            ("--audit-log", file("audit.jsonl")),
        ];
        let flags = flags.into_iter();
        flags
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect()
    }

    /// What a client trusts, and shows.
    pub(crate) fn client(&self, name: &str, shown: Option<&Issued>) -> ClientTls {
        let mut files = ClientFiles {
            ca: Some(self.path("server/ca.crt")),
            ..ClientFiles::default()
        };
        if let Some(shown) = shown {
            let directory = self.path(name);
            shown.save(&directory).unwrap();
            files.cert = Some(directory.join("tls.crt"));
            files.key = Some(directory.join("tls.key"));
        }
        ClientTls::load(&files).unwrap()
    }
}

pub(crate) async fn connect(node: &Guarded, tls: &ClientTls) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("https://{}", node.address)).unwrap();
    let endpoint = tls.endpoint(endpoint).map_err(|error| error.to_string())?;
    let connected = soon("a connection", endpoint.connect()).await;
    connected.map_err(|error| error.to_string())
}

/// Connects with a certificate as it is: our own client would not show one that is not valid.
pub(crate) async fn connect_as(
    node: &Guarded,
    house: &House,
    shown: &Issued,
) -> Result<Channel, String> {
    let ca = std::fs::read(house.path("server/ca.crt")).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .identity(Identity::from_pem(&shown.cert, shown.key.as_bytes()))
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", node.address)).unwrap();
    let endpoint = endpoint.tls_config(tls).unwrap();
    let connected = soon("a connection", endpoint.connect()).await;
    connected.map_err(|error| error.to_string())
}

pub(crate) async fn who(someone: &Someone) -> Result<v1::WhoAmIResponse, Status> {
    let asked = someone.cluster().who_am_i(v1::WhoAmIRequest {}).await;
    asked.map(tonic::Response::into_inner)
}

pub(crate) async fn list(someone: &Someone) -> Result<v1::ListJobsResponse, Status> {
    let asked = someone
        .jobs()
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    asked.map(tonic::Response::into_inner)
}

pub(crate) async fn create(someone: &Someone, spec: v1::JobSpec) -> Result<(), Status> {
    let request = v1::CreateJobRequest {
        spec: Some(spec),
        ..Default::default()
    };
    someone.jobs().create_job(request).await.map(drop)
}

pub(crate) fn job(name: &str, namespace: &str) -> v1::JobSpec {
    v1::JobSpec {
        namespace: namespace.to_owned(),
        ..spec(name)
    }
}

pub(crate) async fn work(someone: &Someone, name: &str) -> Result<(), Status> {
    let stream = tokio_stream::once(said(Message::Hello(hello(name))));
    let orders = soon("an answer", someone.workers().connect(stream)).await;
    orders.map(drop)
}
