//! `espalier schema`: the JSON schema of job files.

use crate::Outcome;
use crate::error::Code;
use crate::output::{Context, Format};
use espalier_spec::JobSpec;

const EXAMPLES: &str = "\
Examples:
  espalier schema > job.schema.json
  # first line of a job file, for editors with a YAML language server:
  # yaml-language-server: $schema=job.schema.json";

/// Print the JSON schema of job files
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, context: &Context) -> Outcome {
    let mut schema = schemars::schema_for!(JobSpec);
    schema.insert("title".to_owned(), "Espalier job file".into());
    // A schema is JSON; the table format has nothing to add.
    match context.format {
        Format::Yaml => context.answer(&schema, |_| String::new())?,
        Format::Json | Format::Table => context.print(&format!("{:#}", schema.as_value()))?,
    }
    Ok(Code::Ok)
}
