//! The stream to the coordinator: says hello, obeys orders, passes reports on, comes back when lost.

use super::held::Held;
use super::host::{Assignment, Hosted};
use super::leader::{Obeyed, endpoint, is_refusal, route, told, told_status};
use super::leave::Leave;
use super::limits::Limits;
use super::outbox::Outbox;
use super::report::{Address, Content, Outcome, Report};
use super::telemetry::Telemetry;
use super::wire;
use crate::allow::Allowed;
use espalier_proto::v1;
use espalier_proto::v1::coordinator_message::Message as Order;
use espalier_proto::v1::worker_message::Message;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_proto::{ApiError, Credentials, Route};
use espalier_spec::Generation;
use espalier_tls::{ClientTls, TlsError};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a leaving worker waits for its jobs to reach a step boundary.
const LONGEST_FAREWELL: Duration = Duration::from_secs(20);
/// How long it looks, once none of them runs, for a coordinator that takes its last reports.
const LAST_REPORTS: Duration = Duration::from_secs(5);
/// Largest order: an accepted job with its seats or plan. It is as large as `--max-message-bytes` of a coordinator
/// may be, since an order that can't be read ends the stream, and comes again with the next one.
const ORDER_BYTES: usize = 1 << 30;

/// What a worker is told on its command line.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the coordinator, such as `http://127.0.0.1:7443`; of several, which stand in for
    /// each other, separated by commas.
    pub coordinator: String,
    /// Whom it trusts to be a coordinator, and how it shows who it is.
    pub tls: ClientTls,
    /// What it proves with that it may join.
    pub credentials: Credentials,
    /// Name of the worker.
    pub name: String,
    /// Host name.
    pub host: String,
    /// Names of its devices: one rank each.
    pub devices: Vec<String>,
    /// Compute threads of each rank.
    pub threads: usize,
    /// Where jobs keep their files; all workers of a job must see the same directory.
    pub data_dir: PathBuf,
    /// Address that ranks listen on for peers, with port 0.
    pub listen: SocketAddr,
    /// How long ranks may wait for others.
    pub limits: Limits,
    /// What they are measured with.
    pub telemetry: Telemetry,
    /// What jobs may name.
    pub allowed: Allowed,
}

/// Why a worker ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator's address is none.
    #[error("--coordinator {address}: {message}; expected something like http://127.0.0.1:7443")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        message: String,
    },
    /// Certificates can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The coordinator does not want this worker.
    #[error("the coordinator refused this worker: {0}")]
    Refused(String),
}

/// Works for the coordinator until `shutdown` completes or the coordinator refuses the worker.
///
/// # Errors
/// [`Error`] if there is no sense in trying again.
pub async fn run(config: Config, shutdown: impl Future<Output = Leave>) -> Result<(), Error> {
    let mut route = route(&config.coordinator, &config.tls)?;
    let (reports, incoming) = mpsc::unbounded_channel();
    let mut agent = Agent {
        instance: uuid::Uuid::new_v4().to_string(),
        config,
        reports,
        incoming,
        jobs: BTreeMap::new(),
        held: Arc::default(),
        leaving: None,
        outbox: Outbox::default(),
        obeyed: Obeyed::default(),
    };
    let mut shutdown = pin!(shutdown);
    let mut pause = FIRST_PAUSE;
    let mut reachable = true;
    let why = loop {
        let started = Instant::now();
        let ended = tokio::select! {
            ended = agent.serve(route.address()) => ended,
            why = &mut shutdown => break why,
        };
        agent.config.telemetry.metrics.parted();
        if let Err(status) = &ended
            && is_refusal(status)
        {
            return Err(Error::Refused(status.message().to_owned()));
        }
        if started.elapsed() > Duration::from_secs(5) {
            (pause, reachable) = (FIRST_PAUSE, true);
            route.reached();
        }
        let status = ended
            .err()
            .unwrap_or_else(|| Status::unavailable("stream closed"));
        if reachable {
            tracing::warn!(
                coordinator = route.address(),
                reason = status.message(),
                "coordinator unreachable; jobs go on, trying again"
            );
            reachable = false;
        }
        if !route.failed(&ApiError::from(&status)) {
            // Another one, at once.
            continue;
        }
        tokio::select! {
            () = agent.pause(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            why = &mut shutdown => break why,
        }
    };
    agent.leave(route, why).await;
    Ok(())
}

struct Agent {
    config: Config,
    instance: String,
    reports: UnboundedSender<Report>,
    incoming: UnboundedReceiver<Report>,
    jobs: BTreeMap<String, Hosted>,
    /// What is kept in memory of jobs from one generation to the next.
    held: Arc<Held>,
    /// Why it leaves, if it does.
    leaving: Option<Leave>,
    /// What the coordinator has not been told, or may not have taken.
    outbox: Outbox,
    obeyed: Obeyed,
}

type Sender = mpsc::Sender<v1::WorkerMessage>;

impl Agent {
    /// One connection, from hello to its end. A leaving worker ends it, with a good-bye, as soon as
    /// no job runs and the coordinator has taken all that was reported. It may be given up at any await.
    async fn serve(&mut self, address: &str) -> Result<(), Status> {
        let (sender, mut orders, beat) = self.connect(address).await?;
        let (term, leaving) = (self.obeyed.term(), self.leaving);
        let leaves = leaving.is_some();
        tracing::info!(coordinator = address, term, leaving = leaves, "connected");
        let mut heartbeat = interval(beat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while self.outbox.has_more() {
                // Nothing is taken out before there is room for it.
                let Ok(room) = sender.reserve().await else {
                    return Ok(());
                };
                if let Some(message) = self.outbox.take() {
                    room.send(message);
                }
            }
            if let Some(why) = leaving
                && self.jobs.is_empty()
                && self.outbox.is_settled()
            {
                let reason = why.reason().to_owned();
                let goodbye = Message::Goodbye(v1::Goodbye { reason });
                // A full or closed channel means that the coordinator is gone itself.
                let _ = sender.send(wire::message(goodbye)).await;
                drop(sender);
                while orders.message().await?.is_some() {}
                return Ok(());
            }
            tokio::select! {
                order = orders.message() => match order? {
                    Some(order) => self.obey(order),
                    None => return Ok(()),
                },
                Some(report) = self.incoming.recv() => self.keep(report),
                _ = heartbeat.tick() => {
                    let running = self.running();
                    let message = Message::Heartbeat(v1::Heartbeat { running });
                    if sender.send(wire::message(message)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn connect(
        &mut self,
        address: &str,
    ) -> Result<(Sender, Streaming<v1::CoordinatorMessage>, Duration), Status> {
        // A leader may have named it.
        let channel = endpoint(address, &self.config.tls)
            .map_err(|e| Status::unavailable(e.to_string()))?
            .connect()
            .await
            .map_err(|e| Status::unavailable(told(&e)))?;
        let bearer = self
            .config
            .credentials
            .read()
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let mut client = WorkerServiceClient::with_interceptor(channel, bearer)
            .max_decoding_message_size(ORDER_BYTES);
        let (sender, receiver) = mpsc::channel(64);
        let hello = Message::Hello(v1::Hello {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.config.host.clone(),
            devices: self.config.devices.clone(),
            running: self.unsettled(),
            instance: self.instance.clone(),
            preempted: self.leaving == Some(Leave::Preempted),
        });
        // The channel is new and empty: there is room.
        let _ = sender.try_send(wire::message(hello));
        let mut orders = client
            .connect(ReceiverStream::new(receiver))
            .await
            .map_err(told_status)?
            .into_inner();
        let first = orders.message().await.map_err(told_status)?;
        match first.and_then(|m| m.message) {
            Some(Order::Welcome(welcome)) => {
                self.obeyed.admit(&welcome)?;
                self.outbox.open(welcome.acknowledges);
                self.config.telemetry.metrics.welcomed();
                let interval = welcome
                    .heartbeat_interval
                    .and_then(|d| Duration::try_from(d).ok());
                let interval = interval.unwrap_or(Duration::from_secs(1));
                Ok((sender, orders, interval.max(Duration::from_millis(10))))
            }
            _ => Err(Status::unavailable(
                "the coordinator did not answer the hello",
            )),
        }
    }

    /// Waits, and keeps what jobs say meanwhile.
    async fn pause(&mut self, pause: Duration) {
        let mut over = pin!(sleep(pause));
        loop {
            tokio::select! {
                () = &mut over => return,
                Some(report) = self.incoming.recv() => self.keep(report),
            }
        }
    }

    fn running(&self) -> Vec<v1::RunningJob> {
        let jobs = self.jobs.iter();
        jobs.map(|(job, hosted)| wire::running(job, hosted))
            .collect()
    }

    /// What runs, and what has ended without the coordinator's having said that it knows: it must not take ranks
    /// for lost whose end it is told right after this.
    fn unsettled(&self) -> Vec<v1::RunningJob> {
        let mut all = self.running();
        all.extend(self.outbox.ended().cloned());
        all
    }

    fn obey(&mut self, order: v1::CoordinatorMessage) {
        match order.message {
            Some(Order::Prepare(prepare)) => self.prepare(prepare),
            Some(Order::Start(start)) => self.start(start),
            Some(Order::Stop(stop)) => {
                let generation = Generation(stop.generation);
                let mode = stop.mode();
                tracing::info!(job = stop.job, %generation, ?mode, "told to stop");
                match self.jobs.get(&stop.job) {
                    Some(hosted) if hosted.generation <= generation => match mode {
                        _ if hosted.spare => hosted.control.abort(),
                        v1::stop::Mode::Checkpoint => hosted.control.stop_at_boundary(),
                        v1::stop::Mode::Handover => hosted.control.hand_over(),
                        _ => hosted.control.abort(),
                    },
                    Some(_) => {}
                    // That it has ended is on its way.
                    None if self.outbox.tells_end(&stop.job, stop.generation) => {}
                    // Nothing runs: say so, lest the coordinator waits.
                    None => self.keep(Report {
                        job: stop.job.as_str().into(),
                        generation,
                        content: Content::Stopped(Outcome::Ordered),
                    }),
                }
            }
            Some(Order::Acknowledged(acknowledged)) => {
                self.outbox.acknowledge(acknowledged.sequence);
            }
            Some(Order::Welcome(_)) | None => {}
        }
    }

    fn prepare(&mut self, prepare: v1::Prepare) {
        let job = prepare.job.clone();
        let generation = Generation(prepare.generation);
        if let Some(hosted) = self.jobs.get(&job) {
            if hosted.generation >= generation {
                return;
            }
            match hosted.spare {
                // What it has loaded is what comes next: not an abort, which would give that up.
                true => hosted.control.stop_at_boundary(),
                false => hosted.control.abort(),
            }
        }
        let failed = |message: String| Report {
            job: job.as_str().into(),
            generation,
            content: Content::Stopped(Outcome::Failed(wire::internal(message))),
        };
        let assignment = match self.assignment(prepare) {
            Ok(assignment) => assignment,
            Err(message) => return self.keep(failed(message)),
        };
        let (ranks, spare) = (assignment.seats.len(), assignment.spare);
        tracing::info!(job, %generation, ranks, spare, "preparing");
        // Its threads are waited for by those of the new one: heartbeats must go on.
        let old = self.jobs.remove(&job);
        match Hosted::new(assignment, old, self.reports.clone()) {
            Ok(hosted) => {
                if self.leaving.is_some() {
                    hosted.leave();
                }
                self.jobs.insert(job, hosted);
            }
            Err(error) => self.keep(failed(format!("cannot start a thread: {error}"))),
        }
    }

    fn assignment(&self, prepare: v1::Prepare) -> Result<Assignment, String> {
        let spec = wire::spec(prepare.spec)?;
        let spare = prepare.spare;
        let seats = prepare
            .seats
            .into_iter()
            .filter(|seat| !spare && seat.worker == self.config.name)
            .map(wire::seat)
            .collect();
        // On other workers its ranks share cores with more or fewer of them. libtorch adds up in an
        // order that depends on the number of threads, so that number must not follow.
        let threads = match spec.resources.workers {
            Some(_) => 1,
            None => self.config.threads,
        };
        let folder = wire::folder(&prepare.job, &prepare.job_uid)?;
        let dir = self.config.data_dir.join("jobs").join(folder);
        Ok(Assignment {
            spec,
            uid: prepare.job_uid,
            generation: Generation(prepare.generation),
            seats,
            spare,
            held: Arc::clone(&self.held),
            dir,
            cache: self.config.data_dir.join("cache"),
            listen: self.config.listen,
            devices: self.config.devices.clone(),
            threads,
            limits: self.config.limits,
            telemetry: self.config.telemetry.clone(),
            allowed: self.config.allowed.clone(),
        })
    }

    fn start(&mut self, start: v1::Start) {
        let generation = Generation(start.generation);
        let Some(hosted) = self
            .jobs
            .get(&start.job)
            .filter(|h| h.generation == generation)
        else {
            return;
        };
        match wire::start(start) {
            Ok(order) => hosted.start(order),
            Err(message) => {
                hosted.control.abort();
                tracing::error!(message, "cannot read the order to start");
            }
        }
    }

    /// Keeps what a job says until it is sent; what lasts, until it is acknowledged.
    fn keep(&mut self, report: Report) {
        let job = report.job.as_str();
        let mut ends = None;
        if matches!(report.content, Content::Stopped(_))
            && self
                .jobs
                .get(job)
                .is_some_and(|h| h.generation == report.generation)
            && let Some(hosted) = self.jobs.remove(job)
        {
            ends = Some(wire::running(job, &hosted));
            // Its thread ends right after this report.
            hosted.join();
        }
        let message = wire::report(report, &self.config.name);
        self.outbox.put(message, ends);
    }

    /// Stops all jobs at a step boundary, in the memory of other workers if there are some, passes on
    /// their last reports and says good-bye.
    async fn leave(&mut self, mut route: Route, why: Leave) {
        self.leaving = Some(why);
        for hosted in self.jobs.values() {
            hosted.leave();
        }
        let farewell = tokio::time::timeout(LONGEST_FAREWELL, self.farewell(&mut route));
        if farewell.await.is_err() {
            tracing::warn!(
                jobs = self.jobs.len(),
                "jobs did not stop in time, or their last reports were not taken; leaving"
            );
        }
        for hosted in self.jobs.values() {
            hosted.control.abort();
        }
    }

    /// Serves until no job runs and a coordinator has taken all reports; without one, too: ranks hand over to
    /// each other.
    async fn farewell(&mut self, route: &mut Route) {
        let mut stopped: Option<Instant> = None;
        loop {
            let ended = self.serve(route.address()).await;
            while let Ok(report) = self.incoming.try_recv() {
                self.keep(report);
            }
            if self.jobs.is_empty() {
                let waited = stopped.get_or_insert_with(Instant::now).elapsed();
                if self.outbox.is_settled() {
                    return;
                }
                if waited > LAST_REPORTS {
                    tracing::warn!("no coordinator took the last reports of jobs; leaving");
                    return;
                }
            }
            if let Err(status) = ended {
                let reason = status.message();
                tracing::warn!(reason, "no coordinator; waiting for jobs to stop");
                if !route.failed(&ApiError::from(&status)) {
                    // Another one, at once.
                    continue;
                }
            }
            sleep(FIRST_PAUSE).await;
        }
    }
}

/// Where a rank listens, for the plan's peers.
impl From<v1::PeerAddress> for Address {
    fn from(peer: v1::PeerAddress) -> Self {
        let rank = espalier_spec::Rank(peer.rank);
        Self {
            rank,
            address: peer.address,
            host_id: peer.host_id,
        }
    }
}
