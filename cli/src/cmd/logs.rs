//! `espalier logs`: a job's log lines.

use crate::Outcome;
use crate::client::Client;
use crate::error::{Code, Result};
use crate::output::{Context, Format, text};
use crate::view::LogLine;
use espalier_proto::v1;
use owo_colors::Style;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use tonic::Status;

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
    let mut shown = Shown::default();
    // Lines have no numbers, and a coordinator can't be asked for none of them. Who follows from the newest
    // few on gets all that are there at first; then it is known which ones are new, in every later stream.
    let mut first = args.tail.filter(|_| args.follow);
    let mut tries = 0;
    loop {
        let mut request = v1::TailJobLogsRequest {
            name: args.job.clone(),
            tail: 0,
            follow: args.follow,
        };
        let broke = if let Some(count) = first {
            request.follow = false;
            let mut there = Vec::new();
            let broke = lines(&mut client, request, |line| {
                there.push(line);
                Ok(())
            })
            .await?;
            if broke.is_none() {
                for line in shown.begin(there, count) {
                    show(&LogLine::from(line), context)?;
                }
                first = None;
                continue;
            }
            broke
        } else {
            if !args.follow {
                request.tail = args.tail.unwrap_or(0);
            }
            lines(&mut client, request, |line| {
                tries = 0;
                if shown.is_new(&line) {
                    show(&LogLine::from(line), context)?;
                }
                Ok(())
            })
            .await?
        };
        let Some(status) = broke else {
            return Ok(Code::Ok);
        };
        let error = client.job_error(&status, &args.job).await;
        tries += 1;
        if !args.follow || error.code() != Code::Unreachable || tries > TRIES {
            return Err(error);
        }
        // All lines are asked for again, and those that were shown left out.
        shown.again();
        if client.again().await.is_err() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Hands on the lines of one stream. Answers what it broke with; none if it came to its end.
async fn lines(
    client: &mut Client,
    request: v1::TailJobLogsRequest,
    mut take: impl FnMut(v1::LogLine) -> Result<()>,
) -> Result<Option<Status>> {
    let mut lines = match client.jobs.tail_job_logs(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Some(status)),
    };
    loop {
        match lines.message().await {
            Ok(Some(line)) => take(line)?,
            Ok(None) => return Ok(None),
            Err(status) => return Ok(Some(status)),
        }
    }
}

/// The lines that were shown or passed over, for when they come again in another stream. Their times say
/// nothing of their order: each is of its worker's clock.
#[derive(Default)]
struct Shown {
    /// The newest ones.
    newest: VecDeque<u64>,
    /// Those of them that this stream may still bring again, with how often.
    due: HashMap<u64, usize>,
}

impl Shown {
    /// From now on lines are those of another stream, which brings all that are kept.
    fn again(&mut self) {
        self.due.clear();
        for line in &self.newest {
            *self.due.entry(*line).or_default() += 1;
        }
    }

    /// Takes the lines that are there at first; answers the newest `count` of them, to be shown.
    fn begin(&mut self, mut there: Vec<v1::LogLine>, count: u32) -> Vec<v1::LogLine> {
        for line in &there {
            self.is_new(line);
        }
        self.again();
        there.split_off(there.len().saturating_sub(count as usize))
    }

    /// Whether to show a line now; it counts as shown then.
    fn is_new(&mut self, line: &v1::LogLine) -> bool {
        let time = line.time.as_ref().map(|time| (time.seconds, time.nanos));
        let mut hasher = DefaultHasher::new();
        (time, &line.worker, line.rank, &line.text).hash(&mut hasher);
        let line = hasher.finish();
        if let Some(times) = self.due.get_mut(&line).filter(|times| **times > 0) {
            *times -= 1;
            return false;
        }
        self.newest.push_back(line);
        if self.newest.len() > KEPT {
            self.newest.pop_front();
        }
        true
    }
}

fn show(line: &LogLine, context: &Context) -> Result<()> {
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

    fn line(worker: &str, time: u64, text: &str) -> v1::LogLine {
        v1::LogLine {
            time: Some(timestamp(time)),
            worker: worker.to_owned(),
            text: text.to_owned(),
            ..v1::LogLine::default()
        }
    }

    // Promise: a stream that is taken up again shows what is new and nothing twice, whatever the clocks of
    // the workers say; a line that was said twice is shown twice.
    #[test]
    fn lines_come_once() {
        let mut shown = Shown::default();
        assert!(shown.is_new(&line("a", 2000, "x")) && shown.is_new(&line("a", 2000, "x")));
        assert!(shown.is_new(&line("a", 3000, "y")));
        shown.again();
        assert!(!shown.is_new(&line("a", 2000, "x")) && !shown.is_new(&line("a", 2000, "x")));
        assert!(!shown.is_new(&line("a", 3000, "y")));
        // New ones: of a worker whose clock is behind, and one that is said once more.
        assert!(shown.is_new(&line("b", 1000, "z")));
        assert!(shown.is_new(&line("a", 3000, "y")));
        shown.again();
        assert!(!shown.is_new(&line("a", 3000, "y")) && !shown.is_new(&line("a", 3000, "y")));
        assert!(!shown.is_new(&line("b", 1000, "z")));
    }

    // Promise: who follows from the newest lines on sees as many of those that were there as asked for, none
    // for 0, and every later one.
    #[test]
    fn following_begins_where_it_was_asked_to() {
        let there = || {
            vec![
                line("a", 1000, "x"),
                line("b", 500, "y"),
                line("a", 1500, "z"),
            ]
        };
        let cases = [
            (0, vec![]),
            (1, vec!["z"]),
            (2, vec!["y", "z"]),
            (9, vec!["x", "y", "z"]),
        ];
        for (count, begin) in cases {
            let mut shown = Shown::default();
            let lines = shown.begin(there(), count);
            let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
            assert_eq!(texts, begin);
            assert!(there().iter().all(|line| !shown.is_new(line)), "{count}");
            assert!(shown.is_new(&line("b", 600, "later")), "{count}");
        }
    }
}
