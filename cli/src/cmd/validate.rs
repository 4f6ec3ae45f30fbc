//! `espalier validate`: checks a job file without a cluster.

use crate::Outcome;
use crate::error::Code;
use crate::jobfile::{JobFile, missing_files};
use crate::output::{Context, Format};

const EXAMPLES: &str = "\
Examples:
  espalier validate job.yaml                       say whether it is valid, else why not
  espalier validate job.yaml -o yaml               show it with all defaults filled in
  espalier validate job.yaml --set training.steps=10
  cat job.yaml | espalier validate -";

/// Check a job file without a cluster
///
/// YAML syntax, unknown fields, types and all rules between fields. Files that the job names are
/// looked for on this machine; those that are missing are warned of only, since workers may see
/// other disks.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The job file; `-` is standard input
    file: String,
    /// Set a field first; may be repeated
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    sets: Vec<String>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Outcome {
    let spec = JobFile::read(&args.file)?.spec(&args.sets)?;
    for (field, path) in missing_files(&spec) {
        context.warn(&format!("{field}: {path} is not on this machine"));
    }
    if context.format == Format::Table {
        let tasks: Vec<&str> = spec.tasks.iter().map(|task| task.name.as_str()).collect();
        context.print(&format!(
            "{}: job {} with {} {} is valid: {}",
            args.file,
            spec.name,
            tasks.len(),
            if tasks.len() == 1 { "task" } else { "tasks" },
            tasks.join(", ")
        ))?;
    } else {
        context.answer(&spec, |_| String::new())?;
    }
    Ok(Code::Ok)
}
