//! `espalier whoami`: whom the coordinator takes the caller for.

use crate::Outcome;
use crate::client::Client;
use crate::error::Code;
use crate::output::{Context, text};
use espalier_proto::v1;
use espalier_proto::v1::who_am_i_response::Role;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  espalier whoami
  espalier whoami --token-file ~/.config/espalier/token
  espalier whoami -o json";

/// Show whom the coordinator takes you for, and what you may do
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Caller {
    name: String,
    role: &'static str,
    /// Empty: all.
    namespaces: Vec<String>,
    method: String,
}

pub(crate) async fn run(_: &Args, context: &Context) -> Outcome {
    let mut client = Client::connect(context).await?;
    let answer = client.cluster.who_am_i(v1::WhoAmIRequest {}).await;
    let answer = answer.map_err(|status| client.error(&status))?.into_inner();
    let (role, may) = match answer.role() {
        Role::Unspecified => ("none", "may do nothing"),
        Role::Admin => ("admin", "may do everything"),
        Role::Submitter => ("submitter", "may submit and steer jobs"),
        Role::Viewer => ("viewer", "may look at jobs"),
        Role::Worker => ("worker", "may join as a worker"),
    };
    let caller = Caller {
        name: answer.name,
        role,
        namespaces: answer.namespaces,
        method: answer.method,
    };
    context.answer(&caller, |_| {
        let of = match caller.namespaces.as_slice() {
            [] => "all namespaces".to_owned(),
            some => some.join(", "),
        };
        let known = match caller.method.as_str() {
            "none" => "nobody is asked who they are".to_owned(),
            method => format!("known by {method}"),
        };
        let said = format!("{}: {role}, {may} ({of}); {known}", caller.name);
        text::plain(&said)
    })?;
    Ok(Code::Ok)
}
