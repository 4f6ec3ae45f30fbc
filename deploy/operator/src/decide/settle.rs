//! The status that follows from what became of an act.

use super::busy::{is_too_large, later};
use super::status::Draft;
use super::{Act, Decision, RETRY, SOON, World};
use espalier_proto::{ApiError, ErrorKind, v1};
use std::time::Duration;

/// What became of an act.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is done; the job as it is now, where the coordinator shows it.
    Done(Option<Box<v1::Job>>),
    /// It was refused or did not come through.
    Failed(ApiError),
}

/// The status after an act; `world` is what the act was decided on, with the status written before it.
///
/// An act is never answered with another one: what comes next is decided on what is seen next.
#[must_use]
pub fn settle(world: &World, act: &Act, outcome: &Outcome) -> Decision {
    let mut draft = Draft::new(world);
    if let Outcome::Failed(error) = outcome
        && let Some(pause) = later(error)
    {
        // It answers, and nothing was done: what is known stays as it is.
        return Decision::wait(draft.unchanged(), pause);
    }
    match (act, outcome) {
        (Act::Create { .. }, Outcome::Done(Some(job))) => {
            draft.mirror(job);
            Decision::wait(draft.done(), Duration::ZERO)
        }
        (Act::Create { .. }, Outcome::Failed(error)) => refusal(draft, world, error),
        (_, Outcome::Failed(error)) if is_away(error) => {
            // It was asked for the job just before: that it can't be reached is not what is said.
            draft.hindered(act.name(), &error.message);
            let pause = match error.kind {
                ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => RETRY,
                _ => SOON,
            };
            Decision::wait(draft.done(), pause)
        }
        // The job has moved on in the meantime: looked at again.
        (_, Outcome::Failed(_)) => Decision::wait(draft.unchanged(), SOON),
        (_, Outcome::Done(_)) => Decision::wait(draft.unchanged(), Duration::ZERO),
    }
}

/// A job was not created.
fn refusal(mut draft: Draft, world: &World, error: &ApiError) -> Decision {
    let ending = world.resource.is_deleted();
    match error.kind {
        // The job of this name is another's, and nothing that was begun has come through.
        ErrorKind::AlreadyExists if ending => draft.status.request_id = None,
        // The id is kept: the same answer to the next try must be the same status, or the write itself
        // would bring the resource up again.
        ErrorKind::AlreadyExists => {
            draft.reachable();
            draft.reject("NameTaken", &error.message);
        }
        ErrorKind::InvalidArgument | ErrorKind::OutOfRange | ErrorKind::FailedPrecondition => {
            // The id is kept: an earlier try, of another version of the job, may have come through.
            draft.reachable();
            draft.reject("Invalid", &error.message);
        }
        ErrorKind::ResourceExhausted if is_too_large(error) => {
            draft.reachable();
            draft.reject("Invalid", &error.message);
        }
        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => {
            draft.forbidden(&error.message);
        }
        _ => {
            draft.away("Unavailable", &error.message);
            return Decision::wait(draft.done(), SOON);
        }
    }
    Decision::wait(draft.done(), RETRY)
}

fn is_away(error: &ApiError) -> bool {
    !matches!(
        error.kind,
        ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::FailedPrecondition
            | ErrorKind::InvalidArgument
            | ErrorKind::Aborted
    )
}
