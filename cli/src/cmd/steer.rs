//! What `cancel`, `pause`, `resume` and `delete` have in common: one call per job, all of them
//! tried, the worst error last.

use crate::Outcome;
use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::output::{Context, Format};
use crate::view::Job;
use espalier_proto::v1;

/// What is done to a job.
#[derive(Clone, Copy)]
pub(super) enum Deed {
    Cancel,
    Pause,
    Resume,
    Delete,
}

impl Deed {
    fn done(self) -> &'static str {
        match self {
            Deed::Cancel => "cancelled",
            Deed::Pause => "pauses at its next step",
            Deed::Resume => "is back in the queue",
            Deed::Delete => "deleted",
        }
    }
}

/// Does it to each of `names`; a failure does not keep the others from being done.
pub(super) async fn each(names: &[String], deed: Deed, context: &Context) -> Outcome {
    let mut client = Client::connect(context).await?;
    let mut jobs = Vec::new();
    let mut errors: Vec<Error> = Vec::new();
    for name in names {
        match call(&mut client, name, deed).await {
            Ok(job) => {
                if context.format == Format::Table {
                    context.print(&format!("job {name} {}", deed.done()))?;
                }
                jobs.extend(job.map(Job::read).transpose()?);
            }
            Err(error) => errors.push(error),
        }
    }
    if context.format != Format::Table && !jobs.is_empty() {
        context.answer(&jobs, |_| String::new())?;
    }
    let Some(last) = errors.pop() else {
        return Ok(Code::Ok);
    };
    for error in &errors {
        context.stderr.error(error);
    }
    Err(last)
}

async fn call(client: &mut Client, name: &str, deed: Deed) -> Result<Option<v1::Job>> {
    let name = name.to_owned();
    let text = name.clone();
    let answer = match deed {
        Deed::Cancel => client.jobs.cancel_job(v1::CancelJobRequest { name }).await,
        Deed::Pause => client.jobs.pause_job(v1::PauseJobRequest { name }).await,
        Deed::Resume => client.jobs.resume_job(v1::ResumeJobRequest { name }).await,
        Deed::Delete => {
            let answer = client.jobs.delete_job(v1::DeleteJobRequest { name }).await;
            return match answer {
                Ok(_) => Ok(None),
                Err(status) => Err(client.job_error(&status, &text).await),
            };
        }
    };
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) => Err(client.job_error(&status, &text).await),
    }
}
