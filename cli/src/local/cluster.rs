//! Runs a coordinator and its workers until they are told to stop.

use super::folder::{Folder, Process, State};
use super::leftovers;
use super::program::{Program, Sink, find};
use super::stops::Stops;
use super::supervise::{Event, Policy, Wish, supervise};
use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::output::Context;
use espalier_proto::v1::worker::State as WorkerState;
use owo_colors::{AnsiColors, Style};
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long coordinator and workers may take to come up.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// A worker that died so often before it ever registered will not do better.
const MOST_EARLY_DEATHS: u32 = 3;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) folder: Folder,
    pub(crate) listen: SocketAddr,
    pub(crate) workers: u32,
    pub(crate) ranks_per_worker: u32,
    pub(crate) insecure: bool,
    pub(crate) restart: bool,
    pub(crate) quiet: bool,
}

/// Runs a cluster until ctrl-c, SIGTERM or a death that can't be mended.
///
/// # Errors
/// A cluster runs here already, the port is in use, a program is missing, or it does not come up.
pub(crate) async fn run(options: &Options, context: &Context) -> Result<Code> {
    let coordinator = find("espalier-coordinator")?;
    let worker = find("espalier-worker")?;
    let _lock = options.folder.lock()?;
    leftovers::end(&options.folder, context).await;
    let listen = free_address(options.listen)?;
    let mut stops = Stops::new()?;
    let mut cluster = Cluster::new(options, listen, context);
    let outcome = async {
        cluster.start_coordinator(coordinator)?;
        cluster.coordinator_ready(&mut stops).await?;
        cluster.start_workers(&worker)?;
        cluster.workers_ready(&mut stops).await?;
        cluster.announce()?;
        cluster.watch_over(&mut stops).await
    }
    .await;
    cluster.stop(&mut stops).await;
    options.folder.clear();
    match outcome {
        Ok(Ended::Asked) => Ok(Code::Ok),
        Ok(Ended::Alone) => Err(Error::failure("every process of the cluster has ended")),
        // Asked to stop while still coming up: nothing went wrong.
        Err(error) if error.code() == Code::Interrupted => Ok(Code::Interrupted),
        Err(error) => Err(error),
    }
}

enum Ended {
    /// By a signal.
    Asked,
    /// Nothing is left to run.
    Alone,
}

struct Cluster<'a> {
    options: &'a Options,
    context: &'a Context,
    listen: SocketAddr,
    sink: Sink,
    events: mpsc::UnboundedReceiver<Event>,
    sender: mpsc::UnboundedSender<Event>,
    coordinator_wish: watch::Sender<Wish>,
    worker_wish: watch::Sender<Wish>,
    /// Names of what is supervised and has not ended.
    alive: Vec<String>,
    state: State,
}

impl<'a> Cluster<'a> {
    fn new(options: &'a Options, listen: SocketAddr, context: &'a Context) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let screen = context.stderr;
        let quiet = options.quiet;
        let sink: Sink = Arc::new(move |name, line| {
            if !quiet {
                let _ = std::io::Write::write_all(
                    &mut std::io::stderr(),
                    format!(
                        "{} {line}\n",
                        screen.paint(&format!("{name:<11} |"), hue(name))
                    )
                    .as_bytes(),
                );
            }
        });
        let state = State {
            pid: std::process::id(),
            server: format!("http://{}", reachable(listen)),
            ..State::default()
        };
        Self {
            options,
            context,
            listen,
            sink,
            events,
            sender,
            coordinator_wish: watch::channel(Wish::Run).0,
            worker_wish: watch::channel(Wish::Run).0,
            alive: Vec::new(),
            state,
        }
    }

    fn policy(&self, grace: Duration) -> Policy {
        Policy {
            restart: self.options.restart,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            healthy: Duration::from_secs(60),
            grace,
        }
    }

    fn start(
        &mut self,
        name: String,
        path: PathBuf,
        args: Vec<OsString>,
        coordinator: bool,
    ) -> Result<()> {
        let log = self.options.folder.join("logs").join(format!("{name}.log"));
        // Each `up` begins a new log.
        std::fs::write(&log, "")
            .map_err(|error| Error::failure(format!("can't write {}: {error}", log.display())))?;
        let program = Program {
            name: name.clone(),
            path,
            args,
            log,
            sink: self.sink.clone(),
        };
        let (wish, grace) = if coordinator {
            (&self.coordinator_wish, Duration::from_secs(10))
        } else {
            (&self.worker_wish, Duration::from_secs(30))
        };
        let policy = self.policy(grace);
        self.alive.push(name);
        tokio::spawn(supervise(
            program,
            policy,
            wish.subscribe(),
            self.sender.clone(),
        ));
        Ok(())
    }

    fn start_coordinator(&mut self, path: PathBuf) -> Result<()> {
        let data = self.options.folder.join("coordinator");
        let ready = self.options.folder.join("coordinator.ready");
        // Left by a cluster that was killed.
        let _ = std::fs::remove_file(&ready);
        let mut args: Vec<OsString> = vec![
            "--listen".into(),
            self.listen.to_string().into(),
            "--data-dir".into(),
            data.into(),
            "--ready-file".into(),
            ready.into(),
        ];
        if self.options.insecure {
            args.push("--insecure".into());
        }
        self.start("coordinator".to_owned(), path, args, true)
    }

    fn start_workers(&mut self, path: &std::path::Path) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let ranks = (self.options.workers * self.options.ranks_per_worker) as usize;
        let threads = (cores / ranks.max(1)).max(1);
        for number in 1..=self.options.workers {
            let name = format!("worker-{number}");
            let args = vec![
                "run".into(),
                "--coordinator".into(),
                self.state.server.clone().into(),
                "--name".into(),
                name.clone().into(),
                "--ranks".into(),
                self.options.ranks_per_worker.to_string().into(),
                // So that workers do not all take the first device.
                "--behind".into(),
                ((number - 1) * self.options.ranks_per_worker)
                    .to_string()
                    .into(),
                "--threads".into(),
                threads.to_string().into(),
                // One folder for all: the ranks of a job write their checkpoints together.
                "--data-dir".into(),
                self.options.folder.join("data").into(),
            ];
            self.start(name, path.to_path_buf(), args, false)?;
        }
        Ok(())
    }

    /// Waits until the coordinator has written its ready file.
    async fn coordinator_ready(&mut self, stops: &mut Stops) -> Result<()> {
        let ready = self.options.folder.join("coordinator.ready");
        let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
        let mut tick = tokio::time::interval(Duration::from_millis(25));
        loop {
            tokio::select! {
                event = self.events.recv() => {
                    if let Some(Event::Died { how, lines, .. }) = self.note(event)? {
                        return Err(self.death("coordinator", &how, &lines));
                    }
                }
                _ = tick.tick() => if ready.exists() { return Ok(()) },
                () = stops.next() => return Err(interrupted()),
                () = tokio::time::sleep_until(deadline) => return Err(self.too_slow("the coordinator")),
            }
        }
    }

    /// Waits until every worker has registered with the coordinator.
    async fn workers_ready(&mut self, stops: &mut Stops) -> Result<()> {
        let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let mut client = Client::connect_to(&self.state.server, &Default::default()).await?;
        let mut deaths = 0;
        loop {
            tokio::select! {
                event = self.events.recv() => {
                    if let Some(Event::Died { name, how, lines, again }) = self.note(event)? {
                        deaths += 1;
                        if deaths >= MOST_EARLY_DEATHS || again.is_none() {
                            return Err(self.death(&name, &how, &lines));
                        }
                    }
                }
                _ = tick.tick() => {
                    let workers = client.all_workers().await?;
                    let of = |state: WorkerState| workers.iter().filter(move |worker| worker.state() == state);
                    let ready = of(WorkerState::Ready).count();
                    // A drain outlasts a restart: such a worker is up, and gets no jobs since somebody said so.
                    let drained = of(WorkerState::Draining).map(|worker| worker.name.clone());
                    let drained: Vec<String> = drained.collect();
                    if ready + drained.len() >= self.options.workers as usize {
                        self.state.drained = drained;
                        return Ok(());
                    }
                }
                () = stops.next() => return Err(interrupted()),
                () = tokio::time::sleep_until(deadline) => return Err(self.too_slow("a worker")),
            }
        }
    }

    /// Says how to use the cluster.
    fn announce(&mut self) -> Result<()> {
        self.state.ready = true;
        self.options.folder.write(&self.state)?;
        let (workers, ranks) = (self.options.workers, self.options.ranks_per_worker);
        let flag = self.options.folder.server_flag(&self.state);
        self.context.note(&format!(
            "\ncluster is ready at {}: {workers} {} with {ranks} {} each, data in {}\npage: {}/\n\n  \
             espalier {flag}submit job.yaml --wait\n",
            self.state.server,
            if workers == 1 { "worker" } else { "workers" },
            if ranks == 1 { "rank" } else { "ranks" },
            self.options.folder.display(),
            self.state.server,
        ));
        for notice in self.options.folder.drained(&self.state) {
            self.context.warn(&notice);
        }
        Ok(())
    }

    /// Goes on until told to stop or until nothing is left.
    async fn watch_over(&mut self, stops: &mut Stops) -> Result<Ended> {
        loop {
            tokio::select! {
                event = self.events.recv() => {
                    if let Some(Event::Died { name, how, lines, again }) = self.note(event)? {
                        self.context.warn(&self.death(&name, &how, &lines).to_string());
                        match again {
                            Some(pause) => self.context.note(&format!(
                                "{name} is started again in {}", crate::output::text::span(pause.as_secs_f64())
                            )),
                            None if name == "coordinator" => return Ok(Ended::Alone),
                            None => {}
                        }
                    }
                    if self.alive.iter().all(|name| name == "coordinator") && self.options.workers > 0 {
                        return Ok(Ended::Alone);
                    }
                }
                () = stops.next() => return Ok(Ended::Asked),
            }
        }
    }

    /// Stops workers, then the coordinator. A second signal kills.
    async fn stop(&mut self, stops: &mut Stops) {
        if self.alive.is_empty() {
            return;
        }
        self.context
            .note("stopping: workers first; ctrl-c again kills them");
        for coordinator in [false, true] {
            let wish = if coordinator {
                self.coordinator_wish.clone()
            } else {
                self.worker_wish.clone()
            };
            wish.send_replace(Wish::Stop);
            while self
                .alive
                .iter()
                .any(|name| coordinator || name != "coordinator")
            {
                tokio::select! {
                    event = self.events.recv() => {
                        // Nothing to do about a state file that can't be written now.
                        let _ = self.note(event);
                    }
                    () = stops.next() => {
                        self.worker_wish.send_replace(Wish::Kill);
                        self.coordinator_wish.send_replace(Wish::Kill);
                    }
                }
            }
        }
    }

    /// Keeps the record of what runs; passes deaths on.
    fn note(&mut self, event: Option<Event>) -> Result<Option<Event>> {
        match event {
            Some(Event::Started { name, pid }) => {
                self.context.note(&format!(
                    "{} started, process {pid}",
                    self.context
                        .stderr
                        .paint(&format!("{name:<11}"), hue(&name))
                ));
                self.state.processes.retain(|process| process.name != name);
                self.state.processes.push(Process { name, pid });
                self.options.folder.write(&self.state)?;
                Ok(None)
            }
            Some(Event::Ended { name }) => {
                self.alive.retain(|alive| *alive != name);
                self.state.processes.retain(|process| process.name != name);
                self.options.folder.write(&self.state)?;
                Ok(None)
            }
            died => Ok(died),
        }
    }

    fn death(&self, name: &str, how: &str, lines: &[String]) -> Error {
        let log = self.options.folder.join("logs").join(format!("{name}.log"));
        let mut message = format!("{name} {how}");
        if !lines.is_empty() {
            message.push_str("; its last lines:\n");
            message.push_str(
                &lines
                    .iter()
                    .map(|line| format!("  {line}"))
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
        }
        Error::failure(message).hint(format!("its whole log is {}", log.display()))
    }

    fn too_slow(&self, who: &str) -> Error {
        Error::failure(format!(
            "{who} did not come up within {} s",
            READY_TIMEOUT.as_secs()
        ))
        .hint(format!(
            "look into {}",
            self.options.folder.join("logs").display()
        ))
    }
}

fn interrupted() -> Error {
    Error::new(Code::Interrupted, "stopped while the cluster was coming up")
}

/// Each process has its colour.
fn hue(name: &str) -> Style {
    const HUES: [AnsiColors; 5] = [
        AnsiColors::Green,
        AnsiColors::Yellow,
        AnsiColors::Blue,
        AnsiColors::Magenta,
        AnsiColors::BrightRed,
    ];
    let number = name
        .rsplit('-')
        .next()
        .and_then(|number| number.parse::<usize>().ok());
    Style::new().color(number.map_or(AnsiColors::Cyan, |number| HUES[number % HUES.len()]))
}

/// The address that clients on this machine use.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(if listen.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

/// The address with a port that is free, chosen here if it is 0: workers and a coordinator that is
/// started again must know it.
fn free_address(listen: SocketAddr) -> Result<SocketAddr> {
    TcpListener::bind(listen).and_then(|listener| listener.local_addr()).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            Error::new(Code::Conflict, format!("port {} of {} is in use", listen.port(), listen.ip()))
                .hint("another cluster may run there; choose another port with --listen, or 0 for any")
        } else {
            Error::failure(format!("can't listen on {listen}: {error}"))
        }
    })
}
