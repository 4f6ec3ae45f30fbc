//! What clients and workers get for odd requests, and what any gRPC client expects of a server.

use crate::kit::{Node, Worker, config_with, hello, soon, spec};
use espalier_coordinator::config::VERSION;
use espalier_coordinator::store::{Log, Store, StoreError};
use espalier_proto::{ApiError, ErrorKind, v1};
use tonic::Status;
use v1::worker_message::Message;

fn reason(status: Status) -> (ErrorKind, String) {
    let error = ApiError::from(status);
    (error.kind, error.reason)
}

// Promise: one answer names every bad field, of the request and of the job, by its path.
#[tokio::test]
async fn every_bad_field_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let mut bad = spec("fine");
    bad.backbone = None;
    bad.tasks[0].head = 0;
    bad.tasks[0].metric = "acuracy".into();
    let request = v1::CreateJobRequest {
        spec: Some(bad),
        request_id: "no uuid".into(),
        validate_only: false,
    };
    let error = ApiError::from(node.jobs().create_job(request).await.unwrap_err());
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(
        fields,
        ["request_id", "backbone", "tasks[0].head", "tasks[0].metric"]
    );
    let error = node
        .jobs()
        .create_job(v1::CreateJobRequest::default())
        .await
        .unwrap_err();
    assert_eq!(ApiError::from(error).violations[0].field, "spec");
    node.stop().await;
}

// Promise: names are unique and read letter by letter; what does not exist is not found.
#[tokio::test]
async fn names() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    node.create("taken").await;
    let request = v1::CreateJobRequest {
        spec: Some(spec("taken")),
        ..Default::default()
    };
    let (kind, word) = reason(node.jobs().create_job(request).await.unwrap_err());
    assert_eq!(
        (kind, word.as_str()),
        (ErrorKind::AlreadyExists, "JOB_EXISTS")
    );
    for name in ["Taken", "taken ", "other"] {
        let request = v1::GetJobRequest { name: name.into() };
        let (kind, word) = reason(node.jobs().get_job(request).await.unwrap_err());
        assert_eq!(
            (kind, word.as_str()),
            (ErrorKind::NotFound, "JOB_NOT_FOUND")
        );
        let request = v1::CancelJobRequest { name: name.into() };
        let (kind, word) = reason(node.jobs().cancel_job(request).await.unwrap_err());
        assert_eq!(
            (kind, word.as_str()),
            (ErrorKind::NotFound, "JOB_NOT_FOUND")
        );
    }
    let request = v1::WatchJobRequest {
        name: "other".into(),
        after_sequence: 0,
    };
    assert_eq!(
        reason(node.jobs().watch_job(request).await.unwrap_err()).0,
        ErrorKind::NotFound
    );
    let error = node
        .jobs()
        .get_job(v1::GetJobRequest::default())
        .await
        .unwrap_err();
    assert_eq!(ApiError::from(error).violations[0].field, "name");
    let request = v1::DrainWorkerRequest {
        name: "nobody".into(),
    };
    let (kind, word) = reason(node.cluster().drain_worker(request).await.unwrap_err());
    assert_eq!(
        (kind, word.as_str()),
        (ErrorKind::NotFound, "WORKER_NOT_FOUND")
    );
    node.stop().await;
}

// Promise: `validate_only` fills in the defaults and creates nothing.
#[tokio::test]
async fn validate_only_creates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let request = v1::CreateJobRequest {
        spec: Some(spec("maybe")),
        validate_only: true,
        ..Default::default()
    };
    let job = node.jobs().create_job(request).await.unwrap().into_inner();
    assert_eq!(
        (
            job.spec.unwrap().backbone.unwrap().max_tokens,
            job.uid.as_str()
        ),
        (128, "")
    );
    let list = node
        .jobs()
        .list_jobs(v1::ListJobsRequest::default())
        .await
        .unwrap();
    assert!(list.into_inner().jobs.is_empty());
    node.stop().await;
}

// Promise: pages hold every job once, in order; a token of another filter is refused.
#[tokio::test]
async fn pages() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let names: Vec<String> = (0..5).map(|i| format!("job-{i}")).collect();
    for name in &names {
        node.create(name).await;
    }
    let cancelled = v1::CancelJobRequest {
        name: "job-1".into(),
    };
    node.jobs().cancel_job(cancelled).await.unwrap();
    let queued = v1::ListJobsRequest {
        page_size: 2,
        states: vec![v1::job::State::Queued.into()],
        ..Default::default()
    };
    for (filter, expected) in [
        (
            v1::ListJobsRequest {
                page_size: 2,
                ..Default::default()
            },
            vec![0, 1, 2, 3, 4],
        ),
        (queued.clone(), vec![0, 2, 3, 4]),
    ] {
        let mut found = Vec::new();
        let mut request = filter;
        loop {
            let page = node
                .jobs()
                .list_jobs(request.clone())
                .await
                .unwrap()
                .into_inner();
            assert!(page.jobs.len() <= 2);
            found.extend(page.jobs.into_iter().map(|job| job.name));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let expected: Vec<_> = expected.into_iter().map(|i| names[i].clone()).collect();
        assert_eq!(found, expected);
    }
    let page = node
        .jobs()
        .list_jobs(queued.clone())
        .await
        .unwrap()
        .into_inner();
    let unfiltered = v1::ListJobsRequest {
        page_token: page.next_page_token,
        ..Default::default()
    };
    let nonsense = v1::ListJobsRequest {
        page_token: "nonsense".into(),
        ..Default::default()
    };
    for request in [unfiltered, nonsense] {
        let error = ApiError::from(node.jobs().list_jobs(request).await.unwrap_err());
        assert_eq!(error.violations[0].field, "page_token");
    }
    let odd = v1::ListJobsRequest {
        states: vec![1, 77],
        ..Default::default()
    };
    let error = ApiError::from(node.jobs().list_jobs(odd).await.unwrap_err());
    assert_eq!(error.violations[0].field, "states[1]");
    node.stop().await;
}

// Promise: a list whose jobs are larger than a message comes in pages that fit, every job once.
#[tokio::test]
async fn pages_of_large_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let limits = ["--max-message-bytes=65536", "--max-job-bytes=65536"];
    let config = config_with(directory.path(), &limits);
    let node = Node::configured(&config).await;
    let names: Vec<String> = (0..12).map(|i| format!("job-{i:02}")).collect();
    for name in &names {
        let mut large = spec(name);
        let files = (0..300).map(|i| format!("/data/a/folder/of/many/parts/{i:04}.csv"));
        large.tasks[0].data.as_mut().unwrap().train = files.collect();
        let request = v1::CreateJobRequest {
            spec: Some(large),
            ..Default::default()
        };
        node.jobs().create_job(request).await.unwrap();
    }
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut request = v1::ListJobsRequest::default();
    loop {
        let page = node.jobs().list_jobs(request.clone()).await;
        let page = page.unwrap().into_inner();
        found.extend(page.jobs.into_iter().map(|job| job.name));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(found, names);
    assert!((3..12).contains(&pages), "{pages} pages");
    node.stop().await;
}

// Promise: a worker of another line of versions, or that does not begin with Hello, or that takes a live
// worker's name, is refused with the reason; one of another patch is taken in, so that processes can be
// replaced one by one.
#[tokio::test]
async fn odd_workers_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let old = v1::Hello {
        version: "0.0.1".into(),
        ..hello("old")
    };
    let mut worker = Worker::open(&node, Message::Hello(old)).await.unwrap();
    let error = ApiError::from(worker.try_order().await.unwrap_err());
    assert_eq!(
        (error.kind, error.reason.as_str()),
        (ErrorKind::FailedPrecondition, "VERSION_MISMATCH")
    );
    assert!(error.message.contains("0.0.1"), "{error}");
    let line = VERSION.rsplit_once('.').unwrap().0;
    let patch = v1::Hello {
        version: format!("{line}.999"),
        ..hello("patch")
    };
    Worker::join(&node, patch).await;

    let rude = Worker::open(&node, Message::Goodbye(v1::Goodbye::default())).await;
    let (kind, word) = reason(rude.err().unwrap());
    assert_eq!(
        (kind, word.as_str()),
        (ErrorKind::InvalidArgument, "HELLO_EXPECTED")
    );

    let mut first = Worker::join(&node, hello("w")).await;
    let twin = v1::Hello {
        instance: "second".into(),
        ..hello("w")
    };
    let mut second = Worker::open(&node, Message::Hello(twin)).await.unwrap();
    let error = ApiError::from(second.try_order().await.unwrap_err());
    assert_eq!(
        (error.kind, error.reason.as_str()),
        (ErrorKind::AlreadyExists, "WORKER_EXISTS")
    );

    // A message that makes no sense ends its stream and names the field.
    first.say(Message::Prepared(v1::Prepared::default())).await;
    let error = ApiError::from(first.try_order().await.unwrap_err());
    assert_eq!(error.violations[0].field, "prepared.profile");
    node.stop().await;
}

// Promise: the workers of a cluster are listed, watched, drained and taken back.
#[tokio::test]
async fn workers_are_observed_and_drained() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let mut cluster = node.cluster();
    let request = v1::WatchWorkersRequest {};
    let mut watch = cluster.watch_workers(request).await.unwrap().into_inner();
    let mut next = async || {
        soon("a worker", watch.message())
            .await
            .unwrap()
            .unwrap()
            .worker
            .unwrap()
    };
    let _b = Worker::join(&node, hello("b")).await;
    assert_eq!(next().await.name, "b");
    let _a = Worker::join(&node, hello("a")).await;
    assert_eq!(next().await.name, "a");
    let drain = v1::DrainWorkerRequest { name: "b".into() };
    let drained = cluster.drain_worker(drain).await.unwrap().into_inner();
    assert_eq!(drained.state(), v1::worker::State::Draining);
    assert_eq!(next().await.state(), v1::worker::State::Draining);
    let totals = cluster
        .get_cluster(v1::GetClusterRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((totals.workers, totals.ranks, totals.free_ranks), (2, 2, 1));
    let undrain = v1::UndrainWorkerRequest { name: "b".into() };
    cluster.undrain_worker(undrain).await.unwrap();
    assert_eq!(next().await.state(), v1::worker::State::Ready);
    let request = v1::ListWorkersRequest {
        page_size: 1,
        ..Default::default()
    };
    let page = cluster.list_workers(request).await.unwrap().into_inner();
    assert_eq!(page.workers[0].name, "a");
    let request = v1::ListWorkersRequest {
        page_size: 1,
        page_token: page.next_page_token,
    };
    let page = cluster.list_workers(request).await.unwrap().into_inner();
    assert_eq!(
        (page.workers[0].name.as_str(), page.next_page_token.as_str()),
        ("b", "")
    );
    node.stop().await;
}

// Promise: health checks and reflection work for clients that have no files of ours.
#[tokio::test]
async fn health_and_reflection() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let mut health = HealthClient::new(node.channel.clone());
    let services = [
        "",
        "espalier.v1.JobService",
        "espalier.v1.ClusterService",
        "espalier.v1.WorkerService",
    ];
    for service in services {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        assert_eq!(
            health.check(request).await.unwrap().into_inner().status,
            1,
            "{service}"
        );
    }
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(node.channel.clone());
    let mut answers = client
        .server_reflection_info(tokio_stream::once(list))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for service in &services[1..] {
        assert!(names.contains(service), "{names:?}");
    }
    drop(answers);
    // What errors are made of can be asked for as well.
    let symbol = MessageRequest::FileContainingSymbol("google.rpc.ErrorInfo".into());
    let symbol = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(symbol),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::once(symbol))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let file = answer.message_response.unwrap();
    assert!(
        matches!(file, MessageResponse::FileDescriptorResponse(_)),
        "{file:?}"
    );
    drop(answers);
    node.stop().await;
}

/// A disk that is full from the first write on.
struct Full;

impl Store for Full {
    fn append(&mut self, _first: u64, _entries: &[Vec<u8>]) -> Result<(), StoreError> {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(StoreError::Io {
            path: "the store".into(),
            source,
        })
    }

    fn load(&mut self) -> Result<Log, StoreError> {
        Ok(Log::default())
    }

    fn snapshot(&mut self, _applied: u64, _snapshot: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }
}

// Promise: what could not be made durable is not acknowledged, and the coordinator ends with the
// reason instead of going on with state that would be lost.
#[tokio::test]
async fn a_store_that_fails_ends_the_coordinator() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::with(&crate::kit::config(directory.path()), Box::new(Full)).await;
    let request = v1::CreateJobRequest {
        spec: Some(spec("lost")),
        ..Default::default()
    };
    let (kind, word) = reason(node.jobs().create_job(request).await.unwrap_err());
    assert_eq!(
        (kind, word.as_str()),
        (ErrorKind::Unavailable, "COORDINATOR_STOPPING")
    );
    let error = soon("the end", node.task).await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("the store failed: the store:"),
        "{error}"
    );
}
