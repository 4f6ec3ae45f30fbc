//! A coordinator and workers as child processes. Dropped, it kills them all; dropped by a failing
//! test, it prints their logs first.

use crate::program::{Run, binary, espalier};
use crate::toy::Toy;
use anyhow::{Context as _, bail, ensure};
use espalier_proto::v1;
use espalier_proto::v1::cluster_service_client::ClusterServiceClient;
use espalier_proto::v1::job::State;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::watch_job_response::Update;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

/// Nothing that a test waits for takes longer unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A child process with a log of its own.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cluster of real processes in a directory of its own.
#[derive(Debug)]
pub struct Cluster {
    /// How long it waits for anything; [`PATIENCE`] at first.
    pub patience: Duration,
    /// What workers that are started from now on find in their environment, beside the test's own.
    pub variables: Vec<(String, String)>,
    dir: tempfile::TempDir,
    toy: Toy,
    address: String,
    coordinator: Option<Process>,
    workers: BTreeMap<String, Process>,
    started: usize,
}

impl Cluster {
    /// Starts a coordinator on a free port and waits until it serves.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let toy = Toy::write(&dir.path().join("toy"))?;
        let mut cluster = Self {
            patience: PATIENCE,
            variables: Vec::new(),
            dir,
            toy,
            address: "127.0.0.1:0".to_owned(),
            coordinator: None,
            workers: BTreeMap::new(),
            started: 0,
        };
        cluster.start_coordinator()?;
        Ok(cluster)
    }

    /// Starts the coordinator again, on its data and at its address.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_coordinator(&mut self) -> anyhow::Result<()> {
        let ready = self.dir.path().join("ready");
        let _ = fs::remove_file(&ready);
        let mut command = Command::new(binary("espalier-coordinator")?);
        command
            .args(["--listen", &self.address, "--data-dir"])
            .arg(self.dir.path().join("coordinator"))
            .arg("--ready-file")
            .arg(&ready)
            .args(["--heartbeat-interval", "200ms", "--gone-after", "2s"])
            .args(["--scale-after", "500ms"]);
        let mut process = self.spawn("coordinator", command)?;
        let start = Instant::now();
        // A file cannot be waited for otherwise without another dependency.
        let address = loop {
            match fs::read_to_string(&ready) {
                Ok(address) if !address.trim().is_empty() => break address,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
            if let Some(status) = process.0.try_wait()? {
                bail!("the coordinator ended with {status}");
            }
            ensure!(
                start.elapsed() < self.patience,
                "the coordinator is not ready"
            );
        };
        self.address = address.trim().to_owned();
        self.coordinator = Some(process);
        Ok(())
    }

    /// kill -9.
    pub fn kill_coordinator(&mut self) {
        self.coordinator = None;
    }

    /// Starts a worker and waits until the coordinator counts it as ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn worker(&mut self, name: &str, ranks: u32) -> anyhow::Result<()> {
        self.spawn_worker(name, ranks)?;
        self.ready(name).await
    }

    fn spawn_worker(&mut self, name: &str, ranks: u32) -> anyhow::Result<()> {
        // SIGXFSZ ignored: a write beyond a limit set later fails with EFBIG instead of killing.
        let mut command = Command::new("bash");
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(binary("espalier-worker")?)
            .args(["run", "--coordinator", &self.url(), "--name", name])
            .args(["--ranks", &ranks.to_string(), "--threads", "1"])
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        let process = self.spawn(name, command)?;
        self.workers.insert(name.to_owned(), process);
        Ok(())
    }

    /// From now on a worker can write no file longer than so many bytes, as on a full disk.
    ///
    /// # Errors
    /// If the limit cannot be set.
    pub fn limit_files(&self, name: &str, bytes: u64) -> anyhow::Result<()> {
        let worker = self.workers.get(name).context("no such worker")?;
        let status = Command::new("prlimit")
            .args(["--pid", &worker.0.id().to_string()])
            .arg(format!("--fsize={bytes}"))
            .status()?;
        ensure!(status.success(), "prlimit ended with {status}");
        Ok(())
    }

    async fn ready(&self, name: &str) -> anyhow::Result<()> {
        self.within("a ready worker", async {
            let mut client = ClusterServiceClient::new(self.channel().await?);
            let request = v1::WatchWorkersRequest {};
            let mut stream = client.watch_workers(request).await?.into_inner();
            while let Some(answer) = stream.message().await? {
                let worker = answer.worker.unwrap_or_default();
                if worker.name == name && worker.state() == v1::worker::State::Ready {
                    return Ok(());
                }
            }
            bail!("the watch ended")
        })
        .await
    }

    /// kill -9.
    pub fn kill_worker(&mut self, name: &str) {
        self.workers.remove(name);
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> anyhow::Result<Process> {
        self.started += 1;
        let log = self.log_dir()?.join(format!("{:02}-{name}", self.started));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log)?)
            .env("NO_COLOR", "1")
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Process(child))
    }

    fn log_dir(&self) -> anyhow::Result<PathBuf> {
        let path = self.dir.path().join("logs");
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The cluster's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Model and data.
    #[must_use]
    pub fn toy(&self) -> &Toy {
        &self.toy
    }

    /// Address of the coordinator as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Address of the coordinator as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A connection to the coordinator.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Endpoint::from_shared(self.url())?.connect().await?)
    }

    /// A client of the job service.
    ///
    /// # Errors
    /// If the coordinator cannot be reached.
    pub async fn jobs(&self) -> anyhow::Result<JobServiceClient<Channel>> {
        Ok(JobServiceClient::new(self.channel().await?))
    }

    /// Runs the `espalier` command against this cluster.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn cli(&self, args: &[&str]) -> anyhow::Result<Run> {
        let url = self.url();
        let args: Vec<&str> = ["--server", &url]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        espalier(self.dir(), &args, "")
    }

    /// Writes a job file; its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn job_file(&self, job: &Value) -> anyhow::Result<String> {
        let name = job["name"].as_str().unwrap_or("job");
        let path = self.dir.path().join(format!("{name}.yaml"));
        fs::write(&path, serde_json::to_string_pretty(job)?)?;
        Ok(path.display().to_string())
    }

    /// Submits a job through the command.
    ///
    /// # Errors
    /// If it is not accepted.
    pub fn submit(&self, job: &Value) -> anyhow::Result<()> {
        let file = self.job_file(job)?;
        let run = self.cli(&["submit", &file])?;
        ensure!(
            run.code == 0,
            "submit ended with {}: {}",
            run.code,
            run.said()
        );
        Ok(())
    }

    /// The job as it is now.
    ///
    /// # Errors
    /// If there is none.
    pub async fn job(&self, name: &str) -> anyhow::Result<v1::Job> {
        let request = v1::GetJobRequest {
            name: name.to_owned(),
        };
        Ok(self.jobs().await?.get_job(request).await?.into_inner())
    }

    /// Follows a job until an event or progress satisfies `wanted`.
    ///
    /// # Errors
    /// If the job ends before, or patience does.
    pub async fn until(
        &self,
        job: &str,
        after: u64,
        wanted: impl Fn(&Update) -> bool,
    ) -> anyhow::Result<Update> {
        self.within(job, async {
            let request = v1::WatchJobRequest {
                name: job.to_owned(),
                after_sequence: after,
            };
            let mut stream = self.jobs().await?.watch_job(request).await?.into_inner();
            let mut last = String::new();
            while let Some(answer) = stream.message().await? {
                let Some(update) = answer.update else {
                    continue;
                };
                if wanted(&update) {
                    return Ok(update);
                }
                if let Update::Event(event) = update {
                    last = format!("{:?}: {}", event.state(), event.message);
                }
            }
            bail!("job {job} ended before what was waited for; last: {last}")
        })
        .await
        .with_context(|| format!("waiting on job {job}"))
    }

    /// Waits until a job is in a state and returns it. Another end than the wanted one is an error
    /// that says why.
    ///
    /// # Errors
    /// If it does not get there.
    pub async fn wait_for(&self, job: &str, state: State) -> anyhow::Result<v1::Job> {
        self.until(
            job,
            0,
            |update| matches!(update, Update::Event(event) if event.state() == state),
        )
        .await?;
        self.job(job).await
    }

    /// Waits for a checkpoint event after a sequence number.
    ///
    /// # Errors
    /// If none comes.
    pub async fn checkpoint(&self, job: &str, after: u64) -> anyhow::Result<v1::Checkpoint> {
        use v1::job_event::Detail;
        let update = self
            .until(job, after, |update| {
                matches!(update, Update::Event(e) if matches!(e.detail, Some(Detail::Checkpoint(_))))
            })
            .await?;
        match update {
            Update::Event(v1::JobEvent {
                detail: Some(Detail::Checkpoint(checkpoint)),
                ..
            }) => Ok(checkpoint),
            _ => bail!("not a checkpoint"),
        }
    }

    /// Waits for a line of a job's log.
    ///
    /// # Errors
    /// If none comes.
    pub async fn log_line(
        &self,
        job: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        self.within("a log line", async {
            let request = v1::TailJobLogsRequest {
                name: job.to_owned(),
                tail: 0,
                follow: true,
            };
            let mut lines = self
                .jobs()
                .await?
                .tail_job_logs(request)
                .await?
                .into_inner();
            while let Some(line) = lines.message().await? {
                if wanted(&line.text) {
                    return Ok(line.text);
                }
            }
            bail!("the log of job {job} ended")
        })
        .await
    }

    async fn within<T>(
        &self,
        what: &str,
        future: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let waited = tokio::time::timeout(self.patience, future).await;
        waited.with_context(|| format!("{what}: nothing within {:?}", self.patience))?
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.workers.clear();
        self.coordinator = None;
        if !std::thread::panicking() {
            return;
        }
        let mut logs: Vec<PathBuf> = fs::read_dir(self.dir.path().join("logs"))
            .map(|entries| entries.filter_map(|e| Some(e.ok()?.path())).collect())
            .unwrap_or_default();
        logs.sort();
        for log in logs {
            let text = fs::read_to_string(&log).unwrap_or_default();
            eprintln!("--- {}\n{text}", log.display());
        }
    }
}
