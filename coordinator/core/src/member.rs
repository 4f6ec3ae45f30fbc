//! Workers: joining, heartbeats, losing sight of them.
//!
//! Losing sight of a worker is not its death: an unreachable worker keeps its ranks, because its
//! work may well go on. Only one that is gone gives them up: it said good-bye, stayed unreachable
//! for too long, came back as another process, or was lost by its peers too (`detect.rs`).

use crate::command::{Answer, Error, ErrorKind, Order};
use crate::event::{ConnId, Hello, RunningJob};
use crate::live::{LeaseState, Link, Worker};
use crate::machine::Machine;
use crate::record::Change;
use crate::state::{Phase, WorkerInfo};
use espalier_spec::WorkerId;
use espalier_spec::recovery::Cause;
use std::collections::{BTreeMap, BTreeSet};

/// Gone workers that are still shown.
const GONE_SHOWN: usize = 100;

/// The first two numbers of a version: what differs in nothing else works together, so that a cluster can be
/// replaced process by process while jobs run.
fn line(version: &str) -> &str {
    let mut dots = version.match_indices('.');
    dots.nth(1).map_or(version, |(end, _)| &version[..end])
}

impl Machine {
    /// Takes a worker in, or refuses it.
    pub(crate) fn connected(&mut self, conn: ConnId, hello: Hello) {
        if let Err(error) = self.admit(&hello) {
            self.close(conn, error);
            return;
        }
        let same = self.workers.get(&hello.name).is_some_and(|worker| {
            worker.link != Link::Gone
                && worker.info.instance == hello.instance
                && worker.info.devices == hello.devices
        });
        if !same {
            self.lose(&hello.name, "its process was replaced by a new one");
            self.join(&hello);
        }
        let Some(worker) = self.workers.get_mut(&hello.name) else {
            return;
        };
        if let Some(old) = worker.link.conn() {
            let message = format!(
                "worker {} opened another stream; this one is void",
                hello.name
            );
            let error = Error::new(ErrorKind::FailedPrecondition, "STREAM_REPLACED", message);
            self.close(old, error);
        }
        self.conns.insert(conn, hello.name.clone());
        if let Some(worker) = self.workers.get_mut(&hello.name) {
            worker.link = Link::Open { conn };
            worker.heard = self.now;
            worker.preempted = hello.preempted;
            let reason = match (hello.preempted, same) {
                (true, _) => "leaves, since its machine is about to be taken away",
                (false, true) => "reconnected",
                (false, false) => "joined",
            };
            reason.clone_into(&mut worker.reason);
        }
        let heartbeat_interval_ms = self.config.heartbeat_interval_ms;
        self.send(
            &hello.name,
            Order::Welcome {
                heartbeat_interval_ms,
            },
        );
        self.touch_worker(&hello.name);
        self.reconcile(&hello.name, &hello.running);
        if hello.preempted {
            self.preempts(&hello.name);
        }
    }

    fn admit(&self, hello: &Hello) -> Result<(), Error> {
        if hello.name.0.is_empty() || hello.devices.is_empty() || hello.instance.is_empty() {
            let message = format!(
                "worker \"{}\" from host {} has no name, no devices or no instance id; give it a \
                 name and at least one device",
                hello.name, hello.host
            );
            return Err(Error::new(ErrorKind::InvalidArgument, "BAD_HELLO", message));
        }
        if line(&hello.version) != line(&self.config.version) {
            let message = format!(
                "worker {} has version {}, this coordinator {}; run versions that differ in their last number \
                 at most",
                hello.name, hello.version, self.config.version
            );
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "VERSION_MISMATCH",
                message,
            ));
        }
        match self.workers.get(&hello.name) {
            Some(live)
                if matches!(live.link, Link::Open { .. })
                    && live.info.instance != hello.instance =>
            {
                let message = format!(
                    "a live worker named {} runs on host {}; choose another name, or try again \
                     when that one is gone",
                    hello.name, live.info.host
                );
                Err(Error::new(
                    ErrorKind::AlreadyExists,
                    "WORKER_EXISTS",
                    message,
                ))
            }
            _ => Ok(()),
        }
    }

    fn join(&mut self, hello: &Hello) {
        let info = WorkerInfo {
            name: hello.name.clone(),
            version: hello.version.clone(),
            host: hello.host.clone(),
            devices: hello.devices.clone(),
            instance: hello.instance.clone(),
            create_time: self.now,
        };
        self.record(Change::WorkerJoined {
            worker: info.clone(),
        });
        let worker = Worker {
            info,
            link: Link::Broken { since: self.now },
            reason: String::new(),
            heard: self.now,
            leases: BTreeMap::new(),
            strays: BTreeMap::new(),
            accused: BTreeSet::new(),
            preempted: false,
        };
        self.workers.insert(hello.name.clone(), worker);
    }

    /// A stream ended without good-bye: the worker may well be alive.
    pub(crate) fn disconnected(&mut self, conn: ConnId) {
        let known = self.worker_of(conn);
        self.conns.remove(&conn);
        let Some(name) = known else {
            return;
        };
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(&name) {
            // Keeps the earlier moment, so that a silent worker gains no time by hanging up.
            let since = worker.link.unreachable_since().unwrap_or(now);
            if matches!(worker.link, Link::Open { .. }) {
                // A process that is killed hangs up at once: it was there until now.
                worker.heard = now;
            }
            worker.link = Link::Broken { since };
            worker.reason = "its stream broke; its work may well go on".to_owned();
        }
        self.closed(&name);
        self.touch_worker(&name);
    }

    /// Any message shows that the worker lives.
    pub(crate) fn hear(&mut self, conn: ConnId) {
        let Some(name) = self.worker_of(conn) else {
            return;
        };
        let heard = self.workers.hear(&name, self.now);
        let silent = heard.is_some_and(|worker| matches!(worker.link, Link::Silent { .. }));
        if silent && let Some(worker) = self.workers.get_mut(&name) {
            worker.link = Link::Open { conn };
            worker.reason = "its heartbeats came back".to_owned();
            self.touch_worker(&name);
        }
    }

    pub(crate) fn heartbeat(&mut self, conn: ConnId, running: &[RunningJob]) {
        let Some(name) = self.worker_of(conn) else {
            return;
        };
        self.stop_strays(&name, running);
    }

    /// Those of these workers that have been silent or unreachable for too long, or are dead for sure.
    pub(crate) fn expire_workers(&mut self, among: &BTreeSet<WorkerId>) {
        let (now, silence, gone) = (self.now, self.silence_ms(), self.config.gone_after_ms);
        for name in among {
            let worker = self.workers.get(name);
            if let Some((Link::Open { conn }, heard)) = worker.map(|w| (w.link, w.heard))
                && now >= heard.plus(silence)
                && let Some(worker) = self.workers.get_mut(name)
            {
                worker.link = Link::Silent { conn, since: now };
                worker.reason = format!("no heartbeat for {} s", seconds(now.since(heard)));
                self.touch_worker(name);
            }
        }
        let mut lost = Vec::new();
        for name in among {
            let Some(worker) = self.workers.get(name) else {
                continue;
            };
            if let Some(why) = self.is_dead(worker) {
                lost.push((name.clone(), why));
            } else if let Some(since) = worker.link.unreachable_since()
                && now >= since.plus(gone)
            {
                let what = match worker.link {
                    Link::Awaited { .. } => {
                        "it did not come back after the coordinator's restart in"
                    }
                    _ => "it was unreachable for",
                };
                let why = format!("{what} {} s", seconds(now.since(since)));
                lost.push((name.clone(), why));
            }
        }
        for (name, why) in lost {
            self.lose(&name, &why);
        }
    }

    /// Gives a worker up: its ranks are lost.
    pub(crate) fn lose(&mut self, name: &WorkerId, why: &str) {
        self.lose_for(name, why, Cause::Failure);
    }

    pub(crate) fn lose_for(&mut self, name: &WorkerId, why: &str, cause: Cause) {
        let Some(worker) = self.workers.get_mut(name) else {
            return;
        };
        if worker.link == Link::Gone {
            return;
        }
        let conn = worker.link.conn();
        worker.link = Link::Gone;
        worker.reason = why.to_owned();
        worker.strays.clear();
        worker.accused.clear();
        let leases = std::mem::take(&mut worker.leases);
        if let Some(conn) = conn {
            let message = format!("worker {name} is out of the cluster: {why}; connect again");
            self.close(
                conn,
                Error::new(ErrorKind::FailedPrecondition, "WORKER_GONE", message),
            );
        }
        self.record(Change::WorkerLeft { name: name.clone() });
        self.touch_worker(name);
        for (key, lease) in leases {
            self.mark_job(lease.number);
            let why = format!("worker {name} is gone: {why}");
            self.ranks_gone(name, &key, &lease, &why, cause);
        }
        self.forget_gone();
    }

    fn forget_gone(&mut self) {
        self.refresh();
        while self.index.gone.len() > GONE_SHOWN
            && let Some((_, name)) = self.index.gone.first().cloned()
        {
            self.workers.remove(&name);
            self.refresh();
        }
    }

    /// After a replay: the workers that the store knows are expected back, with all that their
    /// jobs gave them.
    pub(crate) fn await_workers(&mut self) {
        let since = self.now;
        for (name, info) in &self.state.workers {
            let worker = Worker {
                info: info.clone(),
                link: Link::Awaited { since },
                reason: "has not come back yet since the coordinator's restart".to_owned(),
                heard: since,
                leases: BTreeMap::new(),
                strays: BTreeMap::new(),
                accused: BTreeSet::new(),
                preempted: false,
            };
            self.workers.insert(name.clone(), worker);
        }
        let numbers: Vec<u64> = self.state.jobs.keys().copied().collect();
        for number in numbers {
            let state = match self.phase(number) {
                Some(Phase::Preparing | Phase::Running { .. }) => LeaseState::Active,
                Some(Phase::Stopping { mode, .. }) => self.stopping(mode),
                _ => continue,
            };
            self.grant(number, state);
        }
    }

    /// Refuses to do something with a worker that is not there.
    pub(crate) fn present(&self, name: &WorkerId) -> Result<(), Error> {
        match self.workers.get(name) {
            None => Err(Error::new(
                ErrorKind::NotFound,
                "WORKER_NOT_FOUND",
                format!("there is no worker {name}; list the workers to see their names"),
            )),
            Some(worker) if worker.link == Link::Gone => Err(Error::new(
                ErrorKind::FailedPrecondition,
                "WORKER_GONE",
                format!(
                    "worker {name} is gone: {}; it holds no ranks any more",
                    worker.reason
                ),
            )),
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn worker_answer(&self, name: &WorkerId) -> Answer {
        match self.worker(name) {
            Some(worker) => Answer::Worker(Box::new(worker)),
            None => Answer::Deleted,
        }
    }
}

/// Milliseconds as seconds with one decimal.
pub(crate) fn seconds(milliseconds: u64) -> String {
    format!("{}.{}", milliseconds / 1_000, milliseconds % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::line;

    // Promise: versions of one line differ in their third number, and in what follows it, alone.
    #[test]
    fn lines() {
        assert_eq!(line("0.1.0"), "0.1");
        assert_eq!(line("0.1.12-rc.1"), line("0.1.0"));
        assert_ne!(line("0.2.0"), line("0.1.0"));
        assert_ne!(line("1.1.0"), line("0.1.0"));
        assert_ne!(line("0.10.0"), line("0.1.0"));
        assert_eq!(line("7"), "7");
    }
}
