//! Puts the parts together, serves, and ends them in order.

use crate::api::{self, Shared};
use crate::config::{Config, StoreAt};
use crate::driver::{Driver, DriverError};
use crate::election::Election;
use crate::etcd::{Etcd, EtcdError, Keys};
use crate::leadership::Leadership;
use crate::logs::Logs;
use crate::role::{Gate, Role};
use crate::store::{RedbStore, Store, StoreError};
use espalier_core::{Machine, Time};
use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How long connections may take to end before they are cut.
const GRACE: Duration = Duration::from_secs(5);
/// Silence after which a peer is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Calls that one connection may have open.
const CALLS: u32 = 1024;
/// How long one call of the store waits for an endpoint of etcd.
const ETCD_CALL: Duration = Duration::from_secs(1);
/// How long etcd may take to come up.
const ETCD_START: Duration = Duration::from_secs(10);
/// Name of the file in the data directory that says whose it is.
const CLUSTER_FILE: &str = "cluster";

/// Why the coordinator could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the port.
    #[error(
        "{0} is in use; stop the process that listens there, or choose another address with --listen"
    )]
    PortInUse(SocketAddr),
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or directory can't be used.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// etcd can't be used.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// What is kept on this host is another cluster's.
    #[error(
        "{path} says that the data directory belongs to the cluster {found}, but --store and --cluster name \
         {expected}; give this coordinator its own --data-dir, or name the other cluster"
    )]
    Foreign {
        /// The file.
        path: String,
        /// The cluster that it names.
        found: String,
        /// The cluster of the store.
        expected: String,
    },
    /// The driver could not start, or stopped.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The server failed.
    #[error("the gRPC server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// The protos of this binary are broken.
    #[error("reflection can't be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A task panicked.
    #[error("a task of the coordinator failed with a bug: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// Whether it ends this coordinator's lead and nothing else.
    pub(crate) fn ends_lead(&self) -> bool {
        match self {
            Self::Store(error) | Self::Driver(DriverError::Store(error)) => error.ends_lead(),
            Self::Driver(DriverError::Lapsed) => true,
            _ => false,
        }
    }
}

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
    let (driver, shared) = open(config, store, (watches, stopping.clone())).await?;
    // It leads for as long as it lives: the sender need not be kept.
    let (_, role) = watch::channel(Role::Leading(Box::new(shared), None));
    let served = serve(config, listener, role, stopping.clone()).await?;
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
    let etcd = Etcd::new(endpoints, ETCD_CALL)?;
    let keys = Keys::new(&config.cluster);
    let address = match &config.advertise {
        Some(address) => address.clone(),
        None => format!("http://{}", local_address(config, &listener)?),
    };
    let election = Election::new(etcd.clone(), keys.clone(), address, config.lease_ttl.0);
    let cluster = first_contact(&election).await?;
    claim(&config.data_dir, &cluster)?;
    let (stop, stopping) = watch::channel(false);
    let (roles, role) = watch::channel(Role::Following { leader: None });
    let served = serve(config, listener, role, stopping.clone()).await?;
    let leadership = Leadership {
        config: config.clone(),
        election,
        etcd,
        keys,
        cluster,
        roles,
        health: served.health.clone(),
        watches: Arc::new(Semaphore::new(config.max_watches)),
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
    match std::fs::read_to_string(&path) {
        Ok(found) if found.trim() == cluster => Ok(()),
        Ok(found) => Err(Error::Foreign {
            path: path.display().to_string(),
            found: found.trim().to_owned(),
            expected: cluster.to_owned(),
        }),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(directory).map_err(error)?;
            std::fs::write(&path, format!("{cluster}\n")).map_err(error)
        }
        Err(source) => Err(error(source)),
    }
}

/// Loads the store; answers the driver and what the services share while it runs.
pub(crate) async fn open(
    config: &Config,
    store: Box<dyn Store>,
    (watches, stop): (Arc<Semaphore>, watch::Receiver<bool>),
) -> Result<(Driver, Shared), Error> {
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let started = Time(u64::try_from(started.as_millis()).unwrap_or(u64::MAX));
    let (machine, every, lead) = (config.machine(), config.snapshot_every, store.lead());
    // Stores block.
    let opened = tokio::task::spawn_blocking(move || Driver::open(machine, every, store));
    let (driver, handle) = opened.await??;
    let logs = open_logs(&config.data_dir.join("logs"), driver.machine())?;
    let shared = Shared {
        driver: handle,
        lead,
        logs: Arc::new(logs),
        stop,
        watches,
        max_watches: config.max_watches,
        started,
    };
    Ok((driver, shared))
}

/// A server whose driver is still to come.
struct Served {
    address: SocketAddr,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    health: HealthReporter,
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
        }
    }
}

fn local_address(config: &Config, listener: &TcpListener) -> Result<SocketAddr, Error> {
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
) -> Result<Served, Error> {
    let address = local_address(config, &listener)?;
    let (routes, health) = api::routes(Gate(role), config).await?;
    let server = Server::builder()
        .max_concurrent_streams(CALLS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async move {
                // An error means that the coordinator was dropped: ends as well.
                let _ = ending.wait_for(|stop| *stop).await;
            },
        );
    Ok(Served {
        address,
        server: tokio::spawn(server),
        health,
    })
}

impl Coordinator {
    /// The address that it serves on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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
    }
}

fn open_logs(directory: &Path, machine: &Machine) -> Result<Logs, Error> {
    let jobs = machine.jobs(0, usize::MAX, &[]);
    let known: BTreeSet<String> = jobs.into_iter().map(|(_, job)| job.uid).collect();
    Logs::open(directory, &known).map_err(|source| Error::File {
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
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.tmp", std::process::id()));
    std::fs::write(&partial, format!("{address}\n")).map_err(error)?;
    std::fs::rename(&partial, path).map_err(error)
}
