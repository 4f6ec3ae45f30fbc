//! Puts the parts together, serves, and ends them in order.

use crate::api::{self, Shared};
use crate::config::Config;
use crate::driver::{Driver, DriverError};
use crate::logs::Logs;
use crate::store::{RedbStore, Store, StoreError};
use espalier_core::{Machine, Time};
use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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

/// Opens the store of the configured data directory.
///
/// # Errors
///
/// See [`RedbStore::open`].
pub async fn open_store(config: &Config) -> Result<Box<dyn Store>, Error> {
    let directory = config.data_dir.clone();
    // redb may panic on a file that is damaged in a way that it does not look for.
    match tokio::task::spawn_blocking(move || RedbStore::open(&directory)).await {
        Ok(store) => Ok(Box::new(store?)),
        Err(panic) => Err(StoreError::Corrupt {
            path: config.data_dir.display().to_string(),
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
    driver: JoinHandle<Result<(), DriverError>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    health: HealthReporter,
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
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let started = Time(u64::try_from(started.as_millis()).unwrap_or(u64::MAX));
    let address = listener.local_addr().map_err(|source| Error::Listen {
        address: config.listen,
        source,
    })?;
    let (driver, handle) = Driver::open(config.machine(), config.snapshot_every, store)?;
    let logs = open_logs(&config.data_dir.join("logs"), driver.machine())?;
    let (stop, stopping) = watch::channel(false);
    let shared = Shared {
        driver: handle,
        logs: Arc::new(logs),
        stop: stopping.clone(),
        watches: Arc::new(Semaphore::new(config.max_watches)),
        max_watches: config.max_watches,
        started,
    };
    let (routes, health) = api::routes(shared, config).await?;
    let mut ending = stopping.clone();
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
    Ok(Coordinator {
        address,
        stop,
        driver: tokio::spawn(driver.run(stopping)),
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
        api::report_health(&self.health, ServingStatus::NotServing).await;
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
