//! Hosts one generation of one job on this worker: a thread that prepares it and then one thread for
//! each of its ranks.

mod hang;

use super::control::{Control, Told};
use super::held::{Held, Holding, Loaded};
use super::limits::Limits;
use super::log::{self, Author};
use super::report::{Address, Content, Outcome, Report};
use super::telemetry::Telemetry;
use super::watchdog::Watchdog;
use crate::allow::Allowed;
use crate::checkpoint::{self, Store};
use crate::engine::{self, Ending, RankContext, Sources};
use crate::fetch;
use espalier_comm::{Listener, Secret};
use espalier_spec::plan::Seat;
use espalier_spec::recovery::Restore;
use espalier_spec::report::{Checkpoint, Failure};
use espalier_spec::{Generation, JobSpec, Plan, Rank};
use std::any::Any;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use tokio::sync::mpsc::UnboundedSender;

/// What a worker is told to host.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The job.
    pub spec: JobSpec,
    /// Unique over all time.
    pub uid: String,
    /// The generation.
    pub generation: Generation,
    /// The ranks of this worker.
    pub seats: Vec<Seat>,
    /// Whether it only loads model and data, for a later generation.
    pub spare: bool,
    /// What this worker keeps in memory of its jobs.
    pub held: Arc<Held>,
    /// Where the job's files are kept.
    pub dir: PathBuf,
    /// Where files of any job that were fetched are kept.
    pub cache: PathBuf,
    /// Address that the ranks listen on for peers.
    pub listen: SocketAddr,
    /// Names of the worker's devices, by index.
    pub devices: Vec<String>,
    /// Compute threads of each rank: part of what decides the bits of its sums.
    pub threads: usize,
    /// How long ranks may wait for others.
    pub limits: Limits,
    /// What they are measured with.
    pub telemetry: Telemetry,
    /// What the job may name.
    pub allowed: Allowed,
}

/// The order to train.
#[derive(Clone, Debug)]
pub struct StartOrder {
    /// Who computes and owns what.
    pub plan: Plan,
    /// Where every rank listens, in order of rank.
    pub addresses: Vec<Address>,
    /// The checkpoint to go on from.
    pub resume: Option<Checkpoint>,
    /// The snapshot to go on from instead.
    pub restore: Option<Restore>,
    /// What the ranks know each other by; none: they speak plain text.
    pub secret: Option<Secret>,
}

/// A job that this worker hosts.
#[derive(Debug)]
pub struct Hosted {
    /// Unique over all time.
    pub uid: String,
    /// The generation.
    pub generation: Generation,
    /// The ranks of this worker.
    pub ranks: Vec<Rank>,
    /// Whether it is kept ready for a later generation.
    pub spare: bool,
    /// How to stop it.
    pub control: Arc<Control>,
    start: mpsc::Sender<Box<StartOrder>>,
    thread: Option<JoinHandle<()>>,
}

impl Hosted {
    /// Starts to prepare a job, once all threads of `before`, the generation before it, have ended: one at
    /// a time touches its files. Everything that follows is told through `reports`, a
    /// [`Content::Stopped`] last.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(
        assignment: Assignment,
        before: Option<Hosted>,
        reports: UnboundedSender<Report>,
    ) -> std::io::Result<Self> {
        let telemetry = assignment.telemetry.of(&assignment.uid);
        let control = Arc::new(Control::with(assignment.limits).measured(telemetry));
        let (start, started) = mpsc::channel();
        let hosted = Self {
            uid: assignment.uid.clone(),
            generation: assignment.generation,
            ranks: assignment.seats.iter().map(|seat| seat.rank).collect(),
            spare: assignment.spare,
            control: Arc::clone(&control),
            start,
            thread: None,
        };
        let name = format!("{} {}", assignment.spec.name, assignment.generation);
        let thread = thread::Builder::new().name(name).spawn(move || {
            let host = Host {
                assignment,
                control,
                reports,
            };
            let _signed = log::sign(host.author(None));
            if let Some(before) = before {
                before.join();
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| host.host(&started)));
            let outcome = outcome.unwrap_or_else(|panic| {
                let text = panic_text("what prepares it", panic.as_ref());
                Outcome::Failed(internal(text))
            });
            if let Outcome::Failed(failure) = &outcome {
                tracing::error!(code = failure.code, "{}", failure.message);
            }
            host.report(Content::Stopped(outcome));
        })?;
        Ok(Self {
            thread: Some(thread),
            ..hosted
        })
    }

    /// Gives the order to train; void if the job has stopped.
    pub fn start(&self, order: StartOrder) {
        let _ = self.start.send(Box::new(order));
    }

    /// Asks its ranks to stop because this worker leaves; a spare stops at once.
    pub fn leave(&self) {
        match self.spare {
            true => self.control.abort(),
            false => self.control.leave(),
        }
    }

    /// Waits for all threads of the job.
    pub fn join(mut self) {
        drop(self.start);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How a rank ended.
type RankEnding = Result<Ending, Failure>;

struct Host {
    assignment: Assignment,
    control: Arc<Control>,
    reports: UnboundedSender<Report>,
}

impl Host {
    fn host(&self, started: &mpsc::Receiver<Box<StartOrder>>) -> Outcome {
        let assignment = &self.assignment;
        let holding = Arc::new(Holding::open(&assignment.held, &assignment.uid));
        let outcome = self.hold(&holding, started).unwrap_or_else(Outcome::Failed);
        let over = match &outcome {
            Outcome::Exported(_) => true,
            // An abort of a spare is the coordinator's: it needs this worker no longer.
            Outcome::Ordered => assignment.spare && self.control.told() == Told::Abort,
            Outcome::Failed(failure) => !failure.retryable,
        };
        if over {
            holding.end();
        }
        outcome
    }

    fn hold(
        &self,
        holding: &Arc<Holding>,
        started: &mpsc::Receiver<Box<StartOrder>>,
    ) -> Result<Outcome, Failure> {
        let assignment = &self.assignment;
        let Some(loaded) = self.load(holding)? else {
            return Ok(Outcome::Ordered);
        };
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for seat in &assignment.seats {
            let listener =
                Listener::bind(assignment.listen).map_err(|e| engine::Error::from(e).failure())?;
            addresses.push(Address {
                rank: seat.rank,
                address: listener.address().to_string(),
                host_id: espalier_comm::host_id().to_owned(),
            });
            listeners.push(listener);
        }
        self.report(Content::Prepared {
            addresses,
            profile: loaded.profile.clone(),
            snapshots: holding.snapshots(),
        });
        let Some(order) = self.wait(started) else {
            return Ok(Outcome::Ordered);
        };
        self.run(&loaded, holding, listeners, *order)
    }

    /// Loads the job, unless an earlier generation has; none if the job is stopped meanwhile.
    fn load(&self, holding: &Holding) -> Result<Option<Loaded>, Failure> {
        let stop = || self.control.told() != Told::GoOn;
        if stop() {
            return Ok(None);
        }
        let assignment = &self.assignment;
        let allowed = &assignment.allowed;
        allowed.check(&assignment.spec).map_err(|e| e.failure())?;
        if let Some(loaded) = holding.loaded() {
            return Ok(Some(loaded));
        }
        let brought = fetch::bring(&assignment.spec, &assignment.cache, &stop);
        let fetch::Brought { spec, fetched } = match brought {
            Ok(brought) => brought,
            Err(fetch::Error::Stopped) => return Ok(None),
            Err(error) => return Err(error.failure()),
        };
        let roots = allowed.of_samples(&assignment.cache);
        let sources = Sources::load_within(&spec, &roots).map_err(|e| e.failure())?;
        let mut profile = sources.profile(&spec).map_err(|e| e.failure())?;
        profile.fetched = fetched;
        let loaded = Loaded {
            spec: Arc::new(spec),
            sources: Arc::new(sources),
            profile,
        };
        holding.keep_loaded(loaded.clone());
        Ok(Some(loaded))
    }

    /// Waits for the order to train; none if the job is stopped before.
    fn wait(&self, started: &mpsc::Receiver<Box<StartOrder>>) -> Option<Box<StartOrder>> {
        let poll = std::time::Duration::from_millis(50);
        loop {
            let told = self.control.told();
            if told != Told::GoOn {
                // Who stops at a boundary comes to it with all others: they start too, if one does.
                let order = started.try_recv().ok();
                return order.filter(|_| told != Told::Abort);
            }
            match started.recv_timeout(poll) {
                Ok(order) => return Some(order),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn run(
        &self,
        loaded: &Loaded,
        holding: &Arc<Holding>,
        listeners: Vec<Listener>,
        order: StartOrder,
    ) -> Result<Outcome, Failure> {
        self.bring_back(&order);
        let order = Arc::new(order);
        let mut ranks = Vec::new();
        let (alive, over) = mpsc::channel();
        for (seat, listener) in self.assignment.seats.iter().zip(listeners) {
            let context = RankContext {
                spec: JobSpec::clone(&loaded.spec),
                plan: order.plan.clone(),
                rank: seat.rank,
                device: self.device(seat),
                threads: self.assignment.threads,
                dir: self.assignment.dir.clone(),
                sources: Arc::clone(&loaded.sources),
                resume: order.resume.clone(),
                restore: order.restore.clone(),
                secret: order.secret.clone(),
                holding: Arc::clone(holding),
                control: Arc::clone(&self.control),
            };
            let author = self.author(Some(seat.rank));
            let order = Arc::clone(&order);
            let alive = alive.clone();
            let name = format!("{} {}", self.assignment.spec.name, seat.rank);
            let thread = thread::Builder::new().name(name).spawn(move || {
                let _alive: mpsc::Sender<()> = alive;
                let _signed = log::sign(author.clone());
                let report = |content| {
                    let (job, generation) = (author.job.clone(), author.generation);
                    let _ = author.reports.send(Report {
                        job,
                        generation,
                        content,
                    });
                };
                let control = Arc::clone(&context.control);
                let ending = engine::run_rank(context, listener, &order.addresses, &report);
                if ending.is_err() {
                    // The other ranks of this process must not wait for one that has failed.
                    control.abort();
                }
                ending.map_err(|e| e.failure())
            });
            let thread = thread.map_err(|e| internal(format!("cannot start a thread: {e}")))?;
            ranks.push((seat.rank, thread));
        }
        drop(alive);
        let count = order.plan.seats.len();
        let (dir, control) = (&self.assignment.dir, Arc::clone(&self.control));
        let watchdog = Watchdog::start(dir, count, control, self.author(None));
        // Every rank ends before the first failure is told.
        let endings = self.endings(ranks, &over);
        drop(watchdog);
        self.outcome(endings)
    }

    /// How ranks ended. Those that hang are left behind, and the process ends soon.
    fn endings(
        &self,
        ranks: Vec<(Rank, JoinHandle<RankEnding>)>,
        over: &mpsc::Receiver<()>,
    ) -> Vec<thread::Result<RankEnding>> {
        let stalled = hang::wait(over, &self.control);
        let (mut endings, mut hanging) = (Vec::new(), Vec::new());
        for (rank, thread) in ranks {
            match &stalled {
                Some(stalled) if !thread.is_finished() => {
                    hanging.push(rank.to_string());
                    endings.push(Ok(Err(stalled.clone())));
                }
                _ => endings.push(thread.join()),
            }
        }
        if !hanging.is_empty() {
            hang::end_process(&hanging.join(", "));
        }
        endings
    }

    /// What follows for the job from how its ranks here ended.
    fn outcome(&self, endings: Vec<thread::Result<RankEnding>>) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::Ordered;
        let mut failures = Vec::new();
        for ending in endings {
            match ending {
                Ok(Ok(Ending::Exported(path))) => outcome = Outcome::Exported(path),
                Ok(Ok(Ending::Stopped)) => {}
                Ok(Err(failure)) => failures.push(failure),
                Err(panic) => failures.push(internal(panic_text("a rank", panic.as_ref()))),
            }
        }
        if failures.is_empty() {
            return Ok(outcome);
        }
        // What a rank found wrong itself says more than that it lost a peer or was aborted.
        let heard = |failure: &Failure| match failure.code.as_str() {
            engine::ABORTED => 2,
            engine::PEER_LOST => 1,
            _ => 0,
        };
        failures.sort_by_key(|failure| (failure.retryable, heard(failure)));
        let failure = failures.swap_remove(0);
        if failure.retryable
            && let Some(stalled) = self.control.given_up()
        {
            return Err(stalled.clone());
        }
        if failure.code == engine::ABORTED && self.control.told() == Told::Abort {
            return Ok(Outcome::Ordered);
        }
        Err(failure)
    }

    /// Brings the checkpoint to go on from back from where it was copied to, if it isn't here.
    fn bring_back(&self, order: &StartOrder) {
        let assignment = &self.assignment;
        let (Some(resume), None) = (&order.resume, &order.restore) else {
            return;
        };
        let Some(url) = &assignment.spec.checkpoint.upload else {
            return;
        };
        let store = Store::new(assignment.dir.join("checkpoints")).of(assignment.generation);
        let stop = || self.control.told() != Told::GoOn;
        let brought = checkpoint::bring_back(url, &assignment.dir, &store, resume.step, &stop);
        if let Err(error) = brought
            && !stop()
        {
            tracing::warn!(%error, "copies of checkpoints cannot be used: going on from what is here");
        }
    }

    fn device(&self, seat: &Seat) -> String {
        let name = self.assignment.devices.get(seat.device as usize);
        name.cloned().unwrap_or_else(|| "cpu".to_owned())
    }

    fn author(&self, rank: Option<Rank>) -> Author {
        Author {
            job: self.assignment.spec.name.as_str().into(),
            generation: self.assignment.generation,
            rank,
            reports: self.reports.clone(),
        }
    }

    fn report(&self, content: Content) {
        let job = self.assignment.spec.name.as_str().into();
        let _ = self.reports.send(Report {
            job,
            generation: self.assignment.generation,
            content,
        });
    }
}

fn internal(message: String) -> Failure {
    Failure {
        code: "internal".to_owned(),
        message,
        retryable: true,
        lost: None,
    }
}

fn panic_text(who: &str, panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "{who} panicked: {}",
        text.unwrap_or_else(|| "no message".to_owned())
    )
}
