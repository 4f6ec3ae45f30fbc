//! Names, labels and help of every metric, in one place.

use super::{Live, PHASES};
use crate::config::VERSION;
use espalier_core::{Figures, JobFigures, JobState, WorkerState};
use espalier_telemetry::{Format, Histogram, Text, process};

/// Every state of a job, so that none of it is a gap in a graph.
const JOB_STATES: [JobState; 9] = [
    JobState::Queued,
    JobState::Preparing,
    JobState::Running,
    JobState::Pausing,
    JobState::Paused,
    JobState::Cancelling,
    JobState::Succeeded,
    JobState::Failed,
    JobState::Cancelled,
];
const WORKER_STATES: [(WorkerState, &str); 4] = [
    (WorkerState::Ready, "ready"),
    (WorkerState::Draining, "draining"),
    (WorkerState::Unreachable, "unreachable"),
    (WorkerState::Gone, "gone"),
];
/// What `cause` and `phases` of the module above give.
const CAUSES: [&str; 5] = ["failure", "drain", "scale", "preemption", "operator"];
const PHASE_NAMES: [&str; 6] = [
    "detect",
    "agree",
    "connect",
    "restore",
    "first_step",
    "total",
];

pub(super) fn text(live: &Live, figures: Option<&Figures>, format: Format) -> String {
    let mut text = Text::new(format);
    text.info(
        "espalier_build",
        "Which coordinator this is.",
        &[("version", VERSION)],
    );
    lead(&mut text, live, figures.is_some());
    calls(&mut text, live);
    store(&mut text, live);
    recoveries(&mut text, live);
    if let Some(figures) = figures {
        cluster(&mut text, figures);
        jobs(&mut text, &figures.active);
    }
    process::write(&mut text);
    text.end()
}

fn lead(text: &mut Text, live: &Live, leads: bool) {
    text.gauge(
        "espalier_leader",
        "1 on the coordinator that leads, 0 on others.",
    )
    .sample(&[], u64::from(leads));
    text.gauge(
        "espalier_term",
        "Term in which this coordinator last led among others; 0 if it never did.",
    )
    .sample(&[], live.term);
    text.counter(
        "espalier_elections_won",
        "Elections that this coordinator won.",
    )
    .sample(&[], live.elections);
    text.counter(
        "espalier_leader_changes",
        "Times that this coordinator saw another one lead, or none.",
    )
    .sample(&[], live.leaders);
}

fn calls(text: &mut Text, live: &Live) {
    let mut family = text.counter(
        "espalier_api_calls",
        "Calls that have ended, by what was called and how they ended.",
    );
    for (called, counts) in &live.calls {
        for (code, count) in &counts.codes {
            let labels = [
                ("service", called.service.as_str()),
                ("method", called.method.as_str()),
                ("code", code.as_str()),
            ];
            family.sample(&labels, *count);
        }
    }
    let mut family = text.histogram(
        "espalier_api_call_duration_seconds",
        "Time until the answer of a call began.",
    );
    for (called, counts) in &live.calls {
        let labels = [
            ("service", called.service.as_str()),
            ("method", called.method.as_str()),
        ];
        family.buckets(&labels, &counts.seconds);
    }
    let mut family = text.gauge(
        "espalier_api_calls_in_flight",
        "Calls whose answer has not ended, open streams among them.",
    );
    for (called, counts) in &live.calls {
        let labels = [
            ("service", called.service.as_str()),
            ("method", called.method.as_str()),
        ];
        family.sample(&labels, counts.open);
    }
    let mut family = text.counter(
        "espalier_api_refused",
        "Calls that were refused before they were looked at, by reason.",
    );
    for (reason, count) in &live.refused {
        family.sample(&[("reason", *reason)], *count);
    }
}

fn store(text: &mut Text, live: &Live) {
    text.counter(
        "espalier_driver_batches",
        "Batches of messages that the driver took in.",
    )
    .sample(&[], live.batches);
    text.counter("espalier_store_records", "Records that were made durable.")
        .sample(&[], live.records);
    text.histogram(
        "espalier_store_write_duration_seconds",
        "Time until the records of a batch were durable, retries and snapshots included.",
    )
    .buckets(&[], &live.writes);
    text.counter(
        "espalier_store_errors",
        "Calls of the store that failed; some were tried again.",
    )
    .sample(&[], live.store_errors);
}

fn recoveries(text: &mut Text, live: &Live) {
    let mut family = text.counter(
        "espalier_recoveries",
        "Incidents after which a job trained again, by cause.",
    );
    // All of them from the beginning: a counter that appears with its first count has not grown.
    for cause in CAUSES {
        let count = live.recoveries.get(cause).copied();
        family.sample(&[("cause", cause)], count.unwrap_or_default());
    }
    let mut family = text.histogram(
        "espalier_recovery_duration_seconds",
        "How long each phase of a recovery took; total is from the last sign of life to the first step.",
    );
    let none = Histogram::new(PHASES);
    for phase in PHASE_NAMES {
        let times = live.phases.get(phase).unwrap_or(&none);
        family.buckets(&[("phase", phase)], times);
    }
    text.counter(
        "espalier_replayed_steps",
        "Steps that were done again after incidents.",
    )
    .sample(&[], live.replayed_steps);
    text.counter(
        "espalier_replayed_samples",
        "Samples of the steps that were done again.",
    )
    .sample(&[], live.replayed_samples);
}

fn cluster(text: &mut Text, figures: &Figures) {
    let mut family = text.gauge("espalier_jobs", "Jobs by state, ended ones included.");
    for state in JOB_STATES {
        let count = figures.jobs.get(&state).copied().unwrap_or_default();
        family.sample(&[("state", state.as_str())], count);
    }
    let queued = figures.jobs.get(&JobState::Queued).copied();
    text.gauge("espalier_queue_depth", "Jobs that wait for ranks.")
        .sample(&[], queued.unwrap_or_default());
    text.gauge(
        "espalier_queue_oldest_wait_seconds",
        "How long the job has waited that is queued longest.",
    )
    .number(&[], figures.oldest_wait_ms as f64 / 1000.0);
    let mut family = text.gauge(
        "espalier_workers",
        "Workers by state; of those that are gone the last 100.",
    );
    for (state, name) in WORKER_STATES {
        let count = figures.workers.get(&state).copied().unwrap_or_default();
        family.sample(&[("state", name)], count);
    }
    let cluster = &figures.cluster;
    text.gauge("espalier_ranks", "Ranks of ready and draining workers.")
        .sample(&[], cluster.ranks.into());
    text.gauge(
        "espalier_ranks_free",
        "Of these, ranks of ready workers that no job uses.",
    )
    .sample(&[], cluster.free_ranks.into());
    text.counter(
        "espalier_stale_reports",
        "Reports of stale generations that were ignored.",
    )
    .sample(&[], cluster.stale_reports);
}

/// Jobs that have not ended: what ends leaves the labels. They are not called `job` and `namespace`:
/// Prometheus calls the scraped process so.
fn jobs(text: &mut Text, jobs: &[JobFigures]) {
    whole(
        text,
        jobs,
        "generation",
        "Newest generation of a job.",
        |job| Some(job.generation.0),
    );
    whole(text, jobs, "step", "Steps done.", |job| {
        Some(job.progress.as_ref()?.step.0)
    });
    whole(text, jobs, "steps", "Steps in all.", |job| {
        Some(job.progress.as_ref()?.total_steps)
    });
    count(text, jobs, "samples", "Samples trained on.", |job| {
        Some(job.progress.as_ref()?.samples)
    });
    count(text, jobs, "tokens", "Tokens trained on.", |job| {
        Some(job.progress.as_ref()?.tokens)
    });
    count(
        text,
        jobs,
        "recoveries",
        "Incidents after which a job went on, of the newest 1000.",
        |job| Some(job.recoveries),
    );
    count(
        text,
        jobs,
        "replayed_steps",
        "Steps that were done again.",
        |job| Some(job.replayed_steps),
    );
    number(
        text,
        jobs,
        "samples_per_second",
        "Pace of the last seconds; 0 where a job does not run.",
        |job| match (&job.progress, job.state) {
            (Some(progress), JobState::Running) => Some(progress.samples_per_second),
            _ => Some(0.0),
        },
    );
    number(
        text,
        jobs,
        "goodput_ratio",
        "Share of the time since a job first ran in steps that counted.",
        |job| job.goodput,
    );
    number(
        text,
        jobs,
        "eta_seconds",
        "Time left at the present pace.",
        |job| job.progress.as_ref()?.eta_seconds,
    );
    number(
        text,
        jobs,
        "exchange_exposed_seconds",
        "Time of a step in which rank 0 waited for others with nothing to compute.",
        |job| {
            let progress = job.progress.as_ref()?;
            Some(progress.exchange.as_ref()?.exposed_seconds_per_step)
        },
    );
    let mut family = text.gauge(
        "espalier_job_loss",
        "Loss of a task, mean over the samples of the last steps.",
    );
    for job in jobs {
        for (task, loss) in job.progress.iter().flat_map(|progress| &progress.losses) {
            let labels = [
                ("job_name", job.name.0.as_str()),
                ("job_namespace", job.namespace.as_str()),
                ("task", task.as_str()),
            ];
            family.number(&labels, *loss);
        }
    }
}

type Of<T> = fn(&JobFigures) -> Option<T>;

fn labels(job: &JobFigures) -> [(&str, &str); 2] {
    [("job_name", &job.name.0), ("job_namespace", &job.namespace)]
}

fn whole(text: &mut Text, jobs: &[JobFigures], name: &str, help: &str, of: Of<u64>) {
    let mut family = text.gauge(&format!("espalier_job_{name}"), help);
    for job in jobs {
        if let Some(value) = of(job) {
            family.sample(&labels(job), value);
        }
    }
}

fn count(text: &mut Text, jobs: &[JobFigures], name: &str, help: &str, of: Of<u64>) {
    let mut family = text.counter(&format!("espalier_job_{name}"), help);
    for job in jobs {
        if let Some(value) = of(job) {
            family.sample(&labels(job), value);
        }
    }
}

fn number(text: &mut Text, jobs: &[JobFigures], name: &str, help: &str, of: Of<f64>) {
    let mut family = text.gauge(&format!("espalier_job_{name}"), help);
    for job in jobs {
        if let Some(value) = of(job) {
            family.number(&labels(job), value);
        }
    }
}
