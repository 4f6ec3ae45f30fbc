//! `espalier-worker run`: works for a coordinator.

use anyhow::Context as _;
use espalier_proto::Credentials;
use espalier_proto::bearer::Secret;
use espalier_tls::ClientFlags;
use espalier_worker::agent::{self, Config, Limits, TelemetryFlags, log::JobLog};
use espalier_worker::allow::Allowed;
use espalier_worker::device::Wanted;
use espalier_worker::model::forbid_scripts;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::Layered;
use tracing_subscriber::prelude::*;

#[derive(clap::Args)]
pub(crate) struct Run {
    /// Address of the coordinator; of several that stand in for each other, separated by commas or
    /// each with a flag of its own.
    #[arg(
        long,
        default_value = "http://127.0.0.1:7443",
        env = "ESPALIER_SERVER",
        value_delimiter = ','
    )]
    coordinator: Vec<String>,
    /// Token that lets this worker join; seen by everybody on this host, so rather give a file.
    #[arg(
        long,
        env = "ESPALIER_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    token: Option<Secret>,
    /// File that holds the token; read again at every connection.
    #[arg(long, env = "ESPALIER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name of this worker; default: host name and process id.
    #[arg(long)]
    name: Option<String>,
    /// Where its ranks compute: cuda:0 or cuda:0,cuda:1 and so on, cuda for all CUDA devices, cpu, or auto: all CUDA
    /// devices if there are any, else the CPU.
    #[arg(
        long,
        default_value = "auto",
        env = "ESPALIER_DEVICE",
        value_name = "DEVICE"
    )]
    device: Wanted,
    /// Folder with libtorch's libraries for CUDA; default: wherever the dynamic linker finds libtorch_cuda.so.
    #[arg(long, env = "ESPALIER_CUDA", value_name = "DIR")]
    cuda: Option<PathBuf>,
    /// Ranks that it hosts, dealt to its devices in turn; default: one on each device.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    ranks: Option<u32>,
    /// Ranks of other workers of this machine that devices are dealt to before.
    #[arg(long, default_value_t = 0, value_name = "RANKS")]
    behind: usize,
    /// Compute threads of each rank; default: all cores divided by ranks. Ranks of a job with
    /// `resources.workers` have one each.
    #[arg(long)]
    threads: Option<usize>,
    /// Where jobs keep checkpoints and exports; all workers of a job must see the same directory.
    #[arg(long, default_value = "espalier-data")]
    data_dir: PathBuf,
    /// Address that ranks listen on for their peers: IP:PORT, or the IP alone; without a port, and with port
    /// 0, free ones are taken.
    #[arg(long, default_value = "127.0.0.1:0", value_parser = listen_at)]
    listen: SocketAddr,
    /// Leave, as on SIGTERM, once this file exists; a machine's notice that it will be taken away, which
    /// is then the cause that jobs tell. A file that is there at the start counts: remove it if the machine
    /// stays.
    #[arg(long, value_name = "PATH")]
    notice_file: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    tls: ClientFlags,
    #[command(flatten)]
    telemetry: TelemetryFlags,
    #[command(flatten)]
    allowed: Allowed,
}

/// Works until it is told to stop.
pub(crate) fn work(run: Run) -> anyhow::Result<()> {
    let log = espalier_telemetry::log::layer::<Layered<JobLog, Registry>>(run.telemetry.log_format);
    tracing_subscriber::registry().with(JobLog).with(log).init();
    let data_dir = std::path::absolute(&run.data_dir)?;
    std::fs::create_dir_all(&data_dir)
        .with_context(|| format!("--data-dir {}: cannot create it", data_dir.display()))?;
    // Before there are threads: libtorch's part for CUDA reads the environment.
    let devices = run.device.devices(run.cuda.as_deref())?;
    let ranks = run.ranks.map_or(devices.len(), |ranks| ranks as usize);
    let devices: Vec<String> = devices
        .into_iter()
        .cycle()
        .skip(run.behind)
        .take(ranks)
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let host = host_name();
    let name = run
        .name
        .unwrap_or_else(|| format!("{host}-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let telemetry = runtime.block_on(run.telemetry.start(&name))?;
    if !run.allowed.modules() {
        forbid_scripts();
    }
    let config = Config {
        coordinator: run.coordinator.join(","),
        tls: run.tls.load()?,
        credentials: Credentials {
            token: run.token,
            file: run.token_file,
        },
        name,
        host,
        threads: run.threads.unwrap_or(cores / ranks.max(1)).max(1),
        devices,
        data_dir,
        listen: run.listen,
        limits: run.limits,
        telemetry: telemetry.clone(),
        allowed: run.allowed,
    };
    tracing::info!(
        name = config.name,
        ranks = config.devices.len(),
        threads_per_rank = config.threads,
        device = named_once(&config.devices),
        "worker starts"
    );
    let leave = agent::told_to_leave(run.notice_file);
    let ended = runtime.block_on(agent::run(config, leave));
    telemetry.end();
    ended?;
    tracing::info!("worker ends");
    Ok(())
}

/// Names of devices in order, each once.
fn named_once(devices: &[String]) -> String {
    let mut once: Vec<&str> = devices.iter().map(String::as_str).collect();
    once.sort_unstable();
    once.dedup();
    once.join(",")
}

/// An address with a port, or without one: a pod knows its IP, and of which family it is nobody says before.
fn listen_at(text: &str) -> Result<SocketAddr, String> {
    let whole = text.parse::<SocketAddr>();
    let bare = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0));
    whole.or(bare).map_err(|_| {
        format!(
            "`{text}` is no address, expected IP:PORT such as 10.0.0.21:0 or [fd00::21]:0, or the IP alone"
        )
    })
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "worker".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a worker listens at an address of either family, and needs no port to be told.
    #[test]
    fn addresses_to_listen_at() {
        for (text, expected) in [
            ("10.0.0.21:7000", "10.0.0.21:7000"),
            ("10.0.0.21", "10.0.0.21:0"),
            ("[fd00::21]:7000", "[fd00::21]:7000"),
            ("fd00::21", "[fd00::21]:0"),
        ] {
            let address = listen_at(text).unwrap();
            assert_eq!(address.to_string(), expected, "{text}");
        }
        for text in [
            "",
            "here",
            "10.0.0.21:",
            "10.0.0.21:65536",
            "[fd00::21]",
            ":0",
        ] {
            let error = listen_at(text).unwrap_err();
            assert!(error.contains("or the IP alone"), "{error}");
        }
    }
}
