//! A resource that somebody has deleted: its job ends, is forgotten, and only then the resource goes.

use super::status::{Draft, state_of};
use super::{Act, Decision, SOON, Seen, World};
use crate::resource::State;
use espalier_proto::v1;

pub(super) fn decide(world: &World) -> Decision {
    let mut draft = Draft::new(world);
    if !world.resource.is_held() {
        // What others hold it for is not ours to see.
        return Decision::wait(draft.unchanged(), None);
    }
    let nothing = draft.status.job_uid.is_none() && draft.status.request_id.is_none();
    if nothing {
        let why = "no job was submitted for it";
        return Decision::act(draft.unchanged(), Act::Release, why);
    }
    match &world.job {
        Seen::Away(why) => {
            let why = format!("deleted once the coordinator can be reached: {why}");
            draft.away("DeletionWaits", &why);
            Decision::wait(draft.done(), SOON)
        }
        Seen::Absent => Decision::act(draft.unchanged(), Act::Release, "its job is gone"),
        Seen::Present(job) => present(world, draft, job),
    }
}

fn present(world: &World, mut draft: Draft, job: &v1::Job) -> Decision {
    let name = job.name.clone();
    if world.own(&draft.status).is_none() {
        // Without a known job a submission was begun, and it is not known how it went. The coordinator
        // knows whose job this is: it gives it to the one who asks with the id that made it, and to nobody else.
        let begun = draft.status.request_id.clone();
        return match (begun, draft.status.job_uid.is_some(), &job.spec) {
            (Some(request_id), false, Some(spec)) => {
                let spec = Box::new(spec.clone());
                let act = Act::Create { spec, request_id };
                let why = "asks whether the job of its name is its own";
                Decision::act(draft.unchanged(), act, why)
            }
            _ => {
                let why = format!("job {name} is not its own");
                Decision::act(draft.unchanged(), Act::Release, why)
            }
        };
    }
    draft.mirror(job);
    match state_of(job) {
        state if state.is_final() => {
            let why = "the resource was deleted, and the job has ended";
            Decision::act(draft.done(), Act::Forget(name), why)
        }
        State::Cancelling => Decision::wait(draft.done(), SOON),
        _ => Decision::act(draft.done(), Act::Cancel(name), "the resource was deleted"),
    }
}
