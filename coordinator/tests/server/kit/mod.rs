//! A coordinator in this process on a port of its own, and a worker's end of its stream.
#![allow(dead_code)] // the operator's tests use it, too, and not all of it

pub(crate) mod etcd;

use clap::Parser;
use espalier_coordinator::store::Store;
use espalier_coordinator::{
    Config, Coordinator, Error, config::VERSION, serve, start, start_configured,
};
use espalier_proto::v1::cluster_service_client::ClusterServiceClient;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_proto::v1::{self, coordinator_message::Message as Order, worker_message::Message};
use espalier_tls::ClientTls;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

/// Looks again and again until there is something to see.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(what, looking).await
}

pub(crate) fn config(directory: &Path) -> Config {
    config_with(directory, &[])
}

pub(crate) fn config_with(directory: &Path, more: &[&str]) -> Config {
    // Workers here send no heartbeats: none is missed.
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--heartbeat-interval",
        "1m",
        "--gone-after",
        "5m",
    ];
    let directory = directory.to_str().unwrap();
    let flags = ["espalier-coordinator", "--data-dir", directory]
        .into_iter()
        .chain(flags)
        .chain(more.iter().copied());
    let config = Config::try_parse_from(flags).unwrap();
    config.validate().unwrap();
    config
}

pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) channel: Channel,
    /// Its status port.
    pub(crate) status: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<Result<(), Error>>,
}

impl Node {
    pub(crate) async fn start(directory: &Path) -> Self {
        let config = config(directory);
        let store = serve::open_store(&config).await.unwrap();
        Self::with(&config, store).await
    }

    pub(crate) async fn with(config: &Config, store: Box<dyn Store>) -> Self {
        let listener = serve::bind(config.listen).await.unwrap();
        Self::of(start(config, listener, store).await.unwrap()).await
    }

    /// One with the store that its settings name.
    pub(crate) async fn configured(config: &Config) -> Self {
        let listener = serve::bind(config.listen).await.unwrap();
        Self::of(start_configured(config, listener).await.unwrap()).await
    }

    /// One that speaks TLS, called by a client with these certificates.
    pub(crate) async fn secured(config: &Config, tls: &ClientTls) -> Self {
        let listener = serve::bind(config.listen).await.unwrap();
        let coordinator = start_configured(config, listener).await.unwrap();
        let address = format!("https://{}", coordinator.address());
        let endpoint = Endpoint::from_shared(address).unwrap();
        Self::at(coordinator, tls.endpoint(endpoint).unwrap()).await
    }

    async fn of(coordinator: Coordinator) -> Self {
        let address = format!("http://{}", coordinator.address());
        Self::at(coordinator, Endpoint::new(address).unwrap()).await
    }

    async fn at(coordinator: Coordinator, endpoint: Endpoint) -> Self {
        let (address, status) = (coordinator.address(), coordinator.status_address());
        let (stop, stopped) = oneshot::channel();
        let signal = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(coordinator.serve_until(signal));
        let channel = endpoint.connect().await.unwrap();
        Self {
            address,
            channel,
            status,
            stop,
            task,
        }
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn create(&self, name: &str) -> v1::Job {
        let request = v1::CreateJobRequest {
            spec: Some(spec(name)),
            ..Default::default()
        };
        self.jobs().create_job(request).await.unwrap().into_inner()
    }

    pub(crate) async fn job(&self, name: &str) -> v1::Job {
        let request = v1::GetJobRequest { name: name.into() };
        self.jobs().get_job(request).await.unwrap().into_inner()
    }

    pub(crate) async fn watch(&self, name: &str, after: u64) -> Streaming<v1::WatchJobResponse> {
        let request = v1::WatchJobRequest {
            name: name.into(),
            after_sequence: after,
        };
        self.jobs().watch_job(request).await.unwrap().into_inner()
    }

    /// Stops it and waits until its store is closed.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        soon("a clean stop", self.task).await.unwrap().unwrap();
    }
}

pub(crate) fn spec(name: &str) -> v1::JobSpec {
    v1::JobSpec {
        name: name.into(),
        backbone: Some(v1::Backbone {
            path: "/models/small".into(),
            ..Default::default()
        }),
        tasks: vec![v1::Task {
            name: "topic".into(),
            head: v1::task::Head::SingleLabel.into(),
            data: Some(v1::Data {
                train: vec!["/data/topic.csv".into()],
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn hello(name: &str) -> v1::Hello {
    v1::Hello {
        name: name.into(),
        version: VERSION.into(),
        host: "here".into(),
        devices: vec!["cpu".into()],
        running: vec![],
        instance: "first".into(),
        preempted: false,
    }
}

/// A message that needs no acknowledgement.
pub(crate) fn said(message: Message) -> v1::WorkerMessage {
    v1::WorkerMessage {
        message: Some(message),
        sequence: 0,
    }
}

/// A worker's end of its stream.
pub(crate) struct Worker {
    reports: mpsc::Sender<v1::WorkerMessage>,
    orders: Streaming<v1::CoordinatorMessage>,
    /// Parts of snapshots that it says it holds.
    pub(crate) held: Vec<v1::HeldSnapshot>,
}

impl Worker {
    /// Connects and says `first`.
    pub(crate) async fn open(node: &Node, first: Message) -> Result<Self, tonic::Status> {
        let (reports, outbound) = mpsc::channel(16);
        reports.send(said(first)).await.unwrap();
        let mut client = WorkerServiceClient::new(node.channel.clone());
        let connect = client.connect(ReceiverStream::new(outbound));
        let orders = soon("the stream", connect).await?.into_inner();
        Ok(Self {
            reports,
            orders,
            held: Vec::new(),
        })
    }

    /// Connects and is welcomed.
    pub(crate) async fn join(node: &Node, hello: v1::Hello) -> Self {
        let mut worker = Self::open(node, Message::Hello(hello)).await.unwrap();
        let welcome = worker.order().await;
        assert!(matches!(welcome, Order::Welcome(_)), "{welcome:?}");
        worker
    }

    pub(crate) async fn say(&self, message: Message) {
        self.say_numbered(0, message).await;
    }

    /// Says what is to be acknowledged under this number.
    pub(crate) async fn say_numbered(&self, sequence: u64, message: Message) {
        let message = v1::WorkerMessage {
            sequence,
            ..said(message)
        };
        self.reports.send(message).await.unwrap();
    }

    pub(crate) async fn try_order(&mut self) -> Result<Option<Order>, tonic::Status> {
        let message = soon("an order", self.orders.message()).await?;
        Ok(message.and_then(|message| message.message))
    }

    pub(crate) async fn order(&mut self) -> Order {
        self.try_order().await.unwrap().unwrap()
    }

    /// Waits for the job to be prepared, and prepares it.
    pub(crate) async fn prepare(&mut self) -> v1::Prepare {
        let order = self.order().await;
        let Order::Prepare(prepare) = order else {
            panic!("expected Prepare, got {order:?}")
        };
        let addresses = prepare.seats.iter().map(|seat| v1::PeerAddress {
            rank: seat.rank,
            address: "127.0.0.1:1".into(),
            host_id: "here".into(),
        });
        let profile = v1::Profile {
            blocks: vec![v1::profile::Block {
                name: "layer.0".into(),
                trainable: 90,
                total: 100,
            }],
            tasks: vec![v1::profile::TaskCost {
                name: "topic".into(),
                train_samples: 1000,
                share: 1.0,
                sample_cost: 20.0,
            }],
            fetched: String::new(),
        };
        self.say(Message::Prepared(v1::Prepared {
            job: prepare.job.clone(),
            generation: prepare.generation,
            addresses: addresses.collect(),
            profile: Some(profile),
            snapshots: self.held.clone(),
        }))
        .await;
        prepare
    }

    /// Waits for the order to start.
    pub(crate) async fn started(&mut self) -> v1::Start {
        let order = self.order().await;
        let Order::Start(start) = order else {
            panic!("expected Start, got {order:?}")
        };
        start
    }

    pub(crate) async fn progress(&self, start: &v1::Start, step: u64) {
        let progress = v1::Progress {
            step,
            total_steps: 1000,
            ..Default::default()
        };
        self.say(Message::Progress(v1::ProgressReport {
            job: start.job.clone(),
            generation: start.generation,
            progress: Some(progress),
        }))
        .await;
    }

    pub(crate) async fn checkpoint(&self, start: &v1::Start, step: u64) {
        let path = format!("/checkpoints/{step}");
        self.say(Message::Checkpoint(v1::CheckpointReport {
            job: start.job.clone(),
            generation: start.generation,
            checkpoint: Some(v1::Checkpoint {
                step,
                path,
                best: true,
            }),
        }))
        .await;
    }

    pub(crate) async fn log(&self, job: &str, text: &str) {
        let line = v1::LogLine {
            level: "INFO".into(),
            text: text.into(),
            ..Default::default()
        };
        self.say(Message::Logs(v1::LogLines {
            job: job.into(),
            lines: vec![line],
        }))
        .await;
    }

    pub(crate) async fn finish(&self, start: &v1::Start) {
        let outcome = v1::stopped::Outcome::ExportPath("/exports/done".into());
        self.say(Message::Stopped(v1::Stopped {
            job: start.job.clone(),
            generation: start.generation,
            outcome: Some(outcome),
        }))
        .await;
    }
}

/// Reads a watch up to its end.
pub(crate) async fn to_end<T>(mut stream: Streaming<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(item) = soon("the stream's end", stream.message()).await.unwrap() {
        all.push(item);
    }
    all
}

/// The events of a watch; progress is left out.
pub(crate) fn events(updates: Vec<v1::WatchJobResponse>) -> Vec<v1::JobEvent> {
    use v1::watch_job_response::Update;
    let event = |update: v1::WatchJobResponse| match update.update {
        Some(Update::Event(event)) => Some(event),
        _ => None,
    };
    updates.into_iter().filter_map(event).collect()
}
