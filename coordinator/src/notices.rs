//! Who wants to look again when something changed. A notice carries nothing: watchers read the
//! newest state, so a slow one misses steps between but never the end.

use espalier_spec::JobId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// Watched jobs from which on those whose watchers have gone are looked for.
const MANY: usize = 1024;

/// The watchers of all jobs and of the workers.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    jobs: Mutex<BTreeMap<JobId, watch::Sender<()>>>,
    workers: watch::Sender<()>,
    /// Jobs that changed, for the one who looks at all of them; none: nobody does.
    changed: Mutex<Option<BTreeSet<JobId>>>,
    news: Notify,
}

impl Notices {
    /// Notices about a job, from now on. Subscribe first, then look.
    pub(crate) fn of_job(&self, job: &JobId) -> watch::Receiver<()> {
        let mut jobs = self.jobs();
        // Names that no job has are never told of, so nobody else takes them out.
        if jobs.len() >= MANY && jobs.len().is_power_of_two() {
            jobs.retain(|_, sender| sender.receiver_count() > 0);
        }
        jobs.entry(job.clone()).or_default().subscribe()
    }

    /// Notices about any worker, from now on.
    pub(crate) fn of_workers(&self) -> watch::Receiver<()> {
        self.workers.subscribe()
    }

    /// Notes from now on which jobs change.
    pub(crate) fn note_jobs(&self) {
        self.changed().get_or_insert_default();
    }

    /// Waits for jobs that changed since this was asked last; `note_jobs` comes first.
    pub(crate) async fn changed_jobs(&self) -> BTreeSet<JobId> {
        loop {
            let changed = self.changed().as_mut().map(std::mem::take);
            match changed {
                Some(jobs) if !jobs.is_empty() => return jobs,
                _ => self.news.notified().await,
            }
        }
    }

    /// A job changed.
    pub(crate) fn job(&self, job: &JobId) {
        if let Some(changed) = &mut *self.changed() {
            changed.insert(job.clone());
            self.news.notify_one();
        }
        let mut jobs = self.jobs();
        if let Some(sender) = jobs.get(job) {
            sender.send_replace(());
            if sender.receiver_count() == 0 {
                jobs.remove(job);
            }
        }
    }

    /// A worker changed.
    pub(crate) fn worker(&self) {
        self.workers.send_replace(());
    }

    fn changed(&self) -> MutexGuard<'_, Option<BTreeSet<JobId>>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The map is whole even if a holder panicked: every change of it is one call.
    fn jobs(&self) -> MutexGuard<'_, BTreeMap<JobId, watch::Sender<()>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: who asks for many jobs that do not exist fills no memory, and takes nobody's notices.
    #[test]
    fn the_names_of_those_who_left_go() {
        let notices = Notices::default();
        let mut stays = notices.of_job(&"stays".into());
        for number in 0..10 * MANY {
            drop(notices.of_job(&JobId(format!("none-{number}"))));
        }
        assert!(notices.jobs().len() <= MANY);
        notices.job(&"stays".into());
        assert!(stays.has_changed().unwrap());
        stays.mark_unchanged();
    }
}
