//! A coordinator and an API server small enough to hold in a test, and the operator's pass between them.
#![allow(clippy::unwrap_used)]

use super::{Act, Outcome, Seen, World, decide, may_have_job, settle};
use crate::names::job_name;
use crate::resource::{FINALIZER, TrainingJob, TrainingJobSpec, TrainingJobStatus};
use espalier_proto::{ApiError, ErrorKind, time, v1};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use v1::job::State;

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

/// A resource as somebody creates it.
pub(crate) fn resource(name: &str) -> TrainingJob {
    let spec = TrainingJobSpec {
        job: job(),
        ..TrainingJobSpec::default()
    };
    let mut resource = TrainingJob::new(name, spec);
    resource.metadata.namespace = Some("team".into());
    resource.metadata.uid = Some(format!("uid-of-{name}"));
    resource.metadata.generation = Some(1);
    resource
}

/// The state of a cluster: one resource, jobs, and the time.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) resource: Option<TrainingJob>,
    pub(crate) jobs: BTreeMap<String, (String, v1::Job)>,
    pub(crate) now: i64,
    /// Whether the coordinator answers.
    pub(crate) reachable: bool,
    /// Whether it shows jobs and does nothing about them.
    pub(crate) denies: bool,
    created: u32,
    /// Acts that the coordinator was asked for, by name.
    pub(crate) asked: Vec<&'static str>,
}

/// Where an operator ends in the middle of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// After it looked.
    BeforeWriting,
    /// After the status was written.
    BeforeActing,
    /// After the act was done, its outcome not seen.
    AfterActing,
}

impl Cluster {
    pub(crate) fn new(resource: TrainingJob) -> Self {
        Self {
            resource: Some(resource),
            jobs: BTreeMap::new(),
            now: 1_800_000_000,
            reachable: true,
            denies: false,
            created: 0,
            asked: Vec::new(),
        }
    }

    pub(crate) fn status(&self) -> TrainingJobStatus {
        let resource = self.resource.as_ref();
        resource
            .and_then(|resource| resource.status.clone())
            .unwrap_or_default()
    }

    /// The job of the resource's name.
    pub(crate) fn job(&mut self) -> &mut v1::Job {
        &mut self.jobs.get_mut("team-a").unwrap().1
    }

    pub(crate) fn time(&self) -> Timestamp {
        Timestamp::from_second(self.now).unwrap()
    }

    /// What an operator sees now.
    pub(crate) fn world(&self) -> Option<World> {
        let resource = self.resource.clone()?;
        let (namespace, name) = resource.key();
        let job = match self.jobs.get(&job_name(&namespace, &name)) {
            _ if !may_have_job(&resource) => Seen::Absent,
            _ if !self.reachable => Seen::Away("nobody answers".into()),
            None => Seen::Absent,
            Some((_, job)) => Seen::Present(Box::new(job.clone())),
        };
        Some(World {
            now: self.time(),
            resource,
            job,
            devices_per_worker: 1,
        })
    }

    /// One pass of an operator, be it cut short.
    pub(crate) fn pass(&mut self, crash: Option<Crash>) {
        let Some(mut world) = self.world() else {
            return;
        };
        let decision = decide(&world);
        if crash == Some(Crash::BeforeWriting) {
            return;
        }
        self.write(decision.status.clone());
        world.resource.status = Some(decision.status);
        let Some((act, _)) = decision.act else {
            return;
        };
        if crash == Some(Crash::BeforeActing) {
            return;
        }
        let outcome = self.perform(&act);
        let of_resource = matches!(act, Act::Hold | Act::Release | Act::Expire);
        if crash != Some(Crash::AfterActing) && !of_resource {
            self.write(settle(&world, &act, &outcome).status);
        }
    }

    /// Passes until one changes nothing.
    pub(crate) fn settle(&mut self) {
        for _ in 0..50 {
            let before = (self.resource.clone(), self.jobs.clone());
            self.pass(None);
            if before == (self.resource.clone(), self.jobs.clone()) {
                return;
            }
        }
        panic!("comes to no rest: {:?}", self.status());
    }

    fn write(&mut self, status: TrainingJobStatus) {
        if let Some(resource) = &mut self.resource {
            resource.status = Some(status);
        }
    }

    /// Somebody changes the spec.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut TrainingJobSpec)) {
        if let Some(resource) = &mut self.resource {
            let before = resource.spec.clone();
            change(&mut resource.spec);
            if resource.spec != before {
                resource.metadata.generation = resource.metadata.generation.map(|g| g + 1);
            }
        }
    }

    /// Somebody deletes the resource.
    pub(crate) fn delete(&mut self) {
        let now = Time(self.time());
        match &mut self.resource {
            Some(resource) if resource.is_held() => {
                resource.metadata.deletion_timestamp.get_or_insert(now);
            }
            _ => self.resource = None,
        }
    }

    pub(crate) fn perform(&mut self, act: &Act) -> Outcome {
        match act {
            Act::Hold => {
                if let Some(resource) = &mut self.resource {
                    resource.metadata.finalizers = Some(vec![FINALIZER.into()]);
                }
                return Outcome::Done(None);
            }
            Act::Release => {
                self.resource = None;
                return Outcome::Done(None);
            }
            Act::Expire => {
                self.delete();
                return Outcome::Done(None);
            }
            _ => {}
        }
        if !self.reachable {
            let away = ApiError::new(ErrorKind::Unavailable, "", "nobody answers");
            return Outcome::Failed(away);
        }
        if self.denies {
            let denied = ApiError::new(ErrorKind::PermissionDenied, "", "it needs another role");
            return Outcome::Failed(denied);
        }
        self.asked.push(act.name());
        match act {
            Act::Create { spec, request_id } => self.create(spec, request_id),
            Act::Pause(name) => self.change(name, |job| match job.state() {
                State::Queued => Some(State::Paused),
                State::Preparing | State::Running | State::Pausing => Some(State::Pausing),
                _ => None,
            }),
            Act::Resume(name) => self.change(name, |job| {
                (job.state() == State::Paused).then_some(State::Queued)
            }),
            Act::Cancel(name) => self.change(name, |job| match job.state() {
                State::Queued | State::Paused => Some(State::Cancelled),
                State::Succeeded | State::Failed | State::Cancelled => None,
                _ => Some(State::Cancelling),
            }),
            Act::Forget(name) => match self.jobs.get(name) {
                Some((_, job)) if ended(job.state()) => {
                    self.jobs.remove(name);
                    Outcome::Done(None)
                }
                Some(_) => refused(),
                None => Outcome::Failed(ApiError::new(ErrorKind::NotFound, "", "no such job")),
            },
            Act::Hold | Act::Release | Act::Expire => Outcome::Done(None),
        }
    }

    fn create(&mut self, spec: &v1::JobSpec, request_id: &str) -> Outcome {
        let known = self.jobs.values().find(|(id, _)| id == request_id);
        if let Some((_, job)) = known {
            return Outcome::Done(Some(Box::new(job.clone())));
        }
        if self.jobs.contains_key(&spec.name) {
            let taken = ApiError::new(ErrorKind::AlreadyExists, "JOB_EXISTS", "it exists");
            return Outcome::Failed(taken);
        }
        self.created += 1;
        let mut job = v1::Job {
            name: spec.name.clone(),
            uid: format!("job-{}", self.created),
            spec: Some(spec.clone()),
            state_reason: "waits".into(),
            ..v1::Job::default()
        };
        job.set_state(State::Queued);
        let kept = (request_id.to_owned(), job.clone());
        self.jobs.insert(spec.name.clone(), kept);
        Outcome::Done(Some(Box::new(job)))
    }

    fn change(&mut self, name: &str, to: impl FnOnce(&v1::Job) -> Option<State>) -> Outcome {
        let now = self.now;
        let Some((_, job)) = self.jobs.get_mut(name) else {
            return Outcome::Failed(ApiError::new(ErrorKind::NotFound, "", "no such job"));
        };
        match to(job) {
            None => refused(),
            Some(state) => {
                enter(job, state, now);
                Outcome::Done(Some(Box::new(job.clone())))
            }
        }
    }

    /// The job of the resource's name goes on by one step of its life, if there is one.
    pub(crate) fn advance(&mut self) -> bool {
        let now = self.now;
        let Some((_, job)) = self.jobs.get_mut("team-a") else {
            return false;
        };
        let next = match job.state() {
            State::Queued => State::Preparing,
            State::Preparing => State::Running,
            State::Pausing => State::Paused,
            State::Cancelling => State::Cancelled,
            State::Running => State::Succeeded,
            _ => return false,
        };
        enter(job, next, now);
        true
    }
}

fn enter(job: &mut v1::Job, state: State, now: i64) {
    let stamp = || {
        Some(time::Timestamp {
            seconds: now,
            nanos: 0,
        })
    };
    job.set_state(state);
    match state {
        State::Preparing => job.generation += 1,
        State::Running if job.start_time.is_none() => job.start_time = stamp(),
        State::Succeeded => job.export_path = "/exports/a".into(),
        _ => {}
    }
    if ended(state) {
        job.end_time = stamp();
    }
}

fn ended(state: State) -> bool {
    matches!(state, State::Succeeded | State::Failed | State::Cancelled)
}

fn refused() -> Outcome {
    let reason = "WRONG_JOB_STATE";
    Outcome::Failed(ApiError::new(
        ErrorKind::FailedPrecondition,
        reason,
        "not in this state",
    ))
}
