//! `espalier watch`: follows jobs to their end, live.

use super::get::state_style;
use crate::Outcome;
use crate::client::Client;
use crate::error::{Code, Result};
use crate::output::{Context, Format, text};
use crate::view::recovery::{cause_name, source_name};
use crate::view::{Event, Job, Recovery, state_name};
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

/// How often the coordinator is asked, with progress, what a recovery cost.
const QUESTIONS: u32 = 20;

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
                            recoveries(&mut client, &mut view, true).await?;
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
                                    recoveries(&mut client, &mut view, false).await?;
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

/// Shows what recoveries cost that are over, or as far as they came when the job is. Events tell that a
/// generation went on; what it took is known with its first step.
async fn recoveries(client: &mut Client, view: &mut View<'_>, ended: bool) -> Result<()> {
    let Some((generation, questions)) = view.recovering.take() else {
        return Ok(());
    };
    if let Ok(job) = client.job(&view.name).await {
        for recovery in &Job::read(job)?.recoveries {
            let over = ended || recovery.seconds.total.is_some();
            if over && recovery.generation > view.told {
                view.told = recovery.generation;
                view.recovery(recovery)?;
            }
        }
    }
    if view.told < generation && questions < QUESTIONS {
        view.recovering = Some((generation, questions + 1));
    }
    Ok(())
}

/// How one job is shown.
struct View<'a> {
    name: String,
    width: usize,
    context: &'a Context,
    bar: Option<(MultiProgress, ProgressBar)>,
    shown: Option<tokio::time::Instant>,
    /// The newest generation that went on after another, and how often its recovery was asked for.
    recovering: Option<(u64, u32)>,
    /// The newest generation whose recovery was shown.
    told: u64,
}

/// One line of `-o json`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Event(&'a Event),
    Progress(&'a Progress),
    Recovery(&'a Recovery),
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
            bar.set_prefix(format!("{:<width$}", text::plain(name)));
            (bars.clone(), bar)
        });
        Self {
            name: name.to_owned(),
            width,
            context,
            bar,
            shown: None,
            recovering: None,
            told: 0,
        }
    }

    /// A line of text about the job, above the bars if there are any.
    fn say(&self, message: &str) {
        let name = text::plain(&self.name);
        let line = format!("{name:<width$}  {message}", width = self.width);
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
        let generation = event.plan.as_ref().map(|plan| plan.generation.0);
        if let Some(generation) = generation.filter(|generation| *generation > 1) {
            self.recovering = Some((generation, 0));
        }
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
        self.say(&format!("{time} {state} {}", text::plain(&event.message)));
        if let Some(evaluation) = &event.evaluation {
            for line in figures(evaluation) {
                self.say(&format!("  {line}"));
            }
        }
        Ok(())
    }

    fn recovery(&self, recovery: &Recovery) -> Result<()> {
        if self.context.format != Format::Table {
            return self.json(Line::Recovery(recovery));
        }
        self.say(&cost(recovery));
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
        text.push_str(&format!(" | loss {}", text::plain(&losses.join(" "))));
    }
    text
}

/// What a recovery cost, in a line.
fn cost(recovery: &Recovery) -> String {
    let mut line = format!(
        "went on as g{} after {}",
        recovery.generation,
        cause_name(recovery.cause)
    );
    if !recovery.worker.is_empty() {
        line.push_str(&format!(" of {}", text::plain(&recovery.worker)));
    }
    line.push_str(&format!(
        ": from step {} ({}), {} steps again",
        recovery.from_step,
        source_name(recovery.source),
        recovery.replayed_steps
    ));
    let seconds = &recovery.seconds;
    if let Some(total) = seconds.total {
        line.push_str(&format!(", {} without a step", text::duration(total)));
    }
    let parts = [
        ("detect", seconds.detect),
        ("agree", seconds.agree),
        ("connect", seconds.connect),
        ("restore", seconds.restore),
        ("first step", seconds.first_step),
    ];
    let known = parts.into_iter();
    let known = known.filter_map(|(name, time)| Some(format!("{name} {}", text::duration(time?))));
    let known: Vec<String> = known.collect();
    if !known.is_empty() {
        line.push_str(&format!(" ({})", known.join(", ")));
    }
    line
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
            let task = text::plain(task);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::recovery::tests::killed;

    // Promise: a recovery is one line with what was lost, where it went on and what each part took.
    #[test]
    fn a_recovery_is_one_line() {
        let mut message = killed();
        message.first_step_time = message.restored_time;
        let read = Recovery::read(message, "job x").expect("readable");
        assert_eq!(
            cost(&read),
            "went on as g2 after failure of b: from step 10 (snapshot), 3 steps again, 500 ms without a step \
             (detect 250 ms, agree 50.0 ms, connect 120 ms, restore 80.0 ms, first step 0 ms)"
        );
    }
}
