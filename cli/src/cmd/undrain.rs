//! `espalier undrain`: takes a worker back.

use crate::Outcome;
use crate::client::Client;
use crate::error::Code;
use crate::output::Context;
use crate::view::Worker;
use espalier_proto::v1;

const EXAMPLES: &str = "\
Examples:
  espalier undrain worker-1";

/// Take drained workers back into service
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
        let request = v1::UndrainWorkerRequest { name: name.clone() };
        let answer = match client.cluster.undrain_worker(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Err(client.worker_error(&status, name).await),
        };
        let worker = Worker::from(answer);
        context.answer(&worker, |_| format!("worker {name} is back in service"))?;
    }
    Ok(Code::Ok)
}
