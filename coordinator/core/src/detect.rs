//! Detection: when a worker is dead at once, and who could take its place.
//!
//! Out of sight is not dead: its control link may be at fault. Two witnesses together are believed
//! at once: the control link (broken, or silent for three heartbeats) and a peer of one of its
//! generations that lost its links to it. Their order does not matter: an accusation counts as long
//! as the worker holds devices of that generation, so one that stops its ranks is cleared. What a
//! peer says of a worker that is in sight ends the generation, since its ranks must connect again,
//! and nothing else.

use crate::command::StopMode;
use crate::elastic;
use crate::event::Time;
use crate::live::{Key, Link, Worker};
use crate::machine::Machine;
use crate::member::seconds;
use crate::queue::is_kind;
use crate::record::Change;
use crate::recover::End;
use crate::state::Phase;
use espalier_spec::recovery::Cause;
use espalier_spec::{Rank, WorkerId};
use std::collections::BTreeSet;

impl Machine {
    /// The worker of a rank in a job's newest generation.
    pub(crate) fn seated(&self, number: u64, rank: Rank) -> Option<&WorkerId> {
        let job = self.state.jobs.get(&number)?;
        let seat = job.seats.iter().find(|seat| seat.rank == rank)?;
        Some(&seat.worker)
    }

    /// A worker says that its links to a rank of the newest generation broke.
    pub(crate) fn accuse(&mut self, by: &WorkerId, key: &Key, number: u64, rank: Rank) {
        let Some(name) = self.seated(number, rank).cloned() else {
            return;
        };
        if let Some(worker) = self.workers.get_mut(&name)
            && name != *by
            && worker.leases.contains_key(key)
        {
            worker.accused.insert(key.clone());
        }
    }

    /// Why a worker is dead before it was out of sight for long; none if it may live.
    pub(crate) fn is_dead(&self, worker: &Worker) -> Option<String> {
        worker.is_accused()?;
        let link = match worker.link {
            Link::Broken { .. } => "its stream broke".to_owned(),
            Link::Silent { .. } => {
                let silence = self.now.since(worker.heard);
                format!("no heartbeat for {} s", seconds(silence))
            }
            // The coordinator's own restart broke all streams: it gets the time to come back.
            Link::Awaited { since } if self.now >= since.plus(self.silence_ms()) => {
                "it did not come back after the coordinator's restart".to_owned()
            }
            _ => return None,
        };
        // Whoever sees the worker reads this, also those who may not know of the job.
        Some(format!("{link}, and its peers in a job lost it too"))
    }

    /// When the time out of sight of a worker ends.
    pub(crate) fn gone_at(&self, worker: &Worker) -> Option<Time> {
        let gone = match worker.is_accused() {
            Some(_) => self.config.gone_after_ms.min(self.silence_ms()),
            None => self.config.gone_after_ms,
        };
        worker.link.unreachable_since().map(|at| at.plus(gone))
    }

    /// A worker's stream closed right after its peers had lost it: it lived until about then, and
    /// its last message is not the last sign of it.
    pub(crate) fn closed(&mut self, name: &WorkerId) {
        let (now, near) = (self.now, self.config.heartbeat_interval_ms);
        let mut incidents = Vec::new();
        for (number, job) in &self.state.jobs {
            if let Some(incident) = &job.incident
                && !job.state().is_final()
                && incident.cause == Cause::Failure
                && incident.worker.as_ref() == Some(name)
                && now.since(incident.detected) <= near
                && incident.fault < Some(incident.detected)
            {
                let mut incident = incident.clone();
                incident.fault = Some(incident.detected);
                incidents.push((*number, incident));
            }
        }
        for (number, incident) in incidents {
            self.record(Change::JobInterrupted { number, incident });
        }
    }

    /// Generations that are prepared on a worker out of sight while others have room for them.
    /// Nothing is lost with ranks that have not started, so the job does not wait for the worker;
    /// that one gets no work before it has stopped them.
    pub(crate) fn expire_unseen(&mut self) {
        self.refresh();
        if self.index.unseen.is_empty() {
            return;
        }
        let mut unseen = BTreeSet::new();
        for number in &self.index.preparing {
            let Some(job) = self.state.jobs.get(number) else {
                continue;
            };
            let key = (job.name(), job.generation);
            let hosts = elastic::hosts(job).into_iter();
            for name in hosts.filter(|name| self.index.unseen.contains(*name)) {
                let worker = self.workers.get(name);
                let holds = worker.is_some_and(|worker| worker.leases.contains_key(&key));
                if holds && self.fits_without(*number, name) {
                    unseen.insert((name.clone(), key.clone()));
                }
            }
        }
        for (name, key) in unseen {
            // One whose stream is open reads this before any later order.
            self.send_stop(&name, &key, StopMode::Abort);
            let Some(lease) = self.release(&name, &key) else {
                continue;
            };
            if let Some(worker) = self.workers.get_mut(&name) {
                worker.strays.insert(key.clone(), lease.uid.clone());
            }
            let why = format!("worker {name} is out of sight while it prepares");
            self.unseen_preparing(lease.number, &name, &why);
        }
    }

    /// Prepares a job again without a worker out of sight. A stream that breaks is no fault of the job
    /// and doesn't count as a restart; but a job may be what kills its workers, so as many as it has
    /// restarts are let pass in a row.
    fn unseen_preparing(&mut self, number: u64, name: &WorkerId, why: &str) {
        // Another of its workers may have been out of sight, too.
        if self.phase(number) != Some(Phase::Preparing) {
            return;
        }
        let live = self.live.entry(number).or_default();
        live.unseen = live.unseen.saturating_add(1);
        let end = End {
            counts: live.unseen > self.config.max_restarts,
            ..End::fault(name)
        };
        self.retry(number, why, end);
    }

    /// Whether a job could go on at once without a worker: other ready ones have room for it.
    pub(crate) fn fits_without(&self, number: u64, name: &WorkerId) -> bool {
        let Some(job) = self.state.jobs.get(&number) else {
            return false;
        };
        let Some(size) = job.size else {
            return false;
        };
        let mut places = Vec::new();
        for (other, worker) in self.workers.iter() {
            if other == name || !self.is_ready(worker) || !worker.strays.is_empty() {
                continue;
            }
            let leases = worker.leases.values();
            let used: BTreeSet<u32> = leases
                .filter(|lease| lease.number != number)
                .flat_map(|lease| &lease.seats)
                .map(|(device, _)| *device)
                .collect();
            let devices = (0_u32..).zip(&worker.info.devices);
            let free = devices
                .filter(|(device, kind)| is_kind(kind, size.device) && !used.contains(device))
                .count();
            places.extend((free > 0).then_some(free));
        }
        match &job.spec.resources.workers {
            Some(range) => places.len() >= range.min.max(1) as usize,
            None => places.iter().sum::<usize>() >= size.ranks as usize,
        }
    }
}
