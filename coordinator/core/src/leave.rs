//! Workers that leave: drained by an operator, or by themselves.
//!
//! A worker that leaves by itself says so by what it does: its ranks stop without an order, then it
//! says good-bye. If its machine is about to be taken away it says that first, in a new Hello.
//!
//! Their jobs go on elsewhere, and no step is done again: from memory to memory where the parts of a
//! snapshot outlive who leaves and there is room at once, else by a checkpoint. Who drains gets no
//! ranks any more, so what it alone holds must be elsewhere before it is let go: a job whose next
//! generation is only prepared then trains there first.

use crate::command::{Answer, Error, StopMode};
use crate::elastic;
use crate::event::ConnId;
use crate::machine::Machine;
use crate::record::{Change, Kind};
use crate::seat::home;
use crate::state::{Job, Phase, Then};
use espalier_spec::WorkerId;
use espalier_spec::plan::Seat;
use espalier_spec::recovery::Cause;

impl Machine {
    /// A worker leaves by itself.
    pub(crate) fn goodbye(&mut self, conn: ConnId, reason: &str) {
        let Some(name) = self.worker_of(conn) else {
            return;
        };
        let why = match reason {
            "" => "it said good-bye".to_owned(),
            reason => format!("it said good-bye: {reason}"),
        };
        let cause = self.cause_to_leave(&name);
        self.lose_for(&name, &why, cause);
    }

    /// Why a worker leaves by itself.
    pub(crate) fn cause_to_leave(&self, name: &WorkerId) -> Cause {
        match self.workers.get(name) {
            Some(worker) if worker.preempted => Cause::Preemption,
            _ => Cause::Drain,
        }
    }

    /// Whether a worker gets no more ranks, since it drains or leaves.
    pub(crate) fn goes(&self, name: &WorkerId) -> bool {
        let worker = self.workers.get(name);
        self.state.draining.contains(name) || worker.is_some_and(|worker| worker.preempted)
    }

    /// A worker says that its machine is about to be taken away.
    pub(crate) fn preempts(&mut self, name: &WorkerId) {
        self.blame(name);
        for number in self.hosted(name) {
            // Those that train stop by themselves, and choose how.
            if matches!(self.phase(number), Some(Phase::Stopping { .. })) {
                self.move_away(number, name);
            }
        }
    }

    /// It said so in a new stream, and other ranks may be faster to say that they stopped for it: then
    /// it is why they did.
    fn blame(&mut self, name: &WorkerId) {
        let (now, near) = (self.now, self.config.heartbeat_interval_ms);
        let mut incidents = Vec::new();
        for (number, job) in &self.state.jobs {
            let seated = job.seats.iter().any(|seat| seat.worker == *name);
            let drains = |worker: &WorkerId| self.state.draining.contains(worker);
            if let Some(incident) = job.incident.as_ref().filter(|_| seated)
                && !job.state().is_final()
                && incident.cause == Cause::Drain
                && now.since(incident.detected) <= near
                && !incident.worker.as_ref().is_some_and(drains)
            {
                let mut incident = incident.clone();
                incident.cause = Cause::Preemption;
                incident.worker = Some(name.clone());
                incidents.push((*number, incident));
            }
        }
        for (number, incident) in incidents {
            self.record(Change::JobInterrupted { number, incident });
        }
    }

    /// Jobs of which a worker holds devices.
    fn hosted(&self, name: &WorkerId) -> Vec<u64> {
        let leases = self.workers.get(name).map(|worker| &worker.leases);
        let leases = leases.into_iter().flatten();
        leases.map(|(_, lease)| lease.number).collect()
    }

    /// A worker's ranks stopped at a step without an order, since it leaves: all ranks agreed on
    /// that step, so the others stop there by themselves, and need the time to hold its snapshot.
    pub(crate) fn left(&mut self, number: u64, name: &WorkerId) {
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        let key = (job.name(), job.generation);
        // Whoever's ranks are the first to say that they stopped need not be who leaves.
        let preempted = elastic::hosts(job)
            .into_iter()
            .find(|name| self.cause_to_leave(name) == Cause::Preemption);
        let leaves = preempted.unwrap_or(name).clone();
        let cause = self.cause_to_leave(&leaves);
        let whom = match cause {
            Cause::Preemption => format!("the machine of worker {leaves} is taken away"),
            _ => "a worker leaves".to_owned(),
        };
        let message = format!("ranks of worker {name} stopped after a snapshot, as {whom}");
        self.hand_over(number, cause, Some(&leaves), &message);
        self.note_stopped(name, &key, number);
    }

    pub(crate) fn drain_worker(&mut self, name: &WorkerId) -> Result<Answer, Error> {
        self.present(name)?;
        if !self.state.draining.contains(name) {
            self.record(Change::WorkerDrained { name: name.clone() });
            self.touch_worker(name);
            for number in self.hosted(name) {
                self.move_away(number, name);
            }
        }
        Ok(self.worker_answer(name))
    }

    pub(crate) fn undrain_worker(&mut self, name: &WorkerId) -> Result<Answer, Error> {
        if !self.state.draining.contains(name) {
            self.present(name)?;
        } else {
            // Also of a worker that is gone: so that its name is not drained when it comes back.
            self.record(Change::WorkerUndrained { name: name.clone() });
            self.touch_worker(name);
            self.schedule();
            if !self.workers.contains_key(name) {
                self.present(name)?;
            }
        }
        Ok(self.worker_answer(name))
    }

    /// Moves a job that starts to train off those of its workers that drain already.
    pub(crate) fn move_off(&mut self, number: u64) {
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        let hosts = elastic::hosts(job).into_iter();
        let draining = hosts.filter(|name| self.state.draining.contains(*name));
        let draining: Vec<WorkerId> = draining.cloned().collect();
        for name in draining {
            self.move_away(number, &name);
        }
    }

    /// Moves a job off a worker that goes, at its next step.
    fn move_away(&mut self, number: u64, name: &WorkerId) {
        let can_hand_over = self.can_hand_over(number, name);
        let mode = match self.phase(number) {
            Some(Phase::Preparing) if self.may_hold(number, name) => {
                let message = format!(
                    "worker {name} drains, and may hold what no other one does: this generation \
                     starts there and moves away then"
                );
                return self.tell(number, message, Kind::Noted);
            }
            Some(Phase::Preparing) => StopMode::Abort,
            Some(Phase::Running { .. }) if can_hand_over => StopMode::Handover,
            Some(Phase::Running { .. }) => StopMode::Checkpoint,
            // It moves already, and what it leaves behind in memory would go with this worker. As
            // long as all of its ranks are there they can write a checkpoint instead.
            Some(Phase::Stopping {
                then: Then::Move,
                mode: StopMode::Handover,
                stopped,
            }) if !can_hand_over && stopped.is_empty() => StopMode::Checkpoint,
            _ => return,
        };
        let how = match mode {
            StopMode::Checkpoint => "stops at the next step with a checkpoint",
            StopMode::Handover => "hands over at the next step",
            StopMode::Abort => "stops preparing",
        };
        let goes = match self.state.draining.contains(name) {
            true => "drains",
            false => "leaves",
        };
        let message = format!("moves away from worker {name}, which {goes}: {how}");
        self.interrupt(number, Cause::Drain, Some(name), &message);
        self.stop_ranks(number, mode);
        let then = Then::Move;
        self.tell(number, message, Kind::Stopping { then, mode });
    }

    /// Whether a running job can leave a worker without a checkpoint: its snapshots outlive all that
    /// go, and there is room elsewhere at once.
    fn can_hand_over(&self, number: u64, name: &WorkerId) -> bool {
        let Some(job) = self.state.jobs.get(&number) else {
            return false;
        };
        job.takes_snapshots() && self.outlives(job) && self.fits_without(number, name)
    }

    /// Whether every part of a snapshot that a job's ranks take is held by a worker that does not go:
    /// that of its rank, or the one that mirrors it, which hosts the first rank after it that is not
    /// on the same.
    fn outlives(&self, job: &Job) -> bool {
        let stays = |seat: &Seat| !self.goes(&seat.worker);
        job.seats.iter().enumerate().all(|(rank, seat)| {
            let mut after = job.seats.iter().cycle().skip(rank).take(job.seats.len());
            stays(seat)
                || after
                    .find(|other| other.worker != seat.worker)
                    .is_some_and(stays)
        })
    }

    /// Whether a worker of a generation that is prepared hosted the last one that trained.
    fn may_hold(&self, number: u64, name: &WorkerId) -> bool {
        let job = self.state.jobs.get(&number);
        job.is_some_and(|job| {
            let mut home = home(job).iter();
            job.plan.is_some() && job.takes_snapshots() && home.any(|seat| seat.worker == *name)
        })
    }
}
