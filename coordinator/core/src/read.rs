//! Reads: what the API shows of the state. They change nothing.

use crate::event::Time;
use crate::live::{Lease, Link, Worker};
use crate::machine::Machine;
use crate::seat::free_devices;
use crate::state::{Job, Phase};
use crate::view::{ClusterView, DeviceView, JobEvent, JobState, JobView, WorkerState, WorkerView};
use espalier_spec::job::Device;
use espalier_spec::report::Progress;
use espalier_spec::{JobId, Rank, WorkerId};

impl Machine {
    /// The job of this name.
    #[must_use]
    pub fn job(&self, name: &JobId) -> Option<JobView> {
        let number = self.state.names.get(name)?;
        self.state
            .jobs
            .get(number)
            .map(|job| self.view_job(*number, job))
    }

    /// The namespace of the job of this name.
    #[must_use]
    pub fn namespace(&self, name: &JobId) -> Option<&str> {
        let job = self.state.jobs.get(self.state.names.get(name)?)?;
        Some(job.spec.namespace.as_str())
    }

    /// The ended jobs beyond the `keep` that ended last, the first to end first.
    #[must_use]
    pub fn ended_beyond(&self, keep: usize) -> Vec<JobId> {
        let ended = self.state.jobs.iter();
        let mut ended: Vec<(Time, u64)> = ended
            .filter(|(_, job)| job.state().is_final())
            .map(|(number, job)| (job.end_time.unwrap_or(job.create_time), *number))
            .collect();
        ended.sort_unstable();
        ended.truncate(ended.len().saturating_sub(keep));
        let name = |(_, number): (Time, u64)| self.state.jobs.get(&number).map(Job::name);
        ended.into_iter().filter_map(name).collect()
    }

    /// A job's uid, whether it has ended, and the sequence number of its newest event.
    #[must_use]
    pub fn standing(&self, name: &JobId) -> Option<(&str, bool, u64)> {
        let job = self.state.jobs.get(self.state.names.get(name)?)?;
        let last = job.events.len() as u64;
        Some((job.uid.as_str(), job.state().is_final(), last))
    }

    /// At most `limit` jobs in order of creation: those after the one that was created as number
    /// `after` (0: from the first), in one of `states` (empty: in any). With each its number, to
    /// go on from.
    #[must_use]
    pub fn jobs(&self, after: u64, limit: usize, states: &[JobState]) -> Vec<(u64, JobView)> {
        self.jobs_in(after, limit, states, |_| true)
    }

    /// As [`Machine::jobs`], only those of namespaces that `shown` says yes to.
    #[must_use]
    pub fn jobs_in(
        &self,
        after: u64,
        limit: usize,
        states: &[JobState],
        shown: impl Fn(&str) -> bool,
    ) -> Vec<(u64, JobView)> {
        let wanted = |job: &Job| {
            (states.is_empty() || states.contains(&job.state())) && shown(&job.spec.namespace)
        };
        let from = after.saturating_add(1);
        let jobs = self
            .state
            .jobs
            .range(from..)
            .filter(|(_, job)| wanted(job))
            .take(limit);
        jobs.map(|(number, job)| (*number, self.view_job(*number, job)))
            .collect()
    }

    /// The job's events with a sequence number above `after`, in order; none if there is no such
    /// job.
    #[must_use]
    pub fn events(&self, job: &JobId, after: u64) -> Option<&[JobEvent]> {
        let events = &self.state.jobs.get(self.state.names.get(job)?)?.events;
        let start = usize::try_from(after)
            .unwrap_or(usize::MAX)
            .min(events.len());
        events.get(start..)
    }

    /// How far the job is: its newest report.
    #[must_use]
    pub fn progress(&self, job: &JobId) -> Option<&Progress> {
        let number = self.state.names.get(job)?;
        self.newest_progress(*number)
    }

    /// The newest report of a job: of this coordinator process, else the one that was kept.
    pub(crate) fn newest_progress(&self, number: u64) -> Option<&Progress> {
        let live = self.live.get(&number);
        let kept = || self.state.jobs.get(&number)?.progress.as_ref();
        live.and_then(|live| live.progress.as_ref()).or_else(kept)
    }

    /// All workers of the cluster and the last ones that are gone, in order of name.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerView> {
        self.workers
            .values()
            .map(|worker| self.view_worker(worker))
            .collect()
    }

    /// The worker of this name.
    #[must_use]
    pub fn worker(&self, name: &WorkerId) -> Option<WorkerView> {
        self.workers
            .get(name)
            .map(|worker| self.view_worker(worker))
    }

    /// Whether a worker takes ranks now: it is open for work, has stopped all that it should not run,
    /// and has a device that nobody uses.
    #[must_use]
    pub fn has_room(&self, name: &WorkerId) -> bool {
        self.workers.get(name).is_some_and(|worker| {
            let takes = self.is_ready(worker) && worker.strays.is_empty();
            takes && !free_devices(worker, Device::Auto).is_empty()
        })
    }

    /// The cluster in numbers.
    #[must_use]
    pub fn cluster(&self) -> ClusterView {
        let open = self
            .workers
            .values()
            .filter(|w| matches!(w.link, Link::Open { .. }));
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        ClusterView {
            workers: number(self.workers.len()),
            ranks: number(open.map(|worker| worker.info.devices.len()).sum()),
            free_ranks: number(self.index.free(Device::Auto)),
            active_jobs: number(
                self.state
                    .jobs
                    .values()
                    .filter(|job| !job.state().is_final())
                    .count(),
            ),
            stale_reports: self.stale,
        }
    }

    pub(crate) fn view_job(&self, number: u64, job: &Job) -> JobView {
        let waits = match job.phase {
            Phase::Queued => self.waits.get(&number).map(ToString::to_string),
            _ => None,
        };
        let state_reason = match waits {
            // Why it came back into the queue matters as much as what it waits for.
            Some(wait) if job.generation.0 > 0 => format!("{wait}; {}", job.reason),
            Some(wait) => wait,
            None => job.reason.clone(),
        };
        JobView {
            name: job.name(),
            uid: job.uid.clone(),
            spec: job.spec.clone(),
            state: job.state(),
            state_reason,
            create_time: job.create_time,
            start_time: job.start_time,
            end_time: job.end_time,
            generation: job.generation,
            plan: job.plan.clone(),
            progress: self.newest_progress(number).cloned(),
            evaluations: job.evaluations.values().cloned().collect(),
            checkpoint: job.checkpoint.clone(),
            export_path: match &job.phase {
                Phase::Succeeded { export_path } => Some(export_path.clone()),
                _ => None,
            },
            failure: match &job.phase {
                Phase::Failed { failure } => Some(failure.clone()),
                _ => None,
            },
            last_sequence: job.events.len() as u64,
            recoveries: job.recoveries.clone(),
            goodput: self.goodput(number, job),
        }
    }

    /// Share of the time since the job first ran in steps that counted.
    pub(crate) fn goodput(&self, number: u64, job: &Job) -> Option<f64> {
        let all = job.end_time.unwrap_or(self.now).since(job.start_time?);
        let now = job.useful(self.reached_now(number), self.now);
        let useful = job.useful_ms.saturating_add(now);
        Some((useful as f64 / all.max(1) as f64).min(1.0))
    }

    fn view_worker(&self, worker: &Worker) -> WorkerView {
        let info = &worker.info;
        let (state, state_reason) = match worker.link {
            Link::Gone => (WorkerState::Gone, worker.reason.clone()),
            Link::Silent { .. } | Link::Broken { .. } | Link::Awaited { .. } => {
                (WorkerState::Unreachable, worker.reason.clone())
            }
            Link::Open { .. } if self.state.draining.contains(&info.name) => {
                let reason = match worker.leases.len() {
                    0 => "drained: no job uses it".to_owned(),
                    1 => "drains: 1 job still stops".to_owned(),
                    n => format!("drains: {n} jobs still stop"),
                };
                (WorkerState::Draining, reason)
            }
            Link::Open { .. } if worker.preempted => (WorkerState::Draining, worker.reason.clone()),
            Link::Open { .. } if !worker.strays.is_empty() => {
                let reason = "gets no work until it stopped ranks that it should not run";
                (WorkerState::Ready, reason.to_owned())
            }
            Link::Open { .. } => (WorkerState::Ready, worker.reason.clone()),
        };
        let device = |index: u32, name: &String| {
            let ranks = |lease: &Lease| {
                let seats = lease.seats.iter().filter(|(device, _)| *device == index);
                seats.map(|(_, rank)| *rank).collect::<Vec<Rank>>()
            };
            let mut leases = worker.leases.iter();
            let used = leases.find_map(|(key, lease)| {
                let ranks = ranks(lease);
                let first = *ranks.first()?;
                Some(((key.0.clone(), first), ranks))
            });
            let (used_by, ranks) = used.unzip();
            DeviceView {
                index,
                name: name.clone(),
                used_by,
                ranks: ranks.unwrap_or_default(),
            }
        };
        WorkerView {
            name: info.name.clone(),
            state,
            state_reason,
            version: info.version.clone(),
            devices: (0..)
                .zip(&info.devices)
                .map(|(i, name)| device(i, name))
                .collect(),
            host: info.host.clone(),
            create_time: info.create_time,
            heartbeat_time: worker.heard,
        }
    }
}
