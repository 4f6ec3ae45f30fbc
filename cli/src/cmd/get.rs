//! `espalier get`: lists jobs or workers.

use super::workers;
use crate::Outcome;
use crate::client::Client;
use crate::error::{Code, Error, Result, nearest};
use crate::output::{Cell, Context, Screen, Table, text};
use crate::view::{Job, STATES, state_name};
use espalier_proto::v1::job::State;
use owo_colors::Style;

const EXAMPLES: &str = "\
Examples:
  espalier get                          all jobs (same as `espalier get jobs`)
  espalier get packages digits          two of them
  espalier get --state running          only jobs in a state
  espalier get -n vision                only jobs of a namespace
  espalier get workers                  the workers
  espalier get packages -o yaml         everything about one job, for programs";

/// List jobs or workers
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// `jobs`, `workers` or names of jobs
    #[arg(value_name = "jobs|workers|JOB")]
    what: Vec<String>,
    /// Only jobs in this state; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = parse_state)]
    states: Vec<State>,
    /// Only jobs of this namespace; default: all that you may see
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// Reads a state's name, in upper or lower case.
fn parse_state(word: &str) -> Result<State, String> {
    let names = STATES.map(state_name);
    let found = STATES
        .into_iter()
        .find(|state| state_name(*state).eq_ignore_ascii_case(word));
    found.ok_or_else(|| match nearest(word, names) {
        Some(near) => format!("did you mean `{}`?", near.to_lowercase()),
        None => format!("expected one of {}", names.join(", ").to_lowercase()),
    })
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let (kind, names) = match args.what.split_first() {
        Some((first, rest)) if matches!(first.as_str(), "job" | "jobs") => ("jobs", rest),
        Some((first, rest)) if matches!(first.as_str(), "worker" | "workers") => ("workers", rest),
        _ => ("jobs", args.what.as_slice()),
    };
    let mut client = Client::connect(context).await?;
    if kind == "workers" {
        return workers::list(&mut client, names, context).await;
    }
    let mut jobs = Vec::new();
    if names.is_empty() {
        let namespace = args.namespace.as_deref().unwrap_or_default();
        for job in client.jobs_of(namespace, &args.states).await? {
            jobs.push(Job::read(job)?);
        }
    } else {
        if !args.states.is_empty() || args.namespace.is_some() {
            return Err(Error::new(
                Code::Usage,
                "--state and --namespace do not go with names of jobs",
            ));
        }
        for name in names {
            jobs.push(Job::read(client.job(name).await?)?);
        }
    }
    match (jobs.as_slice(), names.len()) {
        // One name asked for: one object, not a list of one.
        ([job], 1) => context.answer(job, |screen| table(&jobs, screen))?,
        ([], _) if context.format == crate::output::Format::Table => context.note("no jobs"),
        _ => context.answer(&jobs, |screen| table(&jobs, screen))?,
    }
    Ok(Code::Ok)
}

fn table(jobs: &[Job], screen: &Screen) -> String {
    let mut table = Table::new(["NAME", "STATE", "STEP", "PROGRESS", "RANKS", "AGE"]);
    for job in jobs {
        let (step, percent) = match &job.progress {
            Some(progress) if progress.total_steps > 0 => {
                let share = progress.step.0 as f64 / progress.total_steps as f64;
                (
                    format!("{}/{}", progress.step.0, progress.total_steps),
                    format!("{:.0}%", share * 100.0),
                )
            }
            _ => ("-".to_owned(), "-".to_owned()),
        };
        table.row([
            Cell::from(job.name.as_str()),
            Cell::styled(state_name(job.state), state_style(job.state)),
            Cell::right(step),
            Cell::right(percent),
            Cell::right(
                job.ranks()
                    .map_or("-".to_owned(), |ranks| ranks.to_string()),
            ),
            Cell::right(
                job.create_time
                    .map_or("-".to_owned(), |time| text::span(time.age())),
            ),
        ]);
    }
    table.render(screen, 0)
}

/// How a state looks.
pub(crate) fn state_style(state: State) -> Style {
    match state {
        State::Running | State::Succeeded => Style::new().green(),
        State::Failed => Style::new().red(),
        State::Queued | State::Preparing | State::Pausing | State::Paused => Style::new().yellow(),
        State::Cancelling | State::Cancelled | State::Unspecified => Style::new().dimmed(),
    }
}
