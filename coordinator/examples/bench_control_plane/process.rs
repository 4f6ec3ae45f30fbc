//! The coordinator's process: started on a free port, measured, killed with the benchmark.

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tonic::transport::Endpoint;

/// Lets this process, and those that it starts, open as many files as the system allows it.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        eprintln!(
            "the limit of open files stays at {:?}: {error}",
            limit.current
        );
    }
}

/// The end of what the coordinator in a folder has said.
pub(crate) fn log(folder: &Path) -> String {
    let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let from = said.floor_char_boundary(said.len().saturating_sub(2_000));
    format!("the coordinator says: {}", &said[from..])
}

/// What a process has used.
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_mb: f64,
    pub(crate) peak_mb: f64,
}

pub(crate) struct Process {
    child: Child,
    address: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts one and waits until it serves.
    pub(crate) async fn start(folder: &Path, watches: usize) -> anyhow::Result<Self> {
        let ready = folder.join("ready");
        let log = std::fs::File::create(folder.join("log"))?;
        let binary = binary()?;
        let child = Command::new(&binary)
            .args(["--listen", "127.0.0.1:0", "--gone-after", "60s"])
            .args(["--max-watches", &watches.to_string()])
            .arg("--data-dir")
            .arg(folder.join("data"))
            .arg("--ready-file")
            .arg(&ready)
            .env("ESPALIER_LOG", "warn")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("can't start {}", binary.display()))?;
        let mut process = Self {
            child,
            address: String::new(),
        };
        let begun = Instant::now();
        while process.address.is_empty() {
            anyhow::ensure!(
                begun.elapsed() < Duration::from_secs(30) && process.child.try_wait()?.is_none(),
                "the coordinator did not come up: {}",
                std::fs::read_to_string(folder.join("log")).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
            let said = std::fs::read_to_string(&ready).unwrap_or_default();
            process.address = said.trim().to_owned();
        }
        Ok(process)
    }

    pub(crate) fn endpoint(&self) -> anyhow::Result<Endpoint> {
        crate::endpoint(&self.address)
    }

    /// Processor time so far, memory now and at most.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.child.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may hold anything: state is field 3, times are fields 14 and 15.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let mut ticks = 0.0;
        for field in fields.get(11..13).context("/proc/PID/stat is too short")? {
            ticks += field.parse::<f64>()?;
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let megabytes = |name: &str| -> anyhow::Result<f64> {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            let kilobytes: f64 = number.context("/proc/PID/status lacks a line")?.parse()?;
            Ok(kilobytes / 1024.0)
        };
        Ok(Usage {
            cpu_seconds: ticks / rustix::param::clock_ticks_per_second() as f64,
            rss_mb: megabytes("VmRSS:")?,
            peak_mb: megabytes("VmHWM:")?,
        })
    }
}

/// The coordinator's binary: in `ESPALIER_BIN_DIR`, else where cargo puts it, one folder above its examples.
fn binary() -> anyhow::Result<PathBuf> {
    let name = "espalier-coordinator";
    let own = std::env::current_exe()?;
    let built = own.parent().and_then(Path::parent);
    let given = std::env::var_os("ESPALIER_BIN_DIR").map(PathBuf::from);
    let folder = given.or(built.map(Path::to_path_buf));
    let path = folder.unwrap_or_default().join(name);
    anyhow::ensure!(
        path.is_file(),
        "there is no {}: cargo build -p {name} --bins, or set ESPALIER_BIN_DIR",
        path.display()
    );
    Ok(path)
}
