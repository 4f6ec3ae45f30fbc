//! `espalier resume`: goes on with paused jobs.

use super::steer::{Deed, each};
use crate::Outcome;
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
  espalier resume packages
  espalier resume packages digits";

/// Put paused jobs back into the queue
///
/// They go on from their checkpoints.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Names of the jobs
    #[arg(required = true, value_name = "JOB")]
    names: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    each(&args.names, Deed::Resume, context).await
}
