//! `espalier completions`: tab completion for a shell.

use crate::Outcome;
use crate::args::Cli;
use crate::error::{Code, Error};
use crate::output::Context;
use clap::CommandFactory;
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  espalier completions bash > ~/.local/share/bash-completion/completions/espalier
  espalier completions zsh > ~/.zfunc/_espalier
  espalier completions fish > ~/.config/fish/completions/espalier.fish";

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, context: &Context) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "espalier", &mut script);
    let script = String::from_utf8(script)
        .map_err(|_| Error::failure("the completion script is not UTF-8 text"))?;
    context.print(&script)?;
    Ok(Code::Ok)
}
