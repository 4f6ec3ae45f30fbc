//! `espalier version`: the versions of this command and of the coordinator.

use crate::Outcome;
use crate::client::Client;
use crate::error::Code;
use crate::output::Context;
use espalier_proto::v1;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  espalier version
  espalier version -o json";

/// Print the version of this command and, if it can be reached, of the coordinator
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator: Option<String>,
}

pub(crate) async fn run(_: &Args, context: &Context) -> Outcome {
    let coordinator = coordinator(context).await;
    let versions = Versions {
        client: env!("CARGO_PKG_VERSION"),
        coordinator,
    };
    context.answer(&versions, |_| match &versions.coordinator {
        Some(coordinator) => format!("espalier {}\ncoordinator {coordinator}", versions.client),
        None => format!("espalier {}", versions.client),
    })?;
    Ok(Code::Ok)
}

/// Version of the coordinator, if there is one: its absence is no error here.
async fn coordinator(context: &Context) -> Option<String> {
    let mut client = Client::connect(context).await.ok()?;
    let answer = client
        .cluster
        .get_cluster(v1::GetClusterRequest {})
        .await
        .ok()?;
    Some(answer.into_inner().version)
}
