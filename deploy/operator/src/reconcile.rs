//! One resource at a time: observe, decide, write, act, settle, write.

use crate::coordinator::Coordinator;
use crate::decide::{Act, Outcome, Seen, World, decide, later, may_have_job, notes, settle};
use crate::health::Health;
use crate::names::job_name;
use crate::resource::{FINALIZER, State, TrainingJob, TrainingJobStatus};
use crate::watches::Watches;
use espalier_proto::{ApiError, v1};
use espalier_telemetry::Traces;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How soon a resource that somebody else has written to is looked at again.
const CONFLICT: Duration = Duration::from_millis(200);
/// How soon it is tried again where the API server fails.
const TROUBLE: Duration = Duration::from_secs(5);

/// The API server did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    what: &'static str,
    #[source]
    source: kube::Error,
}

impl Error {
    fn of(what: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self { what, source }
    }

    /// Whether somebody else was faster, or the resource has gone.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(&self.source, kube::Error::Api(status) if status.is_conflict() || status.is_not_found())
    }
}

/// What a resource is worked on with.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The coordinator.
    pub coordinator: Coordinator,
    /// Where events go.
    pub recorder: Recorder,
    /// Streams of jobs.
    pub watches: Watches,
    /// How the operator is.
    pub health: Arc<Health>,
    /// Where spans go, if anywhere.
    pub traces: Option<Traces>,
    /// Devices of one worker.
    pub devices_per_worker: u32,
}

/// Looks at a resource and does one thing about it. Answers when to look again.
///
/// # Errors
/// The API server's. Those of the coordinator are in the resource's status.
pub async fn reconcile(resource: Arc<TrainingJob>, context: Arc<Context>) -> Result<Action, Error> {
    let done = context.pass(&resource.key()).await;
    let well = done.as_ref().map_or_else(Error::passes, |_| true);
    context.health.passed(well);
    done
}

/// What follows an error.
#[must_use]
pub fn again(_: Arc<TrainingJob>, error: &Error, _: Arc<Context>) -> Action {
    Action::requeue(if error.passes() { CONFLICT } else { TROUBLE })
}

impl Context {
    /// One pass over the resource of a key.
    ///
    /// # Errors
    /// As [`reconcile`].
    pub async fn pass(&self, key: &(String, String)) -> Result<Action, Error> {
        let api: Api<TrainingJob> = Api::namespaced(self.client.clone(), &key.0);
        // As it is, not as it was when its change was told: what is decided must be about what is.
        let found = api.get_opt(&key.1).await.map_err(Error::of("get"))?;
        let Some(resource) = found else {
            self.watches.forget(key);
            return Ok(Action::await_change());
        };
        let job = match self.look(&resource).await {
            Ok(job) => job,
            // It answers, but does not say anything of the job now: nothing is decided.
            Err(Busy(pause)) => return Ok(Action::requeue(pause)),
        };
        let mut world = World {
            now: Timestamp::now(),
            resource,
            job,
            devices_per_worker: self.devices_per_worker,
        };
        let decision = decide(&world);
        world.resource = self.write(&api, world.resource, decision.status).await?;
        self.follow(key, &world);
        let Some((act, why)) = decision.act else {
            return Ok(match decision.again {
                Some(after) => Action::requeue(after),
                None => Action::await_change(),
            });
        };
        let (namespace, name) = key;
        tracing::info!(%namespace, %name, act = act.name(), "{why}");
        match &act {
            Act::Hold => self.hold(&api, &world.resource).await,
            Act::Release => self.release(&api, &world.resource).await,
            Act::Expire => self.expire(&api, &world.resource).await,
            _ => {
                let begun = SystemTime::now();
                let outcome = self.perform(&act).await;
                self.trace(&world, &act, &outcome, begun);
                let settled = settle(&world, &act, &outcome);
                if let Outcome::Failed(error) = &outcome {
                    tracing::warn!(%namespace, %name, act = act.name(), "{error}");
                }
                self.write(&api, world.resource, settled.status).await?;
                Ok(Action::requeue(settled.again.unwrap_or_default()))
            }
        }
    }

    /// The job of a resource's name, if it may have one.
    async fn look(&self, resource: &TrainingJob) -> Result<Seen, Busy> {
        if !may_have_job(resource) {
            return Ok(Seen::Absent);
        }
        let (namespace, name) = resource.key();
        match self.coordinator.job(&job_name(&namespace, &name)).await {
            Ok(Some(job)) => Ok(Seen::Present(Box::new(job))),
            Ok(None) => self.look_again(resource, &namespace).await,
            Err(error) => unseen(error),
        }
    }

    /// What it means that a job is not found: one that the operator may not see is not found either, and must
    /// not be given up for it.
    async fn look_again(&self, resource: &TrainingJob, namespace: &str) -> Result<Seen, Busy> {
        let status = resource.status.as_ref();
        if status.is_none_or(|status| status.job_uid.is_none()) {
            // None is known of: a submission that was refused, be it for the namespace, made none.
            return Ok(Seen::Absent);
        }
        match self.coordinator.sees(namespace).await {
            Ok(true) => Ok(Seen::Absent),
            Ok(false) => Ok(Seen::Away(format!(
                "it shows the operator no jobs of the namespace {namespace}; let the operator's token or \
                 certificate see this namespace"
            ))),
            Err(error) => unseen(error),
        }
    }

    /// Follows the job where something will happen to it.
    fn follow(&self, key: &(String, String), world: &World) {
        let status = world.resource.status.clone().unwrap_or_default();
        match &world.job {
            Seen::Present(job)
                if status.job_uid.as_deref() == Some(job.uid.as_str())
                    && !status.state.is_some_and(State::is_final) =>
            {
                self.watches.follow(key, job);
            }
            _ => self.watches.forget(key),
        }
    }

    /// Writes the status if it is another one, and says what the change means.
    async fn write(
        &self,
        api: &Api<TrainingJob>,
        mut resource: TrainingJob,
        status: TrainingJobStatus,
    ) -> Result<TrainingJob, Error> {
        let before = resource.status.take().unwrap_or_default();
        if before == status {
            resource.status = Some(status);
            return Ok(resource);
        }
        let notes = notes(&before, &status);
        resource.status = Some(status);
        let name = resource.key().1;
        // With the version that it is based on: a change that was not seen makes it a conflict.
        let written = api
            .replace_subresource("status", &name, &PostParams::default(), &resource)
            .await
            .map_err(Error::of("write the status"))?;
        for note in notes {
            let event = Event {
                type_: match note.warning {
                    true => EventType::Warning,
                    false => EventType::Normal,
                },
                reason: note.reason,
                // Events hold 1 kB.
                note: Some(note.message.chars().take(250).collect()),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            // An event that is lost is lost: the status says the same.
            let published = self
                .recorder
                .publish(&event, &written.object_ref(&()))
                .await;
            if let Err(error) = published {
                tracing::debug!("an event was not taken: {error}");
            }
        }
        Ok(written)
    }

    async fn perform(&self, act: &Act) -> Outcome {
        let job = |answer: Result<v1::Job, ApiError>| match answer {
            Ok(job) => Outcome::Done(Some(Box::new(job))),
            Err(error) => Outcome::Failed(error),
        };
        match act {
            Act::Create { spec, request_id } => {
                let spec = v1::JobSpec::clone(spec);
                job(self.coordinator.create(spec, request_id.clone()).await)
            }
            Act::Pause(name) => job(self.coordinator.pause(name).await),
            Act::Resume(name) => job(self.coordinator.resume(name).await),
            Act::Cancel(name) => job(self.coordinator.cancel(name).await),
            Act::Forget(name) => match self.coordinator.forget(name).await {
                Ok(()) => Outcome::Done(None),
                Err(error) => Outcome::Failed(error),
            },
            // These are the API server's.
            Act::Hold | Act::Release | Act::Expire => Outcome::Done(None),
        }
    }

    /// Sends the span of an act that has come to its end just now.
    fn trace(&self, world: &World, act: &Act, outcome: &Outcome, begun: SystemTime) {
        let (Some(traces), Some(uid)) = (&self.traces, uid_of(world, act, outcome)) else {
            return;
        };
        let failure = match outcome {
            Outcome::Done(_) => None,
            Outcome::Failed(error) => Some(error.to_string()),
        };
        let (namespace, name) = world.resource.key();
        let times = (begun, SystemTime::now());
        traces.act(
            uid,
            &job_name(&namespace, &name),
            act.name(),
            times,
            failure,
        );
    }

    async fn hold(&self, api: &Api<TrainingJob>, resource: &TrainingJob) -> Result<Action, Error> {
        let mut finalizers = resource.metadata.finalizers.clone().unwrap_or_default();
        finalizers.push(FINALIZER.to_owned());
        self.finalizers(api, resource, finalizers).await?;
        Ok(Action::requeue(Duration::ZERO))
    }

    async fn release(
        &self,
        api: &Api<TrainingJob>,
        resource: &TrainingJob,
    ) -> Result<Action, Error> {
        let mut finalizers = resource.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        self.watches.forget(&resource.key());
        match self.finalizers(api, resource, finalizers).await {
            Err(error) if error.passes() => Ok(Action::requeue(CONFLICT)),
            Err(error) => Err(error),
            Ok(()) => Ok(Action::await_change()),
        }
    }

    async fn finalizers(
        &self,
        api: &Api<TrainingJob>,
        resource: &TrainingJob,
        finalizers: Vec<String>,
    ) -> Result<(), Error> {
        let patch = json!({
            "metadata": {
                "resourceVersion": resource.metadata.resource_version,
                "finalizers": finalizers,
            },
        });
        let name = resource.key().1;
        let patched = api
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        patched
            .map(|_| ())
            .map_err(Error::of("change the finalizers"))
    }

    async fn expire(
        &self,
        api: &Api<TrainingJob>,
        resource: &TrainingJob,
    ) -> Result<Action, Error> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: resource.metadata.resource_version.clone(),
                uid: resource.metadata.uid.clone(),
            }),
            ..DeleteParams::default()
        };
        let name = resource.key().1;
        let deleted = api.delete(&name, &params).await;
        deleted.map_err(Error::of("delete after its end"))?;
        Ok(Action::await_change())
    }
}

/// The coordinator answers that it is asked too much, and may be asked again after this time.
struct Busy(Duration);

/// What an error says of a job that was asked for.
fn unseen(error: ApiError) -> Result<Seen, Busy> {
    match later(&error) {
        Some(pause) => Err(Busy(pause)),
        None => Ok(Seen::Away(error.message)),
    }
}

/// The uid of the job that an act was about, which is its trace. None: no job came of it.
fn uid_of<'a>(world: &'a World, act: &Act, outcome: &'a Outcome) -> Option<&'a str> {
    match (act, outcome) {
        (_, Outcome::Done(Some(job))) => Some(&job.uid),
        // What the status names is an earlier one, and the one of this name may be somebody else's.
        (Act::Create { .. }, _) => None,
        _ => world.resource.status.as_ref()?.job_uid.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::decide::kit::{Cluster, resource};
    use espalier_proto::ErrorKind;

    // Promise: a coordinator that is asked too much is not taken for one that is away.
    #[test]
    fn too_much_is_not_away() {
        let error = |kind| ApiError::new(kind, "TOO_FAST", "slow down");
        let busy = unseen(error(ErrorKind::ResourceExhausted).with("retry_after_ms", 50));
        assert!(matches!(busy, Err(Busy(pause)) if pause == Duration::from_millis(50)));
        let away = unseen(error(ErrorKind::Unavailable));
        assert!(matches!(away, Ok(Seen::Away(why)) if why == "slow down"));
    }

    // Promise: a span goes into the trace of the job that its act was about, never into another's.
    #[test]
    fn an_act_belongs_to_its_own_job() {
        let mut cluster = Cluster::new(resource("a"));
        cluster.settle();
        let job = cluster.job().clone();
        let world = cluster.world().unwrap();
        let taken = Outcome::Failed(ApiError::new(ErrorKind::AlreadyExists, "", "taken"));
        let pause = Act::Pause(job.name.clone());
        assert_eq!(uid_of(&world, &pause, &taken), Some(job.uid.as_str()));
        let forget = Act::Forget(job.name.clone());
        let forgotten = Outcome::Done(None);
        assert_eq!(uid_of(&world, &forget, &forgotten), Some(job.uid.as_str()));
        let create = Act::Create {
            spec: Box::default(),
            request_id: String::new(),
        };
        assert_eq!(uid_of(&world, &create, &taken), None);
        let made = v1::Job {
            uid: "another".into(),
            ..v1::Job::default()
        };
        let made = Outcome::Done(Some(Box::new(made)));
        assert_eq!(uid_of(&world, &create, &made), Some("another"));
    }
}
