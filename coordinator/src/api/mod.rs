//! The gRPC services: convert, ask the driver, convert back. No rule lives here.
//!
//! | service | file |
//! | --- | --- |
//! | `JobService` | `jobs.rs`; its streams `follow.rs`, its series `series.rs` |
//! | `ClusterService` | `cluster.rs` |
//! | `WorkerService` | `workers.rs` |
//!
//! `routes` assembles them with health checks and reflection.

mod cluster;
mod follow;
mod jobs;
mod keep;
mod paging;
mod series;
mod view;
mod workers;

use crate::config::Config;
use crate::data_key::Secrets;
use crate::driver::Handle;
use crate::logs::Logs;
use crate::role::Gate;
use crate::series::Series;
use crate::store::Lead;
use espalier_core::Time;
use espalier_proto::v1::cluster_service_server::ClusterServiceServer;
use espalier_proto::v1::job_service_server::JobServiceServer;
use espalier_proto::v1::worker_service_server::WorkerServiceServer;
use espalier_proto::{ApiError, ERROR_DESCRIPTOR_SET, ErrorKind, FILE_DESCRIPTOR_SET};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_stream::Stream;
use tonic::Status;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub(crate) use keep::keep_newest;

/// What all services share while this coordinator leads.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) driver: Handle,
    pub(crate) lead: Lead,
    /// What ranks know each other by.
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) series: Arc<Series>,
    /// Turns true when streams must end.
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) max_watches: usize,
    pub(crate) started: Time,
}

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Shared {
    /// Takes one of the places for watches.
    fn watch(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.watches.clone().try_acquire_owned().map_err(|_| {
            let limit = self.max_watches;
            ApiError::new(
                ErrorKind::ResourceExhausted,
                "TOO_MANY_WATCHES",
                format!(
                    "{limit} watches are open, the most that this coordinator allows; close some, \
                     or raise --max-watches"
                ),
            )
            .with("limit", limit)
        })
    }
}

/// Every service of the coordinator, and the reporter of its health: serving as a whole, each
/// service as told with [`report_health`].
pub(crate) async fn routes(
    gate: Gate,
    config: &Config,
) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let limit = config.max_message_bytes;
    let jobs = JobServiceServer::new(jobs::Jobs {
        gate: gate.clone(),
        max_job_bytes: config.access.max_job_bytes,
        page_bytes: limit / 2,
    })
    .max_decoding_message_size(limit)
    .max_encoding_message_size(limit);
    let cluster = ClusterServiceServer::new(cluster::Clusters(gate.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    // An order is an accepted job with its seats or plan, so it may be larger than what a client may send; to refuse
    // it here would end the worker's stream, again and again.
    let workers = WorkerServiceServer::new(workers::Workers(gate)).max_decoding_message_size(limit);
    let (reporter, health) = tonic_health::server::health_reporter();
    report_health(&reporter, ServingStatus::NotServing).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(ERROR_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(jobs)
        .add_service(cluster)
        .add_service(workers)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok((routes.routes(), reporter))
}

/// Says of every service how it is. The server as a whole, the service "", serves as long as it
/// answers, be it that another coordinator leads.
pub(crate) async fn report_health(reporter: &HealthReporter, status: ServingStatus) {
    let services = [
        <JobServiceServer<jobs::Jobs> as NamedService>::NAME,
        <ClusterServiceServer<cluster::Clusters> as NamedService>::NAME,
        <WorkerServiceServer<workers::Workers> as NamedService>::NAME,
    ];
    for service in services {
        reporter.set_service_status(service, status).await;
    }
}

/// Says that the server ends.
pub(crate) async fn report_end(reporter: &HealthReporter) {
    report_health(reporter, ServingStatus::NotServing).await;
    reporter
        .set_service_status("", ServingStatus::NotServing)
        .await;
}

/// Longer than any name of a job or a worker.
const LONGEST_NAME: usize = 1024;

/// A required name of a request; taken as it is, letter by letter.
fn name(name: String) -> Result<String, ApiError> {
    if name.is_empty() {
        Err(ApiError::field("name", "is required"))
    } else if name.len() > LONGEST_NAME {
        let message = format!(
            "is {} bytes long; expected at most {LONGEST_NAME}",
            name.len()
        );
        Err(ApiError::field("name", message))
    } else {
        Ok(name)
    }
}

/// The error of an answer that does not fit its request: a bug, said rather than hidden.
fn odd_answer() -> ApiError {
    ApiError::new(
        ErrorKind::Internal,
        "ODD_ANSWER",
        "the coordinator answered another question than was asked; this is a bug, please report it",
    )
}
