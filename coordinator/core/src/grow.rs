//! Growth: a running elastic job takes in the spares that are prepared for it.
//!
//! An elastic job on fewer workers than it may have **grows** when a spare is prepared: it stops at
//! a step with a snapshot in memory (or a checkpoint, if it takes none) and goes on with more. Not
//! before its generation has run for [`crate::Config::scale_after_ms`] and has reported a step, so
//! that workers that come one by one don't stop it one by one; not while another job waits for the
//! devices; and not if it ends within that time anyway.

use crate::command::StopMode;
use crate::elastic;
use crate::event::Time;
use crate::generation::{count, names};
use crate::index::at;
use crate::machine::Machine;
use crate::record::Kind;
use crate::spare::trains;
use crate::spares::SpareState;
use crate::state::{Job, Then};
use crate::view::Detail;
use espalier_spec::WorkerId;
use espalier_spec::job::Device;
use espalier_spec::recovery::Cause;
use std::collections::BTreeSet;

impl Machine {
    /// Prepared spares that a job can take in now.
    fn ready_spares(&self, number: u64) -> BTreeSet<WorkerId> {
        let names = self.spares.of(number).map(|(name, _)| name);
        let ready = names.filter(|name| self.is_spare(number, name));
        ready.cloned().collect()
    }

    /// When a running job stops to take in spares; none as long as it has no reason to, or reasons
    /// not to.
    pub(crate) fn grows_at(&self, number: u64, job: &Job) -> Option<Time> {
        if !self.may_grow(job) || self.ready_spares(number).is_empty() {
            return None;
        }
        let live = self.live.get(&number)?;
        live.reached?;
        let wait = self.config.scale_after_ms;
        let left = live.progress.as_ref().and_then(|p| p.eta_seconds);
        let ends_soon = left.is_some_and(|seconds| seconds * 1_000.0 < wait as f64);
        if ends_soon || self.is_awaited(job) {
            return None;
        }
        let mut events = job.events.iter().rev();
        let started = events.find(|event| matches!(event.detail, Some(Detail::Plan(_))))?;
        // Those that load still are waited for, but no longer than that.
        let spares = self.spares.of(number).map(|(_, spare)| spare);
        let loading = spares.filter(|spare| spare.state == SpareState::Asked);
        let newest = loading.map(|spare| spare.since).max();
        Some(newest.unwrap_or_default().max(started.time).plus(wait))
    }

    /// Whether another job waits for devices of a job's kind.
    fn is_awaited(&self, job: &Job) -> bool {
        let Some(size) = job.size else { return false };
        self.busy[at(Device::Auto)] || self.busy[at(size.device)]
    }

    /// Whether a job is an elastic one that trains on fewer workers than it may have.
    pub(crate) fn may_grow(&self, job: &Job) -> bool {
        let range = elastic::range(job);
        range.is_some_and(|(_, max)| trains(job) && elastic::hosts(job).len() < max)
    }

    /// Stops those of these jobs at their next step that can go on with more workers.
    pub(crate) fn grow(&mut self, among: &BTreeSet<u64>) {
        let due = among.intersection(&self.index.growing).filter(|number| {
            let job = self.state.jobs.get(*number);
            let at = job.and_then(|job| self.grows_at(**number, job));
            at.is_some_and(|at| at <= self.now)
        });
        let due: Vec<u64> = due.copied().collect();
        for number in due {
            let Some(job) = self.state.jobs.get(&number) else {
                continue;
            };
            let now = elastic::hosts(job).len();
            let max = elastic::range(job).map_or(now, |(_, max)| max);
            let spares = self.ready_spares(number);
            let spares: BTreeSet<WorkerId> =
                spares.into_iter().take(max.saturating_sub(now)).collect();
            let message = format!(
                "grows from {} to {}, as {} {} prepared: stops at the next step",
                count(now, "worker"),
                now + spares.len(),
                names("worker", &spares),
                if spares.len() == 1 { "is" } else { "are" },
            );
            // Without snapshots in memory nothing but a checkpoint keeps the steps since the last.
            let mode = if job.takes_snapshots() {
                StopMode::Handover
            } else {
                StopMode::Checkpoint
            };
            self.interrupt(number, Cause::Scale, spares.first(), &message);
            self.stop_ranks(number, mode);
            let then = Then::Move;
            self.tell(number, message, Kind::Stopping { then, mode });
        }
    }
}
