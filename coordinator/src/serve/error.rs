//! Why a coordinator ends.

use crate::access::AccessError;
use crate::data_key::DataKeyError;
use crate::driver::DriverError;
use crate::etcd::EtcdError;
use crate::store::StoreError;
use espalier_telemetry::status::StatusError;
use espalier_telemetry::trace::TraceError;
use espalier_tls::TlsError;
use std::net::SocketAddr;

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
    /// There is no key for what ranks send each other.
    #[error(transparent)]
    DataKey(#[from] DataKeyError),
    /// Certificates can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
    /// Callers can't be told apart.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The driver could not start, or stopped.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The status port can't be had.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Spans can't be sent.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The server failed.
    #[error("the gRPC server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// The protos of this binary are broken.
    #[error("reflection can't be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The protos of this binary are broken.
    #[error("the gateway can't be built: {0}")]
    Gateway(#[from] espalier_proto::json::JsonError),
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
