//! Takes what jobs report into their series: as long as this coordinator leads, and before each answer.

use super::figures::{of_evaluation, of_progress};
use super::job::Report;
use crate::api::Shared;
use crate::driver::stopped;
use espalier_core::{Detail, Machine};
use espalier_proto::ApiError;
use espalier_spec::JobId;
use espalier_spec::report::{Evaluation, Progress};
use std::convert::Infallible;

/// What is new about a job.
struct Look {
    progress: Option<Progress>,
    evaluations: Vec<Evaluation>,
    /// Its newest event.
    last: u64,
}

/// Records every job until the lead ends.
pub(crate) async fn record(shared: Shared) {
    let mut stop = shared.stop.clone();
    tokio::select! {
        biased;
        // Also if the other end is gone: then the lead is over, too.
        _ = stop.wait_for(|stop| *stop) => {}
        end = follow(&shared) => {
            let Err(error) = end;
            tracing::debug!("series are recorded no longer: {error}");
        }
    }
}

async fn follow(shared: &Shared) -> Result<Infallible, ApiError> {
    let notices = shared.driver.notices();
    notices.note_jobs();
    let mut jobs = shared.driver.read(active).await?;
    loop {
        for job in jobs {
            let wanted = job.clone();
            let uid = move |machine: &Machine| {
                let standing = machine.standing(&wanted);
                standing.map(|(uid, ..)| uid.to_owned())
            };
            if let Some(uid) = shared.driver.read(uid).await? {
                refresh(shared, &job, &uid).await?;
            }
        }
        jobs = notices.changed_jobs().await.into_iter().collect();
    }
}

/// Takes what is new about a job into its series.
///
/// # Errors
///
/// `UNAVAILABLE`: the coordinator stops.
pub(crate) async fn refresh(shared: &Shared, job: &JobId, uid: &str) -> Result<(), ApiError> {
    let (series, own) = (shared.series.clone(), uid.to_owned());
    let after = tokio::task::spawn_blocking(move || series.event(&own)).await;
    let after = after.map_err(|_| stopped())?;
    let (name, own) = (job.clone(), uid.to_owned());
    let look = move |machine: &Machine| look(machine, &name, &own, after);
    let Some(look) = shared.driver.read(look).await? else {
        return Ok(());
    };
    let (series, own) = (shared.series.clone(), uid.to_owned());
    let write = move || {
        let evaluations = look.evaluations.iter().filter_map(of_evaluation);
        let progress = look.progress.iter().map(of_progress);
        let reports: Vec<Report> = evaluations.chain(progress).collect();
        series.record(&own, &reports, look.last);
    };
    let written = tokio::task::spawn_blocking(write).await;
    written.map_err(|_| stopped())
}

/// Jobs that may still report.
fn active(machine: &Machine) -> Vec<JobId> {
    let jobs = machine.jobs(0, usize::MAX, &[]);
    let active = jobs.into_iter().filter(|(_, job)| !job.state.is_final());
    active.map(|(_, job)| job.name).collect()
}

fn look(machine: &Machine, name: &JobId, uid: &str, after: u64) -> Option<Look> {
    let (_, _, last) = machine.standing(name).filter(|(own, ..)| *own == uid)?;
    let evaluation = |detail: &Detail| match detail {
        Detail::Evaluation(evaluation) => Some(Evaluation::clone(evaluation)),
        _ => None,
    };
    let events = machine.events(name, after)?.iter();
    Some(Look {
        progress: machine.progress(name).cloned(),
        evaluations: events
            .filter_map(|event| event.detail.as_ref().and_then(evaluation))
            .collect(),
        last,
    })
}
