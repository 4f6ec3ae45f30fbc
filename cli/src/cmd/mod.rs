//! The verbs, one file each.

mod affinity;
mod audit;
mod balance;
mod cancel;
mod certs;
mod completions;
mod delete;
mod describe;
mod down;
mod drain;
mod export;
mod get;
mod logs;
mod pause;
mod predict;
mod resume;
mod schema;
mod steer;
mod submit;
mod token;
mod undrain;
mod up;
mod validate;
mod version;
mod watch;
mod whoami;
mod workers;

use crate::Outcome;
use crate::output::Context;
use clap::Subcommand;

/// What the command is asked to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Up(up::Args),
    Down(down::Args),
    Submit(submit::Args),
    Get(get::Args),
    Describe(describe::Args),
    Affinity(affinity::Args),
    Audit(audit::Args),
    Watch(watch::Args),
    Logs(logs::Args),
    Cancel(cancel::Args),
    Pause(pause::Args),
    Resume(resume::Args),
    Delete(delete::Args),
    Workers(workers::Args),
    Drain(drain::Args),
    Undrain(undrain::Args),
    Export(export::Args),
    Predict(predict::Args),
    Balance(balance::Args),
    Whoami(whoami::Args),
    Token(token::Args),
    Validate(validate::Args),
    Schema(schema::Args),
    Certs(certs::Args),
    Completions(completions::Args),
    Version(version::Args),
}

/// Does it.
///
/// # Errors
/// Whatever keeps it from being done, with the exit code.
pub(crate) async fn run(verb: Verb, context: &Context) -> Outcome {
    match verb {
        Verb::Up(args) => up::run(&args, context).await,
        Verb::Down(args) => down::run(&args, context).await,
        Verb::Submit(args) => submit::run(&args, context).await,
        Verb::Get(args) => get::run(&args, context).await,
        Verb::Describe(args) => describe::run(&args, context).await,
        Verb::Affinity(args) => affinity::run(&args, context).await,
        Verb::Audit(args) => audit::run(&args, context).await,
        Verb::Watch(args) => watch::run(&args, context).await,
        Verb::Logs(args) => logs::run(&args, context).await,
        Verb::Cancel(args) => cancel::run(&args, context).await,
        Verb::Pause(args) => pause::run(&args, context).await,
        Verb::Resume(args) => resume::run(&args, context).await,
        Verb::Delete(args) => delete::run(&args, context).await,
        Verb::Workers(args) => workers::run(&args, context).await,
        Verb::Drain(args) => drain::run(&args, context).await,
        Verb::Undrain(args) => undrain::run(&args, context).await,
        Verb::Export(args) => export::run(&args, context).await,
        Verb::Predict(args) => predict::run(&args, context).await,
        Verb::Balance(args) => balance::run(&args, context),
        Verb::Whoami(args) => whoami::run(&args, context).await,
        Verb::Token(args) => token::run(&args, context),
        Verb::Validate(args) => validate::run(&args, context),
        Verb::Schema(args) => schema::run(&args, context),
        Verb::Certs(args) => certs::run(&args, context),
        Verb::Completions(args) => completions::run(&args, context),
        Verb::Version(args) => version::run(&args, context).await,
    }
}
