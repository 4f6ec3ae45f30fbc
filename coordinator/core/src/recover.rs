//! Recovery: what follows when a generation ends early, and where the next one goes on.
//!
//! The next one is placed only after every rank of the old one has stopped or is lost. It goes on
//! from the newest snapshot of which its workers hold all parts, or else from the newest checkpoint.
//!
//! No timer is in the way of a killed worker's job. Its peers see their links break and report that
//! they stopped; its stream to the coordinator breaks as well, so it is lost in the same step
//! (`detect.rs`); other ranks that still run are told to stop at once and say so. With the last of
//! these messages the next Prepare is sent. A worker that hangs is waited for until the peers'
//! deadline and three heartbeats have passed.
//!
//! Restarts are counted so that a job that can't get on ends: `max_restarts` generations in a row
//! may end by a fault without progress. Progress is a step that no generation had reached before,
//! or a generation that goes on from a later step than any before it. So a job under steady fire
//! lives as long as new snapshots outlive the faults, however often its steps are done again; one
//! that always dies at the same step, or too early for a new snapshot, fails.

use crate::account::{self, Incident};
use crate::command::StopMode;
use crate::event::ConnId;
use crate::generation::count;
use crate::live::{Key, Lease, Live};
use crate::machine::Machine;
use crate::record::{Change, Kind};
use crate::state::{Job, Phase, Then};
use espalier_spec::recovery::{Cause, Milestone, Restore, Source};
use espalier_spec::report::Failure;
use espalier_spec::{Rank, Step, WorkerId};
use std::collections::BTreeMap;

/// Why a generation ends early.
pub(crate) struct End {
    pub(crate) cause: Cause,
    /// The worker to which it happened.
    pub(crate) worker: Option<WorkerId>,
    /// What a rank said of it.
    pub(crate) failure: Option<Failure>,
    /// Whether it counts as a restart: a fault, not something the cluster did on purpose.
    pub(crate) counts: bool,
}

impl End {
    /// A fault of a worker.
    pub(crate) fn fault(worker: &WorkerId) -> Self {
        Self {
            cause: Cause::Failure,
            worker: Some(worker.clone()),
            failure: None,
            counts: true,
        }
    }
}

/// The newest snapshot, not older than the newest checkpoint, of which the prepared workers hold
/// the parts of all ranks; each part from the lowest rank whose worker holds it.
pub(crate) fn choose(job: &Job, live: &Live) -> Option<Restore> {
    let floor = job.checkpoint.as_ref().map_or(Step(0), |kept| kept.step);
    let mut found: BTreeMap<Step, BTreeMap<Rank, Rank>> = BTreeMap::new();
    // Seats are in order of rank.
    for seat in &job.seats {
        for part in live.held.get(&seat.worker).into_iter().flatten() {
            if part.step >= floor {
                let providers = found.entry(part.step).or_default();
                providers.entry(part.rank).or_insert(seat.rank);
            }
        }
    }
    found.into_iter().rev().find_map(|(step, holders)| {
        let providers = job
            .seats
            .iter()
            .map(|seat| holders.get(&seat.rank).copied());
        let providers = providers.collect::<Option<Vec<Rank>>>()?;
        Some(Restore { step, providers })
    })
}

impl Machine {
    /// Keeps what ends a job's generation, for the account of the next one. What came first stays:
    /// what follows from it is no incident of its own.
    pub(crate) fn interrupt(
        &mut self,
        number: u64,
        cause: Cause,
        worker: Option<&WorkerId>,
        reason: &str,
    ) {
        let job = self.state.jobs.get(&number);
        if job.is_none_or(|job| job.incident.is_some() || job.state().is_final()) {
            return;
        }
        let heard = worker
            .filter(|_| cause == Cause::Failure)
            .and_then(|name| self.workers.get(name))
            .map(|worker| worker.heard);
        let incident = Incident {
            cause,
            worker: worker.cloned(),
            reason: reason.to_owned(),
            fault: heard,
            detected: self.now,
        };
        self.record(Change::JobInterrupted { number, incident });
    }

    /// Stops a running generation at its next step so that nothing is lost or done again: a
    /// snapshot of that step is held by its workers and their peers. The job then goes back into
    /// the queue. `message` says why, in a sentence.
    pub(crate) fn hand_over(
        &mut self,
        number: u64,
        cause: Cause,
        worker: Option<&WorkerId>,
        message: &str,
    ) {
        let mode = StopMode::Handover;
        self.interrupt(number, cause, worker, message);
        self.stop_ranks(number, mode);
        let then = Then::Move;
        self.tell(number, message, Kind::Stopping { then, mode });
    }

    /// Some ranks of a generation are lost; their lease is taken back already.
    pub(crate) fn ranks_lost(&mut self, name: &WorkerId, key: &Key, lease: &Lease, why: &str) {
        self.ranks_gone(name, key, lease, why, Cause::Failure);
    }

    /// The same, for this cause.
    pub(crate) fn ranks_gone(
        &mut self,
        name: &WorkerId,
        key: &Key,
        lease: &Lease,
        why: &str,
        cause: Cause,
    ) {
        let number = lease.number;
        if self
            .state
            .jobs
            .get(&number)
            .is_none_or(|job| job.generation != key.1)
        {
            return;
        }
        self.note_stopped(name, key, number);
        match self.phase(number) {
            Some(Phase::Preparing | Phase::Running { .. }) => {
                let end = End {
                    cause,
                    counts: cause == Cause::Failure,
                    ..End::fault(name)
                };
                self.retry(number, why, end);
            }
            // Without them the others can't write a checkpoint or hold a snapshot.
            Some(Phase::Stopping {
                mode: StopMode::Checkpoint | StopMode::Handover,
                ..
            }) => {
                self.stop_ranks(number, StopMode::Abort);
            }
            _ => {}
        }
    }

    /// Steps that the newest generation is known to have done; 0 before its first report.
    pub(crate) fn reached_now(&self, number: u64) -> Step {
        let live = self.live.get(&number);
        live.and_then(|live| live.reached).unwrap_or_default()
    }

    /// Ends a generation early: back to the queue, or failed if that leads nowhere.
    pub(crate) fn retry(&mut self, number: u64, why: &str, end: End) {
        let End {
            cause,
            worker,
            failure,
            counts,
        } = end;
        self.interrupt(number, cause, worker.as_ref(), why);
        self.stop_ranks(number, StopMode::Abort);
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        let reached = job.reached.max(self.reached_now(number));
        let restarts = match (counts, reached > job.reached) {
            (false, false) => job.restarts,
            (false, true) => 0,
            (true, false) => job.restarts.saturating_add(1),
            (true, true) => 1,
        };
        let limit = self.config.max_restarts;
        if restarts > limit {
            let (code, retryable) = match &failure {
                Some(failure) => (failure.code.clone(), failure.retryable),
                None => ("worker_lost".to_owned(), true),
            };
            let message = format!(
                "{why}; gave up after {} without progress",
                count(limit as usize, "restart")
            );
            self.fail(
                number,
                Failure {
                    code,
                    message,
                    retryable,
                    lost: None,
                },
            );
            return;
        }
        let tries = if counts {
            format!(" (restart {restarts} of {limit})")
        } else {
            String::new()
        };
        let message = format!(
            "generation {} ended: {why}; goes on {} as generation {}{tries}",
            job.generation.0,
            job.way_on(),
            job.generation.next().0,
        );
        self.tell(
            number,
            message,
            Kind::Requeued {
                failure,
                restarts,
                reached,
            },
        );
    }

    /// Ends a job by an error; ranks that still run are stopped.
    pub(crate) fn fail(&mut self, number: u64, failure: Failure) {
        self.stop_ranks(number, StopMode::Abort);
        self.tell(number, failure.message.clone(), Kind::Failed(failure));
    }

    /// Jobs whose ranks have all stopped.
    pub(crate) fn finish_stopped(&mut self) {
        self.refresh();
        // Whoever loses a lease is marked.
        let stopping = self.changed.jobs.intersection(&self.index.stopping);
        let stopping: Vec<(u64, Then)> = stopping
            .filter_map(|number| match self.state.jobs.get(number)?.phase {
                Phase::Stopping { then, .. } => Some((*number, then)),
                _ => None,
            })
            .collect();
        for (number, then) in stopping {
            if !self.holders(number).is_empty() {
                continue;
            }
            match then {
                Then::Pause => {
                    let from = self.resume_point(number);
                    self.tell(
                        number,
                        format!("paused; goes on {from} when resumed"),
                        Kind::Paused,
                    );
                }
                Then::Move => {
                    let now_reached = self.reached_now(number);
                    let Some(job) = self.state.jobs.get(&number) else {
                        continue;
                    };
                    let (restarts, reached) = (job.restarts, job.reached.max(now_reached));
                    let message =
                        format!("its ranks have stopped; goes on {} elsewhere", job.way_on());
                    let kind = Kind::Requeued {
                        failure: None,
                        restarts,
                        reached,
                    };
                    self.tell(number, message, kind);
                }
                Then::Cancel => self.tell(number, "cancelled", Kind::Cancelled),
            }
        }
    }

    /// Counts the time of a generation that ends now.
    pub(crate) fn count_useful(&mut self, number: u64) {
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        if !job.steps() {
            return;
        }
        let fault = job.incident.as_ref().and_then(|incident| incident.fault);
        let end = fault.unwrap_or(self.now);
        let milliseconds = job.useful(self.reached_now(number), end);
        self.record(Change::JobCounted {
            number,
            milliseconds,
        });
    }

    /// Rank 0's worker says how far its generation is on its way into training.
    pub(crate) fn milestone(&mut self, conn: ConnId, key: &Key, milestone: Milestone, step: Step) {
        let Some(number) = self.head_report(conn, key) else {
            return;
        };
        if milestone == Milestone::FirstStep {
            self.reached(number, step);
        }
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        if !job.awaits(milestone) {
            return;
        }
        if let Some(from) = job.elsewhere(milestone, step) {
            self.went_on(number, from);
        }
        let time = self.now;
        self.record(Change::JobMilestone {
            number,
            milestone,
            step,
            time,
        });
        self.touch_job(number);
        let job = self.state.jobs.get(&number);
        if milestone == Milestone::FirstStep
            && let Some(recovery) = job.and_then(Job::recovery).cloned()
        {
            let message = account::sentence(&recovery);
            self.tell(number, message, Kind::Recovered(Box::new(recovery)));
        }
    }

    /// The newest generation went on from another step than it was told to: its checkpoint was
    /// damaged, or there was a newer one whose writer was lost before it could say so.
    fn went_on(&mut self, number: u64, step: Step) {
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        let Some(recovery) = job.recovery() else {
            return;
        };
        let (told, source) = (recovery.from, recovery.source);
        let checkpoint = match source {
            Source::Checkpoint => job.checkpoint_at(step),
            Source::Snapshot | Source::Beginning => None,
        };
        let message = if checkpoint.is_some() && step < told {
            format!("the checkpoint of step {told} could not be used: went on from step {step}")
        } else {
            format!("told to go on from step {told}, its ranks went on from step {step}")
        };
        self.tell(number, message, Kind::WentOn { step, checkpoint });
    }
}
