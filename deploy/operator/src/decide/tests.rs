//! What is promised of one resource.
#![allow(clippy::unwrap_used)]

use super::kit::{Cluster, Crash, resource};
use super::{Act, Outcome, condition};
use crate::resource::State;
use espalier_proto::{ApiError, ErrorKind, v1};
use serde_json::json;
use std::time::Duration;
use v1::job::State as Job;

/// A cluster whose resource has its job.
fn submitted() -> Cluster {
    let mut cluster = Cluster::new(resource("a"));
    cluster.settle();
    cluster
}

fn running() -> Cluster {
    let mut cluster = submitted();
    cluster.advance();
    cluster.advance();
    cluster.settle();
    assert_eq!(cluster.status().state, Some(State::Running));
    cluster
}

fn ended() -> Cluster {
    let mut cluster = running();
    cluster.advance();
    cluster.settle();
    cluster
}

fn is(cluster: &Cluster, kind: &str) -> (String, String) {
    let status = cluster.status();
    let found = condition(&status, kind).unwrap_or_else(|| panic!("no {kind}: {status:?}"));
    (found.status.clone(), found.reason.clone())
}

fn next(cluster: &Cluster) -> Option<Act> {
    super::decide(&cluster.world().unwrap())
        .act
        .map(|(act, _)| act)
}

// Promise: a resource is held, its submission is written down, and only then its job is created, once.
#[test]
fn submission() {
    let mut cluster = Cluster::new(resource("a"));
    assert_eq!(next(&cluster), Some(Act::Hold));
    cluster.pass(None);
    let decision = super::decide(&cluster.world().unwrap());
    let Some((Act::Create { spec, request_id }, _)) = &decision.act else {
        panic!("{decision:?}")
    };
    assert_eq!((&*spec.name, &*spec.namespace), ("team-a", "team"));
    assert_eq!(decision.status.request_id.as_deref(), Some(&**request_id));
    cluster.settle();
    let status = cluster.status();
    assert_eq!(status.job_uid.as_deref(), Some("job-1"));
    assert_eq!(
        (status.state, &*status.job_name),
        (Some(State::Queued), "team-a")
    );
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.workers_wanted, Some(1));
    assert_eq!(is(&cluster, "Accepted").0, "True");
    assert_eq!(cluster.asked, ["Create"]);
}

// Promise: the conditions follow from the state, and keep the time since when they hold.
#[test]
fn conditions() {
    let mut cluster = running();
    assert_eq!(is(&cluster, "Running").0, "True");
    let since = |cluster: &Cluster| {
        let status = cluster.status();
        condition(&status, "Running")
            .unwrap()
            .last_transition_time
            .clone()
    };
    let before = since(&cluster);
    cluster.now += 100;
    cluster.job().progress = Some(v1::Progress {
        step: 7,
        total_steps: 9,
        ..Default::default()
    });
    cluster.settle();
    assert_eq!(cluster.status().step, Some(7));
    assert_eq!(since(&cluster), before);
    cluster.advance();
    cluster.settle();
    assert_ne!(since(&cluster), before);
    for (kind, holds) in [
        ("Running", "False"),
        ("Suspended", "False"),
        ("Complete", "True"),
        ("Failed", "False"),
    ] {
        assert_eq!(is(&cluster, kind).0, holds, "{kind}");
    }
    let status = cluster.status();
    assert_eq!(status.export_path, "/exports/a");
    assert_eq!(status.workers_wanted, Some(0));
    assert_eq!(status.completion_time.unwrap().0, cluster.time());
}

// Promise: a suspended resource has no job; one that runs is paused and goes on, be it that others meddle.
#[test]
fn suspension() {
    let mut cluster = Cluster::new(resource("a"));
    cluster.edit(|spec| spec.suspend = true);
    cluster.settle();
    assert_eq!(cluster.status().state, Some(State::Suspended));
    assert_eq!(is(&cluster, "Suspended").0, "True");
    assert!(cluster.jobs.is_empty());
    cluster.edit(|spec| spec.suspend = false);
    cluster.settle();
    cluster.advance();
    cluster.edit(|spec| spec.suspend = true);
    cluster.settle();
    assert_eq!(cluster.status().state, Some(State::Pausing));
    cluster.advance();
    cluster.settle();
    assert_eq!(cluster.status().state, Some(State::Paused));
    assert_eq!(is(&cluster, "Suspended").0, "True");
    cluster.edit(|spec| spec.suspend = false);
    cluster.settle();
    assert_eq!(cluster.status().state, Some(State::Queued));
    assert_eq!(cluster.asked, ["Create", "Pause", "Resume"]);
    // Somebody pauses it past the resource: the resource says what is wanted.
    cluster.job().set_state(Job::Paused);
    cluster.settle();
    assert_eq!(cluster.status().state, Some(State::Queued));
}

// Promise: what is no job is refused with everything that is wrong, and taken once it is mended.
#[test]
fn malformed() {
    let mut cluster = Cluster::new(resource("a"));
    cluster.edit(|spec| spec.job = json!({ "tasks": [] }));
    cluster.settle();
    let status = cluster.status();
    assert_eq!(status.state, Some(State::Rejected));
    assert!(status.reason.contains("spec.job"), "{}", status.reason);
    assert_eq!(is(&cluster, "Accepted"), ("False".into(), "Invalid".into()));
    assert!(cluster.asked.is_empty());
    cluster.edit(|spec| spec.job = super::kit::job());
    cluster.settle();
    assert_eq!(cluster.status().state, Some(State::Queued));
}

// Promise: a job of the same name that is somebody else's is never touched, neither by the resource's life
// nor by its end.
#[test]
fn a_taken_name() {
    let mut other = submitted();
    let stranger = other.jobs.remove("team-a").unwrap();
    let mut cluster = Cluster::new(resource("a"));
    cluster
        .jobs
        .insert("team-a".into(), ("another id".into(), stranger.1));
    for _ in 0..5 {
        cluster.pass(None);
    }
    assert_eq!(
        is(&cluster, "Accepted"),
        ("False".into(), "NameTaken".into())
    );
    assert_eq!(cluster.status().state, Some(State::Rejected));
    assert_eq!(cluster.status().job_uid, None);
    // Tried again and again, and nothing is written for it: a write would be news, and news bring it up.
    let before = cluster.resource.clone();
    cluster.pass(None);
    assert_eq!(cluster.resource, before);
    // Also where the operator ended before it could hear that the name is taken.
    for crash in [None, Some(Crash::BeforeActing), Some(Crash::AfterActing)] {
        let mut cluster = cluster.clone();
        cluster.pass(crash);
        cluster.delete();
        cluster.settle();
        assert!(cluster.resource.is_none(), "{crash:?}");
        assert_eq!(cluster.job().state(), Job::Queued);
        assert!(
            cluster.asked.iter().all(|act| *act == "Create"),
            "{:?}",
            cluster.asked
        );
    }
}

// Promise: a change of a running job's spec has no effect and is said; changing it back takes it back.
#[test]
fn a_change_that_comes_too_late() {
    let mut cluster = running();
    cluster.edit(|spec| spec.job["seed"] = 7.into());
    cluster.settle();
    assert_eq!(
        is(&cluster, "SpecChanged"),
        ("True".into(), "Refused".into())
    );
    assert_eq!(cluster.status().state, Some(State::Running));
    assert_eq!(cluster.status().observed_generation, Some(2));
    cluster.edit(|spec| spec.job = json!("nonsense"));
    cluster.settle();
    assert_eq!(is(&cluster, "SpecChanged").1, "Refused");
    cluster.edit(|spec| spec.job = super::kit::job());
    cluster.settle();
    assert_eq!(
        is(&cluster, "SpecChanged"),
        ("False".into(), "Unchanged".into())
    );
    assert_eq!(cluster.asked, ["Create"]);
    let mut over = ended();
    over.edit(|spec| spec.job["seed"] = 7.into());
    over.settle();
    assert_eq!(is(&over, "SpecChanged").1, "Refused");
    assert_eq!(over.status().state, Some(State::Succeeded));
}

// Promise: a job that never ran gives way to a changed one.
#[test]
fn a_change_in_time() {
    let mut cluster = submitted();
    cluster.edit(|spec| spec.job["seed"] = 7.into());
    cluster.settle();
    assert_eq!(cluster.asked, ["Create", "Cancel", "Forget", "Create"]);
    assert_eq!(cluster.job().spec.as_ref().unwrap().seed, 7);
    let status = cluster.status();
    assert_eq!(status.job_uid.as_deref(), Some("job-2"));
    assert_eq!((status.replaces, status.completion_time), (None, None));
    assert_eq!(is(&cluster, "SpecChanged").0, "False");
    // A suspended one: the changed one waits until it may be submitted.
    cluster.edit(|spec| {
        spec.suspend = true;
        spec.job["seed"] = 8.into();
    });
    cluster.settle();
    assert!(cluster.jobs.is_empty());
    assert_eq!(cluster.status().state, Some(State::Suspended));
}

// Promise: the job that gives way gives way also where it began in the moment of the change.
#[test]
fn a_change_that_races_with_the_start() {
    let mut cluster = submitted();
    cluster.edit(|spec| spec.job["seed"] = 7.into());
    cluster.pass(Some(Crash::BeforeActing));
    cluster.advance();
    cluster.advance();
    cluster.settle();
    assert_eq!(cluster.job().state(), Job::Cancelling);
    cluster.advance();
    cluster.settle();
    assert_eq!(cluster.job().spec.as_ref().unwrap().seed, 7);
    assert_eq!(cluster.status().state, Some(State::Queued));
}

// Promise: a deleted resource goes only when its job is cancelled and forgotten.
#[test]
fn deletion() {
    let mut cluster = running();
    cluster.delete();
    cluster.settle();
    assert_eq!(cluster.job().state(), Job::Cancelling);
    assert_eq!(cluster.status().state, Some(State::Cancelling));
    assert!(cluster.resource.is_some());
    cluster.advance();
    cluster.settle();
    assert!(cluster.resource.is_none() && cluster.jobs.is_empty());
    assert_eq!(cluster.asked, ["Create", "Cancel", "Forget"]);
    // Without a job it goes at once.
    let mut bare = Cluster::new(resource("a"));
    bare.edit(|spec| spec.suspend = true);
    bare.settle();
    bare.delete();
    bare.settle();
    assert!(bare.resource.is_none());
}

// Promise: a submission whose outcome nobody saw is found and ended with the resource.
#[test]
fn deletion_after_a_submission_that_nobody_saw() {
    let mut cluster = Cluster::new(resource("a"));
    cluster.pass(None);
    cluster.pass(Some(Crash::AfterActing));
    assert_eq!(cluster.status().job_uid, None);
    assert_eq!(cluster.jobs.len(), 1);
    // Be it that it was edited in between.
    cluster.edit(|spec| spec.job["seed"] = 7.into());
    cluster.delete();
    cluster.settle();
    assert!(cluster.resource.is_none() && cluster.jobs.is_empty());
}

// Promise: while the coordinator is away nothing is done or forgotten, and the status says so.
#[test]
fn away() {
    let mut cluster = running();
    cluster.reachable = false;
    cluster.settle();
    assert_eq!(is(&cluster, "CoordinatorReachable").0, "False");
    assert_eq!(cluster.status().state, Some(State::Running));
    cluster.delete();
    cluster.settle();
    assert!(cluster.resource.is_some());
    cluster.reachable = true;
    cluster.settle();
    cluster.advance();
    cluster.settle();
    assert!(cluster.resource.is_none() && cluster.jobs.is_empty());
}

// Promise: an outage is written down once, whatever each try says of it: a write would be news, and news bring
// the next try at once.
#[test]
fn an_outage_is_said_once() {
    for deleted in [false, true] {
        let mut cluster = running();
        if deleted {
            cluster.delete();
        }
        let says = |cluster: &Cluster, why: &str| {
            let mut world = cluster.world().unwrap();
            world.job = super::Seen::Away(why.into());
            super::decide(&world)
        };
        let first = says(&cluster, "connection refused");
        assert_eq!(first.act, None);
        let resource = cluster.resource.as_mut().unwrap();
        resource.status = Some(first.status.clone());
        assert_eq!(is(&cluster, "CoordinatorReachable").0, "False");
        let second = says(&cluster, "no such name");
        assert_eq!(second.status, first.status);
        assert_eq!(second.again, Some(super::SOON));
    }
}

// Promise: a submission of which nobody knows whether it came through is not made again once the resource is
// suspended.
#[test]
fn suspension_in_the_dark() {
    for crash in [Crash::BeforeActing, Crash::AfterActing] {
        let mut cluster = Cluster::new(resource("a"));
        cluster.pass(None);
        cluster.pass(Some(crash));
        cluster.edit(|spec| spec.suspend = true);
        cluster.reachable = false;
        cluster.settle();
        assert_eq!(next(&cluster), None);
        cluster.reachable = true;
        cluster.settle();
        let holds = cluster
            .jobs
            .values()
            .all(|(_, job)| job.state() == Job::Paused);
        assert!(holds, "{crash:?}: {:?}", cluster.jobs);
        assert_eq!(is(&cluster, "Suspended").0, "True");
    }
}

// Promise: where the coordinator answers but does not obey, the resource says so, once, and until it is done.
#[test]
fn an_act_that_is_denied() {
    let mut cluster = running();
    cluster.denies = true;
    cluster.edit(|spec| spec.suspend = true);
    let calm = cluster.status();
    cluster.pass(None);
    assert_eq!(is(&cluster, "Hindered"), ("True".into(), "Pause".into()));
    assert_eq!(is(&cluster, "CoordinatorReachable").0, "True");
    let notes = super::notes(&calm, &cluster.status());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].message.contains("another role"), "{notes:?}");
    let before = cluster.resource.clone();
    cluster.pass(None);
    assert_eq!(cluster.resource, before);
    cluster.denies = false;
    cluster.settle();
    assert_eq!(cluster.status().state, Some(State::Pausing));
    assert_eq!(is(&cluster, "Hindered").0, "False");
}

// Promise: a coordinator that is asked too much is not away: nothing is written, and the same act follows when it
// may be asked again.
#[test]
fn a_busy_coordinator() {
    let mut cluster = running();
    cluster.edit(|spec| spec.suspend = true);
    let world = cluster.world().unwrap();
    let pause = next(&cluster).unwrap();
    let create = Act::Create {
        spec: Box::default(),
        request_id: "id".into(),
    };
    let busy = |reason: &str| {
        let error = ApiError::new(ErrorKind::ResourceExhausted, reason, "slow down");
        Outcome::Failed(error.with("retry_after_ms", 250))
    };
    for act in [&pause, &create] {
        let settled = super::settle(&world, act, &busy("TOO_FAST"));
        assert_eq!(settled.status, cluster.status(), "{act:?}");
        let again = Some(Duration::from_millis(250));
        assert_eq!(settled.again, again, "{act:?}");
    }
    // Of one that is too large no patience makes less.
    let settled = super::settle(&world, &create, &busy("JOB_TOO_LARGE"));
    assert_eq!(settled.status.state, Some(State::Rejected));
    assert_eq!(settled.again, Some(super::RETRY));
    cluster.settle();
    assert_eq!(cluster.status().state, Some(State::Pausing));
}

// Promise: the operator's clock may be a day off: no living job ends for it, an ended one goes when its time is
// over by the operator's clock, and a clock that jumps back has nothing written.
#[test]
fn a_wrong_clock() {
    const DAY: i64 = 86_400;
    let mut cluster = running();
    cluster.edit(|spec| spec.ttl_seconds_after_finished = Some(60));
    for skew in [-DAY, DAY] {
        cluster.now += skew;
        cluster.settle();
        assert_eq!(cluster.status().state, Some(State::Running), "{skew}");
        cluster.now -= skew;
    }
    // It ended by a clock that is a day ahead.
    cluster.now += DAY;
    cluster.advance();
    cluster.now -= DAY;
    cluster.settle();
    let decision = super::decide(&cluster.world().unwrap());
    let left = decision.again.unwrap().as_secs();
    assert!((86_460..86_462).contains(&left), "{left}");
    let before = cluster.resource.clone();
    cluster.now -= 1000;
    cluster.settle();
    assert_eq!(cluster.resource, before);
    cluster.now += 1000 + DAY + 60;
    cluster.settle();
    assert!(cluster.resource.is_none() && cluster.jobs.is_empty());
}

// Promise: a job that was deleted past the resource is not run again by itself, unless it had ended.
#[test]
fn a_lost_job() {
    let mut cluster = running();
    cluster.jobs.clear();
    cluster.settle();
    assert_eq!(cluster.status().state, Some(State::Lost));
    assert_eq!(is(&cluster, "Failed").0, "True");
    assert_eq!(cluster.asked, ["Create"]);
    let mut over = ended();
    over.jobs.clear();
    over.settle();
    assert_eq!(over.status().state, Some(State::Succeeded));
}

// Promise: an ended resource goes with its job when its time is over, never before, and never a living one.
#[test]
fn expiry() {
    let mut cluster = running();
    cluster.edit(|spec| spec.ttl_seconds_after_finished = Some(60));
    cluster.now += 1000;
    cluster.settle();
    assert!(cluster.resource.is_some());
    cluster.advance();
    cluster.settle();
    cluster.now += 59;
    cluster.settle();
    let decision = super::decide(&cluster.world().unwrap());
    assert!(decision.again.unwrap().as_millis() >= 1000, "{decision:?}");
    cluster.now += 1;
    cluster.settle();
    assert!(cluster.resource.is_none() && cluster.jobs.is_empty());
}

// Promise: a failure is told as it is.
#[test]
fn failure() {
    let mut cluster = running();
    cluster.job().set_state(Job::Failed);
    cluster.job().failure = Some(v1::Failure {
        code: "bad_data".into(),
        message: "row 3 has no label".into(),
        ..Default::default()
    });
    cluster.settle();
    assert_eq!(cluster.status().reason, "row 3 has no label");
    assert_eq!(is(&cluster, "Failed"), ("True".into(), "Failed".into()));
    let notes = super::notes(&running().status(), &cluster.status());
    assert_eq!(notes.len(), 1);
    assert!(notes[0].warning && notes[0].reason == "Failed");
}
