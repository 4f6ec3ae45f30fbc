//! `espalier delete`: forgets ended jobs.

use super::steer::{Deed, each};
use crate::Outcome;
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
  espalier delete packages
  espalier delete packages digits";

/// Forget jobs that have ended
///
/// Their files stay on the workers. A job that has not ended must be cancelled first: exit code 6.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Names of the jobs
    #[arg(required = true, value_name = "JOB")]
    names: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    each(&args.names, Deed::Delete, context).await
}
