//! The cluster in numbers for whoever watches over it: small copies, without specs and plans.

use crate::event::Time;
use crate::live::{Link, Worker};
use crate::machine::Machine;
use crate::state::Job;
use crate::view::{ClusterView, JobState, WorkerState};
use espalier_spec::report::Progress;
use espalier_spec::{Generation, JobId};
use std::collections::BTreeMap;

/// Jobs of which each number is told; of more, only the newest.
pub const JOBS: usize = 1_000;

/// What is known of the cluster now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Totals.
    pub cluster: ClusterView,
    /// Jobs of each state that there are any of.
    pub jobs: BTreeMap<JobState, u64>,
    /// Workers of each state that there are any of.
    pub workers: BTreeMap<WorkerState, u64>,
    /// Milliseconds that the job has waited that is queued longest; 0 if none is.
    pub oldest_wait_ms: u64,
    /// Jobs that have not ended, the newest [`JOBS`], in order of creation.
    pub active: Vec<JobFigures>,
}

/// What is known of a job that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct JobFigures {
    /// Its name.
    pub name: JobId,
    /// Whose it is.
    pub namespace: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Newest generation; 0 before the first placement.
    pub generation: Generation,
    /// How far it is.
    pub progress: Option<Progress>,
    /// Share of the time since it first ran in steps that counted.
    pub goodput: Option<f64>,
    /// Incidents after which it went on, of the newest 1000.
    pub recoveries: u64,
    /// Steps that were done again after them.
    pub replayed_steps: u64,
}

impl Machine {
    /// The cluster in numbers at `now`: nothing may have happened for a while.
    #[must_use]
    pub fn figures(&self, now: Time) -> Figures {
        let now = self.now.max(now);
        let mut figures = Figures {
            cluster: self.cluster(),
            ..Figures::default()
        };
        for worker in self.workers.values() {
            *figures.workers.entry(self.standing_of(worker)).or_default() += 1;
        }
        let mut active = Vec::new();
        for (number, job) in &self.state.jobs {
            let state = job.state();
            *figures.jobs.entry(state).or_default() += 1;
            if state == JobState::Queued {
                let waited = now.since(queued_since(job));
                figures.oldest_wait_ms = figures.oldest_wait_ms.max(waited);
            }
            if !state.is_final() {
                active.push((*number, job));
            }
        }
        let from = active.len().saturating_sub(JOBS);
        figures.active = active[from..]
            .iter()
            .map(|(number, job)| self.figures_of(*number, job))
            .collect();
        figures
    }

    fn figures_of(&self, number: u64, job: &Job) -> JobFigures {
        let replayed = job
            .recoveries
            .iter()
            .map(|recovery| recovery.replayed_steps());
        JobFigures {
            name: job.name(),
            namespace: job.spec.namespace.clone(),
            state: job.state(),
            generation: job.generation,
            progress: self.newest_progress(number).cloned(),
            goodput: self.goodput(number, job),
            recoveries: job.recoveries.len() as u64,
            replayed_steps: replayed.fold(0, u64::saturating_add),
        }
    }

    /// The state that a worker is shown in.
    pub(crate) fn standing_of(&self, worker: &Worker) -> WorkerState {
        match worker.link {
            Link::Gone => WorkerState::Gone,
            Link::Silent { .. } | Link::Broken { .. } | Link::Awaited { .. } => {
                WorkerState::Unreachable
            }
            Link::Open { .. } if self.goes(&worker.info.name) => WorkerState::Draining,
            Link::Open { .. } => WorkerState::Ready,
        }
    }
}

/// When a queued job last entered the queue.
fn queued_since(job: &Job) -> Time {
    let queued = job.events.iter().rev();
    let queued = queued.take_while(|event| event.state == JobState::Queued);
    queued.last().map_or(job.create_time, |event| event.time)
}
