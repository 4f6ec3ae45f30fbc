//! `espalier version`: the version of this command.

use crate::Outcome;
use crate::error::Code;
use crate::output::Context;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  espalier version
  espalier version -o json";

/// Print the version of this command and, if it can be reached, of the coordinator
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Versions {
    client: &'static str,
}

pub(crate) fn run(_: &Args, context: &Context) -> Outcome {
    let versions = Versions {
        client: env!("CARGO_PKG_VERSION"),
    };
    context.answer(&versions, |_| format!("espalier {}", versions.client))?;
    Ok(Code::Ok)
}
