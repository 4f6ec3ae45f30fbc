//! `espalier up`: a local cluster.

use crate::Outcome;
use crate::error::{Code, Error, Result};
use crate::local::{self, Folder, Options};
use crate::output::Context;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  espalier up                              coordinator and two workers, until ctrl-c
  espalier up --workers 4 --detach         in the background; `espalier down` stops it
  espalier up --listen 127.0.0.1:0         on any free port

The programs espalier-coordinator and espalier-worker are looked for in ESPALIER_BIN_DIR if it is
set, else beside this command and on PATH.";

/// Start a local cluster: a coordinator and workers
///
/// Runs until ctrl-c or SIGTERM, which stop the workers first and the coordinator last; a second
/// ctrl-c kills them. A process that dies is reported with its exit code and last log lines, and
/// started again with growing pauses. Run in the same folder again, the cluster takes up its jobs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Number of workers
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=256))]
    workers: u32,
    /// Ranks (devices) of each worker
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    ranks_per_worker: u32,
    /// Folder of the cluster: state, jobs, logs
    #[arg(long, value_name = "DIR", default_value = ".espalier/cluster")]
    dir: PathBuf,
    /// Address of the coordinator; port 0 is any free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// Serve other hosts too, in plain text: anyone who reaches the port can run jobs
    #[arg(long)]
    insecure: bool,
    /// Go to the background once the cluster is ready
    #[arg(long)]
    detach: bool,
    /// Do not start processes again that die
    #[arg(long)]
    no_restart: bool,
    /// Do not show the processes' logs; they are in DIR/logs all the same
    #[arg(long)]
    quiet: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let folder = Folder::new(Some(&args.dir));
    if args.detach {
        return detach(args, &folder, context).await;
    }
    let options = Options {
        folder,
        listen: args.listen,
        workers: args.workers,
        ranks_per_worker: args.ranks_per_worker,
        insecure: args.insecure,
        restart: !args.no_restart,
        quiet: args.quiet,
    };
    local::run(&options, context).await
}

/// Starts this command again without `--detach`, in a process group of its own and with a log for
/// a terminal, and waits until its cluster is ready.
async fn detach(args: &Args, folder: &Folder, context: &Context) -> Outcome {
    // Refuses early and to the terminal what the other process would refuse into its log.
    let lock = folder.lock()?;
    // What a killed cluster left behind stays on record: the other process ends it. Only `ready` goes, so
    // that the old record is not taken for that of the new cluster should it get the same process id.
    if let Some(mut state) = folder.state() {
        state.ready = false;
        folder.write(&state)?;
    }
    drop(lock);
    let path = folder.join("logs").join("up.log");
    let failed =
        |what: &str, error: std::io::Error| Error::failure(format!("can't {what}: {error}"));
    let log = std::fs::File::create(&path)
        .map_err(|error| failed(&format!("write {}", path.display()), error))?;
    let copy = log
        .try_clone()
        .map_err(|error| failed("share the log", error))?;
    let own = std::env::current_exe().map_err(|error| failed("find this program", error))?;
    let mut command = Command::new(own);
    command
        .arg("up")
        .arg("--dir")
        .arg(&args.dir)
        .args(["--workers", &args.workers.to_string()])
        .args(["--ranks-per-worker", &args.ranks_per_worker.to_string()])
        .args(["--listen", &args.listen.to_string()])
        .arg("--quiet");
    if args.no_restart {
        command.arg("--no-restart");
    }
    if args.insecure {
        command.arg("--insecure");
    }
    use std::os::unix::process::CommandExt;
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(copy)
        .stderr(log);
    let mut child = command
        .spawn()
        .map_err(|error| failed("start the cluster", error))?;
    let pid = child.id();
    loop {
        if let Some(status) = child.try_wait().map_err(|error| failed("wait", error))? {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let message = text
                .find("error: ")
                .map_or(text.as_str(), |start| &text[start + 7..]);
            let code = match status.code() {
                Some(3) => Code::NotFound,
                Some(6) => Code::Conflict,
                _ => Code::Failure,
            };
            return Err(Error::new(code, message.trim_end().to_owned()));
        }
        if let Some(state) = folder
            .state()
            .filter(|state| state.pid == pid && state.ready)
        {
            context.print(&format!(
                "cluster is ready at {} (process {pid})",
                state.server
            ))?;
            context.note(&format!("page: {}/", state.server));
            context.note(&format!("stop it with `espalier down{}`", flag(args)));
            for notice in folder.drained(&state) {
                context.warn(&notice);
            }
            return Ok(Code::Ok);
        }
        wait_or_end(&mut child).await?;
    }
}

/// Waits a moment; ctrl-c ends the cluster that is coming up.
async fn wait_or_end(child: &mut std::process::Child) -> Result<()> {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(50)) => Ok(()),
        _ = tokio::signal::ctrl_c() => {
            let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = child.wait();
            Err(Error::new(Code::Interrupted, "stopped while the cluster was coming up"))
        }
    }
}

fn flag(args: &Args) -> String {
    let folder = args.dir.display().to_string();
    if folder == Folder::default().display() {
        String::new()
    } else {
        format!(" --dir {folder}")
    }
}
