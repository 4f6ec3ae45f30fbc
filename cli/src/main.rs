//! The `espalier` command: submits, observes and steers jobs, and runs a local cluster.
//!
//! Data goes to standard output, everything else to standard error. A command ends with one of
//! the exit codes of [`error::Code`].

mod args;
mod audit;
mod client;
mod cmd;
mod error;
mod jobfile;
mod local;
mod output;
mod picture;
mod view;

use clap::Parser;
use error::{Code, Error};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Cli::parse();
    let context = args.global.context();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(cmd::run(args.verb, &context));
            // Nobody waits any more for a read of standard input that may never end.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Error::failure(format!("can't start: {error}"))),
    };
    match result {
        Ok(code) => code.into(),
        Err(error) => {
            context.stderr.error(&error);
            error.code().into()
        }
    }
}

/// What a verb ends with.
type Outcome = error::Result<Code>;
