//! The loop of a rank: steps, evaluations, checkpoints, the end.

mod best;
mod durable;
mod finish;
mod measure;

use super::account::Account;
use super::agree::Stop;
use super::metrics::Metrics;
use super::progress::Meter;
use super::restore::restore;
use super::snapshot::{Snapshots, held_by, outlives};
use super::trainer::Trainer;
use super::{Error, Sources};
use crate::agent::control::{Control, Told};
use crate::agent::held::Holding;
use crate::agent::report::{Address, Content};
use crate::agent::watched::{self, Phase, Watched};
use crate::checkpoint::{RunState, Saving, Store, Uploading};
use crate::data::{Loader, LoaderOptions, Placement};
use crate::device;
use crate::torch;
use espalier_comm::{Communicator, CommunicatorExt, Listener, PeerAddr, Rendezvous, Secret};
use espalier_spec::recovery::{Milestone, Restore};
use espalier_spec::report::{Checkpoint, ExchangeStats};
use espalier_spec::{JobId, JobSpec, Plan, Rank, Step};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// What a rank needs to know to train.
#[derive(Debug)]
pub struct RankContext {
    /// The job.
    pub spec: JobSpec,
    /// Who computes and owns what.
    pub plan: Plan,
    /// This rank.
    pub rank: Rank,
    /// Name of its device.
    pub device: String,
    /// Compute threads.
    pub threads: usize,
    /// The job's directory.
    pub dir: PathBuf,
    /// What all ranks of this worker share.
    pub sources: Arc<Sources>,
    /// The checkpoint to go on from.
    pub resume: Option<Checkpoint>,
    /// The snapshot to go on from instead.
    pub restore: Option<Restore>,
    /// What ranks know each other by; none: they speak plain text.
    pub secret: Option<Secret>,
    /// What this worker holds of the job in memory.
    pub holding: Arc<Holding>,
    /// How it is told to stop.
    pub control: Arc<Control>,
}

/// How a rank ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps done, and rank 0 has exported the model to this directory.
    Exported(String),
    /// Stopped as ordered.
    Stopped,
}

/// What a rank does before it stops at a step boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Write a checkpoint.
    Checkpoint,
    /// Take a snapshot that other workers hold too.
    Snapshot,
}

/// What a rank tells.
pub type Tell<'a> = &'a dyn Fn(Content);

/// Trains one rank of a job to its end. Rank 0 tells milestones, progress, evaluations and checkpoints.
///
/// # Errors
/// Whatever ends the run before its time; the same on all ranks unless a rank was lost.
pub fn run_rank(
    context: RankContext,
    listener: Listener,
    peers: &[Address],
    tell: Tell<'_>,
) -> Result<Ending, Error> {
    let device = device::named(&context.device).map_err(|message| Error::Device {
        device: context.device.clone(),
        message,
    })?;
    torch::use_device(device)?;
    let watched = context.control.watch(context.rank);
    watched::sign(Arc::clone(&watched));
    // Counts for operations of this thread (OpenMP's and MKL's numbers are a thread's own), so ranks
    // of several jobs in one process don't change each other's.
    tch::set_num_threads(context.threads.max(1) as i32);
    let backbone = context.sources.backbone(&context.spec, device)?;
    watched.enter(Phase::Connecting);
    let comm = connect(&context, &watched, listener, peers)?;
    let tell: Tell<'_> = if context.rank.0 == 0 { tell } else { &|_| {} };
    tell(Content::Reached(Milestone::Connected, context.first()));
    watched.enter(Phase::Loading);
    let trainer = Trainer::new(
        &context.spec,
        &context.plan,
        comm,
        &context.sources,
        backbone,
    )?;
    let store = Store::new(context.dir.join("checkpoints")).of(context.plan.generation);
    let saving = Saving::new(
        store.clone(),
        JobId(context.spec.name.clone()),
        (context.rank.0 as usize, trainer.exchange.comm().size()),
        context.spec.checkpoint.keep as usize,
    );
    let policy = &context.spec.checkpoint;
    let uploading = Uploading::of(policy, context.rank, &context.dir, &store);
    let total = context.sources.total_steps(&context.spec);
    let state = RunState::default();
    let names = context.spec.tasks.iter().map(|task| task.name.clone());
    let metrics = match context.rank.0 {
        0 => Metrics::append(&context.dir),
        _ => Metrics::none(),
    };
    let holding = Arc::clone(&context.holding);
    let snapshots = Snapshots::new(&context.spec.recovery, &context.plan.seats, holding);
    let ending = Run {
        names: names.collect(),
        sent: 0,
        metrics,
        snapshots,
        leaving: false,
        watched: Arc::clone(&watched),
        context,
        trainer,
        store,
        saving,
        uploading,
        state,
        total,
        tell,
    }
    .run();
    watched.enter(Phase::Ended);
    ending
}

fn connect(
    context: &RankContext,
    watched: &Watched,
    listener: Listener,
    peers: &[Address],
) -> Result<Arc<dyn Communicator>, Error> {
    let mut addresses = Vec::with_capacity(peers.len());
    for peer in peers {
        let addr = peer.address.parse().map_err(|_| {
            Error::Plan(format!(
                "{} listens at {:?}, which is no address",
                peer.rank, peer.address
            ))
        })?;
        addresses.push(PeerAddr {
            rank: peer.rank.0 as usize,
            addr,
            host_id: peer.host_id.clone(),
        });
    }
    let rank = context.rank.0 as usize;
    let abort = espalier_comm::AbortHandle::new()?;
    let handle = abort.clone();
    context
        .control
        .on_abort(move || handle.abort("told to stop"));
    let mut rendezvous = Rendezvous::new(
        &context.spec.name,
        context.plan.generation.0,
        rank,
        addresses,
    );
    let limits = context.control.limits();
    (rendezvous.timeout, rendezvous.silence) = (limits.peer_timeout, limits.peer_silence);
    rendezvous.secret = context.secret.clone();
    watched.stops_by(abort.clone());
    rendezvous.abort = Some(abort);
    rendezvous.flight = Some(watched.flight().clone());
    Ok(Arc::new(espalier_comm::connect(&listener, rendezvous)?))
}

impl RankContext {
    /// Steps done where it goes on.
    fn first(&self) -> Step {
        match (&self.restore, &self.resume) {
            (Some(restore), _) => restore.step,
            (None, Some(checkpoint)) => checkpoint.step,
            (None, None) => Step(0),
        }
    }
}

struct Run<'a> {
    context: RankContext,
    trainer: Trainer,
    store: Store,
    /// Checkpoints that are written while training goes on.
    saving: Saving,
    /// On rank 0 their copies, if the job wants them elsewhere too.
    uploading: Option<Uploading>,
    snapshots: Snapshots,
    /// Some worker was told to leave before this step.
    leaving: bool,
    state: RunState,
    total: u64,
    names: Vec<String>,
    /// Bytes that were sent to other ranks when they were last counted.
    sent: u64,
    metrics: Metrics,
    watched: Arc<Watched>,
    tell: Tell<'a>,
}

impl Run<'_> {
    fn run(mut self) -> Result<Ending, Error> {
        let ending = self.whole();
        // Whom a lost peer took along has told its own already, and whose fault it was.
        if let Err(error) = &ending
            && !matches!(error, Error::Comm(_))
        {
            // Peers are told first, and why: to them a rank that waits for its disk is alive, and they would
            // wait for it as long.
            let abort = self.trainer.exchange.comm().abort_handle();
            abort.abort(error.to_string());
        }
        self.measure_snapshots();
        // Where a rank was lost, nobody waits for its part; what is whole already is told.
        match &ending {
            Err(Error::Comm(_)) => self.saved(),
            _ => self.wait_for_saving(),
        }
        ending
    }

    fn whole(&mut self) -> Result<Ending, Error> {
        self.watched.enter(Phase::Restoring);
        self.take_up()?;
        (self.tell)(Content::Reached(Milestone::Restored, self.state.step));
        self.watched.set_step(self.state.step.0);
        self.metrics.begin(self.state.step);
        self.watched.enter(Phase::Caching);
        let draws = self.total * u64::from(self.context.spec.training.batch_size);
        self.trainer.cache_features(draws, &self.context.dir)?;
        if let Some(ending) = self.train()? {
            return Ok(ending);
        }
        self.finish()
    }

    /// Takes up the snapshot or the checkpoint to go on from, if there is one.
    fn take_up(&mut self) -> Result<(), Error> {
        let context = &self.context;
        if let Some(order) = &context.restore {
            self.state = restore(&mut self.trainer, &context.holding, &context.plan, order)?;
            tracing::info!(
                step = self.state.step.0,
                "going on from a snapshot in memory"
            );
            return Ok(());
        }
        if let Some(checkpoint) = &context.resume {
            let step = checkpoint.step;
            self.state = self.trainer.resume_run(&self.store, &context.dir, step)?;
            tracing::info!(step = self.state.step.0, "going on from checkpoint");
            self.check_best()?;
        }
        let context = &self.context;
        let here = held_by(&context.plan.seats, context.rank.0 as usize);
        context.holding.keep_only(&here, self.state.step);
        Ok(())
    }

    /// Trains to the last step or the early stop; an ending if it was told to stop before.
    fn train(&mut self) -> Result<Option<Ending>, Error> {
        let mut loader = self.loader()?;
        let mut account = self.account();
        let mut meter = Meter::new(self.total, self.context.spec.tasks.len());
        let first = self.state.step;
        if first.0 < self.total {
            let restored = self.context.restore.is_some();
            self.snapshots
                .begin(&mut self.trainer, &mut self.state, restored)?;
        }
        while self.state.step.0 < self.total {
            let begun = Instant::now();
            self.watched.enter(Phase::Fetching);
            // The loader ends only after an error or the last step.
            let Some(batch) = loader.next().transpose()? else {
                break;
            };
            let told = self.context.control.told();
            let report = self.trainer.step(&batch, told)?;
            let took = begun.elapsed();
            self.measure(batch.step, took, &report.times);
            // Before anything that a later generation may go on from.
            account.step(&batch);
            if self.state.step == first {
                let milestone = Milestone::FirstStep;
                (self.tell)(Content::Reached(milestone, first.next()));
            }
            self.state.step = self.state.step.next();
            self.state.samples += report.samples;
            self.state.tokens += report.tokens;
            let done = self.state.step.0;
            self.context.control.set_step(done);
            self.saved();
            self.watched.set_step(done);
            if self.context.rank.0 == 0 {
                // The moments that steps are measured by from outside, see tests/chaos.
                let generation = self.context.plan.generation.0;
                tracing::trace!(generation, step = done, "step done");
            }
            let optimizer = &self.context.spec.training.optimizer;
            let rate = optimizer.learning_rate * self.trainer.schedule.factor(batch.step);
            let totals = (self.state.samples, self.state.tokens);
            let tasks = &self.context.spec.tasks;
            if let Some(gram) = &report.gram {
                self.state.affinity.step(&self.names, gram, &report.weights);
            }
            if let Some(mut progress) = meter.step(done, &report, totals, rate, tasks) {
                progress.affinity = self.state.affinity.known();
                progress.exchange = Some(ExchangeStats {
                    fallbacks: self.trainer.balancing.fallbacks(),
                    skipped_tasks: self.trainer.balancing.incidents.skipped,
                    last_fallback: self.trainer.balancing.incidents.last_fallback.clone(),
                    ..meter.exchange(self.trainer.exchange.sent())
                });
                progress.memory = Some(self.trainer.memory());
                self.metrics.progress(&progress);
                (self.tell)(Content::Progress(Box::new(progress)));
            }
            let every = self
                .context
                .spec
                .evaluation
                .every_steps
                .unwrap_or(self.total)
                .max(1);
            let mut stop_early = false;
            if done.is_multiple_of(every) || done == self.total {
                stop_early = self.evaluate()?;
                meter.restart();
            }
            let every = self.context.spec.checkpoint.every_steps;
            let due = every > 0 && done.is_multiple_of(every) && done < self.total;
            let goes_on = done < self.total && !stop_early;
            let stop = self.stops(report.stop)?.filter(|_| goes_on);
            if stop == Some(How::Checkpoint) {
                account.stop(self.state.step);
                self.checkpoint(true)?;
                return Ok(Some(Ending::Stopped));
            }
            if due {
                account.sync();
                self.checkpoint(false)?;
                meter.restart();
            }
            if stop == Some(How::Snapshot) {
                account.stop(self.state.step);
                self.snapshots.take(&mut self.trainer, &mut self.state)?;
                tracing::info!(step = done, "handed over in memory");
                return Ok(Some(Ending::Stopped));
            }
            if stop_early {
                tracing::info!(
                    step = done,
                    "no better model for long enough: stopping early"
                );
                break;
            }
            if goes_on {
                self.snapshots
                    .stepped(took, &mut self.trainer, &mut self.state)?;
            }
        }
        account.stop(self.state.step);
        Ok(None)
    }

    fn account(&self) -> Account {
        let plan = &self.context.plan;
        let who = (plan.generation, self.context.rank, plan.seats.len());
        Account::open(
            &self.context.dir,
            who,
            self.state.step,
            self.trainer.tasks(),
        )
    }

    /// Whether and how all ranks stop at this boundary, given what they agreed on. A worker that leaves
    /// is waited for by one step more: if all leave, as a cluster does that is shut down, nobody would
    /// hold a snapshot, and by then the others have been told, too.
    fn stops(&mut self, told: Stop) -> Result<Option<How>, Error> {
        let how = match told {
            Stop::No => return Ok(None),
            Stop::Checkpoint => How::Checkpoint,
            _ if !self.snapshots.on() => How::Checkpoint,
            Stop::Handover => How::Snapshot,
            Stop::Leave | Stop::LeaveAll if !self.leaving => {
                self.leaving = true;
                return Ok(None);
            }
            Stop::Leave => self.leaves()?,
            Stop::LeaveAll => How::Checkpoint,
        };
        Ok(Some(how))
    }

    /// How all ranks stop for workers that leave: after a snapshot, unless some part of it would be held by these alone.
    fn leaves(&self) -> Result<How, Error> {
        let stays = matches!(self.context.control.told(), Told::GoOn | Told::Handover);
        let comm = self.trainer.exchange.comm();
        let stay = comm.all_gather_bytes(vec![u8::from(stays)])?;
        let stay: Vec<bool> = stay.iter().map(|stays| stays.first() == Some(&1)).collect();
        Ok(match outlives(&self.context.plan.seats, &stay) {
            true => How::Snapshot,
            false => How::Checkpoint,
        })
    }

    fn loader(&self) -> Result<Loader, Error> {
        let plan = &self.context.plan;
        let count = plan.shards.iter().map(Vec::len).sum();
        let placement =
            Placement::new(count, plan.tasks.iter().map(|task| task.shards.as_slice()))?;
        let own = plan.shards.get(self.context.rank.0 as usize);
        let own = own.ok_or_else(|| Error::Plan(format!("{} has no shards", self.context.rank)))?;
        let shards = own.iter().map(|shard| shard.0 as usize).collect();
        let mut options = LoaderOptions::new(self.state.step.0..self.total, shards, placement);
        options.accumulation = self.context.spec.training.accumulation;
        let (tasks, order) = (self.trainer.tasks(), self.trainer.order());
        Ok(Loader::start(
            Arc::clone(tasks),
            Arc::clone(order),
            options,
        )?)
    }
}
