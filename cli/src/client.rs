//! The connection to the coordinator: where it is, and its errors as people should read them.

use crate::error::{Code, Error, Result, nearest};
use crate::local::Folder;
use crate::output::{Context, text};
use espalier_proto::v1;
use espalier_proto::v1::cluster_service_client::ClusterServiceClient;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::{ApiError, Bearer, Credentials, ErrorKind, Route, route};
use espalier_tls::{ClientTls, TlsError, explain};
use std::net::IpAddr;
use std::time::Duration;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

/// Where a coordinator is looked for if nothing says otherwise.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:7443";

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an election may take, where coordinators answer and none leads.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two rounds of calls.
const PAUSE: Duration = Duration::from_millis(200);

/// A connection whose calls say who asks.
type Line = InterceptedService<Channel, Bearer>;

/// Clients of the coordinator's services.
#[derive(Clone)]
pub(crate) struct Client {
    /// Address of the coordinator.
    pub(crate) server: String,
    /// All addresses that were named, separated by commas.
    named: String,
    access: Access,
    /// Jobs.
    pub(crate) jobs: JobServiceClient<Line>,
    /// Workers.
    pub(crate) cluster: ClusterServiceClient<Line>,
}

/// Whom a client trusts to be a coordinator, and how it shows who asks.
#[derive(Clone, Default)]
pub(crate) struct Access {
    /// Certificates.
    pub(crate) tls: ClientTls,
    /// A token.
    pub(crate) credentials: Credentials,
}

impl Client {
    /// Connects to the coordinator that flags, environment or a local cluster name.
    ///
    /// # Errors
    /// The address is no URL (usage) or nobody answers there (unreachable).
    pub(crate) async fn connect(context: &Context) -> Result<Self> {
        let access = Access {
            tls: context.tls.load().map_err(|error| unusable(&error))?,
            credentials: context.credentials.clone(),
        };
        Self::connect_to(&server(context), &access).await
    }

    /// Connects to an address; of several coordinators, separated by commas, to the one that leads.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(crate) async fn connect_to(named: &str, access: &Access) -> Result<Self> {
        let route = match access.tls.is_given() {
            true => Route::parse_secure(named),
            false => Route::parse(named),
        };
        let mut route = route.ok_or_else(|| no_address(named))?;
        for address in route.given() {
            endpoint(address, &access.tls)?;
        }
        let start = tokio::time::Instant::now();
        let mut elects = false;
        loop {
            let address = route.address().to_owned();
            let (error, status) = match Self::open(&address, named, access).await {
                Err(error) => (error, Status::unavailable("")),
                Ok(mut client) => match client.leads().await {
                    Ok(()) => return Ok(client),
                    Err(status) => (client.error(&status), status),
                },
            };
            let status = ApiError::from(&status);
            elects |= route::is_not_leader(&status);
            if !route.failed(&status) {
                continue;
            }
            // Nobody there: said at once. Somebody there and none leads: that passes.
            if !elects || start.elapsed() > ELECTION_TIMEOUT {
                return Err(error);
            }
            elects = false;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Looks for the coordinator that leads now, after a call found the last one gone.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(crate) async fn again(&mut self) -> Result<()> {
        *self = Self::connect_to(&self.named, &self.access).await?;
        Ok(())
    }

    /// Whether this one leads. Everything but a no counts as yes: the first call will say what is wrong.
    async fn leads(&mut self) -> Result<(), Status> {
        match self.cluster.get_cluster(v1::GetClusterRequest {}).await {
            Err(status) if status.code() == tonic::Code::Unavailable || broke_off(&status) => {
                Err(status)
            }
            _ => Ok(()),
        }
    }

    async fn open(server: &str, named: &str, access: &Access) -> Result<Self> {
        let bearer = access
            .credentials
            .read()
            .map_err(|error| Error::new(Code::Usage, error.to_string()))?;
        let channel = endpoint(server, &access.tls)?
            .connect()
            .await
            .map_err(|error| {
                if let Some(text) = explain(&error) {
                    return untrusted(server, &text);
                }
                Error::new(
                    Code::Unreachable,
                    format!(
                        "can't reach the coordinator at {server}: {}",
                        root_cause(&error)
                    ),
                )
                .hint(
                    "start a local cluster with `espalier up`, or name another coordinator with \
                 --server or ESPALIER_SERVER",
                )
            })?;
        // Plans of large worlds and job specs with many classes outgrow the default of 4 MiB.
        const LIMIT: usize = 64 << 20;
        Ok(Self {
            server: server.to_owned(),
            named: named.to_owned(),
            access: access.clone(),
            jobs: JobServiceClient::with_interceptor(channel.clone(), bearer.clone())
                .max_decoding_message_size(LIMIT),
            cluster: ClusterServiceClient::with_interceptor(channel, bearer)
                .max_decoding_message_size(LIMIT),
        })
    }

    /// Whether the coordinator is that of the local cluster in ./.espalier/cluster, which sees the same
    /// files. An address of this machine alone says nothing: a port-forward may lead from it anywhere.
    pub(crate) fn is_local(&self) -> bool {
        let local = Folder::default().address();
        local.is_some_and(|local| is_same(&self.server, &local))
    }

    /// All jobs in one of these states (all states if empty), in order of creation.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn all_jobs(&mut self, states: &[v1::job::State]) -> Result<Vec<v1::Job>> {
        self.jobs_of("", states).await
    }

    /// Likewise, those of one namespace (of all that may be seen if it is empty).
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn jobs_of(
        &mut self,
        namespace: &str,
        states: &[v1::job::State],
    ) -> Result<Vec<v1::Job>> {
        let mut jobs = Vec::new();
        let mut request = v1::ListJobsRequest {
            page_size: 500,
            page_token: String::new(),
            states: states.iter().map(|state| *state as i32).collect(),
            namespace: namespace.to_owned(),
        };
        loop {
            let answer = self.jobs.list_jobs(request.clone()).await;
            let page = answer.map_err(|status| self.error(&status))?.into_inner();
            jobs.extend(page.jobs);
            if page.next_page_token.is_empty() {
                return Ok(jobs);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// All workers in order of name.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn all_workers(&mut self) -> Result<Vec<v1::Worker>> {
        let mut workers = Vec::new();
        let mut request = v1::ListWorkersRequest {
            page_size: 500,
            page_token: String::new(),
        };
        loop {
            let answer = self.cluster.list_workers(request.clone()).await;
            let page = answer.map_err(|status| self.error(&status))?.into_inner();
            workers.extend(page.workers);
            if page.next_page_token.is_empty() {
                return Ok(workers);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// One job.
    ///
    /// # Errors
    /// Not found, with the name that was probably meant.
    pub(crate) async fn job(&mut self, name: &str) -> Result<v1::Job> {
        match self
            .jobs
            .get_job(v1::GetJobRequest {
                name: name.to_owned(),
            })
            .await
        {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(self.job_error(&status, name).await),
        }
    }

    /// The error of a call about the job `name`: if there is no such job, with the name that was
    /// probably meant.
    pub(crate) async fn job_error(&mut self, status: &Status, name: &str) -> Error {
        let error = self.error(status);
        if error.code() != Code::NotFound {
            return error;
        }
        let jobs = self.all_jobs(&[]).await.unwrap_or_default();
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        Error::new(Code::NotFound, format!("there is no job named {name:?}")).hint(meant(
            name,
            &names,
            "`espalier get` lists the jobs",
        ))
    }

    /// The error of a call about the worker `name`, likewise.
    pub(crate) async fn worker_error(&mut self, status: &Status, name: &str) -> Error {
        let error = self.error(status);
        if error.code() != Code::NotFound {
            return error;
        }
        let workers = self.all_workers().await.unwrap_or_default();
        let names: Vec<&str> = workers.iter().map(|worker| worker.name.as_str()).collect();
        Error::new(Code::NotFound, format!("there is no worker named {name:?}")).hint(meant(
            name,
            &names,
            "`espalier workers` lists the workers",
        ))
    }

    /// An error of the server for the person at the terminal.
    pub(crate) fn error(&self, status: &Status) -> Error {
        if let Some(text) = explain(status) {
            return untrusted(&self.server, &text);
        }
        if broke_off(status) && status.code() != tonic::Code::Unavailable {
            return untrusted(&self.server, &root_cause(status))
                .hint("its log says whether it refused the connection, and why");
        }
        let mut api = ApiError::from(status);
        // Names and paths of others may be in it.
        api.message = text::plain(&api.message);
        let server = &self.server;
        match api.kind {
            ErrorKind::InvalidArgument if !api.violations.is_empty() => {
                let lines: Vec<String> = api
                    .violations
                    .iter()
                    .map(|violation| text::plain(&format!("  {violation}")))
                    .collect();
                Error::failure(format!(
                    "the coordinator refused the request:\n{}",
                    lines.join("\n")
                ))
            }
            ErrorKind::NotFound => Error::new(Code::NotFound, api.message),
            ErrorKind::AlreadyExists | ErrorKind::FailedPrecondition => {
                Error::new(Code::Conflict, api.message)
            }
            ErrorKind::Unavailable => Error::new(
                Code::Unreachable,
                format!("lost the coordinator at {server}: {}", api.message),
            )
            .hint("jobs go on without it; try again when it is back"),
            ErrorKind::Unauthenticated => Error::failure(format!(
                "the coordinator at {server} does not know you: {}",
                api.message
            ))
            .hint("give a token with --token-file FILE, ESPALIER_TOKEN_FILE or ESPALIER_TOKEN"),
            ErrorKind::PermissionDenied => Error::failure(api.message)
                .hint("`espalier whoami` shows whom the coordinator takes you for"),
            ErrorKind::Unimplemented => Error::failure(format!(
                "the coordinator at {server} does not know this call: {}",
                api.message
            ))
            .hint("`espalier version` shows whether command and coordinator are of one version"),
            kind => Error::failure(format!("the coordinator answered {kind}: {}", api.message)),
        }
    }
}

/// Whether two addresses are one, where all names of this machine are one.
fn is_same(one: &str, other: &str) -> bool {
    let place = |address: &str| {
        let endpoint = Endpoint::from_shared(address.to_owned()).ok()?;
        let uri = endpoint.uri();
        let host = uri.host()?.trim_matches(['[', ']']);
        let address = host.parse::<IpAddr>();
        let is_here = host == "localhost" || address.is_ok_and(|ip| ip.is_loopback());
        let host = if is_here { "localhost" } else { host };
        Some((
            uri.scheme_str()?.to_owned(),
            host.to_owned(),
            uri.port_u16(),
        ))
    };
    let place_of_one = place(one);
    place_of_one.is_some() && place_of_one == place(other)
}

fn endpoint(address: &str, tls: &ClientTls) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .ok()
        .filter(|endpoint| endpoint.uri().host().is_some())
        .ok_or_else(|| no_address(address))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        // Notices a coordinator whose host vanished while a stream is open.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true);
    tls.endpoint(endpoint).map_err(|error| unusable(&error))
}

/// Whether a call failed on its way, before a coordinator answered. A server that refuses a certificate
/// ends the connection when the client thinks that it is through, and the reason may get lost.
fn broke_off(status: &Status) -> bool {
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        if error.is::<tonic::transport::Error>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Coordinator and command don't trust each other, or one of them speaks no TLS.
fn untrusted(server: &str, text: &str) -> Error {
    Error::new(
        Code::Unreachable,
        format!("can't talk to the coordinator at {server}: {text}"),
    )
}

/// Certificates that were given can't be used.
fn unusable(error: &TlsError) -> Error {
    Error::new(Code::Usage, error.to_string())
}

fn no_address(text: &str) -> Error {
    Error::new(
        Code::Usage,
        format!("{text:?} is not the address of a server"),
    )
    .hint("give it as https://HOST:PORT, or http://HOST:PORT without TLS; several coordinators of one cluster \
         with commas between")
}

/// The coordinator's address: flag, environment, local cluster, default; in this order.
fn server(context: &Context) -> String {
    let given = context.server.clone().filter(|server| !server.is_empty());
    let server = given.or_else(|| Folder::default().address());
    server.unwrap_or_else(|| DEFAULT_SERVER.to_owned())
}

fn meant(name: &str, names: &[&str], otherwise: &str) -> String {
    match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => otherwise.to_owned(),
    }
}

/// The innermost of nested errors: the outer ones only say "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::is_same;

    // Promise: a port-forward is not taken for the local cluster, and that is known under all its names.
    #[test]
    fn the_local_cluster_is_recognised() {
        let up = "http://127.0.0.1:7443";
        for same in [
            up,
            "http://127.0.0.1:7443/",
            "http://localhost:7443",
            "http://[::1]:7443",
        ] {
            assert!(is_same(same, up), "{same}");
        }
        for other in [
            "https://localhost:7443",
            "http://localhost:7444",
            "http://localhost",
            "http://10.0.0.1:7443",
            "nothing at all",
        ] {
            assert!(!is_same(other, up), "{other}");
        }
        assert!(!is_same("", ""));
    }
}
