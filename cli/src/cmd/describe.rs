//! `espalier describe`: everything about one job, to read.

mod recovery;

use super::affinity::why_absent;
use super::get::state_style;
use crate::Outcome;
use crate::client::Client;
use crate::error::{Code, Result};
use crate::output::{Cell, Context, Format, Screen, Table, text};
use crate::view::affinity::{advice, findings};
use crate::view::hosts::{hosts, shared_devices};
use crate::view::{Event, Job, cost, state_name};
use espalier_proto::v1::{self, watch_job_response::Update};
use espalier_spec::plan::Plan;
use espalier_spec::report::Evaluation;
use owo_colors::Style;
use serde::Serialize;
use std::fmt::Write;

const EXAMPLES: &str = "\
Examples:
  espalier describe packages
  espalier describe packages -o json        the job and its events, for programs";

/// Show everything about a job: state, plan with its reasons, evaluations, recoveries, events
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the job
    job: String,
}

#[derive(Serialize)]
struct Description {
    job: Job,
    events: Vec<Event>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let mut client = Client::connect(context).await?;
    let job = Job::read(client.job(&args.job).await?)?;
    let events = events(&mut client, &job).await?;
    let description = Description { job, events };
    match context.format {
        Format::Table => context.print(&describe(&description, &context.stdout))?,
        _ => context.answer(&description, |_| String::new())?,
    }
    Ok(Code::Ok)
}

/// The events up to the newest that the job speaks of.
async fn events(client: &mut Client, job: &Job) -> Result<Vec<Event>> {
    let mut events: Vec<Event> = Vec::new();
    if job.last_sequence == 0 {
        return Ok(events);
    }
    let request = v1::WatchJobRequest {
        name: job.name.clone(),
        after_sequence: 0,
    };
    let mut stream = match client.jobs.watch_job(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(client.job_error(&status, &job.name).await),
    };
    while let Some(message) = stream
        .message()
        .await
        .map_err(|status| client.error(&status))?
    {
        if let Some(Update::Event(event)) = message.update {
            let event = Event::read(event, &job.name)?;
            let last = event.sequence >= job.last_sequence;
            events.push(event);
            if last {
                break;
            }
        }
    }
    Ok(events)
}

fn describe(description: &Description, screen: &Screen) -> String {
    let Description { job, events } = description;
    let mut out = String::new();
    facts(job, screen, &mut out);
    if let Some(failure) = &job.failure {
        heading("Failure", screen, &mut out);
        let again = if failure.retryable {
            "it can succeed if tried again"
        } else {
            "it will fail again unless something changes"
        };
        let said = text::plain(&format!("{} ({}; {again})", failure.message, failure.code));
        let _ = writeln!(out, "  {said}");
    }
    progress(job, screen, &mut out);
    for evaluation in &job.evaluations {
        let best = if evaluation.best { ", best so far" } else { "" };
        let title = format!(
            "Evaluation on {} at step {}{best}",
            evaluation.split, evaluation.step
        );
        heading(&title, screen, &mut out);
        out.push_str(&evaluation_table(job, evaluation).render(screen, 2));
    }
    affinity(job, screen, &mut out);
    costs(job, screen, &mut out);
    recovery::section(job, screen, &mut out);
    if let Some(plan) = &job.plan {
        heading(
            &format!("Plan of generation {}", job.generation),
            screen,
            &mut out,
        );
        plan_section(plan, screen, &mut out);
    }
    heading("Events", screen, &mut out);
    let mut table = Table::new(["#", "AGE", "STATE", "MESSAGE"]);
    for event in events {
        table.row([
            Cell::right(event.sequence.to_string()),
            Cell::right(
                event
                    .time
                    .map_or("-".to_owned(), |time| text::span(time.age())),
            ),
            Cell::styled(state_name(event.state), state_style(event.state)),
            Cell::from(event.message.as_str()),
        ]);
    }
    out.push_str(&table.render(screen, 2));
    out
}

fn heading(title: &str, screen: &Screen, out: &mut String) {
    let title = text::plain(title);
    let _ = writeln!(out, "\n{}", screen.paint(&title, Style::new().bold()));
}

fn facts(job: &Job, screen: &Screen, out: &mut String) {
    let time = |time: Option<crate::view::Moment>| {
        time.map_or(String::new(), |time| {
            format!("{} ({} ago)", text::moment(time.0), text::span(time.age()))
        })
    };
    fact(out, "Name", &job.name);
    fact(out, "Uid", &job.uid);
    // A word of ours, in colours of ours.
    let state = screen.paint(state_name(job.state), state_style(job.state));
    let _ = writeln!(out, "{:<14} {state}", "State:");
    fact(out, "Reason", &job.state_reason);
    fact(out, "Created", &time(job.create_time));
    fact(out, "Started", &time(job.start_time));
    fact(out, "Ended", &time(job.end_time));
    if let (Some(start), Some(end)) = (job.start_time, job.end_time) {
        fact(
            out,
            "Took",
            &text::span(end.0.saturating_sub(start.0) as f64 / 1e3),
        );
    }
    if let Some(spec) = &job.spec {
        fact(out, "Priority", &spec.priority.to_string());
        fact(out, "Backbone", &spec.backbone.path);
        let tasks: Vec<String> = spec
            .tasks
            .iter()
            .map(|task| format!("{} ({})", task.name, task.head.as_str()))
            .collect();
        fact(out, "Tasks", &tasks.join(", "));
        if let Some(range) = spec.resources.workers {
            let now = job.plan.as_ref().map(|plan| hosts(plan).len());
            let now = now.map_or(String::new(), |now| format!(", {now} in the plan"));
            fact(
                out,
                "Workers",
                &format!("{} to {}{now}", range.min, range.max),
            );
        }
    }
    if let Some(checkpoint) = &job.checkpoint {
        fact(
            out,
            "Checkpoint",
            &format!("step {} in {}", checkpoint.step, checkpoint.path),
        );
    }
    fact(out, "Export", &job.export_path);
}

/// A line, if there is something to say; values may be what others wrote.
fn fact(out: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        let _ = writeln!(out, "{:<14} {}", format!("{name}:"), text::plain(value));
    }
}

fn progress(job: &Job, screen: &Screen, out: &mut String) {
    let Some(progress) = &job.progress else {
        return;
    };
    heading("Progress", screen, out);
    let eta = progress.eta_seconds.map_or("-".to_owned(), text::span);
    let _ = writeln!(
        out,
        "  step {} of {}, {eta} left",
        progress.step, progress.total_steps
    );
    let _ = writeln!(
        out,
        "  {} samples ({}/s), {} tokens ({}/s)",
        text::count(progress.samples),
        text::rate(progress.samples_per_second),
        text::count(progress.tokens),
        text::rate(progress.tokens_per_second)
    );
    let _ = writeln!(
        out,
        "  learning rate {}, gradient norm {}",
        text::figure(progress.learning_rate),
        text::figure(progress.gradient_norm)
    );
    let losses: Vec<String> = progress
        .losses
        .iter()
        .map(|(task, loss)| format!("{task} {}", text::figure(*loss)))
        .collect();
    if !losses.is_empty() {
        let _ = writeln!(out, "  loss: {}", text::plain(&losses.join(", ")));
    }
}

/// Which tasks help or hurt which, and what to try; or why nobody knows. Nothing of a job that
/// never ran.
fn affinity(job: &Job, screen: &Screen, out: &mut String) {
    let Some(progress) = &job.progress else {
        return;
    };
    if job.spec.as_ref().is_none_or(|spec| spec.tasks.len() < 2) {
        return;
    }
    heading("Affinity of tasks", screen, out);
    let Some(affinity) = &progress.affinity else {
        let (why, hint) = why_absent(job);
        let _ = writeln!(out, "  unknown: {why}");
        if let Some(hint) = hint {
            let _ = writeln!(out, "  to try: {hint}");
        }
        return;
    };
    for sentence in findings(affinity) {
        let _ = writeln!(out, "  - {}", text::plain(&sentence));
    }
    for sentence in advice(affinity, job.is_balanced()) {
        let _ = writeln!(out, "  to try: {}", text::plain(&sentence));
    }
}

/// What exchange and memory cost.
fn costs(job: &Job, screen: &Screen, out: &mut String) {
    let progress = job.progress.as_ref();
    let plan = job.plan.as_ref().map(|plan| &plan.exchange);
    let exchange = cost::exchange(plan, progress.and_then(|p| p.exchange.as_ref()));
    let memory = progress.and_then(|p| p.memory.as_ref()).map(cost::memory);
    for (title, lines) in [
        ("Exchange", exchange),
        ("Memory", memory.unwrap_or_default()),
    ] {
        if lines.is_empty() {
            continue;
        }
        heading(title, screen, out);
        for line in lines {
            let _ = writeln!(out, "  {}", text::plain(&line));
        }
    }
}

/// One line per task and metric: the figure beside that of always guessing the same.
fn evaluation_table(job: &Job, evaluation: &Evaluation) -> Table {
    let mut table = Table::new(["TASK", "SAMPLES", "LOSS", "METRIC", "VALUE", "BASELINE"]);
    // In the order of the job file; tasks it does not know come last.
    let spec_tasks = job
        .spec
        .iter()
        .flat_map(|spec| &spec.tasks)
        .map(|task| task.name.as_str());
    let mut names: Vec<&str> = spec_tasks
        .filter(|name| evaluation.tasks.contains_key(*name))
        .collect();
    for name in evaluation.tasks.keys() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    for name in names {
        let scores = &evaluation.tasks[name];
        for (index, (metric, value)) in scores.metrics.iter().enumerate() {
            let first = |text: String| if index == 0 { text } else { String::new() };
            let baseline = scores
                .baseline
                .get(metric)
                .map_or("-".to_owned(), |b| text::figure(*b));
            table.row([
                Cell::from(first(name.to_owned())),
                Cell::right(first(text::count(scores.samples))),
                Cell::right(first(text::figure(scores.loss))),
                Cell::from(metric.as_str()),
                Cell::right(text::figure(*value)),
                Cell::right(baseline),
            ]);
        }
        for (class, value) in &scores.class_iou {
            table.row([
                Cell::from(String::new()),
                Cell::right(String::new()),
                Cell::right(String::new()),
                Cell::from(format!("iou {class}")),
                Cell::right(text::figure(*value)),
                Cell::right("-".to_owned()),
            ]);
        }
    }
    table
}

fn plan_section(plan: &Plan, screen: &Screen, out: &mut String) {
    for reason in &plan.reasons {
        let _ = writeln!(out, "  - {}", text::plain(reason));
    }
    out.push_str(&text::plain(&shared_devices(plan)));
    let owned: Vec<u64> = plan
        .seats
        .iter()
        .map(|seat| {
            plan.blocks
                .iter()
                .map(|block| {
                    let slice = block.slice(seat.rank);
                    slice.end.saturating_sub(slice.start)
                })
                .sum()
        })
        .collect();
    let mut table = Table::new(["RANK", "WORKER", "DEVICE", "SHARDS", "OWNS", "TASKS"]);
    for (index, seat) in plan.seats.iter().enumerate() {
        let shards = plan
            .shards
            .get(index)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let numbers: Vec<String> = shards.iter().map(|shard| shard.0.to_string()).collect();
        let tasks: Vec<&str> = plan
            .tasks
            .iter()
            .filter(|task| task.shards.iter().any(|shard| shards.contains(shard)))
            .map(|task| task.task.as_str())
            .collect();
        table.row([
            Cell::right(seat.rank.0.to_string()),
            Cell::from(seat.worker.as_str()),
            Cell::right(seat.device.to_string()),
            Cell::from(numbers.join(",")),
            Cell::right(text::count(owned[index])),
            Cell::from(tasks.join(", ")),
        ]);
    }
    out.push_str(&table.render(screen, 2));
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_spec::job::Metric;
    use espalier_spec::report::{Progress, TaskScores};

    // Promise: nothing that others wrote, in whatever part of a job, steers the terminal of who reads it.
    #[test]
    fn texts_of_others_steer_no_terminal() {
        let evil = || "x\u{1b}]0;y\u{7}\u{9b}2J".to_owned();
        let mut job = Job::read(v1::Job {
            name: evil(),
            uid: evil(),
            state_reason: evil(),
            export_path: evil(),
            ..v1::Job::default()
        })
        .expect("readable");
        job.progress = Some(Progress {
            losses: [(evil(), 0.5)].into(),
            ..Progress::default()
        });
        job.evaluations = vec![Evaluation {
            split: evil(),
            ..Evaluation::default()
        }];
        let screen = Screen {
            terminal: false,
            color: false,
        };
        let events = Vec::new();
        let text = describe(&Description { job, events }, &screen);
        assert_eq!(text.matches("x ]0;y  2J").count(), 6, "{text:?}");
        let steers = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(steers), "{text:?}");
    }

    #[test]
    fn a_job_is_described_in_sections() {
        // Facts, progress, evaluation beside its baseline, plan with reasons: all in one page.
        let mut job = Job::read(v1::Job {
            name: "packages".to_owned(),
            state: v1::job::State::Running as i32,
            state_reason: "trains on 2 ranks".to_owned(),
            ..v1::Job::default()
        })
        .expect("readable");
        job.progress = Some(Progress {
            step: espalier_spec::Step(50),
            total_steps: 200,
            samples: 1600,
            samples_per_second: 64.0,
            losses: [("section".to_owned(), 0.5)].into(),
            ..Progress::default()
        });
        job.evaluations = vec![Evaluation {
            split: "validation".to_owned(),
            best: true,
            tasks: [(
                "section".to_owned(),
                TaskScores {
                    samples: 1000,
                    loss: 0.75,
                    metrics: [(Metric::Accuracy, 0.9), (Metric::MacroF1, 0.8)].into(),
                    baseline: [(Metric::Accuracy, 0.25)].into(),
                    class_iou: [("sky".to_owned(), 0.625)].into(),
                },
            )]
            .into(),
            ..Evaluation::default()
        }];
        let screen = Screen {
            terminal: false,
            color: false,
        };
        let text = describe(
            &Description {
                job,
                events: Vec::new(),
            },
            &screen,
        );
        let expected = "\
Name:          packages
State:         RUNNING
Reason:        trains on 2 ranks

Progress
  step 50 of 200, - left
  1,600 samples (64.0/s), 0 tokens (0.0/s)
  learning rate 0, gradient norm 0
  loss: section 0.5000

Evaluation on validation at step 0, best so far
  TASK      SAMPLES     LOSS   METRIC      VALUE   BASELINE
  section     1,000   0.7500   accuracy   0.9000     0.2500
                               macro_f1   0.8000          -
                               iou sky    0.6250          -

Events
  #   AGE   STATE   MESSAGE
";
        assert_eq!(text, expected);
    }
}
