//! `ClusterService`.

use super::follow::{Feed, PATIENCE, hand, news};
use super::{Answers, Gate, Shared, name, odd_answer, paging, view};
use crate::access::{Object, Principal};
use crate::config::VERSION;
use espalier_core::{Answer, Event, Machine, ReplyId, Time, WorkerView};
use espalier_proto::v1::cluster_service_server::ClusterService;
use espalier_proto::{ApiError, ErrorKind, v1};
use espalier_spec::{JobId, WorkerId};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

const FILTER: &str = "workers";
/// What stands for the name of a job that the caller may not see; no job can have it.
const HIDDEN: &str = "(hidden)";

pub(super) struct Clusters(pub(super) Gate);

impl Clusters {
    /// Asks for a change of one worker, and shows it as the caller may see it.
    async fn change(
        &self,
        caller: Principal,
        worker: String,
        make: impl FnOnce(WorkerId, ReplyId) -> Event + Send + 'static,
    ) -> Result<Response<v1::Worker>, Status> {
        let worker = WorkerId(name(worker)?);
        let shared = self.0.lead()?;
        match shared
            .driver
            .request(move |reply| make(worker, reply))
            .await?
        {
            Answer::Worker(worker) => {
                let read = move |machine: &Machine| shown(machine, vec![*worker], &caller);
                let found = shared.driver.read(read).await?;
                let worker = found.first().ok_or_else(odd_answer)?;
                Ok(Response::new(view::worker(worker)))
            }
            Answer::Job(_) | Answer::Deleted => Err(odd_answer().into()),
        }
    }
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn get_cluster(
        &self,
        _request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::Cluster>, Status> {
        let shared = self.0.lead()?;
        let cluster = shared.driver.read(Machine::cluster).await?;
        Ok(Response::new(v1::Cluster {
            version: VERSION.to_owned(),
            start_time: Some(view::moment(shared.started)),
            workers: cluster.workers,
            ranks: cluster.ranks,
            free_ranks: cluster.free_ranks,
            active_jobs: cluster.active_jobs,
        }))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let caller = Principal::of(request.extensions())?;
        let v1::ListWorkersRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let size = paging::size(page_size)?;
        let after = paging::position(FILTER, &page_token)?.map(WorkerId);
        let read = move |machine: &Machine| shown(machine, machine.workers(), &caller);
        let mut found = self.0.lead()?.driver.read(read).await?;
        found.retain(|worker| after.as_ref().is_none_or(|after| worker.name > *after));
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(worker) if more => paging::token(FILTER, worker.name.as_str()),
            _ => String::new(),
        };
        let workers = found.iter().map(view::worker).collect();
        Ok(Response::new(v1::ListWorkersResponse {
            workers,
            next_page_token,
        }))
    }

    async fn get_worker(
        &self,
        request: Request<v1::GetWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let caller = Principal::of(request.extensions())?;
        Object::tell(request.extensions(), &request.get_ref().name);
        let name = WorkerId(name(request.into_inner().name)?);
        let wanted = name.clone();
        let read = move |machine: &Machine| {
            let found = machine.worker(&wanted).into_iter().collect();
            shown(machine, found, &caller)
        };
        let found = self.0.lead()?.driver.read(read).await?;
        let worker = found.into_iter().next().ok_or_else(|| {
            ApiError::new(
                ErrorKind::NotFound,
                "WORKER_NOT_FOUND",
                format!("there is no worker {name}; list the workers to see their names"),
            )
            .with("worker", &name)
        })?;
        Ok(Response::new(view::worker(&worker)))
    }

    type WatchWorkersStream = Answers<v1::WatchWorkersResponse>;

    async fn watch_workers(
        &self,
        request: Request<v1::WatchWorkersRequest>,
    ) -> Result<Response<Self::WatchWorkersStream>, Status> {
        let caller = Principal::of(request.extensions())?;
        let shared = self.0.lead()?;
        let permit = shared.watch()?;
        let mut notices = shared.driver.notices().of_workers();
        let (feed, answers) = Feed::new();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = send_workers(&shared, &caller, &feed.client, &mut notices).await {
                feed.fail(error);
            }
        });
        Ok(Response::new(answers))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        Object::tell(request.extensions(), &request.get_ref().name);
        let caller = Principal::of(request.extensions())?;
        let worker = request.into_inner().name;
        let make = |name, reply| Event::DrainWorker { name, reply };
        self.change(caller, worker, make).await
    }

    async fn undrain_worker(
        &self,
        request: Request<v1::UndrainWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        Object::tell(request.extensions(), &request.get_ref().name);
        let caller = Principal::of(request.extensions())?;
        let worker = request.into_inner().name;
        let make = |name, reply| Event::UndrainWorker { name, reply };
        self.change(caller, worker, make).await
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let caller = Principal::of(request.extensions())?;
        Ok(Response::new(v1::WhoAmIResponse {
            role: caller.role.to_wire().into(),
            method: caller.method.as_str().to_owned(),
            name: caller.name,
            namespaces: caller.namespaces,
        }))
    }
}

/// Workers as a caller may see them: whose jobs it may not see, of those it sees no names.
fn shown(machine: &Machine, mut workers: Vec<WorkerView>, caller: &Principal) -> Vec<WorkerView> {
    let used = workers.iter_mut().flat_map(|worker| &mut worker.devices);
    for (job, _) in used.filter_map(|device| device.used_by.as_mut()) {
        let namespace = machine.namespace(job);
        if namespace.is_some_and(|namespace| !caller.sees(namespace)) {
            *job = JobId(HIDDEN.to_owned());
        }
    }
    workers
}

async fn send_workers(
    shared: &Shared,
    caller: &Principal,
    client: &mpsc::Sender<Result<v1::WatchWorkersResponse, Status>>,
    notices: &mut tokio::sync::watch::Receiver<()>,
) -> Result<(), ApiError> {
    let mut sent: BTreeMap<WorkerId, WorkerView> = BTreeMap::new();
    loop {
        let caller = caller.clone();
        let read = move |machine: &Machine| shown(machine, machine.workers(), &caller);
        let workers = shared.driver.read(read).await?;
        for worker in workers {
            // A heartbeat alone is no change.
            let still = WorkerView {
                heartbeat_time: Time(0),
                ..worker.clone()
            };
            if sent.get(&worker.name) == Some(&still) {
                continue;
            }
            let response = v1::WatchWorkersResponse {
                worker: Some(view::worker(&worker)),
            };
            if !hand(client, response, PATIENCE).await? {
                return Ok(());
            }
            sent.insert(worker.name, still);
        }
        if !news(shared, client, notices).await? {
            return Ok(());
        }
    }
}
