//! `espalier logs`: a job's log lines.

use crate::Outcome;
use crate::client::Client;
use crate::error::Code;
use crate::output::{Context, Format, text};
use crate::view::LogLine;
use espalier_proto::v1;
use owo_colors::Style;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  espalier logs packages                 what is kept of its log
  espalier logs packages -f --tail 20    the last 20 lines, then new ones until the job ends
  espalier logs packages -o json         one JSON value per line";

/// Show a job's log lines, from all its ranks
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the job
    job: String,
    /// Go on with new lines until the job ends
    #[arg(short, long)]
    follow: bool,
    /// Begin with the newest N lines only
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
}

/// How often a lost coordinator is called again before following ends.
const TRIES: u32 = 60;
/// Lines of which it is known that they were shown; coordinators keep fewer.
const KEPT: usize = 6_000;

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    // Heard all the time, not only while a stream is open: nothing else ends the command on ctrl-c once it
    // was asked for.
    tokio::select! {
        end = stream(args, context) => end,
        _ = tokio::signal::ctrl_c() => Ok(Code::Interrupted),
    }
}

/// Shows the lines to the end, through as many streams as that takes.
async fn stream(args: &Args, context: &Context) -> Outcome {
    let mut client = Client::connect(context).await?;
    if args.tail == Some(0) && !args.follow {
        return Ok(Code::Ok);
    }
    let mut request = v1::TailJobLogsRequest {
        name: args.job.clone(),
        tail: args.tail.unwrap_or(0),
        follow: args.follow,
    };
    let mut shown = Shown::default();
    let mut tries = 0;
    loop {
        let status = match client.jobs.tail_job_logs(request.clone()).await {
            Err(status) => status,
            Ok(answer) => {
                let mut lines = answer.into_inner();
                loop {
                    match lines.message().await {
                        Ok(Some(line)) => {
                            tries = 0;
                            if shown.is_new(&line) {
                                show(&LogLine::from(line), context)?;
                            }
                        }
                        Ok(None) => return Ok(Code::Ok),
                        Err(status) => break status,
                    }
                }
            }
        };
        let error = client.job_error(&status, &args.job).await;
        tries += 1;
        if !args.follow || error.code() != Code::Unreachable || tries > TRIES {
            return Err(error);
        }
        // Lines have no numbers: all are asked for, and those that were shown left out.
        request.tail = 0;
        shown.again = true;
        if client.again().await.is_err() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// The lines that were shown, for when a lost stream is taken up again.
#[derive(Default)]
struct Shown {
    /// Time of the first one.
    since: Option<(i64, i32)>,
    /// The newest ones.
    newest: VecDeque<u64>,
    /// Whether the stream is not the first.
    again: bool,
}

impl Shown {
    /// Whether to show a line now; it counts as shown then.
    fn is_new(&mut self, line: &v1::LogLine) -> bool {
        let time = line.time.as_ref().map(|time| (time.seconds, time.nanos));
        let mut hasher = DefaultHasher::new();
        (time, &line.worker, line.rank, &line.text).hash(&mut hasher);
        let line = hasher.finish();
        if self.again && (time < self.since || self.newest.contains(&line)) {
            return false;
        }
        self.since = self.since.or(time);
        self.newest.push_back(line);
        if self.newest.len() > KEPT {
            self.newest.pop_front();
        }
        true
    }
}

fn show(line: &LogLine, context: &Context) -> crate::error::Result<()> {
    if context.format != Format::Table {
        return context.line(line);
    }
    let time = line
        .time
        .map_or_else(|| "-".to_owned(), |time| text::clock(time.0));
    let source = match line.rank {
        Some(rank) => format!("{}/{rank}", line.worker),
        None => line.worker.clone(),
    };
    let style = match line.level.as_str() {
        "ERROR" => Style::new().red(),
        "WARN" => Style::new().yellow(),
        _ => Style::new().dimmed(),
    };
    let level = text::plain(&format!("{:<5}", line.level));
    let level = context.stdout.paint(&level, style);
    let said = text::plain(&format!("{source}: {}", line.text));
    context.print(&format!("{time} {level} {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_proto::time::timestamp;

    // Promise: a stream that is taken up again shows what is new and nothing twice, nor lines from
    // before the first one that was asked for.
    #[test]
    fn lines_come_once() {
        let line = |time, text: &str| v1::LogLine {
            time: Some(timestamp(time)),
            text: text.to_owned(),
            ..v1::LogLine::default()
        };
        let mut shown = Shown::default();
        assert!(shown.is_new(&line(2000, "b")) && shown.is_new(&line(2000, "b")));
        assert!(shown.is_new(&line(3000, "c")));
        shown.again = true;
        assert!(!shown.is_new(&line(1000, "a")));
        assert!(!shown.is_new(&line(2000, "b")) && !shown.is_new(&line(3000, "c")));
        assert!(shown.is_new(&line(3000, "d")));
    }
}
