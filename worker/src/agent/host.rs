//! Hosts one generation of one job on this worker: a thread that prepares it and then one thread for
//! each of its ranks.

use super::control::{Control, Told};
use super::log::{self, Author};
use super::report::{Address, Content, Outcome, Report};
use crate::engine::{self, Ending, RankContext, Sources};
use crate::fetch;
use espalier_comm::Listener;
use espalier_spec::plan::Seat;
use espalier_spec::recovery::Restore;
use espalier_spec::report::{Checkpoint, Failure};
use espalier_spec::{Generation, JobSpec, Plan, Rank};
use std::any::Any;
use std::net::SocketAddr;
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
    /// How to stop it.
    pub control: Arc<Control>,
    start: mpsc::Sender<Box<StartOrder>>,
    thread: Option<JoinHandle<()>>,
}

impl Hosted {
    /// Starts to prepare a job. Everything that follows is told through `reports`, a
    /// [`Content::Stopped`] last.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(assignment: Assignment, reports: UnboundedSender<Report>) -> std::io::Result<Self> {
        let control = Arc::new(Control::default());
        let (start, started) = mpsc::channel();
        let hosted = Self {
            uid: assignment.uid.clone(),
            generation: assignment.generation,
            ranks: assignment.seats.iter().map(|seat| seat.rank).collect(),
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
            host.sign(None);
            let outcome = host.host(&started).unwrap_or_else(Outcome::Failed);
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

    /// Waits for all threads of the job.
    pub fn join(mut self) {
        drop(self.start);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Host {
    assignment: Assignment,
    control: Arc<Control>,
    reports: UnboundedSender<Report>,
}

impl Host {
    fn host(&self, started: &mpsc::Receiver<Box<StartOrder>>) -> Result<Outcome, Failure> {
        let assignment = &self.assignment;
        let stop = || self.control.told() != Told::GoOn;
        let local = match fetch::bring(&assignment.spec, &assignment.cache, &stop) {
            Ok(local) => local,
            Err(fetch::Error::Stopped) => return Ok(Outcome::Ordered),
            Err(error) => return Err(error.failure()),
        };
        let sources = Sources::load(&local).map_err(|e| e.failure())?;
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
        let profile = sources.profile(&local).map_err(|e| e.failure())?;
        self.report(Content::Prepared {
            addresses,
            profile,
            snapshots: Vec::new(),
        });
        let Some(order) = self.wait(started) else {
            return Ok(Outcome::Ordered);
        };
        self.run(&local, sources, listeners, *order)
    }

    /// Waits for the order to train; none if the job is stopped before.
    fn wait(&self, started: &mpsc::Receiver<Box<StartOrder>>) -> Option<Box<StartOrder>> {
        let poll = std::time::Duration::from_millis(50);
        loop {
            if self.control.told() != Told::GoOn {
                return None;
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
        spec: &JobSpec,
        sources: Sources,
        listeners: Vec<Listener>,
        order: StartOrder,
    ) -> Result<Outcome, Failure> {
        let sources = Arc::new(sources);
        let order = Arc::new(order);
        let mut ranks = Vec::new();
        for (seat, listener) in self.assignment.seats.iter().zip(listeners) {
            let context = RankContext {
                spec: spec.clone(),
                plan: order.plan.clone(),
                rank: seat.rank,
                device: self.device(seat),
                threads: self.assignment.threads,
                dir: self.assignment.dir.clone(),
                sources: Arc::clone(&sources),
                resume: order.resume.clone(),
                control: Arc::clone(&self.control),
            };
            let author = self.author(Some(seat.rank));
            let order = Arc::clone(&order);
            let name = format!("{} {}", self.assignment.spec.name, seat.rank);
            let thread = thread::Builder::new().name(name).spawn(move || {
                log::sign(author.clone());
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
            ranks.push(thread.map_err(|e| internal(format!("cannot start a thread: {e}")))?);
        }
        // Every thread is joined before the first failure is told.
        let endings: Vec<_> = ranks.into_iter().map(JoinHandle::join).collect();
        let mut outcome = Outcome::Ordered;
        let mut failures = Vec::new();
        for ending in endings {
            match ending {
                Ok(Ok(Ending::Exported(path))) => outcome = Outcome::Exported(path),
                Ok(Ok(Ending::Stopped)) => {}
                Ok(Err(failure)) => failures.push(failure),
                Err(panic) => failures.push(internal(panic_text(panic.as_ref()))),
            }
        }
        if failures.is_empty() {
            return Ok(outcome);
        }
        // What a rank found wrong itself says more than that it lost a peer or was aborted.
        failures.sort_by_key(|failure| (failure.retryable, failure.code == engine::ABORTED));
        let failure = failures.swap_remove(0);
        if failure.code == engine::ABORTED && self.control.told() == Told::Abort {
            return Ok(Outcome::Ordered);
        }
        Err(failure)
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

    fn sign(&self, rank: Option<Rank>) {
        log::sign(self.author(rank));
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

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "a rank panicked: {}",
        text.unwrap_or_else(|| "no message".to_owned())
    )
}
