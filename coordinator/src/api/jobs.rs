//! `JobService`.

use super::{Answers, Gate, Shared, follow, name, odd_answer, paging, series, view};
use crate::access::{Object, Principal};
use espalier_core::{Answer, Event, JobState, JobView, Machine, ReplyId};
use espalier_proto::convert::checked_job;
use espalier_proto::v1::job_service_server::JobService;
use espalier_proto::{ApiError, ErrorKind, Violations, Wire, v1};
use espalier_spec::{JobId, JobSpec, Violation};
use prost::Message as _;
use tonic::{Request, Response, Status};
use uuid::Uuid;

pub(super) struct Jobs {
    pub(super) gate: Gate,
    /// Largest job, in bytes as it travels.
    pub(super) max_job_bytes: usize,
    /// Bytes of jobs in one answer, but for the first.
    pub(super) page_bytes: usize,
}

impl Jobs {
    /// Asks for a change of one job.
    async fn change(
        &self,
        caller: Principal,
        job: String,
        make: impl FnOnce(JobId, ReplyId) -> Event + Send + 'static,
    ) -> Result<Response<v1::Job>, Status> {
        let job = JobId(name(job)?);
        let shared = self.gate.lead()?;
        match change(&shared, caller, job, make).await? {
            Answer::Job(job) => Ok(Response::new(view::job(&job))),
            Answer::Worker(_) | Answer::Deleted => Err(odd_answer().into()),
        }
    }
}

/// At most `size` jobs of about `most` bytes, each the `next` after a number; and the number to go on after, if others
/// follow.
fn page(
    (size, most): (usize, usize),
    mut after: u64,
    next: impl Fn(u64) -> Option<(u64, JobView)>,
) -> (Vec<v1::Job>, Option<u64>) {
    let (mut jobs, mut bytes) = (Vec::new(), 0_usize);
    while let Some((number, job)) = next(after) {
        let job = view::job(&job);
        bytes = bytes.saturating_add(job.encoded_len());
        if jobs.len() == size || (bytes > most && !jobs.is_empty()) {
            return (jobs, Some(after));
        }
        jobs.push(job);
        after = number;
    }
    (jobs, None)
}

/// Changes a job that the caller may see: looked at and changed in one go, so that it is the same.
async fn change(
    shared: &Shared,
    caller: Principal,
    job: JobId,
    make: impl FnOnce(JobId, ReplyId) -> Event + Send + 'static,
) -> Result<Answer, ApiError> {
    let make = move |machine: &Machine, reply| match machine.namespace(&job) {
        Some(namespace) if !caller.sees(namespace) => {
            let error = not_found(&job);
            Err(espalier_core::Error {
                kind: espalier_core::ErrorKind::NotFound,
                reason: "JOB_NOT_FOUND",
                message: error.message,
            })
        }
        _ => Ok(make(job, reply)),
    };
    shared.driver.request_if(make).await
}

/// The job of this name, if the caller may see it.
async fn look_up(shared: &Shared, caller: &Principal, name: JobId) -> Result<JobView, ApiError> {
    let wanted = name.clone();
    let found = shared
        .driver
        .read(move |machine| machine.job(&wanted))
        .await?;
    found
        .filter(|job| caller.sees(&job.spec.namespace))
        .ok_or_else(|| not_found(&name))
}

/// Who makes a request, told what it is about.
fn caller_about<T>(request: &Request<T>, job: &str) -> Result<Principal, ApiError> {
    Object::tell(request.extensions(), job);
    Principal::of(request.extensions())
}

/// Forgets an ended job that the caller may see, its log and its series.
pub(super) async fn forget(
    shared: &Shared,
    caller: Principal,
    name: JobId,
) -> Result<(), ApiError> {
    let uid = look_up(shared, &caller, name.clone()).await?.uid;
    let make = |name, reply| Event::DeleteJob { name, reply };
    match change(shared, caller, name, make).await? {
        Answer::Deleted => {}
        Answer::Job(_) | Answer::Worker(_) => return Err(odd_answer()),
    }
    let (logs, series) = (shared.logs.clone(), shared.series.clone());
    let forget = move || {
        logs.forget(&uid);
        series.forget(&uid);
    };
    // What is left over if this fails is removed at the next start.
    let _ = tokio::task::spawn_blocking(forget).await;
    Ok(())
}

/// Reason of the machine's refusal of a name that is that of a job which the caller may not see. Callers
/// never hear it.
const HIDDEN: &str = "HIDDEN";

/// Creates a job, or finds the one that the same request has created. Of a name that is taken where the
/// caller sees nothing, it is told no more than that it can't have it.
async fn create(
    shared: &Shared,
    caller: Principal,
    spec: JobSpec,
    request_id: Option<String>,
) -> Result<JobView, ApiError> {
    let name = JobId(spec.name.clone());
    let (spec, uid) = (Box::new(spec), Uuid::new_v4().to_string());
    let (wanted, asks) = (name.clone(), caller.clone());
    let make = move |machine: &Machine, reply| match machine.namespace(&wanted) {
        Some(namespace) if !asks.sees(namespace) => Err(espalier_core::Error {
            kind: espalier_core::ErrorKind::AlreadyExists,
            reason: HIDDEN,
            message: String::new(),
        }),
        _ => Ok(Event::CreateJob {
            spec,
            uid,
            request_id,
            reply,
        }),
    };
    match shared.driver.request_if(make).await {
        Ok(Answer::Job(job)) => {
            // A repeated request answers with what the first one made, be it another's.
            caller.may_submit_to(&job.spec.namespace)?;
            Ok(*job)
        }
        Ok(Answer::Worker(_) | Answer::Deleted) => Err(odd_answer()),
        Err(error) if error.reason == HIDDEN => {
            let message = format!("the name {name} can't be used here; choose another one");
            let error = ApiError::new(ErrorKind::PermissionDenied, "NAME_UNAVAILABLE", message);
            Err(error.with("job", &name))
        }
        Err(error) => Err(error),
    }
}

/// The error of a name that no job has; the same as the machine's.
pub(super) fn not_found(name: &JobId) -> ApiError {
    ApiError::new(
        ErrorKind::NotFound,
        "JOB_NOT_FOUND",
        format!("there is no job {name}; list the jobs to see their names"),
    )
    .with("job", name)
}

#[tonic::async_trait]
impl JobService for Jobs {
    async fn create_job(
        &self,
        request: Request<v1::CreateJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let shared = self.gate.lead()?;
        let caller = Principal::of(request.extensions())?;
        if let Some(spec) = &request.get_ref().spec {
            Object::tell(request.extensions(), &spec.name);
            small_enough(spec, self.max_job_bytes)?;
        }
        let v1::CreateJobRequest {
            spec,
            request_id,
            validate_only,
        } = request.into_inner();
        let (spec, request_id) = read_create(spec, &request_id).map_err(ApiError::from)?;
        caller.may_submit_to(&spec.namespace)?;
        if validate_only {
            let job = v1::Job {
                name: spec.name.clone(),
                spec: Some(spec.to_wire()),
                ..v1::Job::default()
            };
            return Ok(Response::new(job));
        }
        let job = create(&shared, caller, spec, request_id).await?;
        Ok(Response::new(view::job(&job)))
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let caller = caller_about(&request, &request.get_ref().name)?;
        let name = JobId(name(request.into_inner().name)?);
        let job = look_up(&self.gate.lead()?, &caller, name).await?;
        Ok(Response::new(view::job(&job)))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let caller = Principal::of(request.extensions())?;
        let v1::ListJobsRequest {
            page_size,
            page_token,
            states,
            namespace,
        } = request.into_inner();
        let limits = (paging::size(page_size)?, self.page_bytes);
        let states = read_states(&states).map_err(ApiError::from)?;
        let filter = format!("jobs {states:?} {namespace}");
        let after = match paging::position(&filter, &page_token)? {
            None => 0,
            Some(number) => number.parse().map_err(|_| odd_token())?,
        };
        let read = move |machine: &Machine| {
            let asked = |own: &str| namespace.is_empty() || own == namespace;
            let shown = |own: &str| asked(own) && caller.sees(own);
            page(limits, after, |after| {
                machine.jobs_in(after, 1, &states, shown).pop()
            })
        };
        let (jobs, next) = self.gate.lead()?.driver.read(read).await?;
        let token = |number: u64| paging::token(&filter, &number.to_string());
        let next_page_token = next.map(token).unwrap_or_default();
        Ok(Response::new(v1::ListJobsResponse {
            jobs,
            next_page_token,
        }))
    }

    type WatchJobStream = Answers<v1::WatchJobResponse>;

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let caller = caller_about(&request, &request.get_ref().name)?;
        let v1::WatchJobRequest {
            name: job,
            after_sequence,
        } = request.into_inner();
        let name = JobId(name(job)?);
        let shared = self.gate.lead()?;
        let permit = shared.watch()?;
        let notices = shared.driver.notices().of_job(&name);
        let job = look_up(&shared, &caller, name).await?;
        let last = job.last_sequence;
        if after_sequence > last {
            let message = format!(
                "`after_sequence` is {after_sequence}, but the newest event of job {} is {last}; if \
                 the job was deleted and created anew, begin with 0",
                job.name
            );
            let error = ApiError::new(ErrorKind::OutOfRange, "SEQUENCE_BEYOND_LAST", message)
                .with("last_sequence", last);
            return Err(error.into());
        }
        Ok(Response::new(follow::events(
            &shared,
            &job,
            after_sequence,
            notices,
            permit,
        )))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let caller = caller_about(&request, &request.get_ref().name)?;
        let job = request.into_inner().name;
        self.change(caller, job, |name, reply| Event::CancelJob { name, reply })
            .await
    }

    async fn pause_job(
        &self,
        request: Request<v1::PauseJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let caller = caller_about(&request, &request.get_ref().name)?;
        let job = request.into_inner().name;
        self.change(caller, job, |name, reply| Event::PauseJob { name, reply })
            .await
    }

    async fn resume_job(
        &self,
        request: Request<v1::ResumeJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let caller = caller_about(&request, &request.get_ref().name)?;
        let job = request.into_inner().name;
        self.change(caller, job, |name, reply| Event::ResumeJob { name, reply })
            .await
    }

    async fn delete_job(
        &self,
        request: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        let caller = caller_about(&request, &request.get_ref().name)?;
        let name = JobId(name(request.into_inner().name)?);
        forget(&self.gate.lead()?, caller, name).await?;
        Ok(Response::new(v1::DeleteJobResponse {}))
    }

    type TailJobLogsStream = Answers<v1::LogLine>;

    async fn tail_job_logs(
        &self,
        request: Request<v1::TailJobLogsRequest>,
    ) -> Result<Response<Self::TailJobLogsStream>, Status> {
        let caller = caller_about(&request, &request.get_ref().name)?;
        let v1::TailJobLogsRequest {
            name: job,
            tail,
            follow,
        } = request.into_inner();
        let name = JobId(name(job)?);
        let shared = self.gate.lead()?;
        let permit = shared.watch()?;
        let notices = shared.driver.notices().of_job(&name);
        let job = look_up(&shared, &caller, name).await?;
        Ok(Response::new(
            follow::logs(&shared, &job, tail, follow.then_some(notices), permit).await?,
        ))
    }

    async fn get_job_series(
        &self,
        request: Request<v1::GetJobSeriesRequest>,
    ) -> Result<Response<v1::GetJobSeriesResponse>, Status> {
        let caller = caller_about(&request, &request.get_ref().name)?;
        let mut request = request.into_inner();
        let name = JobId(name(std::mem::take(&mut request.name))?);
        let wanted = series::wanted(request)?;
        let shared = self.gate.lead()?;
        let job = look_up(&shared, &caller, name).await?;
        Ok(Response::new(series::read(&shared, &job, wanted).await?))
    }
}

/// Refuses jobs that would make every list, every watch and the store large.
fn small_enough(spec: &v1::JobSpec, limit: usize) -> Result<(), ApiError> {
    let size = espalier_proto::encoded_len(spec);
    if size <= limit {
        return Ok(());
    }
    let message = format!(
        "the job has {size} bytes, at most {limit} are accepted; name files instead of listing what is \
         in them, or raise --max-job-bytes of the coordinator"
    );
    Err(ApiError::new(ErrorKind::ResourceExhausted, "JOB_TOO_LARGE", message).with("limit", limit))
}

/// Reads a CreateJob with all its violations.
fn read_create(
    spec: Option<v1::JobSpec>,
    request_id: &str,
) -> Result<(JobSpec, Option<String>), Violations> {
    let mut bad = Vec::new();
    let mut add = |field: &str, message: String| {
        bad.push(Violation {
            field: field.into(),
            message,
        });
    };
    let id = match Uuid::try_parse(request_id) {
        Ok(id) => Some(id.to_string()),
        Err(_) if request_id.is_empty() => None,
        Err(_) => {
            add(
                "request_id",
                format!("`{request_id}` is no UUID; leave it out, or give a fresh one"),
            );
            None
        }
    };
    let spec = match spec.map(checked_job) {
        None => {
            add("spec", "is required: give the job".into());
            None
        }
        Some(Err(violations)) => {
            bad.extend(violations.0);
            None
        }
        Some(Ok(spec)) => Some(spec),
    };
    match spec {
        Some(spec) if bad.is_empty() => Ok((spec, id)),
        _ => Err(Violations(bad)),
    }
}

fn read_states(numbers: &[i32]) -> Result<Vec<JobState>, Violations> {
    let mut states = Vec::new();
    let mut bad = Vec::new();
    for (index, number) in numbers.iter().enumerate() {
        match view::known_state(*number) {
            Some(state) => states.push(state),
            None => bad.push(Violation {
                field: format!("states[{index}]"),
                message: format!("{number} is no state of a job"),
            }),
        }
    }
    // The order in which states are named means nothing, to page tokens neither.
    states.sort_unstable();
    states.dedup();
    if bad.is_empty() {
        Ok(states)
    } else {
        Err(Violations(bad))
    }
}

fn odd_token() -> ApiError {
    ApiError::field(
        "page_token",
        "is no token of this coordinator; begin with an empty one",
    )
}
