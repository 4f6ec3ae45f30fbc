//! `espalier submit`: hands a job to the cluster.

use super::watch;
use crate::Outcome;
use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::jobfile::{JobFile, missing_files};
use crate::output::Context;
use crate::view::Job;
use espalier_proto::{Wire, v1};
use espalier_spec::JobSpec;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  espalier submit job.yaml
  espalier submit job.yaml --wait                        follow it to its end
  espalier submit job.yaml --name try-2 --set training.steps=100 --set tasks.section.weight=2
  espalier submit job.yaml -n vision                     into a namespace
  espalier submit job.yaml --dry-run                     let the coordinator check it only

With --wait the exit code is that of `espalier watch`.";

/// Submit a job
///
/// The file is checked here first. Relative paths in it start from the file's own folder. Files
/// that are missing on this machine are an error if the local cluster in ./.espalier/cluster is to
/// run the job, and else a warning.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The job file; `-` is standard input
    file: String,
    /// Name of the job instead of the one in the file
    #[arg(long)]
    name: Option<String>,
    /// Namespace of the job instead of the one in the file
    #[arg(short, long)]
    namespace: Option<String>,
    /// Set a field first; may be repeated
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    sets: Vec<String>,
    /// Follow the job to its end
    #[arg(long)]
    wait: bool,
    /// Only check the job; nothing is created
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let mut sets = args.sets.clone();
    if let Some(name) = &args.name {
        // As a quoted YAML text, so that no name is taken for a number.
        sets.push(format!("name={}", serde_json::Value::from(name.as_str())));
    }
    if let Some(namespace) = &args.namespace {
        let namespace = serde_json::Value::from(namespace.as_str());
        sets.push(format!("namespace={namespace}"));
    }
    let spec = JobFile::read(&args.file)?.spec(&sets)?;
    let mut client = Client::connect(context).await?;
    look_for_files(&spec, &client, context)?;
    let request = v1::CreateJobRequest {
        spec: Some(spec.to_wire()),
        request_id: uuid::Uuid::new_v4().to_string(),
        validate_only: args.dry_run,
    };
    let job = Job::read(create(&mut client, request, &spec.name).await?)?;
    let done = if args.dry_run {
        "is valid; nothing was created"
    } else {
        "submitted"
    };
    if !args.wait || args.dry_run {
        context.answer(&job, |_| format!("job {} {done}", job.name))?;
        return Ok(Code::Ok);
    }
    context.note(&format!("job {} {done}", job.name));
    watch::follow(&mut client, &[job.name], context).await
}

/// Creates the job. Tries again if the coordinator is away for a moment: the request id makes that
/// safe.
async fn create(client: &mut Client, request: v1::CreateJobRequest, name: &str) -> Result<v1::Job> {
    let mut tries = 0;
    loop {
        let error = match client.jobs.create_job(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => client.error(&status),
        };
        tries += 1;
        match error.code() {
            // Where another coordinator leads by now, it is asked at once.
            Code::Unreachable if tries < 5 => {
                if client.again().await.is_err() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Code::Conflict => {
                return Err(error.hint(format!(
                    "choose another name with --name, or forget the old job with `espalier \
                     delete {name}` once it has ended"
                )));
            }
            _ => return Err(error),
        }
    }
}

fn look_for_files(spec: &JobSpec, client: &Client, context: &Context) -> Result<()> {
    let missing = missing_files(spec);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing
        .iter()
        .map(|(field, path)| format!("{field}: {path} does not exist"))
        .collect();
    if client.is_local() {
        return Err(Error::new(Code::NotFound, lines.join("\n"))
            .hint("relative paths start from the folder of the job file"));
    }
    for line in lines {
        context.warn(&format!("{line} on this machine; the workers must have it"));
    }
    Ok(())
}
