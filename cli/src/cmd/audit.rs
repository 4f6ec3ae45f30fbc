//! `espalier audit`: whether every sample was used as often as it should, whatever a job went through.

use crate::Outcome;
use crate::audit::{Audit, Told, audit};
use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::local::Folder;
use crate::output::{Cell, Context, Screen, Table, text};
use crate::view::Job;
use espalier_proto::v1::job::State;
use espalier_spec::account::{self, Account};
use espalier_spec::{Generation, Step};
use owo_colors::Style;
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  espalier audit packages                       a job of a cluster on this machine
  espalier audit packages --dir DATA/jobs/packages-1a2b3c4d
  espalier audit --dir DATA/jobs/packages-1a2b3c4d        without a coordinator
  espalier audit packages -o json               all figures, for programs

The exit code is 0 if the accounts are clean, 7 if they are not.";

/// Prove that a job used every sample once in each pass, whatever it went through
///
/// Every rank notes which samples it trained on in each step. Of the generations that a job was done in, the
/// last one that did a step counts; what others made of it was thrown away. Of the steps that count each
/// must be there once from every rank, and of every pass over a task's samples each sample once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the job
    #[arg(required_unless_present = "dir")]
    job: Option<String>,
    /// The job's directory in the workers' --data-dir: jobs/NAME-…; default: looked for on this machine
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    dir: String,
    #[serde(flatten)]
    audit: Audit,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let job = match &args.job {
        Some(name) => known(name, args.dir.is_some(), context).await?,
        None => None,
    };
    let dir = match (&args.dir, &job) {
        (Some(dir), _) => dir.clone(),
        (None, Some(job)) => directory(job)?,
        (None, None) => return Err(Error::new(Code::Usage, "name a job, or give --dir")),
    };
    let accounts = read(&dir)?;
    let told = job.as_ref().map(told).unwrap_or_default();
    let answer = Answer {
        job: args.job.clone(),
        dir: dir.display().to_string(),
        audit: audit(&accounts, &told),
    };
    context.answer(&answer, |screen| page(&answer, screen))?;
    Ok(if answer.audit.clean {
        Code::Ok
    } else {
        Code::Unaccounted
    })
}

/// What the coordinator knows of the job; none if it can't be reached and need not be.
async fn known(name: &str, may_fail: bool, context: &Context) -> Result<Option<Job>> {
    match ask(name, context).await {
        Ok(job) => Ok(Some(job)),
        Err(error) if may_fail && error.code() == Code::Unreachable => {
            context.warn("the coordinator can't be reached: only the accounts are looked at");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn ask(name: &str, context: &Context) -> Result<Job> {
    let mut client = Client::connect(context).await?;
    Job::read(client.job(name).await?)
}

/// Where the job went on, and how far it must have come. Of a generation whose ranks have not said where
/// they went on, their accounts alone do: a checkpoint that they were told to take may have been damaged.
fn told(job: &Job) -> Told {
    let mut lineage = Vec::new();
    if job.generation > 0 {
        lineage.push((Generation(1), Step(0)));
    }
    let later = job.recoveries.iter().filter(|r| r.is_taken_up);
    lineage.extend(later.map(|r| (Generation(r.generation), Step(r.from_step))));
    let done = job.progress.as_ref().map(|progress| progress.step);
    Told {
        lineage,
        finished: done.filter(|_| job.state == State::Succeeded),
    }
}

/// The job's directory, if this machine sees it: in the folder of a local cluster, or around its checkpoint
/// or export.
fn directory(job: &Job) -> Result<PathBuf> {
    let short: String = job.uid.chars().take(8).collect();
    let local = Folder::default().join(format!("data/jobs/{}-{short}", job.name));
    let above =
        |path: &str, levels: usize| Some(Path::new(path).ancestors().nth(levels)?.to_owned());
    let checkpoint = job.checkpoint.as_ref();
    let places = [
        Some(local),
        checkpoint.and_then(|checkpoint| above(&checkpoint.path, 2)),
        above(&job.export_path, 1),
    ];
    let mut places = places.into_iter().flatten();
    let found = places.find(|place| place.join("samples").is_dir());
    found.ok_or_else(|| {
        let message = format!("the accounts of job {} are not on this machine", job.name);
        Error::new(Code::NotFound, message).hint(format!(
            "name the job's directory in the workers' --data-dir: --dir DATA/jobs/{}-{short}",
            job.name
        ))
    })
}

/// Reads the accounts of all ranks and generations, in order of rank.
fn read(dir: &Path) -> Result<Vec<Account>> {
    let samples = dir.join("samples");
    let unreadable = |error: std::io::Error| {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => Code::NotFound,
            _ => Code::Failure,
        };
        Error::new(code, format!("can't read {}: {error}", samples.display()))
            .hint("--dir names the job's directory in the workers' --data-dir: jobs/NAME-…")
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&samples).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|end| end == "bin") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut accounts = Vec::with_capacity(paths.len());
    for path in paths {
        let bad = |error: &dyn std::fmt::Display| {
            Error::failure(format!("can't read {}: {error}", path.display()))
        };
        let bytes = std::fs::read(&path).map_err(|error| bad(&error))?;
        // A process was killed before it wrote anything.
        if !bytes.is_empty() {
            accounts.push(account::read(&bytes).map_err(|error| bad(&error))?);
        }
    }
    if accounts.is_empty() {
        let message = format!("no rank has left an account in {}", samples.display());
        return Err(Error::new(Code::NotFound, message));
    }
    Ok(accounts)
}

fn page(answer: &Answer, screen: &Screen) -> String {
    let audit = &answer.audit;
    let mut out = String::new();
    let mut fact = |name: &str, value: String| {
        let _ = writeln!(out, "{:<14} {value}", format!("{name}:"));
    };
    if let Some(job) = &answer.job {
        fact("Job", job.clone());
    }
    fact("Directory", answer.dir.clone());
    let so_far = if audit.stopped { "" } else { " so far" };
    fact("Steps", format!("{}{so_far}", text::count(audit.steps)));
    if audit.open_steps > 0 {
        let open = text::count(audit.open_steps);
        fact("Open", format!("{open} that not all ranks have noted yet"));
    }
    let (again, samples) = (audit.repeated_steps, audit.repeated_samples);
    let again = format!(
        "{} steps, {} samples",
        text::count(again),
        text::count(samples)
    );
    fact("Done again", again);
    fact("Samples", text::count(audit.samples));
    out.push('\n');
    out.push_str(&generations(audit).render(screen, 0));
    out.push('\n');
    out.push_str(&tasks(audit).render(screen, 0));
    out.push('\n');
    verdict(audit, screen, &mut out);
    out
}

fn generations(audit: &Audit) -> Table {
    let mut table = Table::new([
        "GENERATION",
        "RANKS",
        "FROM STEP",
        "REACHED",
        "STEPS THAT COUNT",
    ]);
    for stretch in &audit.generations {
        table.row([
            Cell::right(stretch.generation.to_string()),
            Cell::right(stretch.ranks.to_string()),
            Cell::right(text::count(stretch.from_step)),
            Cell::right(text::count(stretch.reached_step)),
            Cell::right(text::count(stretch.counted_steps)),
        ]);
    }
    table
}

fn tasks(audit: &Audit) -> Table {
    let mut table = Table::new([
        "TASK",
        "SAMPLES",
        "USED",
        "WHOLE PASSES",
        "IN THE OPEN PASS",
    ]);
    for tally in &audit.tasks {
        let target = if tally.target { " (target)" } else { "" };
        table.row([
            Cell::from(format!("{}{target}", tally.task)),
            Cell::right(text::count(tally.samples)),
            Cell::right(text::count(tally.draws)),
            Cell::right(text::count(tally.complete_passes)),
            Cell::right(text::count(tally.open_pass)),
        ]);
    }
    table
}

fn verdict(audit: &Audit, screen: &Screen, out: &mut String) {
    if audit.clean {
        let clean = screen.paint("clean", Style::new().green());
        let _ = writeln!(
            out,
            "{clean}: every step is there once from every rank, and every pass used each sample once"
        );
        return;
    }
    let all = audit.faults.len() as u64 + audit.more_faults;
    let faults = if all == 1 { "fault" } else { "faults" };
    let count = format!("{} {faults}", text::count(all));
    let _ = writeln!(out, "{}:", screen.paint(&count, Style::new().red()));
    for fault in &audit.faults {
        let _ = writeln!(out, "  - {fault}");
    }
    if audit.more_faults > 0 {
        let _ = writeln!(out, "  - and {} more", text::count(audit.more_faults));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::recovery::tests::killed;
    use espalier_proto::v1;

    // Promise: what the ranks of a generation were told is not held against them as long as they have not said
    // where they went on.
    #[test]
    fn only_what_ranks_have_said_is_a_lineage() {
        let lineage = |recovery: v1::Recovery| {
            let job = Job::read(v1::Job {
                generation: 2,
                recoveries: vec![recovery],
                ..v1::Job::default()
            });
            told(&job.expect("readable")).lineage
        };
        let first = (Generation(1), Step(0));
        assert_eq!(lineage(killed()), [first, (Generation(2), Step(10))]);
        let unheard = v1::Recovery {
            restored_time: None,
            ..killed()
        };
        assert_eq!(lineage(unheard), [first]);
    }
}
