//! `espalier down`: stops the local cluster.

use crate::Outcome;
use crate::error::{Code, Error};
use crate::local::Folder;
use crate::output::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  espalier down
  espalier down --dir /tmp/cluster";

/// Stop the local cluster that `espalier up` started
///
/// Workers end first and leave nothing half done; jobs go on when the cluster is up again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Folder of the cluster
    #[arg(long, value_name = "DIR", default_value = ".espalier/cluster")]
    dir: PathBuf,
    /// Seconds to wait for the end before the cluster is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let folder = Folder::new(Some(&args.dir));
    let none = || {
        Error::new(
            Code::NotFound,
            format!("no cluster runs in {}", folder.display()),
        )
        .hint("name the folder given to `espalier up` with --dir")
    };
    if !folder.is_running() {
        return Err(none());
    }
    // The lock is taken before the state is written, so a starting cluster has none yet.
    let state = folder.state().ok_or_else(none)?;
    let pid = i32::try_from(state.pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(none)?;
    // The second signal makes `up` kill what is left.
    for (signal, seconds) in [
        (Signal::TERM, args.timeout),
        (Signal::TERM, 10),
        (Signal::KILL, 5),
    ] {
        kill_process(pid, signal).ok();
        let ended = async {
            while folder.is_running() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(seconds), ended)
            .await
            .is_ok()
        {
            context.print(&format!("cluster in {} is stopped", folder.display()))?;
            return Ok(Code::Ok);
        }
        context.warn("the cluster has not ended yet; insisting");
    }
    Err(Error::failure(format!(
        "process {} could not be stopped",
        state.pid
    )))
}
