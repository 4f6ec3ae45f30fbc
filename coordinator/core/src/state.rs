//! The durable state and the one way it changes: `State::apply`.

use crate::account::{Incident, Stretch};
use crate::command::StopMode;
use crate::event::{PeerAddress, Time};
use crate::record::{Change, Kind, Waiting};
use crate::view::{Detail, JobEvent, JobState};
use espalier_spec::job::Device;
use espalier_spec::plan::{Plan, Seat};
use espalier_spec::recovery::{Cause, Recovery, Restore};
use espalier_spec::report::{Checkpoint, Evaluation, Failure, Progress};
use espalier_spec::{Generation, JobId, JobSpec, Step, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that survives a restart of the coordinator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Jobs ever created.
    pub(crate) created: u64,
    /// The jobs by number: in order of creation.
    pub(crate) jobs: BTreeMap<u64, Job>,
    /// Number of the job of each name.
    pub(crate) names: BTreeMap<JobId, u64>,
    /// Worker processes that belong to the cluster, reachable or not.
    pub(crate) workers: BTreeMap<WorkerId, WorkerInfo>,
    /// Names of the workers that are out of service.
    pub(crate) draining: BTreeSet<WorkerId>,
}

/// A worker process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Its name.
    pub name: WorkerId,
    /// Version of its binary.
    pub version: String,
    /// Host name.
    pub host: String,
    /// Names of its devices.
    pub devices: Vec<String>,
    /// Distinguishes this process from others of its name.
    pub instance: String,
    /// When it joined.
    pub create_time: Time,
}

/// What a job keeps from its first placement on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Its ranks.
    pub ranks: u32,
    /// Its shards.
    pub shards: u32,
    /// `Cpu` or `Cuda`.
    pub device: Device,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) uid: String,
    pub(crate) request_id: Option<String>,
    pub(crate) spec: JobSpec,
    pub(crate) create_time: Time,
    pub(crate) start_time: Option<Time>,
    pub(crate) end_time: Option<Time>,
    pub(crate) phase: Phase,
    /// Why it is in its phase.
    pub(crate) reason: String,
    /// Newest generation; 0 before the first placement.
    pub(crate) generation: Generation,
    /// Fixed at the first placement.
    pub(crate) size: Option<Size>,
    /// Seats of the newest generation.
    pub(crate) seats: Vec<Seat>,
    /// Plan of the newest generation that started.
    pub(crate) plan: Option<Plan>,
    /// Newest evaluation of each split.
    pub(crate) evaluations: BTreeMap<String, Evaluation>,
    /// Newest checkpoint.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// How far it was when its last generation ended.
    #[serde(default)]
    pub(crate) progress: Option<Progress>,
    /// Generations in a row that ended early without progress.
    pub(crate) restarts: u32,
    /// Most steps that any generation but the present one has reached.
    pub(crate) reached: Step,
    /// What its events say about its waiting since it last entered the queue.
    pub(crate) waiting: Option<Waiting>,
    /// Most steps that a generation began with.
    #[serde(default)]
    pub(crate) began: Step,
    /// What ended its last generation; none once another one trains.
    #[serde(default)]
    pub(crate) incident: Option<Incident>,
    /// What its incidents cost, oldest first.
    #[serde(default)]
    pub(crate) recoveries: Vec<Recovery>,
    /// The steps of the generation that trains.
    #[serde(default)]
    pub(crate) stretch: Option<Stretch>,
    /// Milliseconds of its ended generations in steps that counted.
    #[serde(default)]
    pub(crate) useful_ms: u64,
    pub(crate) events: Vec<JobEvent>,
}

/// Where a job is in its life. The seats of a phase are those of the job's newest generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Waits for ranks.
    Queued,
    /// Its workers prepare it.
    Preparing,
    /// It trains.
    Running {
        addresses: Vec<PeerAddress>,
        /// Workers whose ranks have come to the regular end.
        finished: BTreeSet<WorkerId>,
        /// The snapshot that it went on from.
        #[serde(default)]
        restore: Option<Restore>,
    },
    /// Its ranks were told to stop.
    Stopping {
        then: Then,
        mode: StopMode,
        /// Workers whose ranks have stopped.
        stopped: BTreeSet<WorkerId>,
    },
    /// Waits to be resumed.
    Paused,
    /// Done.
    Succeeded { export_path: String },
    /// Ended by an error.
    Failed { failure: Failure },
    /// Ended by a request.
    Cancelled,
}

/// What follows when a job's ranks have stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// It is paused.
    Pause,
    /// It goes back into the queue, to be placed elsewhere.
    Move,
    /// It has ended.
    Cancel,
}

impl Phase {
    pub(crate) fn state(&self) -> JobState {
        match self {
            Phase::Queued => JobState::Queued,
            Phase::Preparing => JobState::Preparing,
            Phase::Running { .. } => JobState::Running,
            Phase::Stopping {
                then: Then::Cancel, ..
            } => JobState::Cancelling,
            Phase::Stopping { .. } => JobState::Pausing,
            Phase::Paused => JobState::Paused,
            Phase::Succeeded { .. } => JobState::Succeeded,
            Phase::Failed { .. } => JobState::Failed,
            Phase::Cancelled => JobState::Cancelled,
        }
    }
}

impl Job {
    pub(crate) fn name(&self) -> JobId {
        JobId(self.spec.name.clone())
    }

    pub(crate) fn state(&self) -> JobState {
        self.phase.state()
    }

    /// The worker of rank 0 in the newest generation.
    pub(crate) fn head(&self) -> Option<&WorkerId> {
        self.seats.first().map(|seat| &seat.worker)
    }

    /// Where the next generation starts, in words.
    pub(crate) fn resume_point(&self) -> String {
        match &self.checkpoint {
            Some(checkpoint) => format!("from the checkpoint of step {}", checkpoint.step),
            None => "from the beginning".to_owned(),
        }
    }

    /// Applies one event. `Err` says what contradicts the state.
    fn apply(&mut self, time: Time, message: &str, kind: &Kind) -> Result<(), String> {
        if self.state().is_final() {
            return Err(format!(
                "job {} has ended, yet \"{message}\"",
                self.spec.name
            ));
        }
        let mut detail = None;
        let mut phase = None;
        match kind {
            Kind::Waits(waiting) => self.waiting = Some(*waiting),
            Kind::Noted => {}
            Kind::Placed {
                generation,
                seats,
                size,
                reached,
            } => {
                if *generation <= self.generation {
                    return Err(format!(
                        "job {} was placed as generation {}, but has had {}",
                        self.spec.name, generation.0, self.generation.0
                    ));
                }
                self.generation = *generation;
                self.seats.clone_from(seats);
                self.size = Some(*size);
                if *reached > self.reached {
                    // Progress, known too late; the restart that led here counts.
                    self.restarts = self.restarts.min(1);
                    self.reached = *reached;
                }
                phase = Some(Phase::Preparing);
            }
            Kind::Started {
                plan,
                addresses,
                restore,
            } => {
                self.open_accounts(time, restore.as_ref());
                self.start_time.get_or_insert(time);
                self.plan = Some((**plan).clone());
                detail = Some(Detail::Plan(plan.clone()));
                phase = Some(Phase::Running {
                    addresses: addresses.clone(),
                    finished: BTreeSet::new(),
                    restore: restore.clone(),
                });
            }
            Kind::Recovered(recovery) => detail = Some(Detail::Recovery(recovery.clone())),
            Kind::Evaluated(evaluation) => {
                self.evaluations
                    .insert(evaluation.split.clone(), (**evaluation).clone());
                detail = Some(Detail::Evaluation(evaluation.clone()));
            }
            Kind::Checkpointed(checkpoint) => {
                if self
                    .checkpoint
                    .as_ref()
                    .is_none_or(|old| old.step <= checkpoint.step)
                {
                    self.checkpoint = Some(checkpoint.clone());
                }
                detail = Some(Detail::Checkpoint(checkpoint.clone()));
            }
            Kind::WentOn { step, checkpoint } => self.went_on(*step, checkpoint.as_ref()),
            Kind::Stopping { then, mode } => {
                let stopped = match &self.phase {
                    Phase::Running { finished, .. } => finished.clone(),
                    Phase::Stopping { stopped, .. } => stopped.clone(),
                    _ => BTreeSet::new(),
                };
                phase = Some(Phase::Stopping {
                    then: *then,
                    mode: *mode,
                    stopped,
                });
            }
            Kind::Requeued {
                failure,
                restarts,
                reached,
            } => {
                self.restarts = *restarts;
                self.reached = *reached;
                detail = failure.clone().map(Detail::Failure);
                phase = Some(Phase::Queued);
            }
            Kind::Resumed => {
                self.restarts = 0;
                let reported = self.progress.as_ref().map(|progress| progress.step);
                let kept = self.checkpoint.as_ref().map(|checkpoint| checkpoint.step);
                let reached = reported.max(kept).unwrap_or_default();
                self.reached = self.reached.max(reached);
                // The time until then was not the cluster's.
                self.incident = Some(Incident {
                    cause: Cause::Operator,
                    worker: None,
                    reason: message.to_owned(),
                    fault: None,
                    detected: time,
                });
                phase = Some(Phase::Queued);
            }
            Kind::Paused => phase = Some(Phase::Paused),
            Kind::Succeeded { export_path } => {
                phase = Some(Phase::Succeeded {
                    export_path: export_path.clone(),
                });
            }
            Kind::Failed(failure) => {
                detail = Some(Detail::Failure(failure.clone()));
                phase = Some(Phase::Failed {
                    failure: failure.clone(),
                });
            }
            Kind::Cancelled => phase = Some(Phase::Cancelled),
        }
        if kind.ends_generation() {
            self.stretch = None;
        }
        if let Some(phase) = phase {
            self.phase = phase;
            message.clone_into(&mut self.reason);
            self.waiting = None;
            if self.state().is_final() {
                self.end_time = Some(time);
            }
        }
        self.log(time, message, detail);
        Ok(())
    }

    fn log(&mut self, time: Time, message: &str, detail: Option<Detail>) {
        let sequence = self.events.len() as u64 + 1;
        let event = JobEvent {
            sequence,
            time,
            state: self.state(),
            message: message.to_owned(),
            detail,
        };
        self.events.push(event);
    }
}

impl State {
    /// Applies one change: the only way the durable state changes, both when it is decided and
    /// when it is read back. `Err` says what contradicts the state; nothing is changed then.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::JobCreated {
                number,
                uid,
                request_id,
                spec,
                time,
            } => {
                let name = JobId(spec.name.clone());
                if *number <= self.created || self.names.contains_key(&name) {
                    return Err(format!("job {name} (number {number}) exists already"));
                }
                let mut job = Job {
                    uid: uid.clone(),
                    request_id: request_id.clone(),
                    spec: (**spec).clone(),
                    create_time: *time,
                    start_time: None,
                    end_time: None,
                    phase: Phase::Queued,
                    reason: "submitted".to_owned(),
                    generation: Generation(0),
                    size: None,
                    seats: Vec::new(),
                    plan: None,
                    evaluations: BTreeMap::new(),
                    checkpoint: None,
                    progress: None,
                    restarts: 0,
                    reached: Step(0),
                    waiting: None,
                    began: Step(0),
                    incident: None,
                    recoveries: Vec::new(),
                    stretch: None,
                    useful_ms: 0,
                    events: Vec::new(),
                };
                job.log(*time, "submitted", None);
                self.created = *number;
                self.names.insert(name, *number);
                self.jobs.insert(*number, job);
            }
            Change::JobEvent {
                number,
                sequence,
                time,
                message,
                kind,
            } => {
                let job = self.known(*number)?;
                let expected = job.events.len() as u64 + 1;
                if *sequence != expected {
                    return Err(format!(
                        "job {} gets event {sequence}, expected {expected}",
                        job.spec.name
                    ));
                }
                job.apply(*time, message, kind)?;
            }
            Change::WorkerFinished {
                number,
                generation,
                worker,
            } => {
                let job = self.known(*number)?;
                match &mut job.phase {
                    Phase::Running { finished, .. }
                    | Phase::Stopping {
                        stopped: finished, ..
                    } if job.generation == *generation => {
                        finished.insert(worker.clone());
                    }
                    _ => {
                        return Err(format!(
                            "worker {worker} finished generation {} of job {}, which neither runs nor stops",
                            generation.0, job.spec.name
                        ));
                    }
                }
            }
            Change::JobReported { number, progress } => {
                self.known(*number)?.progress = Some((**progress).clone());
            }
            Change::JobInterrupted { number, incident } => {
                self.known(*number)?.incident = Some(incident.clone());
            }
            Change::JobMilestone {
                number,
                milestone,
                step,
                time,
            } => self.known(*number)?.note(*milestone, *step, *time),
            Change::JobCounted {
                number,
                milliseconds,
            } => {
                let job = self.known(*number)?;
                job.useful_ms = job.useful_ms.saturating_add(*milliseconds);
                job.stretch = None;
            }
            Change::JobDeleted { number } => {
                let job = self.known(*number)?;
                if !job.state().is_final() {
                    return Err(format!(
                        "job {} is deleted, but has not ended",
                        job.spec.name
                    ));
                }
                let name = job.name();
                self.names.remove(&name);
                self.jobs.remove(number);
            }
            Change::WorkerJoined { worker } => {
                self.workers.insert(worker.name.clone(), worker.clone());
            }
            Change::WorkerLeft { name } => {
                self.workers.remove(name);
            }
            Change::WorkerDrained { name } => {
                self.draining.insert(name.clone());
            }
            Change::WorkerUndrained { name } => {
                self.draining.remove(name);
            }
        }
        Ok(())
    }

    fn known(&mut self, number: u64) -> Result<&mut Job, String> {
        self.jobs
            .get_mut(&number)
            .ok_or_else(|| format!("there is no job with number {number}"))
    }
}
