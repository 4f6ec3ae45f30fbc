//! What clients ask of jobs: create, cancel, pause, resume, delete.
//!
//! A request that was granted already is granted again while it is still being carried out
//! (pausing a pausing job, cancelling a cancelling one), so that repeated calls are safe. One that
//! can't be granted in the job's state is refused with a sentence that says what to do.

use crate::command::{Answer, Error, ErrorKind, StopMode};
use crate::machine::Machine;
use crate::record::{Change, Kind};
use crate::state::{Phase, Then};
use crate::view::JobState;
use espalier_spec::{JobId, JobSpec};

impl Machine {
    pub(crate) fn create_job(
        &mut self,
        spec: Box<JobSpec>,
        uid: String,
        request_id: Option<String>,
    ) -> Result<Answer, Error> {
        let name = JobId(spec.name.clone());
        if let Some(id) = &request_id {
            let known = self
                .state
                .jobs
                .iter()
                .find(|(_, job)| job.request_id.as_ref() == Some(id));
            if let Some((number, job)) = known {
                if job.spec == *spec {
                    return Ok(self.answer(*number));
                }
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "REQUEST_ID_REUSED",
                    format!(
                        "request id {id} already created job {} with another spec; use a new \
                         request id for a new request",
                        job.spec.name
                    ),
                ));
            }
        }
        if let Some(job) = self
            .state
            .names
            .get(&name)
            .and_then(|n| self.state.jobs.get(n))
        {
            let hint = if job.state().is_final() {
                "delete it first or choose another name"
            } else {
                "choose another name"
            };
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "JOB_EXISTS",
                format!("job {name} exists already and {}; {hint}", is(job.state())),
            ));
        }
        let number = self.state.created.saturating_add(1);
        let time = self.now;
        self.record(Change::JobCreated {
            number,
            uid,
            request_id,
            spec,
            time,
        });
        self.touch_job(number);
        // Placed before the answer, so that the answer tells where it stands.
        self.schedule();
        Ok(self.answer(number))
    }

    pub(crate) fn cancel_job(&mut self, name: &JobId) -> Result<Answer, Error> {
        let number = self.number(name)?;
        match self.phase(number) {
            Some(Phase::Queued | Phase::Paused) => {
                self.tell(number, "cancelled", Kind::Cancelled);
            }
            Some(Phase::Stopping {
                then: Then::Cancel, ..
            }) => {}
            Some(Phase::Preparing | Phase::Running { .. } | Phase::Stopping { .. }) => {
                let mode = StopMode::Abort;
                self.stop_ranks(number, mode);
                let message = "cancelled; its ranks stop";
                self.tell(
                    number,
                    message,
                    Kind::Stopping {
                        then: Then::Cancel,
                        mode,
                    },
                );
                self.finish_stopped();
            }
            _ => return Err(self.refuse(number, "can't be cancelled", "delete it to forget it")),
        }
        Ok(self.answer(number))
    }

    pub(crate) fn pause_job(&mut self, name: &JobId) -> Result<Answer, Error> {
        let number = self.number(name)?;
        match self.phase(number) {
            Some(Phase::Queued) => {
                let from = self.resume_point(number);
                let message = format!("paused while it waited; goes on {from} when resumed");
                self.tell(number, message, Kind::Paused);
            }
            Some(Phase::Preparing) => {
                let mode = StopMode::Abort;
                self.stop_ranks(number, mode);
                let message = "pause asked for; its workers stop preparing";
                self.tell(
                    number,
                    message,
                    Kind::Stopping {
                        then: Then::Pause,
                        mode,
                    },
                );
                self.finish_stopped();
            }
            Some(Phase::Running { .. }) => {
                let mode = StopMode::Checkpoint;
                self.stop_ranks(number, mode);
                let message = "pause asked for; stops at the next step with a checkpoint";
                self.tell(
                    number,
                    message,
                    Kind::Stopping {
                        then: Then::Pause,
                        mode,
                    },
                );
                self.finish_stopped();
            }
            Some(Phase::Stopping {
                then: Then::Pause, ..
            }) => {}
            Some(Phase::Stopping {
                then: Then::Move,
                mode,
                ..
            }) => {
                // Nobody keeps a snapshot in memory for the length of a pause.
                let mode = match mode {
                    StopMode::Handover => StopMode::Checkpoint,
                    StopMode::Checkpoint | StopMode::Abort => mode,
                };
                self.stop_ranks(number, mode);
                let message = "pause asked for while it moved; it stays paused once it has stopped";
                self.tell(
                    number,
                    message,
                    Kind::Stopping {
                        then: Then::Pause,
                        mode,
                    },
                );
            }
            Some(Phase::Paused) => {
                return Err(self.refuse(number, "can't be paused again", "resume it to go on"));
            }
            _ => return Err(self.refuse(number, "can't be paused", "nothing is left to pause")),
        }
        Ok(self.answer(number))
    }

    pub(crate) fn resume_job(&mut self, name: &JobId) -> Result<Answer, Error> {
        let number = self.number(name)?;
        match self.phase(number) {
            Some(Phase::Paused) => {
                let from = self.resume_point(number);
                let message = format!("resumed; goes on {from} as soon as it has ranks");
                self.tell(number, message, Kind::Resumed);
                self.schedule();
                Ok(self.answer(number))
            }
            Some(Phase::Stopping {
                then: Then::Pause, ..
            }) => Err(self.refuse(
                number,
                "can't be resumed yet",
                "try again when it is paused",
            )),
            _ => Err(self.refuse(number, "can't be resumed", "only a paused job can")),
        }
    }

    pub(crate) fn delete_job(&mut self, name: &JobId) -> Result<Answer, Error> {
        let number = self.number(name)?;
        if !self
            .phase(number)
            .is_some_and(|phase| phase.state().is_final())
        {
            return Err(self.refuse(number, "can't be deleted", "cancel it first"));
        }
        self.record(Change::JobDeleted { number });
        self.live.remove(&number);
        self.mark_job(number);
        self.touch_deleted(name.clone());
        Ok(Answer::Deleted)
    }

    pub(crate) fn phase(&self, number: u64) -> Option<Phase> {
        self.state.jobs.get(&number).map(|job| job.phase.clone())
    }

    /// Where the job goes on, in words.
    pub(crate) fn resume_point(&self, number: u64) -> String {
        self.state
            .jobs
            .get(&number)
            .map(|job| job.resume_point())
            .unwrap_or_default()
    }

    fn answer(&self, number: u64) -> Answer {
        match self.state.jobs.get(&number) {
            Some(job) => Answer::Job(Box::new(self.view_job(number, job))),
            None => Answer::Deleted,
        }
    }

    fn refuse(&self, number: u64, what: &str, hint: &str) -> Error {
        let (name, state) = match self.state.jobs.get(&number) {
            Some(job) => (job.name(), job.state()),
            None => (JobId::default(), JobState::Cancelled),
        };
        Error::new(
            ErrorKind::FailedPrecondition,
            "WRONG_JOB_STATE",
            format!("job {name} {} and {what}; {hint}", is(state)),
        )
    }
}

/// "is running", "has succeeded", ...
fn is(state: JobState) -> String {
    let verb = match state {
        JobState::Succeeded | JobState::Failed => "has",
        JobState::Cancelled => "was",
        _ => "is",
    };
    format!("{verb} {}", state.as_str())
}
