//! The hands of [`crate::scale`]: reads StatefulSet, jobs and workers, and does one thing about them.

use crate::coordinator::Coordinator;
use crate::health::Health;
use crate::scale::{Bounds, Fleet, ScaleAct, WorkerSeen, decide, need};
use espalier_proto::{ApiError, ErrorKind};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Annotation of the StatefulSet that names the workers which are drained to be given up.
pub const DRAINING: &str = "espalier.dev/draining";
/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(10);
/// Pause between two looks while something is under way.
const SOON: Duration = Duration::from_secs(2);

/// Why a look had no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what it was asked for.
    #[error("the API server: {0}")]
    Kube(#[from] kube::Error),
    /// The coordinator did not.
    #[error("the coordinator: {0}")]
    Coordinator(#[from] ApiError),
    /// There is no such StatefulSet.
    #[error("there is no StatefulSet {0}; name the workers' with --worker-set")]
    NoSet(String),
}

/// Scales the workers.
pub struct Scaler {
    sets: Api<StatefulSet>,
    name: String,
    coordinator: Coordinator,
    bounds: Bounds,
    devices_per_worker: u32,
    patience: Duration,
    /// Since when the need has been below what there is, as far as this operator has seen.
    low: Option<Instant>,
}

impl Scaler {
    /// One for the StatefulSet of a namespace and name.
    #[must_use]
    pub fn new(
        client: Client,
        (namespace, name): (&str, &str),
        coordinator: Coordinator,
        bounds: Bounds,
        devices_per_worker: u32,
        patience: Duration,
    ) -> Self {
        Self {
            sets: Api::namespaced(client, namespace),
            name: name.to_owned(),
            coordinator,
            bounds,
            devices_per_worker,
            patience,
            low: None,
        }
    }

    /// Looks again and again, for ever. What fails is counted in `health`.
    pub async fn run(mut self, health: &Health) {
        let mut said = String::new();
        loop {
            let pause = match self.pass().await {
                Ok(soon) => {
                    said.clear();
                    if soon { SOON } else { LOOK }
                }
                // Nothing is scaled on what is not known. Said once, and counted each time.
                Err(error) => {
                    health.unscaled();
                    let error = error.to_string();
                    if error != said {
                        tracing::warn!("workers are not scaled: {error}");
                        said = error;
                    }
                    LOOK
                }
            };
            sleep(pause).await;
        }
    }

    /// One look. True: something is under way.
    ///
    /// # Errors
    /// The API server's and the coordinator's.
    pub async fn pass(&mut self) -> Result<bool, Error> {
        let set = self.sets.get_opt(&self.name).await?;
        let set = set.ok_or_else(|| Error::NoSet(self.name.clone()))?;
        let jobs = self.coordinator.open_jobs().await?;
        let workers = self.coordinator.workers().await?;
        let replicas = u32::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
        let need = need(&jobs, self.devices_per_worker);
        let now = Instant::now();
        self.low = match self.bounds.clamp(need) < replicas {
            true => self.low.or(Some(now)),
            false => None,
        };
        let fleet = Fleet {
            name: self.name.clone(),
            replicas,
            marked: marked(&set),
            workers: workers
                .iter()
                .map(|worker| (worker.name.clone(), WorkerSeen::of(worker)))
                .collect(),
            need,
            bounds: self.bounds,
            low_for: self.low.map_or(Duration::ZERO, |low| now - low),
            patience: self.patience,
        };
        let decision = decide(&fleet);
        let Some((act, why)) = decision.act else {
            return Ok(decision.soon);
        };
        tracing::info!(?act, "{why}");
        let version = set.metadata.resource_version.as_deref();
        match act {
            ScaleAct::Resize(replicas) => self.resize(version, replicas).await?,
            ScaleAct::Mark(marked) => self.mark(version, &marked).await?,
            ScaleAct::Drain(name) => {
                gone_is_fine(self.coordinator.drain(&name).await.map(|_| ()))?;
            }
            ScaleAct::TakeBack(name) => {
                gone_is_fine(self.coordinator.undrain(&name).await.map(|_| ()))?;
                let mut rest = fleet.marked;
                rest.remove(&name);
                self.mark(version, &rest).await?;
            }
        }
        Ok(true)
    }

    async fn resize(&self, version: Option<&str>, replicas: u32) -> Result<(), Error> {
        let patch = json!({
            "metadata": { "resourceVersion": version },
            "spec": { "replicas": replicas },
        });
        let params = PatchParams::default();
        let patched = self
            .sets
            .patch_scale(&self.name, &params, &Patch::Merge(&patch))
            .await;
        Ok(patched.map(|_| ())?)
    }

    async fn mark(&self, version: Option<&str>, marked: &BTreeSet<String>) -> Result<(), Error> {
        let names: Vec<&str> = marked.iter().map(String::as_str).collect();
        let value = (!names.is_empty()).then(|| names.join(","));
        let patch = json!({
            "metadata": { "resourceVersion": version, "annotations": { DRAINING: value } },
        });
        let params = PatchParams::default();
        let patched = self
            .sets
            .patch(&self.name, &params, &Patch::Merge(&patch))
            .await;
        Ok(patched.map(|_| ())?)
    }
}

fn marked(set: &StatefulSet) -> BTreeSet<String> {
    let annotations = set.metadata.annotations.as_ref();
    let names = annotations.and_then(|all| all.get(DRAINING));
    let names = names.map(String::as_str).unwrap_or_default();
    let names = names.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// A worker that is gone has nothing to drain, and a mark of it is taken off all the same.
fn gone_is_fine(answer: Result<(), ApiError>) -> Result<(), ApiError> {
    match answer {
        Err(error)
            if matches!(
                error.kind,
                ErrorKind::NotFound | ErrorKind::FailedPrecondition
            ) =>
        {
            Ok(())
        }
        answer => answer,
    }
}
