//! `espalier affinity`: which tasks of a job help and which hurt each other.

use crate::Outcome;
use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::output::heat::{self, Grid};
use crate::output::{Cell, Context, Screen, Table, text};
use crate::picture::{heat_map, png, svg};
use crate::view::affinity::{Relation, advice, findings, related};
use crate::view::{Job, state_name};
use espalier_spec::exchange::{Affinity as Wish, SyncKind};
use espalier_spec::report::{Affinity, TaskGradient, TaskPair};
use owo_colors::Style;
use serde::Serialize;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  espalier affinity packages                     heat map, evidence, findings, what to try
  espalier affinity packages -o json             all pairs, for programs
  espalier affinity packages --png affinity.png  and a picture of it

The affinity of two tasks is the cosine of their gradients on the backbone, in the mean over steps:
above 0 a step for one is a step for the other too, below 0 they pull against each other.";

/// Show which tasks of a job help and which hurt each other
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the job
    job: String,
    /// Write the heat map to this file as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the heat map to this file as PNG
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
}

/// Pairs that the table of evidence shows.
const SHOWN: usize = 15;

/// The answer as data.
#[derive(Serialize)]
struct Answer<'a> {
    job: &'a str,
    state: &'static str,
    step: u64,
    total_steps: u64,
    tasks: &'a [TaskGradient],
    pairs: Vec<Pair<'a>>,
    findings: Vec<String>,
    advice: Vec<String>,
}

#[derive(Serialize)]
struct Pair<'a> {
    #[serde(flatten)]
    pair: &'a TaskPair,
    relation: &'static str,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let mut client = Client::connect(context).await?;
    let job = Job::read(client.job(&args.job).await?)?;
    let answer = answer(&job)?;
    let Some(affinity) = job.affinity() else {
        return Err(absent(&job));
    };
    if args.svg.is_some() || args.png.is_some() {
        let picture = heat_map(&Grid::new(affinity), &title(&answer));
        if let Some(path) = &args.svg {
            write(path, svg(&picture).as_bytes(), context)?;
        }
        if let Some(path) = &args.png {
            write(path, &png(&picture)?, context)?;
        }
    }
    context.answer(&answer, |screen| {
        page(&answer, affinity, screen, context.width())
    })?;
    Ok(Code::Ok)
}

fn write(path: &Path, bytes: &[u8], context: &Context) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| {
        Error::failure(format!("can't write {}: {error}", path.display()))
            .hint("name a file in a directory that exists and may be written to")
    })?;
    context.note(&format!("wrote {}", path.display()));
    Ok(())
}

fn answer(job: &Job) -> Result<Answer<'_>> {
    let (Some(affinity), Some(progress)) = (job.affinity(), &job.progress) else {
        return Err(absent(job));
    };
    Ok(Answer {
        job: &job.name,
        state: state_name(job.state),
        step: progress.step.0,
        total_steps: progress.total_steps,
        tasks: &affinity.tasks,
        pairs: affinity
            .pairs
            .iter()
            .map(|pair| Pair {
                pair,
                relation: Relation::of(pair).key(),
            })
            .collect(),
        findings: findings(affinity),
        advice: advice(affinity, job.is_balanced()),
    })
}

fn title(answer: &Answer<'_>) -> String {
    let (job, step, total) = (answer.job, answer.step, answer.total_steps);
    format!(
        "{job}: affinity after {} of {} steps",
        text::count(step),
        text::count(total)
    )
}

/// Heat map, evidence, tasks, words.
fn page(answer: &Answer<'_>, affinity: &Affinity, screen: &Screen, width: usize) -> String {
    let bold = |title: &str| screen.paint(title, Style::new().bold());
    let head = bold(&text::plain(&title(answer)));
    let mut out = format!("{head} ({})\n\n", answer.state);
    out.push_str(&heat::render(&Grid::new(affinity), screen, width));
    out.push_str(&format!("\n{}\n", bold("Evidence")));
    out.push_str(&evidence(affinity).render(screen, 2));
    if let Some(more) = affinity.pairs.len().checked_sub(SHOWN).filter(|n| *n > 0) {
        out.push_str(&format!("  and {more} weaker ones: -o json has them all\n"));
    }
    out.push_str(&format!("\n{}\n", bold("Tasks")));
    out.push_str(&tasks(affinity).render(screen, 2));
    for (title, sentences) in [
        ("Findings", &answer.findings),
        ("What to try", &answer.advice),
    ] {
        out.push_str(&format!("\n{}\n", bold(title)));
        for sentence in sentences {
            out.push_str(&format!("  - {}\n", text::plain(sentence)));
        }
    }
    out
}

/// The strongest pairs: claims first.
fn evidence(affinity: &Affinity) -> Table {
    let mut table = Table::new(["TASK", "AND", "COSINE", "CONFLICTS", "STEPS", "RELATION"]);
    let mut claims: Vec<&TaskPair> = related(affinity, Relation::Help);
    claims.extend(related(affinity, Relation::Hurt));
    claims.sort_by(|x, y| y.cosine.abs().total_cmp(&x.cosine.abs()));
    claims.extend(related(affinity, Relation::Unclear));
    for pair in claims.into_iter().take(SHOWN) {
        let relation = Relation::of(pair);
        let style = match relation {
            Relation::Help => Style::new().blue(),
            Relation::Hurt => Style::new().red(),
            Relation::Unclear => Style::new().dimmed(),
        };
        table.row([
            Cell::from(pair.a.as_str()),
            Cell::from(pair.b.as_str()),
            Cell::right(format!("{:+.3} ± {:.3}", pair.cosine, pair.deviation)),
            Cell::right(format!("{:.0}%", pair.conflicts * 100.0)),
            Cell::right(text::count(pair.steps)),
            Cell::styled(relation.as_str(), style),
        ]);
    }
    table
}

fn tasks(affinity: &Affinity) -> Table {
    let mut table = Table::new(["TASK", "GRADIENT NORM", "WEIGHT", "STEPS"]);
    for task in &affinity.tasks {
        table.row([
            Cell::from(task.task.as_str()),
            Cell::right(text::figure(task.norm)),
            Cell::right(text::figure(task.weight)),
            Cell::right(text::count(task.steps)),
        ]);
    }
    table
}

/// Why a job has no affinity to show, and what would change that.
fn absent(job: &Job) -> Error {
    let (why, hint) = why_absent(job);
    let message = format!("job {} has no affinity to show: {why}", job.name);
    Error::new(Code::Conflict, message).maybe_hint(hint.map(str::to_owned))
}

/// The reason in a sentence, and what to do.
pub(super) fn why_absent(job: &Job) -> (String, Option<&'static str>) {
    const ON: &str = "submit it with `exchange: {affinity: on}`; ranks that serve several tasks then \
                      send one gradient for each";
    let Some(spec) = &job.spec else {
        return ("the coordinator did not say what it is".to_owned(), None);
    };
    if spec.tasks.len() < 2 {
        let why = "it has one task, and affinity compares tasks";
        return (why.to_owned(), None);
    }
    if spec.exchange.affinity == Wish::Off {
        let hint = "submit it with `exchange: {affinity: auto}` or `on`";
        return ("`exchange.affinity` is off".to_owned(), Some(hint));
    }
    if spec.exchange.sync == SyncKind::AllReduce {
        let why = "with `exchange.sync: all_reduce` ranks only see the sum of all gradients";
        return (
            why.to_owned(),
            Some("submit it with `exchange: {sync: auto}`"),
        );
    }
    match (&job.plan, &job.progress) {
        (None, _) => ("it has not started yet".to_owned(), None),
        (Some(plan), _) if !plan.exchange.apart => {
            let method = spec.balancer.method;
            let why = format!(
                "some ranks serve several tasks and send one gradient for all of them, and \
                 `balancer: {method}` needs no more"
            );
            (why, Some(ON))
        }
        (Some(_), None) => ("it has reported no step yet".to_owned(), None),
        (Some(_), Some(progress)) => {
            let step = progress.step;
            let why = format!("none was reported by step {step}");
            (why, Some("wait for a few more steps"))
        }
    }
}
