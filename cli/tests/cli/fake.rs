//! A coordinator that knows some jobs and answers questions about them.

use espalier_proto::v1::job_service_server::{JobService, JobServiceServer};
use espalier_proto::v1::{self, watch_job_response::Update};
use std::pin::Pin;
use tokio::runtime::Runtime;
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};

/// The coordinator; it ends with this value.
pub(crate) struct Fake {
    pub(crate) address: String,
    _runtime: Runtime,
}

impl Fake {
    /// One that knows these jobs.
    pub(crate) fn with(jobs: Vec<v1::Job>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let inside = runtime.enter();
        let any = "127.0.0.1:0".parse().expect("an address");
        let incoming = TcpIncoming::bind(any).expect("a free port");
        let address = incoming.local_addr().expect("bound");
        let service = JobServiceServer::new(Jobs(jobs));
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        drop(inside);
        Self {
            address: format!("http://{address}"),
            _runtime: runtime,
        }
    }
}

struct Jobs(Vec<v1::Job>);

type Answer<T> = Result<Response<T>, Status>;
type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("only questions are answered here"))
}

impl Jobs {
    fn find(&self, name: &str) -> Result<v1::Job, Status> {
        let job = self.0.iter().find(|job| job.name == name);
        job.cloned().ok_or_else(|| Status::not_found("no such job"))
    }
}

#[async_trait]
impl JobService for Jobs {
    type WatchJobStream = Items<v1::WatchJobResponse>;
    type TailJobLogsStream = Items<v1::LogLine>;

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Answer<v1::Job> {
        Ok(Response::new(self.find(&request.get_ref().name)?))
    }

    async fn list_jobs(&self, _: Request<v1::ListJobsRequest>) -> Answer<v1::ListJobsResponse> {
        Ok(Response::new(v1::ListJobsResponse {
            jobs: self.0.clone(),
            next_page_token: String::new(),
        }))
    }

    /// Empty events up to the job's last one.
    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Answer<Self::WatchJobStream> {
        let job = self.find(&request.get_ref().name)?;
        let event = |sequence| {
            Ok(v1::WatchJobResponse {
                update: Some(Update::Event(v1::JobEvent {
                    sequence,
                    ..v1::JobEvent::default()
                })),
            })
        };
        let events: Vec<_> = (1..=job.last_sequence).map(event).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn create_job(&self, _: Request<v1::CreateJobRequest>) -> Answer<v1::Job> {
        not_here()
    }

    async fn cancel_job(&self, _: Request<v1::CancelJobRequest>) -> Answer<v1::Job> {
        not_here()
    }

    async fn pause_job(&self, _: Request<v1::PauseJobRequest>) -> Answer<v1::Job> {
        not_here()
    }

    async fn resume_job(&self, _: Request<v1::ResumeJobRequest>) -> Answer<v1::Job> {
        not_here()
    }

    async fn delete_job(&self, _: Request<v1::DeleteJobRequest>) -> Answer<v1::DeleteJobResponse> {
        not_here()
    }

    async fn tail_job_logs(
        &self,
        _: Request<v1::TailJobLogsRequest>,
    ) -> Answer<Self::TailJobLogsStream> {
        not_here()
    }

    async fn get_job_series(
        &self,
        _: Request<v1::GetJobSeriesRequest>,
    ) -> Answer<v1::GetJobSeriesResponse> {
        not_here()
    }
}
