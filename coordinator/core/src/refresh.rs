//! Keeps the index right: counts anew what has changed.
//!
//! What was counted anew is kept in [`Changed`] until the rules have looked at it
//! ([`Machine::step`]). Deadlines are alarms: a worker's is set when it changes and not when it is
//! heard of, so it may go off too early, never too late.

use crate::command::Command;
use crate::event::{Event, Time};
use crate::index::{Changed, Index, KINDS, OfJob, OfWorker, Subject};
use crate::live::{Lease, Link, Worker};
use crate::machine::Machine;
use crate::queue::is_kind;
use crate::seat::free_devices;
use crate::spare::{spares_wanted, trains};
use crate::state::{Job, Phase};
use espalier_spec::WorkerId;
use std::cmp::Reverse;

impl Machine {
    /// Marks a job as changed.
    pub(crate) fn mark_job(&mut self, number: u64) {
        self.marked.insert(number);
    }

    /// Counts everything anew that was marked.
    pub(crate) fn refresh(&mut self) {
        let mut changed = Changed {
            workers: self.workers.take_changed(),
            jobs: std::mem::take(&mut self.marked),
        };
        for (number, name) in self.spares.take_changed() {
            changed.workers.insert(name);
            changed.jobs.insert(number);
        }
        for name in &changed.workers {
            // What its spares are good for depends on it.
            changed
                .jobs
                .extend(self.spares.on(name).map(|(number, _)| number));
            let worker = self.workers.get(name);
            let of = worker.map(|worker| self.of_worker(name, worker));
            let due = worker.and_then(|worker| self.worker_deadline(worker));
            self.index.put_worker(name, of);
            self.index.arm(Subject::Worker(name.clone()), due);
        }
        for number in &changed.jobs {
            let job = self.state.jobs.get(number);
            let of = job.map(|job| self.of_job(*number, job));
            let due = job.and_then(|job| self.job_deadline(*number, job));
            self.index.put_job(*number, of);
            self.index.arm(Subject::Job(*number), due);
        }
        self.changed.extend(changed);
    }

    /// Has the rules look at all whose alarm has gone off and whose time has really come.
    pub(crate) fn ring(&mut self) {
        while let Some((time, subject)) = self.index.next_alarm().cloned()
            && time <= self.now
        {
            let due = match &subject {
                Subject::Worker(name) => {
                    let worker = self.workers.get(name);
                    worker.and_then(|worker| self.worker_deadline(worker))
                }
                Subject::Job(number) => {
                    let job = self.state.jobs.get(number);
                    job.and_then(|job| self.job_deadline(*number, job))
                }
            };
            if due.is_some_and(|due| due <= self.now) {
                // Set anew once they have looked.
                self.index.arm(subject.clone(), None);
                match subject {
                    Subject::Worker(name) => {
                        self.workers.mark(&name);
                        self.changed.workers.insert(name);
                    }
                    Subject::Job(number) => {
                        self.mark_job(number);
                        self.changed.jobs.insert(number);
                    }
                }
            } else {
                self.index.arm(subject, due);
            }
        }
    }

    fn of_worker(&self, name: &WorkerId, worker: &Worker) -> OfWorker {
        let open = matches!(worker.link, Link::Open { .. });
        let ready = self.is_ready(worker);
        let takes = ready && worker.strays.is_empty();
        let count = |kind| {
            let devices = worker.info.devices.iter();
            devices.filter(|device| is_kind(device, kind)).count()
        };
        OfWorker {
            ready,
            draining: open && !ready,
            unseen: matches!(worker.link, Link::Silent { .. } | Link::Broken { .. }),
            awaited: matches!(worker.link, Link::Awaited { .. }),
            gone: (worker.link == Link::Gone).then_some(worker.heard),
            spare: self.is_any_spare(name),
            devices: KINDS.map(count),
            open: KINDS.map(|kind| {
                if takes {
                    free_devices(worker, kind).len()
                } else {
                    0
                }
            }),
        }
    }

    fn of_job(&self, number: u64, job: &Job) -> OfJob {
        let wanted = if trains(job) && job.size.is_some() {
            spares_wanted(&self.config, job)
        } else {
            0
        };
        let has = self.spares.of(number).filter(|(_, spare)| spare.is_live());
        OfJob {
            first: Reverse(job.spec.priority),
            queued: job.phase == Phase::Queued,
            preparing: job.phase == Phase::Preparing,
            stopping: matches!(job.phase, Phase::Stopping { .. }),
            missing: wanted.saturating_sub(if wanted > 0 { has.count() } else { 0 }),
            grows: self.may_grow(job),
        }
    }

    /// When something follows from a worker's doing nothing.
    pub(crate) fn worker_deadline(&self, worker: &Worker) -> Option<Time> {
        let link = match worker.link {
            Link::Open { .. } => Some(worker.heard.plus(self.silence_ms())),
            Link::Gone => None,
            _ => self.gone_at(worker),
        };
        let leases = worker.leases.values().filter_map(Lease::deadline);
        link.into_iter().chain(leases).min()
    }

    /// When something follows from a job's going on as it does.
    pub(crate) fn job_deadline(&self, number: u64, job: &Job) -> Option<Time> {
        let prepared = self.live.get(&number).and_then(|live| live.deadline);
        let grows = self.grows_at(number, job);
        prepared.into_iter().chain(grows).min()
    }

    /// Says what the rules would still do if they looked at everybody; none if they have looked
    /// wherever something had changed. They may need a few steps for what they change themselves.
    pub(crate) fn overlooked(&self) -> Option<String> {
        const STEPS: usize = 4;
        let mut machine = self.clone();
        for _ in 0..STEPS {
            if !machine.changed.is_empty() {
                drop(machine.step(self.now, Event::Tick));
            }
        }
        if !machine.changed.is_empty() {
            return Some(format!("{:?} after {STEPS} ticks", machine.changed));
        }
        let names: Vec<WorkerId> = machine
            .workers
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        for name in &names {
            machine.workers.mark(name);
        }
        machine.marked.extend(machine.state.jobs.keys());
        let output = machine.step(self.now, Event::Tick);
        let sends = |command: &&Command| matches!(command, Command::Send { .. });
        let sent: Vec<&Command> = output.after.iter().filter(sends).collect();
        let none = output.records.is_empty() && sent.is_empty();
        (!none).then(|| format!("{:?} {sent:?}", output.records))
    }

    /// Says what is wrong with the index; none if it is what counting everything anew leads to.
    pub(crate) fn misindexed(&self) -> Option<&'static str> {
        let mut right = Index::default();
        for (name, worker) in self.workers.iter() {
            right.put_worker(name, Some(self.of_worker(name, worker)));
            right.arm(Subject::Worker(name.clone()), self.worker_deadline(worker));
        }
        for (number, job) in &self.state.jobs {
            right.put_job(*number, Some(self.of_job(*number, job)));
            right.arm(Subject::Job(*number), self.job_deadline(*number, job));
        }
        self.index.differs(&right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, ConnId, Event, Hello};

    // Promise: the check that every test runs after every step finds what was not counted, and an
    // alarm that would go off too late or never.
    #[test]
    fn what_is_not_counted_is_found() {
        let mut machine = Machine::new(Config::new("1.0.0"));
        let hello = Hello {
            name: "a".into(),
            version: "1.0.0".to_owned(),
            host: "h".to_owned(),
            devices: vec!["cpu".to_owned(), "cuda:0".to_owned()],
            instance: "i".to_owned(),
            running: Vec::new(),
            preempted: false,
        };
        let conn = ConnId(1);
        drop(machine.step(Time(5), Event::WorkerConnected { conn, hello }));
        assert_eq!(machine.misindexed(), None);
        let free = KINDS.map(|kind| machine.index.free(kind));
        assert_eq!(free, [2, 1, 1]);

        let mut other = machine.clone();
        let twice = OfWorker {
            ready: true,
            devices: [1; 3],
            ..OfWorker::default()
        };
        other.index.put_worker(&"b".into(), Some(twice));
        assert_eq!(other.misindexed(), Some("workers"));
        let mut other = machine.clone();
        other.index.queued.insert((Reverse(0), 7));
        assert_eq!(other.misindexed(), Some("queued"));
        let mut other = machine.clone();
        let subject = Subject::Worker("a".into());
        other.index.arm(subject.clone(), Some(Time(1_000_000)));
        assert_eq!(other.misindexed(), Some("alarms"));
        other.index.arm(subject.clone(), Some(Time(6)));
        assert_eq!(other.misindexed(), None, "too early is no mistake");
        other.index.arm(subject, None);
        assert_eq!(other.misindexed(), Some("alarms"));
        // One of another process, taken in behind the index's back.
        machine.state.draining.insert("a".into());
        assert_eq!(machine.misindexed(), Some("workers"));
    }
}
