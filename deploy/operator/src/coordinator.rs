//! The coordinator as the operator calls it: whichever of several leads, over TLS, with a token.

use espalier_proto::v1::cluster_service_client::ClusterServiceClient;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::{ApiError, ErrorKind, Route, v1};
use espalier_tls::{ClientTls, explain};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take.
const CALL: Duration = Duration::from_secs(20);
/// Silence after which a coordinator is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Plans of large worlds and jobs with many classes outgrow the default of 4 MiB.
const LIMIT: usize = 64 << 20;
/// Rounds over all addresses before a call is given up: what calls comes again.
const ROUNDS: usize = 2;
/// Jobs or workers that are asked for at once.
const PAGE: i32 = 500;

/// A channel that says who calls.
type Bearer = InterceptedService<Channel, Token>;
/// A client of the jobs.
pub type Jobs = JobServiceClient<Bearer>;
/// A client of the workers.
pub type Workers = ClusterServiceClient<Bearer>;

/// Settings of the coordinator that can't be.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// No address.
    #[error(
        "--coordinator `{0}` is no address, expected such as https://espalier-coordinator:7443"
    )]
    Address(String),
}

/// Where the token comes from.
#[derive(Clone, Debug, Default)]
pub enum TokenFrom {
    /// There is none: a certificate says who calls, or nobody asks.
    #[default]
    Nowhere,
    /// A file, read again for each connection: tokens of service accounts change.
    File(PathBuf),
}

/// Says who calls.
#[derive(Clone)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// The coordinator.
#[derive(Clone)]
pub struct Coordinator(Arc<Shared>);

struct Shared {
    tls: ClientTls,
    token: TokenFrom,
    state: Mutex<Way>,
}

/// Where to call, and the connection if there is one.
struct Way {
    route: Route,
    channel: Option<Bearer>,
}

impl Coordinator {
    /// The coordinator at an address; of several, separated by commas, the one that leads.
    ///
    /// # Errors
    /// There is no address in it.
    pub fn new(server: &str, tls: ClientTls, token: TokenFrom) -> Result<Self, SettingError> {
        let route = match tls.is_given() {
            true => Route::parse_secure(server),
            false => Route::parse(server),
        };
        let route = route.ok_or_else(|| SettingError::Address(server.to_owned()))?;
        let state = Mutex::new(Way {
            route,
            channel: None,
        });
        Ok(Self(Arc::new(Shared { tls, token, state })))
    }

    /// One job; none if there is none of this name.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn job(&self, name: &str) -> Result<Option<v1::Job>, ApiError> {
        let request = v1::GetJobRequest {
            name: name.to_owned(),
        };
        let answer = self
            .jobs(|mut jobs| {
                let request = request.clone();
                async move { jobs.get_job(request).await }
            })
            .await;
        match answer {
            Ok(job) => Ok(Some(job)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it shows the caller jobs of a namespace; of one of another namespace it says that there is none.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn sees(&self, namespace: &str) -> Result<bool, ApiError> {
        let caller = self
            .cluster(|mut cluster| async move { cluster.who_am_i(v1::WhoAmIRequest {}).await })
            .await?;
        let namespaces = caller.namespaces;
        Ok(namespaces.is_empty() || namespaces.iter().any(|own| own == namespace))
    }

    /// Submits a job, or finds the one that was submitted with this id, be it of another spec.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn create(&self, spec: v1::JobSpec, request_id: String) -> Result<v1::Job, ApiError> {
        let name = spec.name.clone();
        let request = v1::CreateJobRequest {
            spec: Some(spec),
            request_id,
            validate_only: false,
        };
        let answer = self
            .jobs(|mut jobs| {
                let request = request.clone();
                async move { jobs.create_job(request).await }
            })
            .await;
        match answer {
            // The id has made a job: it is the caller's, and has its name.
            Err(error) if error.reason == "REQUEST_ID_REUSED" => {
                self.job(&name).await?.ok_or_else(|| {
                    let message = format!("job {name} was deleted while it was asked for");
                    ApiError::new(ErrorKind::Aborted, "JOB_DELETED", message)
                })
            }
            answer => answer,
        }
    }

    /// Pauses a job.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn pause(&self, name: &str) -> Result<v1::Job, ApiError> {
        let name = name.to_owned();
        self.jobs(|mut jobs| {
            let name = name.clone();
            async move { jobs.pause_job(v1::PauseJobRequest { name }).await }
        })
        .await
    }

    /// Resumes a paused job.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn resume(&self, name: &str) -> Result<v1::Job, ApiError> {
        let name = name.to_owned();
        self.jobs(|mut jobs| {
            let name = name.clone();
            async move { jobs.resume_job(v1::ResumeJobRequest { name }).await }
        })
        .await
    }

    /// Ends a job for good.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn cancel(&self, name: &str) -> Result<v1::Job, ApiError> {
        let name = name.to_owned();
        self.jobs(|mut jobs| {
            let name = name.clone();
            async move { jobs.cancel_job(v1::CancelJobRequest { name }).await }
        })
        .await
    }

    /// Forgets an ended job.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn forget(&self, name: &str) -> Result<(), ApiError> {
        let name = name.to_owned();
        let answer = self
            .jobs(|mut jobs| {
                let name = name.clone();
                async move { jobs.delete_job(v1::DeleteJobRequest { name }).await }
            })
            .await;
        answer.map(|_| ())
    }

    /// Follows a job's events after a sequence number, and its progress.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn watch(
        &self,
        name: &str,
        after_sequence: u64,
    ) -> Result<Streaming<v1::WatchJobResponse>, ApiError> {
        let request = v1::WatchJobRequest {
            name: name.to_owned(),
            after_sequence,
        };
        self.jobs(|mut jobs| {
            let request = request.clone();
            async move { jobs.watch_job(request).await }
        })
        .await
    }

    /// All jobs that have not ended.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn open_jobs(&self) -> Result<Vec<v1::Job>, ApiError> {
        use v1::job::State;
        let states = [
            State::Queued,
            State::Preparing,
            State::Running,
            State::Pausing,
            State::Paused,
            State::Cancelling,
        ];
        let mut request = v1::ListJobsRequest {
            page_size: PAGE,
            states: states.map(i32::from).to_vec(),
            ..Default::default()
        };
        let mut all = Vec::new();
        loop {
            let page = self
                .jobs(|mut jobs| {
                    let request = request.clone();
                    async move { jobs.list_jobs(request).await }
                })
                .await?;
            all.extend(page.jobs);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// All workers.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn workers(&self) -> Result<Vec<v1::Worker>, ApiError> {
        let mut request = v1::ListWorkersRequest {
            page_size: PAGE,
            ..Default::default()
        };
        let mut all = Vec::new();
        loop {
            let page = self
                .cluster(|mut cluster| {
                    let request = request.clone();
                    async move { cluster.list_workers(request).await }
                })
                .await?;
            all.extend(page.workers);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Places nothing more on a worker; its jobs move away.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn drain(&self, name: &str) -> Result<v1::Worker, ApiError> {
        let name = name.to_owned();
        self.cluster(|mut cluster| {
            let name = name.clone();
            async move { cluster.drain_worker(v1::DrainWorkerRequest { name }).await }
        })
        .await
    }

    /// Takes a drained worker back into service.
    ///
    /// # Errors
    /// The coordinator's, or that it can't be reached.
    pub async fn undrain(&self, name: &str) -> Result<v1::Worker, ApiError> {
        let name = name.to_owned();
        self.cluster(|mut cluster| {
            let name = name.clone();
            async move {
                let request = v1::UndrainWorkerRequest { name };
                cluster.undrain_worker(request).await
            }
        })
        .await
    }

    async fn jobs<T, F>(&self, call: impl Fn(Jobs) -> F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call(|channel| {
            call(
                JobServiceClient::new(channel)
                    .max_decoding_message_size(LIMIT)
                    .max_encoding_message_size(LIMIT),
            )
        })
        .await
    }

    async fn cluster<T, F>(&self, call: impl Fn(Workers) -> F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call(|channel| {
            call(ClusterServiceClient::new(channel).max_decoding_message_size(LIMIT))
        })
        .await
    }

    /// Calls the one that leads: another address where this one does not answer or does not lead, and anew
    /// with a token that is read again where it knows nobody of this one.
    async fn call<T, F>(&self, call: impl Fn(Bearer) -> F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut rounds = 0;
        let mut known = true;
        loop {
            let error = match self.channel().await {
                Err(error) => error,
                Ok(channel) => match tokio::time::timeout(CALL, call(channel)).await {
                    Ok(Ok(answer)) => {
                        self.0.state.lock().await.route.reached();
                        return Ok(answer.into_inner());
                    }
                    Ok(Err(status)) => said(&status),
                    Err(_) => {
                        let message = format!("the coordinator did not answer within {CALL:?}");
                        ApiError::new(ErrorKind::Unavailable, "", message)
                    }
                },
            };
            let mut way = self.0.state.lock().await;
            match error.kind {
                ErrorKind::Unavailable => {
                    way.channel = None;
                    if way.route.failed(&error) {
                        rounds += 1;
                        if rounds == ROUNDS {
                            return Err(error);
                        }
                    }
                }
                ErrorKind::Unauthenticated if known => {
                    way.channel = None;
                    known = false;
                }
                _ => return Err(error),
            }
        }
    }

    async fn channel(&self) -> Result<Bearer, ApiError> {
        let mut way = self.0.state.lock().await;
        if let Some(channel) = &way.channel {
            return Ok(channel.clone());
        }
        let address = way.route.address().to_owned();
        let channel = self.0.connect(&address).await?;
        way.channel = Some(channel.clone());
        Ok(channel)
    }
}

impl Shared {
    async fn connect(&self, address: &str) -> Result<Bearer, ApiError> {
        let away = |what: String| ApiError::new(ErrorKind::Unavailable, "", what);
        let token = self.token().await.map_err(away)?;
        let shape = |endpoint: tonic::transport::Endpoint| {
            endpoint
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE)
                .keep_alive_while_idle(true)
        };
        let channel = self.tls.lazy(address, shape);
        let channel = channel.map_err(|error| away(error.to_string()))?;
        Ok(InterceptedService::new(channel, Token(token)))
    }

    async fn token(&self) -> Result<Option<MetadataValue<Ascii>>, String> {
        let TokenFrom::File(path) = &self.token else {
            return Ok(None);
        };
        let shown = path.display();
        let text = tokio::fs::read_to_string(path)
            .await
            .map_err(|error| format!("can't read the token in {shown}: {error}"))?;
        // What is wrong with it is not said in words of it: it is a secret.
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", text.trim())
            .parse()
            .map_err(|_| format!("{shown} holds no token, expected one line of plain letters"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// A status in words that say what to do where the connection itself is at fault: the outermost error only
/// says "transport error".
fn said(status: &Status) -> ApiError {
    let mut error = ApiError::from(status);
    let Some(source) = std::error::Error::source(status) else {
        return error;
    };
    let mut innermost = source;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let why = explain(status).unwrap_or_else(|| innermost.to_string());
    error.message = format!("can't reach the coordinator: {why}");
    error
}
