//! `espalier cancel`: ends jobs for good.

use super::steer::{Deed, each};
use crate::Outcome;
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
  espalier cancel packages
  espalier cancel packages digits";

/// End jobs for good
///
/// Their checkpoints stay on the workers. A job that has ended can't be cancelled: exit code 6.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Names of the jobs
    #[arg(required = true, value_name = "JOB")]
    names: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    each(&args.names, Deed::Cancel, context).await
}
