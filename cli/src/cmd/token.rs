//! `espalier token`: makes tokens that a coordinator lets in.

use crate::Outcome;
use crate::error::{Code, Error, Result};
use crate::output::{Context, Format, yaml};
use clap::{Subcommand, ValueEnum};
use espalier_proto::time;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const EXAMPLES: &str = "\
Examples:
  espalier token create --name alice --role submitter --namespace vision >> tokens.yaml
  espalier token create --name pool-* --role worker --out worker.token >> tokens.yaml
  espalier token create --name ci --role viewer --days 7 -o json

The entry is for the coordinator's --token-file and goes to standard output; it holds a hash, from
which the token can't be made. The token goes to standard error, or with --out into a file.";

/// Make tokens that a coordinator lets in
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token and the entry of it for the coordinator's file
    Create(Create),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct Create {
    /// Who gets it; of a worker its own name, or `PREFIX-*` for several
    #[arg(long)]
    name: String,
    /// What its bearer may do
    #[arg(long, value_enum)]
    role: Role,
    /// Only jobs of this namespace; may be repeated. Default: of all
    #[arg(long = "namespace", short = 'n', value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// Days until it expires; 0: never
    #[arg(long, default_value_t = 90)]
    days: u32,
    /// Write the token into this new file, which only you can read
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    Admin,
    Submitter,
    Viewer,
    Worker,
}

/// What the coordinator's file holds of a token.
#[derive(Serialize)]
struct Entry {
    name: String,
    sha256: String,
    role: Role,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

#[derive(Serialize)]
struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    entry: Entry,
}

pub(crate) fn run(args: &Args, context: &Context) -> Outcome {
    let Verb::Create(args) = &args.verb;
    if args.name.trim().is_empty() {
        return Err(Error::new(Code::Usage, "--name is empty"));
    }
    if args.role == Role::Worker && !args.namespaces.is_empty() {
        let message = "--namespace does not go with --role worker: workers run jobs of all of them";
        return Err(Error::new(Code::Usage, message));
    }
    // Two random UUIDs: 244 bits from the system's source of random numbers.
    let (one, two) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let token = format!("esp_{}{}", one.simple(), two.simple());
    let entry = Entry {
        name: args.name.clone(),
        sha256: hex(&Sha256::digest(&token)),
        role: args.role,
        namespaces: args.namespaces.clone(),
        expires: (args.days > 0).then(|| expires(args.days)),
    };
    if let Some(path) = &args.out {
        write(path, &token)?;
    }
    if context.format == Format::Table {
        if args.out.is_none() {
            context.note(&format!("token of {}, shown this once: {token}", args.name));
        }
        context.print(&yaml(&[entry])?)?;
    } else {
        let token = args.out.is_none().then_some(token);
        context.answer(&Made { token, entry }, |_| String::new())?;
    }
    Ok(Code::Ok)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn expires(days: u32) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let end = now.as_secs() + u64::from(days) * 24 * 3600;
    time::timestamp(end * 1000).to_string()
}

fn write(path: &Path, token: &str) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let written = file.and_then(|mut file| writeln!(file, "{token}"));
    written.map_err(|error| Error::failure(format!("--out {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: the hash is the one that `sha256sum` prints, and the time one that the coordinator reads.
    #[test]
    fn entries_are_what_the_coordinator_reads() {
        assert_eq!(
            hex(&Sha256::digest("test")),
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        );
        let moment: time::Timestamp = expires(90).parse().unwrap();
        let days = time::millis(&moment) / 1000 / 24 / 3600;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(days, now.as_secs() / 24 / 3600 + 90);
    }
}
