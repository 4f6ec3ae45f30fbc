//! `espalier workers`: lists the workers.

use crate::Outcome;
use crate::client::Client;
use crate::error::{Code, Error};
use crate::output::{Cell, Context, Format, Screen, Table, text};
use crate::view::{Worker, worker_state};
use espalier_proto::v1::worker::State;
use owo_colors::Style;

const EXAMPLES: &str = "\
Examples:
  espalier workers
  espalier workers worker-1 -o yaml";

/// List the workers and what they do
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only these workers
    names: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let mut client = Client::connect(context).await?;
    list(&mut client, &args.names, context).await
}

/// Lists workers: those named, or all.
pub(crate) async fn list(client: &mut Client, names: &[String], context: &Context) -> Outcome {
    let all = client.all_workers().await?;
    let mut workers: Vec<Worker> = all.into_iter().map(Worker::from).collect();
    let known: Vec<String> = workers.iter().map(|worker| worker.name.clone()).collect();
    for name in names {
        if !known.contains(name) {
            let near = crate::error::nearest(name, known.iter().map(String::as_str));
            return Err(
                Error::new(Code::NotFound, format!("there is no worker named {name:?}"))
                    .maybe_hint(near.map(|near| format!("did you mean `{near}`?"))),
            );
        }
    }
    if !names.is_empty() {
        workers.retain(|worker| names.contains(&worker.name));
    }
    match (workers.as_slice(), names.len()) {
        ([worker], 1) => context.answer(worker, |screen| table(&workers, screen))?,
        ([], _) if context.format == Format::Table => context.note("no workers"),
        _ => context.answer(&workers, |screen| table(&workers, screen))?,
    }
    Ok(Code::Ok)
}

fn table(workers: &[Worker], screen: &Screen) -> String {
    let mut table = Table::new([
        "NAME", "STATE", "RANKS", "FREE", "JOBS", "DEVICES", "HOST", "SEEN", "VERSION",
    ]);
    for worker in workers {
        let free = worker
            .devices
            .iter()
            .filter(|device| device.job.is_none())
            .count();
        let mut jobs: Vec<&str> = worker
            .devices
            .iter()
            .filter_map(|device| device.job.as_deref())
            .collect();
        jobs.dedup();
        let devices: Vec<&str> = worker
            .devices
            .iter()
            .map(|device| device.name.as_str())
            .collect();
        table.row([
            Cell::from(worker.name.as_str()),
            Cell::styled(worker_state(worker.state), style(worker.state)),
            Cell::right(worker.devices.len().to_string()),
            Cell::right(free.to_string()),
            Cell::from(if jobs.is_empty() {
                "-".to_owned()
            } else {
                jobs.join(",")
            }),
            Cell::from(devices.join(",")),
            Cell::from(worker.host.as_str()),
            Cell::right(
                worker
                    .heartbeat_time
                    .map_or("-".to_owned(), |time| text::span(time.age())),
            ),
            Cell::from(worker.version.as_str()),
        ]);
    }
    table.render(screen, 0)
}

fn style(state: State) -> Style {
    match state {
        State::Ready => Style::new().green(),
        State::Draining => Style::new().yellow(),
        State::Unreachable => Style::new().red(),
        State::Gone | State::Unspecified => Style::new().dimmed(),
    }
}
