//! A resource that is wanted: its job is submitted, paused, resumed, replaced, and its end recorded.

use super::status::{Draft, state_of};
use super::{Act, Decision, LOOK, SOON, Seen, World};
use crate::names::{job_spec, request_id};
use crate::resource::{State, TrainingJobStatus};
use espalier_proto::{Wire, v1};
use espalier_spec::{JobSpec, Violation};
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

/// The job that is wanted, or everything that is wrong with it.
type Wanted = Result<JobSpec, Vec<Violation>>;

pub(super) fn decide(world: &World) -> Decision {
    let draft = Draft::new(world);
    let wanted = job_spec(&world.resource);
    if draft.status.job_uid.is_none() {
        return submit(world, draft, wanted);
    }
    match &world.job {
        Seen::Away(why) => away(world, draft, why),
        Seen::Present(job) if world.own(&draft.status).is_some() => {
            follow(world, draft, wanted, job)
        }
        // Another job has the name: then one's own is gone as well.
        Seen::Absent | Seen::Present(_) => gone(world, draft, wanted),
    }
}

/// No job is known to be this resource's.
fn submit(world: &World, mut draft: Draft, wanted: Wanted) -> Decision {
    if world.resource.spec.suspend {
        match &world.job {
            Seen::Absent => {
                if draft.status.request_id.take().is_some() {
                    // A submission was begun and did not come through: the coordinator was asked.
                    draft.reachable();
                }
                draft.state(State::Suspended, "submitted when spec.suspend is off");
                return Decision::wait(draft.done(), None);
            }
            // A submission was begun, and how it went is not known: it is not done again to find out.
            Seen::Away(why) => {
                draft.away("Unavailable", why);
                return Decision::wait(draft.done(), SOON);
            }
            Seen::Present(_) => {}
        }
    }
    let begun = draft.status.request_id.clone();
    let spec = match wanted {
        Ok(spec) => spec,
        // Where a submission was begun it stays so: the resource's end must find what became of it.
        Err(violations) => {
            draft.reject("Invalid", &sentence(&violations));
            return Decision::wait(draft.done(), None);
        }
    };
    let uid = world.resource.metadata.uid.clone().unwrap_or_default();
    let request_id = begun.unwrap_or_else(|| request_id(&uid, &spec));
    draft.status.request_id = Some(request_id.clone());
    // What was refused stays refused until the coordinator says otherwise.
    if draft.status.state != Some(State::Rejected) {
        draft.state(State::Pending, "is being submitted");
    }
    let act = Act::Create {
        spec: Box::new(spec.to_wire()),
        request_id,
    };
    Decision::act(draft.done(), act, "it has no job yet")
}

fn away(world: &World, mut draft: Draft, why: &str) -> Decision {
    let expired = expiry(world, &draft.status).is_some_and(|due| due <= world.now);
    draft.away("Unavailable", why);
    if expired {
        return Decision::act(draft.done(), Act::Expire, "its time after the end is over");
    }
    Decision::wait(draft.done(), SOON)
}

/// The job that was this resource's is there no more.
fn gone(world: &World, mut draft: Draft, wanted: Wanted) -> Decision {
    draft.reachable();
    if draft.status.replaces.is_some() && draft.status.replaces == draft.status.job_uid {
        draft.status.replaces = None;
        draft.status.job_uid = None;
        draft.status.request_id = None;
        draft.status.completion_time = None;
        draft.status.state = None;
        return submit(world, draft, wanted);
    }
    if !draft.status.state.is_some_and(State::is_final) {
        let why = "the coordinator does not know the job any more: it was deleted there; delete the resource \
                   and create it anew to run it again";
        draft.finish(State::Lost, why, world.now);
    }
    expire(world, draft)
}

/// The job is there.
fn follow(world: &World, mut draft: Draft, wanted: Wanted, job: &v1::Job) -> Decision {
    draft.mirror(job);
    let (name, state) = (job.name.clone(), state_of(job));
    if draft.status.replaces.as_deref() == Some(job.uid.as_str()) && state != State::Succeeded {
        // Begun is begun, be it that the job has started in the meantime.
        draft.replaced();
        return match state {
            State::Cancelling => Decision::wait(draft.done(), SOON),
            state if state.is_final() => {
                let why = "makes room for the changed job";
                Decision::act(draft.done(), Act::Forget(name), why)
            }
            _ => {
                let why = "spec.job was changed before the job ran";
                Decision::act(draft.done(), Act::Cancel(name), why)
            }
        };
    }
    draft.status.replaces = None;
    let fresh = job.start_time.is_none() && job.generation == 0;
    match changed(&wanted, job) {
        None => draft.same(),
        Some(_) if fresh && wanted.is_ok() && matches!(state, State::Queued | State::Paused) => {
            draft.status.replaces = Some(job.uid.clone());
            draft.replaced();
            let why = "spec.job was changed before the job ran";
            return Decision::act(draft.done(), Act::Cancel(name), why);
        }
        Some(how) => draft.refused(&how, state.is_final()),
    }
    if state.is_final() {
        return expire(world, draft);
    }
    let suspend = world.resource.spec.suspend;
    match state {
        State::Queued | State::Preparing | State::Running if suspend => {
            Decision::act(draft.done(), Act::Pause(name), "spec.suspend is on")
        }
        State::Paused if !suspend => {
            Decision::act(draft.done(), Act::Resume(name), "spec.suspend is off")
        }
        State::Pausing | State::Cancelling => Decision::wait(draft.done(), SOON),
        _ => Decision::wait(draft.done(), LOOK),
    }
}

/// How the job that is wanted differs from the one that is there.
fn changed(wanted: &Wanted, job: &v1::Job) -> Option<String> {
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(violations) => return Some(format!("it is no valid job: {}", sentence(violations))),
    };
    let there = job.spec.clone().map(JobSpec::from_wire);
    match there {
        Some(Ok(there)) if there == *wanted => None,
        _ => Some("the job runs as it was submitted".to_owned()),
    }
}

/// The job has ended: nothing is done but, after a while, away with it.
fn expire(world: &World, draft: Draft) -> Decision {
    let Some(due) = expiry(world, &draft.status) else {
        return Decision::wait(draft.done(), None);
    };
    if due <= world.now {
        return Decision::act(draft.done(), Act::Expire, "its time after the end is over");
    }
    let left = due.as_millisecond() - world.now.as_millisecond();
    // A little later than due, never a little earlier.
    let left = Duration::from_millis(u64::try_from(left).unwrap_or(0) + 100);
    Decision::wait(draft.done(), left)
}

fn expiry(world: &World, status: &TrainingJobStatus) -> Option<Timestamp> {
    let ttl = world.resource.spec.ttl_seconds_after_finished?;
    status.state.filter(|state| state.is_final())?;
    let end = status.completion_time.as_ref()?.0.as_millisecond();
    Timestamp::from_millisecond(end.saturating_add(i64::from(ttl) * 1000)).ok()
}

/// Everything that is wrong, in a sentence.
pub(super) fn sentence(violations: &[Violation]) -> String {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    lines.join("; ")
}
