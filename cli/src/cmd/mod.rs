//! The verbs, one file each.

mod completions;
mod schema;
mod validate;
mod version;

use crate::Outcome;
use crate::output::Context;
use clap::Subcommand;

/// What the command is asked to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Validate(validate::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Version(version::Args),
}

/// Does it.
///
/// # Errors
/// Whatever keeps it from being done, with the exit code.
pub(crate) async fn run(verb: Verb, context: &Context) -> Outcome {
    match verb {
        Verb::Validate(args) => validate::run(&args, context),
        Verb::Schema(args) => schema::run(&args, context),
        Verb::Completions(args) => completions::run(&args, context),
        Verb::Version(args) => version::run(&args, context),
    }
}
