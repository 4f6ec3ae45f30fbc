//! What workers report of running generations: progress, evaluations, checkpoints, the end.
//!
//! A report counts only if its worker holds seats of the job's newest generation; others are stale
//! and ignored. One that is told again changes nothing: a worker repeats what was not acknowledged, and a
//! coordinator that takes over does not know what the one before it took.

use crate::command::StopMode;
use crate::event::{ConnId, Outcome};
use crate::live::{Key, LeaseState};
use crate::machine::Machine;
use crate::record::{Change, Kind};
use crate::recover::End;
use crate::state::{Phase, Then};
use crate::view::Detail;
use espalier_spec::WorkerId;
use espalier_spec::report::{Checkpoint, Evaluation, Failure, Progress};
use std::collections::BTreeMap;

impl Machine {
    /// The worker and job of a report, if it counts.
    pub(crate) fn reporter(&mut self, conn: ConnId, key: &Key) -> Option<(WorkerId, u64)> {
        let found = self.worker_of(conn).and_then(|name| {
            let number = self.workers.get(&name)?.leases.get(key)?.number;
            let job = self.state.jobs.get(&number)?;
            (job.generation == key.1).then_some((name, number))
        });
        if found.is_none() {
            self.stale += 1;
        }
        found
    }

    /// The job of a report that only rank 0's worker makes, if it counts: while the job runs, or
    /// later, as long as rank 0 has not said that it stopped.
    pub(crate) fn head_report(&mut self, conn: ConnId, key: &Key) -> Option<u64> {
        let (name, number) = self.reporter(conn, key)?;
        let counts = self.state.jobs.get(&number).is_some_and(|job| {
            job.head() == Some(&name)
                && match job.phase {
                    Phase::Running { .. } | Phase::Queued => true,
                    Phase::Stopping { then, .. } => then != Then::Cancel,
                    _ => false,
                }
        });
        if !counts {
            self.stale += 1;
        }
        counts.then_some(number)
    }

    pub(crate) fn progressed(&mut self, conn: ConnId, key: &Key, progress: Progress) {
        let Some(number) = self.head_report(conn, key) else {
            return;
        };
        self.reached(number, progress.step);
        self.live.entry(number).or_default().progress = Some(progress);
        // An elastic job that ends soon does not grow.
        if self.index.growing.contains(&number) {
            self.mark_job(number);
        }
        self.touch_job(number);
    }

    /// Makes the newest report of a job durable, so that it outlives this process.
    pub(crate) fn keep_progress(&mut self, number: u64) {
        let newest = self
            .live
            .get(&number)
            .and_then(|live| live.progress.clone());
        let Some(newest) = newest.map(finite_progress) else {
            return;
        };
        let job = self.state.jobs.get(&number);
        if job.is_some_and(|job| !job.state().is_final() && job.progress.as_ref() != Some(&newest))
        {
            let progress = Box::new(newest);
            self.record(Change::JobReported { number, progress });
        }
    }

    pub(crate) fn evaluated(&mut self, conn: ConnId, key: &Key, evaluation: Evaluation) {
        let Some(number) = self.head_report(conn, key) else {
            return;
        };
        let evaluation = finite(evaluation);
        self.reached(number, evaluation.step);
        if self.was_told(number, &Detail::Evaluation(Box::new(evaluation.clone()))) {
            return;
        }
        let message = format!(
            "evaluated on the {} files after step {}: {:.4} in the mean{}",
            evaluation.split,
            evaluation.step,
            evaluation.selection,
            if evaluation.best {
                ", the best so far"
            } else {
                ""
            }
        );
        self.tell(number, message, Kind::Evaluated(Box::new(evaluation)));
    }

    pub(crate) fn checkpointed(&mut self, conn: ConnId, key: &Key, checkpoint: Checkpoint) {
        let Some(number) = self.head_report(conn, key) else {
            return;
        };
        self.reached(number, checkpoint.step);
        if self.was_told(number, &Detail::Checkpoint(checkpoint.clone())) {
            return;
        }
        let message = format!(
            "checkpoint of step {} written{}",
            checkpoint.step,
            if checkpoint.best {
                ", the best so far"
            } else {
                ""
            }
        );
        self.tell(number, message, Kind::Checkpointed(checkpoint));
    }

    /// Whether the newest generation has told this before, since it started.
    fn was_told(&self, number: u64, news: &Detail) -> bool {
        let job = self.state.jobs.get(&number);
        let events = job.into_iter().flat_map(|job| job.events.iter().rev());
        let mut own = events
            .filter_map(|event| event.detail.as_ref())
            .take_while(|detail| !matches!(detail, Detail::Plan(_)));
        own.any(|detail| detail == news)
    }

    /// The newest generation is known to have done so many steps.
    pub(crate) fn reached(&mut self, number: u64, step: espalier_spec::Step) {
        let live = self.live.entry(number).or_default();
        let before = live
            .reached
            .replace(live.reached.unwrap_or_default().max(step));
        if before.is_none() {
            self.mark_job(number);
        }
    }

    /// A worker's ranks have stopped: their devices are free, whatever the job makes of it.
    pub(crate) fn stopped(&mut self, conn: ConnId, key: &Key, outcome: Outcome) {
        let Some(name) = self.worker_of(conn) else {
            self.stale += 1;
            return;
        };
        if self.spare_stopped(&name, key, &outcome) {
            return;
        }
        let Some(lease) = self.release(&name, key) else {
            let stray = self
                .workers
                .get_mut(&name)
                .and_then(|worker| worker.strays.remove(key));
            if stray.is_none() {
                self.stale += 1;
            }
            return;
        };
        if let Some(worker) = self.workers.get_mut(&name) {
            worker.accused.remove(key);
        }
        let number = lease.number;
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        if job.generation != key.1 {
            return;
        }
        let head = job.head() == Some(&name);
        if let Outcome::Failure(failure) = &outcome
            && let Some(rank) = failure.lost
        {
            self.accuse(&name, key, number, rank);
        }
        self.note_stopped(&name, key, number);
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        match &job.phase {
            Phase::Preparing => self.stopped_preparing(number, &name, outcome),
            Phase::Running { .. } => self.stopped_running(number, &name, head, outcome),
            Phase::Stopping {
                then: Then::Pause | Then::Move,
                ..
            } => {
                self.stopped_pausing(number, &name, head, outcome);
            }
            Phase::Queued => self.stopped_late(number, outcome),
            _ => {}
        }
    }

    fn stopped_preparing(&mut self, number: u64, name: &WorkerId, outcome: Outcome) {
        match outcome {
            Outcome::Failure(failure) => self.ended_by(number, name, failure),
            Outcome::Ordered | Outcome::Exported(_) => {
                // It leaves, or has lost its mind: no work before its next heartbeat, so that the
                // job is not prepared there again and again.
                let job = self.state.jobs.get(&number);
                let run = job.map(|job| ((job.name(), job.generation), job.uid.clone()));
                if let (Some(worker), Some((key, uid))) = (self.workers.get_mut(name), run) {
                    worker.strays.insert(key, uid);
                }
                let why = format!("worker {name} stopped preparing without an order");
                let end = End {
                    cause: self.cause_to_leave(name),
                    counts: false,
                    ..End::fault(name)
                };
                self.retry(number, &why, end);
            }
        }
    }

    fn stopped_running(&mut self, number: u64, name: &WorkerId, head: bool, outcome: Outcome) {
        match outcome {
            Outcome::Failure(failure) => self.ended_by(number, name, failure),
            Outcome::Ordered => self.left(number, name),
            Outcome::Exported(path) if head => self.succeed(number, path),
            Outcome::Exported(_) => {
                let Some(job) = self.state.jobs.get(&number) else {
                    return;
                };
                let generation = job.generation;
                self.record(Change::WorkerFinished {
                    number,
                    generation,
                    worker: name.clone(),
                });
            }
        }
    }

    fn stopped_pausing(&mut self, number: u64, name: &WorkerId, head: bool, outcome: Outcome) {
        match outcome {
            Outcome::Exported(path) if head => self.succeed(number, path),
            Outcome::Failure(failure) if !failure.retryable => {
                self.ended_by(number, name, failure);
            }
            // The others wait for this one in vain; the job goes on from an older checkpoint.
            Outcome::Failure(_) => self.stop_ranks(number, StopMode::Abort),
            Outcome::Ordered | Outcome::Exported(_) => {}
        }
    }

    /// The job is back in the queue, as others of its ranks were faster to say that they lost a peer. What
    /// that peer itself found wrong says more: the same again would end the same way. No later generation
    /// has begun, since it waits for these ranks.
    fn stopped_late(&mut self, number: u64, outcome: Outcome) {
        if let Outcome::Failure(failure) = outcome
            && !failure.retryable
        {
            self.fail(number, failure);
        }
    }

    /// A rank failed: the job too, unless the same again can succeed.
    fn ended_by(&mut self, number: u64, name: &WorkerId, failure: Failure) {
        if failure.retryable {
            let why = format!("worker {name} reports: {}", failure.message);
            let lost = failure.lost.and_then(|rank| self.seated(number, rank));
            let end = End {
                failure: Some(failure),
                ..End::fault(lost.unwrap_or(name))
            };
            self.retry(number, &why, end);
        } else {
            self.fail(number, failure);
        }
    }

    fn succeed(&mut self, number: u64, export_path: String) {
        let deadline = self.now.plus(self.config.stop_timeout_ms);
        for name in self.holders(number) {
            let leases = self.workers.get_mut(&name).map(|worker| &mut worker.leases);
            for lease in leases.into_iter().flat_map(BTreeMap::values_mut) {
                if lease.number == number && lease.state == LeaseState::Active {
                    lease.state = LeaseState::Finishing { deadline };
                }
            }
        }
        let message = format!("succeeded; the model is in {export_path}");
        self.tell(number, message, Kind::Succeeded { export_path });
    }
}

/// The same figures without NaN and infinity, which the store can't hold: such metrics are left
/// out, a loss becomes the largest number, a selection the smallest.
fn finite(mut evaluation: Evaluation) -> Evaluation {
    let or = |value: f64, other: f64| if value.is_finite() { value } else { other };
    evaluation.selection = or(evaluation.selection, f64::MIN);
    for scores in evaluation.tasks.values_mut() {
        scores.loss = or(scores.loss, f64::MAX);
        scores.metrics.retain(|_, value| value.is_finite());
        scores.baseline.retain(|_, value| value.is_finite());
        scores.class_iou.retain(|_, value| value.is_finite());
    }
    evaluation
}

/// The same report without NaN and infinity, which the store can't hold: figures of one task or
/// pair of tasks are left out, others become 0.
fn finite_progress(mut progress: Progress) -> Progress {
    let zero = |value: &mut f64| {
        if !value.is_finite() {
            *value = 0.0;
        }
    };
    zero(&mut progress.samples_per_second);
    zero(&mut progress.tokens_per_second);
    zero(&mut progress.learning_rate);
    zero(&mut progress.gradient_norm);
    progress.eta_seconds = progress.eta_seconds.filter(|eta| eta.is_finite());
    progress.losses.retain(|_, loss| loss.is_finite());
    let milliseconds = &mut progress.task_milliseconds;
    milliseconds.retain(|_, milliseconds| milliseconds.is_finite());
    if let Some(affinity) = &mut progress.affinity {
        for task in &mut affinity.tasks {
            zero(&mut task.norm);
            zero(&mut task.weight);
        }
        affinity.pairs.retain(|pair| {
            let figures = [pair.cosine, pair.deviation, pair.conflicts];
            figures.iter().all(|figure| figure.is_finite())
        });
    }
    if let Some(exchange) = &mut progress.exchange {
        zero(&mut exchange.seconds_per_step);
        zero(&mut exchange.exposed_seconds_per_step);
        zero(&mut exchange.balance_seconds_per_step);
    }
    progress
}
