//! The command line: verbs and global flags.

use crate::cmd::Verb;
use crate::output::{Context, Format};
use clap::{Args, Parser};
use espalier_proto::Credentials;
use espalier_proto::bearer::Secret;
use espalier_tls::ClientFlags;
use std::path::PathBuf;

const ABOUT: &str = "Trains one pretrained backbone on many tasks, across many machines";

const AFTER: &str = "\
Examples:
  espalier up                            start a local cluster in this terminal
  espalier validate job.yaml             check a job file without a cluster
  espalier submit job.yaml --wait        run a job and follow it to its end
  espalier get                           list the jobs
  espalier describe packages             everything about one job
  espalier audit packages                prove that it used every sample once in each pass
  espalier predict --model DIR           use an exported model
  espalier certs ca                      make a CA for a cluster's certificates
  espalier whoami                        whom the coordinator takes you for

Exit codes:
  0    done
  1    what was asked for failed: invalid job file, failed job, error of the server
  2    the command line makes no sense
  3    no job, worker or file of that name
  4    the coordinator can't be reached
  5    the job was cancelled
  6    not possible now: the name is taken, the job has ended, a cluster already runs
  7    the accounts of samples don't hold: a step or a sample is missing or was used twice
  130  stopped by ctrl-c";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "espalier", version, about = ABOUT, after_help = AFTER)]
#[command(
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags of every verb.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Address of the coordinator; of several, separated by commas. Default: that of the local
    /// cluster in ./.espalier/cluster, else http://127.0.0.1:7443
    #[arg(
        long,
        global = true,
        env = "ESPALIER_SERVER",
        value_name = "URL",
        hide_env_values = true
    )]
    server: Option<String>,
    /// Token that says who asks; seen by everybody on this machine, so rather give a file
    #[arg(
        long,
        global = true,
        env = "ESPALIER_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    token: Option<Secret>,
    /// File that holds the token
    #[arg(
        long,
        global = true,
        env = "ESPALIER_TOKEN_FILE",
        value_name = "FILE",
        hide_env_values = true
    )]
    token_file: Option<PathBuf>,
    /// Format of the answer
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, hide_default_value = true)]
    output: Format,
    /// No colours; NO_COLOR in the environment does the same
    #[arg(long, global = true)]
    no_color: bool,
    #[command(flatten)]
    tls: ClientFlags,
}

impl Global {
    /// What verbs need to know of these flags.
    pub(crate) fn context(&self) -> Context {
        let mut context = Context::new(self.server.clone(), self.output, self.no_color);
        context.credentials = Credentials {
            token: self.token.clone(),
            file: self.token_file.clone(),
        };
        context.tls = self.tls.clone();
        context
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_verb_has_examples() {
        // `--help` of every verb ends with examples, and the definition is free of contradictions.
        let mut command = super::Cli::command();
        command.build();
        command.clone().debug_assert();
        for verb in command.get_subcommands() {
            let after = verb
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                after.contains("Examples:"),
                "{} has no examples",
                verb.get_name()
            );
            assert!(
                verb.get_about().is_some(),
                "{} says nothing",
                verb.get_name()
            );
        }
    }
}
