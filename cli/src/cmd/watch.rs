//! `espalier watch`: follows jobs to their end, live.

use super::get::state_style;
use crate::Outcome;
use crate::client::Client;
use crate::error::{Code, Result};
use crate::output::{Context, Format, text};
use crate::view::{Event, state_name};
use espalier_proto::Wire;
use espalier_proto::v1::{self, job::State, watch_job_response::Update};
use espalier_spec::report::{Evaluation, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  espalier watch packages              to its end, with a bar on a terminal
  espalier watch                       all jobs that have not ended
  espalier watch packages -o json      one JSON value per event or progress, for programs

The exit code is 0 if all jobs succeeded, else that of the worst one: 1 if it failed, 5 if it was
cancelled. A lost connection is taken up again where it broke.";

/// Follow jobs to their end
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Names of the jobs; default: all that have not ended
    #[arg(value_name = "JOB")]
    names: Vec<String>,
}

/// How often a lost coordinator is called again, a second apart, before watching ends.
const TRIES: u32 = 60;

/// Plain output shows progress at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let mut client = Client::connect(context).await?;
    let mut names = args.names.clone();
    if names.is_empty() {
        let jobs = client.all_jobs(&[]).await?;
        let over = [State::Succeeded, State::Failed, State::Cancelled];
        names = jobs
            .into_iter()
            .filter(|job| !over.contains(&job.state()))
            .map(|job| job.name)
            .collect();
        if names.is_empty() {
            context.note("no job is under way");
            return Ok(Code::Ok);
        }
    }
    for name in &names {
        client.job(name).await?;
    }
    follow(&mut client, &names, context).await
}

/// Follows jobs to their end. Answers the exit code of the worst one.
pub(super) async fn follow(client: &mut Client, names: &[String], context: &Context) -> Outcome {
    let live =
        context.stderr.terminal && context.stdout.terminal && context.format == Format::Table;
    let bars = MultiProgress::with_draw_target(if live {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    });
    let width = names
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    let watches = names.iter().map(|name| {
        let view = View::new(name, width, live.then_some(&bars), context);
        one(client.clone(), view)
    });
    let all = join(watches.collect());
    let ends = tokio::select! {
        ends = all => ends,
        _ = tokio::signal::ctrl_c() => {
            drop(bars.clear());
            context.note("no longer watching; the jobs go on");
            return Ok(Code::Interrupted);
        }
    };
    let mut worst = Code::Ok;
    for end in ends {
        match end? {
            State::Failed => worst = Code::Failure,
            State::Cancelled if worst == Code::Ok => worst = Code::Cancelled,
            _ => {}
        }
    }
    Ok(worst)
}

/// Runs futures side by side and collects what they answer, in order.
async fn join<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures
        .into_iter()
        .map(|future| Some(Box::pin(future)))
        .collect();
    let mut done: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (slot, answer) in pending.iter_mut().zip(&mut done) {
            if let Some(future) = slot
                && let std::task::Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *answer = Some(output);
                *slot = None;
            }
        }
        if pending.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// Follows one job; answers its last state.
async fn one(mut client: Client, mut view: View<'_>) -> Result<State> {
    let name = view.name.clone();
    let mut seen = 0;
    let mut state = State::Unspecified;
    let mut tries = 0;
    loop {
        let request = v1::WatchJobRequest {
            name: name.clone(),
            after_sequence: seen,
        };
        let status = match client.jobs.watch_job(request).await {
            Err(status) => status,
            Ok(answer) => {
                let mut stream = answer.into_inner();
                loop {
                    match stream.message().await {
                        Ok(None) => {
                            view.end(state);
                            return Ok(state);
                        }
                        Ok(Some(message)) => {
                            tries = 0;
                            match message.update {
                                Some(Update::Event(event)) => {
                                    let event = Event::read(event, &name)?;
                                    seen = event.sequence;
                                    state = event.state;
                                    view.event(&event)?;
                                }
                                Some(Update::Progress(progress)) => {
                                    // Reading progress can't fail: every number is allowed.
                                    if let Ok(progress) = Progress::from_wire(progress) {
                                        view.progress(&progress)?;
                                    }
                                }
                                None => {}
                            }
                        }
                        Err(status) => break status,
                    }
                }
            }
        };
        let error = client.job_error(&status, &name).await;
        tries += 1;
        if error.code() != Code::Unreachable || tries > TRIES {
            return Err(error);
        }
        // Another coordinator may lead already: then nobody needs to hear of it.
        if client.again().await.is_ok() {
            continue;
        }
        if tries == 1 {
            view.say("the connection is lost; trying again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How one job is shown.
struct View<'a> {
    name: String,
    width: usize,
    context: &'a Context,
    bar: Option<(MultiProgress, ProgressBar)>,
    shown: Option<tokio::time::Instant>,
}

/// One line of `-o json`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Event(&'a Event),
    Progress(&'a Progress),
}

#[derive(Serialize)]
struct Named<'a> {
    job: &'a str,
    #[serde(flatten)]
    line: Line<'a>,
}

impl<'a> View<'a> {
    fn new(name: &str, width: usize, bars: Option<&MultiProgress>, context: &'a Context) -> Self {
        let bar = bars.map(|bars| {
            let bar = bars.add(ProgressBar::new(0));
            let template = if context.stderr.color {
                "{prefix:.bold} {bar:28.green/dim} {pos}/{len} {msg}"
            } else {
                "{prefix} {bar:28} {pos}/{len} {msg}"
            };
            // The template is a constant: a fault in it would only cost the looks.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.set_prefix(format!("{name:<width$}"));
            (bars.clone(), bar)
        });
        Self {
            name: name.to_owned(),
            width,
            context,
            bar,
            shown: None,
        }
    }

    /// A line of text about the job, above the bars if there are any.
    fn say(&self, message: &str) {
        let line = format!("{:<width$}  {message}", self.name, width = self.width);
        match &self.bar {
            Some((bars, _)) => {
                // The terminal is gone: nobody is left to tell.
                let _ = bars.println(line);
            }
            None if self.context.format == Format::Table => {
                let _ = self.context.print(&line);
            }
            None => self.context.note(&line),
        }
    }

    fn json(&self, line: Line<'_>) -> Result<()> {
        self.context.line(&Named {
            job: &self.name,
            line,
        })
    }

    fn event(&mut self, event: &Event) -> Result<()> {
        if self.context.format != Format::Table {
            return self.json(Line::Event(event));
        }
        let time = event
            .time
            .map_or_else(|| "-".to_owned(), |time| text::clock(time.0));
        let state = self.context.stdout.paint(
            &format!("{:<10}", state_name(event.state)),
            state_style(event.state),
        );
        self.say(&format!("{time} {state} {}", event.message));
        if let Some(evaluation) = &event.evaluation {
            for line in figures(evaluation) {
                self.say(&format!("  {line}"));
            }
        }
        Ok(())
    }

    fn progress(&mut self, progress: &Progress) -> Result<()> {
        if self.context.format != Format::Table {
            return self.json(Line::Progress(progress));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_length(progress.total_steps);
            bar.set_position(progress.step.0);
            bar.set_message(speed(progress));
            return Ok(());
        }
        let now = tokio::time::Instant::now();
        let last = progress.step.0 == progress.total_steps;
        if last || self.shown.is_none_or(|shown| now - shown >= PLAIN_EVERY) {
            self.shown = Some(now);
            self.say(&format!(
                "step {}/{} {}",
                progress.step,
                progress.total_steps,
                speed(progress)
            ));
        }
        Ok(())
    }

    fn end(&self, state: State) {
        if let Some((_, bar)) = &self.bar {
            if state == State::Succeeded {
                bar.finish();
            } else {
                bar.abandon();
            }
        }
    }
}

/// Samples and tokens a second, time left, loss per task.
fn speed(progress: &Progress) -> String {
    let mut text = format!("{} samples/s", text::rate(progress.samples_per_second));
    if progress.tokens > 0 {
        text.push_str(&format!(
            " {} tokens/s",
            text::rate(progress.tokens_per_second)
        ));
    }
    if let Some(eta) = progress.eta_seconds {
        text.push_str(&format!(" eta {}", text::span(eta)));
    }
    let losses: Vec<String> = progress
        .losses
        .iter()
        .map(|(task, loss)| format!("{task} {}", text::figure(*loss)))
        .collect();
    if !losses.is_empty() {
        text.push_str(&format!(" | loss {}", losses.join(" ")));
    }
    text
}

/// One line per task of an evaluation.
fn figures(evaluation: &Evaluation) -> Vec<String> {
    let widest = evaluation
        .tasks
        .keys()
        .map(|task| task.chars().count())
        .max()
        .unwrap_or(0);
    evaluation
        .tasks
        .iter()
        .map(|(task, scores)| {
            let mut line = format!("{task:<widest$}  loss {}", text::figure(scores.loss));
            for (metric, value) in &scores.metrics {
                line.push_str(&format!("  {} {}", metric.as_str(), text::figure(*value)));
                if let Some(baseline) = scores.baseline.get(metric) {
                    line.push_str(&format!(" (baseline {})", text::figure(*baseline)));
                }
            }
            line
        })
        .collect()
}
