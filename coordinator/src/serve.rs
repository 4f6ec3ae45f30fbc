//! Puts the parts together, serves, and ends them in order.

mod error;

pub use error::Error;

use crate::access::{Access, Patient};
use crate::api::{self, Shared};
use crate::config::{Config, StoreAt};
use crate::data_key::Secrets;
use crate::driver::Driver;
use crate::election::Election;
use crate::etcd::{Etcd, EtcdError, Keys};
use crate::leadership::Leadership;
use crate::logs::Logs;
use crate::metrics::{self, Metrics, Observer, Status, Told};
use crate::page::{self, Page, Site};
use crate::role::{Gate, Role};
use crate::series::{self, Series};
use crate::store::{RedbStore, Store, StoreError};
use crate::whole;
use espalier_core::{Machine, Time};
use espalier_telemetry::status;
use espalier_telemetry::trace::Traces;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How long connections may take to end before they are cut.
const GRACE: Duration = Duration::from_secs(5);
/// Silence after which a peer is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Calls that one connection may have open.
const CALLS: u32 = 1024;
/// Most bytes that a point of a series takes in an answer: a step of ten bytes and three numbers of eight.
const POINT_BYTES: usize = 40;
/// How long one call of the store waits for an endpoint of etcd.
const ETCD_CALL: Duration = Duration::from_secs(1);
/// How long etcd may take to come up.
const ETCD_START: Duration = Duration::from_secs(10);
/// Name of the file in the data directory that says whose it is.
const CLUSTER_FILE: &str = "cluster";

/// Listens on an address.
///
/// # Errors
///
/// The port is in use, or the address is none of this host's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => Error::PortInUse(address),
            _ => Error::Listen { address, source },
        })
}

/// Opens the store of the configured directory.
///
/// # Errors
///
/// See [`RedbStore::open`].
pub async fn open_store(config: &Config) -> Result<Box<dyn Store>, Error> {
    let directory = match &config.store {
        StoreAt::Redb(Some(directory)) => directory.clone(),
        StoreAt::Redb(None) | StoreAt::Etcd(_) => config.data_dir.clone(),
    };
    let path = directory.display().to_string();
    // redb may panic on a file that is damaged in a way that it does not look for.
    match tokio::task::spawn_blocking(move || RedbStore::open(&directory)).await {
        Ok(store) => Ok(Box::new(store?)),
        Err(panic) => Err(StoreError::Corrupt {
            path,
            detail: panic.to_string(),
        }
        .into()),
    }
}

/// A coordinator that serves.
#[derive(Debug)]
pub struct Coordinator {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    /// The driver; among others: the campaigns between leads, too.
    driver: JoinHandle<Result<(), Error>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    health: HealthReporter,
    metrics: Arc<Metrics>,
    /// The status port.
    status: Option<SocketAddr>,
    traces: Option<Traces>,
}

/// Starts a coordinator on a bound listener with the store that the settings name: alone, or among
/// those that share an etcd.
///
/// # Errors
///
/// The store can't be used or holds nonsense, or the data directory can't be used.
pub async fn start_configured(
    config: &Config,
    listener: TcpListener,
) -> Result<Coordinator, Error> {
    match &config.store {
        StoreAt::Redb(_) => start(config, listener, open_store(config).await?).await,
        StoreAt::Etcd(endpoints) => start_among(config, listener, endpoints).await,
    }
}

/// Starts a coordinator on a bound listener, with the state that the store holds.
///
/// # Errors
///
/// The store holds nonsense, or the data directory can't be used.
pub async fn start(
    config: &Config,
    listener: TcpListener,
    store: Box<dyn Store>,
) -> Result<Coordinator, Error> {
    let (stop, stopping) = watch::channel(false);
    let watches = Arc::new(Semaphore::new(config.max_watches));
    let told: Told = (Arc::default(), metrics::traces(config, &listener)?);
    let secrets = Arc::new(Secrets::of_host(config)?);
    let ends = (watches, stopping.clone());
    let (driver, shared) = open(config, store, secrets, ends, told.clone()).await?;
    // It leads for as long as it lives: the sender need not be kept.
    let (_, role) = watch::channel(Role::Leading(Box::new(shared), None));
    let served = serve(config, listener, role, stopping.clone(), told).await?;
    api::report_health(&served.health, ServingStatus::Serving).await;
    let driver = async move { driver.run(stopping).await.map_err(Error::from) };
    Ok(served.driven_by(stop, tokio::spawn(driver)))
}

/// Starts one of several coordinators that share an etcd.
async fn start_among(
    config: &Config,
    listener: TcpListener,
    endpoints: &[String],
) -> Result<Coordinator, Error> {
    let etcd = Etcd::over(endpoints, ETCD_CALL, &config.tls.etcd()?)?;
    let keys = Keys::new(&config.cluster);
    let address = match &config.advertise {
        Some(address) => address.clone(),
        None => {
            let address = local_address(config, &listener)?;
            format!("{}://{address}", config.tls.scheme())
        }
    };
    let election = Election::new(etcd.clone(), keys.clone(), address, config.lease_ttl.0);
    let cluster = first_contact(&election).await?;
    claim(&config.data_dir, &cluster)?;
    let secrets = Arc::new(Secrets::of_cluster(config, &etcd, &keys).await?);
    let (stop, stopping) = watch::channel(false);
    let (roles, role) = watch::channel(Role::Following { leader: None });
    let told: Told = (Arc::default(), metrics::traces(config, &listener)?);
    let served = serve(config, listener, role, stopping.clone(), told.clone()).await?;
    let (metrics, traces) = told;
    let leadership = Leadership {
        config: config.clone(),
        election,
        etcd,
        keys,
        cluster,
        secrets,
        roles,
        health: served.health.clone(),
        watches: Arc::new(Semaphore::new(config.max_watches)),
        metrics,
        traces,
    };
    Ok(served.driven_by(stop, tokio::spawn(leadership.run(stopping))))
}

/// Asks etcd which cluster this is; waits a while for one that comes up at the same time.
async fn first_contact(election: &Election) -> Result<String, EtcdError> {
    let start = Instant::now();
    let mut said = false;
    loop {
        match election.cluster().await {
            Err(error @ EtcdError::Away { .. }) if start.elapsed() < ETCD_START => {
                if !said {
                    tracing::warn!("{error}; tries again for {ETCD_START:?}");
                    said = true;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            result => return result,
        }
    }
}

/// Makes the data directory this cluster's: what is kept there of another one would be lost.
fn claim(directory: &Path, cluster: &str) -> Result<(), Error> {
    let path = directory.join(CLUSTER_FILE);
    let error = |source| Error::File {
        path: path.display().to_string(),
        source,
    };
    let name = |cluster: &str| {
        let content = format!("{cluster}\n");
        whole::write(&path, content.as_bytes(), 0o644).map_err(error)
    };
    match std::fs::read_to_string(&path) {
        Ok(found) if found.trim() == cluster => Ok(()),
        // A crash came between its beginning and its end.
        Ok(found) if found.trim().is_empty() => name(cluster),
        Ok(found) => Err(Error::Foreign {
            path: path.display().to_string(),
            found: found.trim().to_owned(),
            expected: cluster.to_owned(),
        }),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => name(cluster),
        Err(source) => Err(error(source)),
    }
}

/// Loads the store; answers the driver and what the services share while it runs.
pub(crate) async fn open(
    config: &Config,
    store: Box<dyn Store>,
    secrets: Arc<Secrets>,
    (watches, stop): (Arc<Semaphore>, watch::Receiver<bool>),
    (metrics, traces): Told,
) -> Result<(Driver, Shared), Error> {
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let started = Time(u64::try_from(started.as_millis()).unwrap_or(u64::MAX));
    let (machine, every, lead) = (config.machine(), config.snapshot_every, store.lead());
    // Stores block.
    let opened = tokio::task::spawn_blocking(move || Driver::open(machine, every, store));
    let (driver, handle) = opened.await??;
    let driver = driver.observed_by(Observer::new(metrics, traces, started));
    let known = known_jobs(driver.machine());
    let logs = open_logs(&config.data_dir.join("logs"), &known)?;
    let series = open_series(config, &known)?;
    let shared = Shared {
        driver: handle,
        lead,
        secrets,
        logs: Arc::new(logs),
        series: Arc::new(series),
        stop,
        watches,
        max_watches: config.max_watches,
        started,
    };
    // Their questions wait for the driver, and they end with it.
    tokio::spawn(api::keep_newest(
        shared.clone(),
        config.access.max_ended_jobs,
    ));
    tokio::spawn(series::record(shared.clone()));
    Ok((driver, shared))
}

/// A server whose driver is still to come.
struct Served {
    address: SocketAddr,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    health: HealthReporter,
    metrics: Arc<Metrics>,
    status: Option<SocketAddr>,
    traces: Option<Traces>,
}

impl Served {
    fn driven_by(
        self,
        stop: watch::Sender<bool>,
        driver: JoinHandle<Result<(), Error>>,
    ) -> Coordinator {
        Coordinator {
            address: self.address,
            stop,
            driver,
            server: self.server,
            health: self.health,
            metrics: self.metrics,
            status: self.status,
            traces: self.traces,
        }
    }
}

pub(crate) fn local_address(config: &Config, listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|source| Error::Listen {
        address: config.listen,
        source,
    })
}

async fn serve(
    config: &Config,
    listener: TcpListener,
    role: watch::Receiver<Role>,
    mut ending: watch::Receiver<bool>,
    (metrics, traces): Told,
) -> Result<Served, Error> {
    let address = local_address(config, &listener)?;
    let by_certificate = config.asks_for_certificates();
    let access = Access::new(&config.access, by_certificate, metrics.clone())?;
    let refused = metrics.clone();
    let mut limits = config.tls.limits();
    limits.refused = espalier_tls::Refused::to(move |reason| refused.refused(reason));
    // First: certificates that don't load end the start before anything else is seen.
    let incoming = config
        .tls
        .incoming(listener, limits, config.access.knows_tokens())?;
    let timeout = config.access.request_timeout.0;
    let gate = Gate(role);
    let (routes, health) = api::routes(gate.clone(), config).await?;
    let page = Page {
        site: Site::of(config),
        max_body: config.max_message_bytes,
        check: access.asks().then(|| page::check(access.clone())),
    };
    let routes = page::beside(routes, page)?;
    let layer = metrics.layer();
    let subject = Arc::new(Status {
        metrics: metrics.clone(),
        gate,
    });
    let status = metrics::serve_status(config, &subject, &health, ending.clone()).await?;
    let routes = routes.into_axum_router().merge(status::metrics(subject));
    let server = Server::builder()
        .accept_http1(true)
        .layer(layer)
        .layer(access.layer())
        .max_concurrent_streams(CALLS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(Routes::from(routes))
        .serve_with_incoming_shutdown(
            incoming.map(move |connection| connection.map(|inner| Patient::new(inner, timeout))),
            async move {
                // An error means that the coordinator was dropped: ends as well.
                let _ = ending.wait_for(|stop| *stop).await;
            },
        );
    Ok(Served {
        address,
        server: tokio::spawn(server),
        health,
        metrics,
        status,
        traces,
    })
}

impl Coordinator {
    /// The address that it serves on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// The address of its status port, if it has one.
    #[must_use]
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.status
    }

    /// Serves until `signal`, then ends in order: workers and watchers are told to come back later.
    ///
    /// # Errors
    ///
    /// The store or the server failed before.
    pub async fn serve_until(mut self, signal: impl Future<Output = ()>) -> Result<(), Error> {
        tokio::select! {
            () = signal => {
                tracing::info!("stops");
                self.end().await;
                (&mut self.driver).await??;
                Ok(())
            }
            driver = &mut self.driver => {
                self.end().await;
                driver??;
                Ok(())
            }
            server = &mut self.server => {
                // No calls can come any more; what the driver has acknowledged is durable.
                self.stop.send_replace(true);
                server??;
                Ok(())
            }
        }
    }

    /// Ends the server: at first nicely, then for good.
    async fn end(&mut self) {
        api::report_end(&self.health).await;
        self.stop.send_replace(true);
        if tokio::time::timeout(GRACE, &mut self.server).await.is_err() {
            self.server.abort();
        }
        if let Some(traces) = self.traces.take() {
            // It waits for the collector: not on a thread that others need.
            let _ = tokio::task::spawn_blocking(move || traces.end()).await;
        }
    }
}

/// The uids of all jobs.
fn known_jobs(machine: &Machine) -> BTreeSet<String> {
    let jobs = machine.jobs(0, usize::MAX, &[]);
    jobs.into_iter().map(|(_, job)| job.uid).collect()
}

fn open_logs(directory: &Path, known: &BTreeSet<String>) -> Result<Logs, Error> {
    Logs::open(directory, known).map_err(|source| Error::File {
        path: directory.display().to_string(),
        source,
    })
}

fn open_series(config: &Config, known: &BTreeSet<String>) -> Result<Series, Error> {
    let directory = config.data_dir.join("series");
    // An answer fits into a message, with its names.
    let points = config.max_message_bytes / POINT_BYTES;
    Series::open(&directory, known, points).map_err(|source| Error::File {
        path: directory.display().to_string(),
        source,
    })
}

/// Writes the address to a file that is never seen half written.
///
/// # Errors
///
/// The file can't be written.
pub fn write_ready_file(path: &Path, address: SocketAddr) -> Result<(), Error> {
    let error = |source| Error::File {
        path: path.display().to_string(),
        source,
    };
    whole::write(path, format!("{address}\n").as_bytes(), 0o644).map_err(error)
}
