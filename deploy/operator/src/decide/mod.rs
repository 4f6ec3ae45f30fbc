//! What follows from what is seen of one resource and its job. No IO, no clock.
//!
//! [`decide`] answers with the status to write first and one act to do then; [`settle`] with the status that
//! follows from the act's outcome. Acts are safe to repeat, and what one of them relies on later (the id of a
//! submission, the job that gives way) is in the status before it is done.

mod busy;
mod ending;
#[cfg(test)]
pub(crate) mod kit;
mod living;
mod notes;
#[cfg(test)]
mod restarts;
mod settle;
mod status;
#[cfg(test)]
mod tests;

pub use busy::later;
pub use notes::{Note, notes};
pub use settle::{Outcome, settle};
pub use status::condition;

use crate::resource::{TrainingJob, TrainingJobStatus};
use espalier_proto::v1;
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

/// How soon a job is looked at again without any news.
pub const LOOK: Duration = Duration::from_secs(30);
/// How soon something that passes quickly is looked at again: a job that stops.
pub const SOON: Duration = Duration::from_secs(2);
/// How soon what was refused is tried again.
pub const RETRY: Duration = Duration::from_secs(60);

/// One resource and its job, as they are seen now.
#[derive(Clone, Debug)]
pub struct World {
    /// The time.
    pub now: Timestamp,
    /// The resource as the API server has it.
    pub resource: TrainingJob,
    /// The job of its name.
    pub job: Seen,
    /// Devices of one worker, to say how many workers a job wants.
    pub devices_per_worker: u32,
}

/// What the coordinator answers when it is asked for a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// Nothing: it can't be reached, and why.
    Away(String),
    /// There is none of this name.
    Absent,
    /// There is one; whose it is, is another question.
    Present(Box<v1::Job>),
}

/// Something to do, once.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Keep the resource until its job is gone.
    Hold,
    /// Let the resource go.
    Release,
    /// Submit the job, or find that it was submitted before.
    Create {
        /// The job.
        spec: Box<v1::JobSpec>,
        /// The id that makes it safe to repeat.
        request_id: String,
    },
    /// Pause the job.
    Pause(String),
    /// Resume the job.
    Resume(String),
    /// Cancel the job.
    Cancel(String),
    /// Forget the ended job.
    Forget(String),
    /// Delete the resource; its job follows.
    Expire,
}

impl Act {
    /// What it is called in events and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hold => "Hold",
            Self::Release => "Release",
            Self::Create { .. } => "Create",
            Self::Pause(_) => "Pause",
            Self::Resume(_) => "Resume",
            Self::Cancel(_) => "Cancel",
            Self::Forget(_) => "Forget",
            Self::Expire => "Expire",
        }
    }
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The status to write before anything is done.
    pub status: TrainingJobStatus,
    /// What to do then, and why.
    pub act: Option<(Act, String)>,
    /// When to look again if nothing is to be done and no news come.
    pub again: Option<Duration>,
}

impl Decision {
    fn wait(status: TrainingJobStatus, again: impl Into<Option<Duration>>) -> Self {
        Self {
            status,
            act: None,
            again: again.into(),
        }
    }

    fn act(status: TrainingJobStatus, act: Act, why: impl Into<String>) -> Self {
        Self {
            status,
            act: Some((act, why.into())),
            again: None,
        }
    }
}

/// Decides what to do about a resource.
#[must_use]
pub fn decide(world: &World) -> Decision {
    let mut decision = if world.resource.is_deleted() {
        ending::decide(world)
    } else if !world.resource.is_held() {
        let status = world.resource.status.clone().unwrap_or_default();
        let why = "its job must be gone before it may go";
        Decision::act(status, Act::Hold, why)
    } else {
        living::decide(world)
    };
    if decision.act.is_none() && matches!(world.job, Seen::Present(_)) {
        status::unhindered(&mut decision.status, world.now);
    }
    decision
}

/// Whether a resource's job has to be asked for: none was submitted before.
#[must_use]
pub fn may_have_job(resource: &TrainingJob) -> bool {
    let status = resource.status.as_ref();
    status.is_some_and(|status| status.job_uid.is_some() || status.request_id.is_some())
}

impl World {
    /// The job, if it is known to be this resource's.
    fn own(&self, status: &TrainingJobStatus) -> Option<&v1::Job> {
        match &self.job {
            Seen::Present(job) if status.job_uid.as_deref() == Some(job.uid.as_str()) => Some(job),
            _ => None,
        }
    }
}
