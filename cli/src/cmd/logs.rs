//! `espalier logs`: a job's log lines.

use crate::Outcome;
use crate::client::Client;
use crate::error::Code;
use crate::output::{Context, Format, text};
use crate::view::LogLine;
use espalier_proto::v1;
use owo_colors::Style;

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

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let mut client = Client::connect(context).await?;
    if args.tail == Some(0) && !args.follow {
        return Ok(Code::Ok);
    }
    let request = v1::TailJobLogsRequest {
        name: args.job.clone(),
        tail: args.tail.unwrap_or(0),
        follow: args.follow,
    };
    let mut lines = match client.jobs.tail_job_logs(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(client.job_error(&status, &args.job).await),
    };
    loop {
        let line = tokio::select! {
            line = lines.message() => line.map_err(|status| client.error(&status))?,
            _ = tokio::signal::ctrl_c() => return Ok(Code::Interrupted),
        };
        let Some(line) = line else {
            return Ok(Code::Ok);
        };
        show(&LogLine::from(line), context)?;
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
    let level = context.stdout.paint(&format!("{:<5}", line.level), style);
    context.print(&format!("{time} {level} {source}: {}", line.text))
}
