//! An API server, a coordinator, and operators that come and go between them.
#![allow(dead_code)] // not every test file uses all of it

use crate::apiserver::ApiServer;
use crate::kit::Node;
use clap::Parser;
use espalier_operator::coordinator::{Coordinator, TokenFrom};
use espalier_operator::health::Health;
use espalier_operator::reconcile::{Context, Error};
use espalier_operator::resource::{TrainingJob, TrainingJobStatus};
use espalier_operator::settings::{Cli, Settings, Verb};
use espalier_operator::watches::Watches;
use espalier_proto::v1;
use espalier_tls::ClientTls;
use kube::runtime::controller::Action;
use kube::runtime::events::{Recorder, Reporter};
use serde_json::{Value, json};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::mpsc;

pub(crate) const JOBS: &str = "apis/espalier.dev/v1alpha1/namespaces/team/trainingjobs";

/// A job file as an object.
pub(crate) fn job() -> Value {
    json!({
        "backbone": { "path": "/models/small" },
        "tasks": [{
            "name": "topic",
            "head": "single_label",
            "data": { "train": "/data/topic.csv" },
        }],
    })
}

pub(crate) struct Stage {
    pub(crate) api: ApiServer,
    pub(crate) node: Node,
    pub(crate) directory: TempDir,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            api: ApiServer::start().await,
            node: Node::start(directory.path()).await,
            directory,
        }
    }

    /// The coordinator as operators call it.
    pub(crate) fn coordinator(&self) -> Coordinator {
        at(&format!("http://{}", self.node.address))
    }

    /// An operator that knows nothing.
    pub(crate) fn operator(&self) -> Operator {
        self.operator_at(&format!("http://{}", self.node.address))
    }

    /// One that looks for the coordinator at an address.
    pub(crate) fn operator_at(&self, server: &str) -> Operator {
        self.operator_as(server, &TokenFrom::Nowhere)
    }

    /// One that looks for the coordinator at an address and says who it is.
    pub(crate) fn operator_as(&self, server: &str, token: &TokenFrom) -> Operator {
        let coordinator = || Coordinator::new(server, ClientTls::default(), token.clone()).unwrap();
        let (news, _) = mpsc::unbounded_channel();
        let reporter = Reporter {
            controller: "espalier.dev/operator".into(),
            instance: Some("test".into()),
        };
        Operator(Context {
            client: self.api.client(),
            coordinator: coordinator(),
            recorder: Recorder::new(self.api.client(), reporter),
            watches: Watches::new(coordinator(), news),
            health: Arc::new(Health::default()),
            traces: None,
            devices_per_worker: 1,
        })
    }

    /// Settings of a whole operator between the two.
    pub(crate) fn settings(&self) -> Settings {
        let server = format!("http://{}", self.node.address);
        let flags = ["espalier-operator", "run", "--namespace", "espalier"];
        let flags = flags.into_iter().chain(["--coordinator", &server]);
        match Cli::try_parse_from(flags).unwrap().verb {
            Verb::Run(settings) => *settings,
            Verb::Crd => panic!("another verb was asked for"),
        }
    }

    /// Somebody creates a resource.
    pub(crate) fn create(&self, name: &str) {
        self.create_of(name, job());
    }

    /// Somebody creates a resource of a job.
    pub(crate) fn create_of(&self, name: &str, job: Value) {
        let object = json!({
            "apiVersion": "espalier.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": { "name": name },
            "spec": { "job": job },
        });
        let key = crate::apiserver::key(&format!("{JOBS}/{name}"));
        self.api.with(|store| store.create(&key, object).unwrap());
    }

    /// Somebody changes a resource's spec.
    pub(crate) fn edit(&self, name: &str, spec: Value) {
        let key = crate::apiserver::key(&format!("{JOBS}/{name}"));
        let patch = json!({ "spec": spec });
        self.api
            .with(|store| store.patch(&key, None, &patch).unwrap());
    }

    /// Somebody deletes a resource.
    pub(crate) fn delete(&self, name: &str) {
        let key = crate::apiserver::key(&format!("{JOBS}/{name}"));
        self.api
            .with(|store| store.delete(&key, &Value::Null).unwrap());
    }

    pub(crate) fn resource(&self, name: &str) -> Option<TrainingJob> {
        let object = self.api.get(&format!("{JOBS}/{name}"))?;
        Some(serde_json::from_value(object).unwrap())
    }

    pub(crate) fn status(&self, name: &str) -> TrainingJobStatus {
        let resource = self.resource(name);
        resource.and_then(|found| found.status).unwrap_or_default()
    }

    /// Status and reason of a condition.
    pub(crate) fn condition(&self, name: &str, kind: &str) -> (String, String) {
        let status = self.status(name);
        let found = espalier_operator::decide::condition(&status, kind);
        let found = found.unwrap_or_else(|| panic!("no {kind}: {status:?}"));
        (found.status.clone(), found.reason.clone())
    }

    /// The coordinator's job of a resource.
    pub(crate) async fn job(&self, name: &str) -> Option<v1::Job> {
        let name = format!("team-{name}");
        let request = v1::GetJobRequest { name };
        let answer = self.node.jobs().get_job(request).await;
        answer.ok().map(tonic::Response::into_inner)
    }

    /// Passes of an operator until one changes nothing.
    pub(crate) async fn settle(&self, operator: &Operator, name: &str) {
        let path = format!("{JOBS}/{name}");
        for _ in 0..60 {
            let before = (self.api.get(&path), self.job(name).await);
            let passed = operator.pass(name).await;
            if passed.is_ok() && before == (self.api.get(&path), self.job(name).await) {
                return;
            }
        }
        panic!("{name} comes to no rest: {:?}", self.status(name));
    }
}

fn at(server: &str) -> Coordinator {
    Coordinator::new(server, ClientTls::default(), TokenFrom::Nowhere).unwrap()
}

pub(crate) struct Operator(Context);

impl Operator {
    /// One pass over a resource.
    pub(crate) async fn pass(&self, name: &str) -> Result<Action, Error> {
        self.0.pass(&("team".to_owned(), name.to_owned())).await
    }
}
