//! `espalier drain`: empties a worker.

use crate::Outcome;
use crate::client::Client;
use crate::error::Code;
use crate::output::Context;
use crate::view::Worker;
use espalier_proto::v1;

const EXAMPLES: &str = "\
Examples:
  espalier drain worker-1";

/// Place nothing more on workers; their jobs move away at a step boundary
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Names of the workers
    #[arg(required = true, value_name = "WORKER")]
    names: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let mut client = Client::connect(context).await?;
    for name in &args.names {
        let request = v1::DrainWorkerRequest { name: name.clone() };
        let answer = match client.cluster.drain_worker(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Err(client.worker_error(&status, name).await),
        };
        let worker = Worker::from(answer);
        context.answer(&worker, |_| format!("worker {name} drains"))?;
    }
    Ok(Code::Ok)
}
