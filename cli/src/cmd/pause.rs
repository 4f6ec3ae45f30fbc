//! `espalier pause`: gives a job's ranks back until it is resumed.

use super::steer::{Deed, each};
use crate::Outcome;
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
  espalier pause packages
  espalier pause packages digits";

/// Pause jobs
///
/// Each writes a checkpoint at its next step and gives its ranks back; `espalier resume` goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Names of the jobs
    #[arg(required = true, value_name = "JOB")]
    names: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    each(&args.names, Deed::Pause, context).await
}
