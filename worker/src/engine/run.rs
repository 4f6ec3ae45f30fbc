//! The loop of a rank: steps, evaluations, checkpoints, the end.

use super::evaluate::Which;
use super::metrics::Metrics;
use super::progress::Meter;
use super::trainer::Trainer;
use super::{Error, Sources};
use crate::agent::control::{Control, Told};
use crate::agent::report::{Address, Content};
use crate::checkpoint::{RunState, Store};
use crate::data::{Loader, LoaderOptions, Placement};
use espalier_comm::{Communicator, Listener, PeerAddr, Rendezvous};
use espalier_spec::report::{Checkpoint, ExchangeStats};
use espalier_spec::{JobSpec, Plan, Rank};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// What a rank tells.
pub type Tell<'a> = &'a dyn Fn(Content);

/// Trains one rank of a job to its end. Rank 0 tells progress, evaluations and checkpoints.
///
/// # Errors
/// Whatever ends the run before its time; the same on all ranks unless a rank was lost.
pub fn run_rank(
    context: RankContext,
    listener: Listener,
    peers: &[Address],
    tell: Tell<'_>,
) -> Result<Ending, Error> {
    if context.device != "cpu" {
        let message = "this build computes on the CPU only: set resources.device to cpu".to_owned();
        return Err(Error::Device {
            device: context.device,
            message,
        });
    }
    // Counts for operations of this thread (OpenMP's and MKL's numbers are a thread's own), so ranks
    // of several jobs in one process don't change each other's.
    tch::set_num_threads(context.threads.max(1) as i32);
    let backbone = context.sources.backbone(&context.spec, tch::Device::Cpu)?;
    let comm = connect(&context, listener, peers)?;
    let trainer = Trainer::new(
        &context.spec,
        &context.plan,
        comm,
        &context.sources,
        backbone,
    )?;
    let store = Store::new(context.dir.join("checkpoints"));
    let total = context.sources.total_steps(&context.spec);
    let tell: Tell<'_> = if context.rank.0 == 0 { tell } else { &|_| {} };
    let state = RunState::default();
    let names = context.spec.tasks.iter().map(|task| task.name.clone());
    let metrics = match context.rank.0 {
        0 => Metrics::append(&context.dir),
        _ => Metrics::none(),
    };
    Run {
        names: names.collect(),
        metrics,
        context,
        trainer,
        store,
        state,
        total,
        tell,
    }
    .run()
}

fn connect(
    context: &RankContext,
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
    rendezvous.abort = Some(abort);
    Ok(Arc::new(espalier_comm::connect(&listener, rendezvous)?))
}

struct Run<'a> {
    context: RankContext,
    trainer: Trainer,
    store: Store,
    state: RunState,
    total: u64,
    names: Vec<String>,
    metrics: Metrics,
    tell: Tell<'a>,
}

impl Run<'_> {
    fn run(mut self) -> Result<Ending, Error> {
        if let Some(checkpoint) = &self.context.resume {
            let step = checkpoint.step;
            self.state = self
                .trainer
                .resume_run(&self.store, &self.context.dir, step)?;
            tracing::info!(step = self.state.step.0, "going on from checkpoint");
        }
        let draws = self.total * u64::from(self.context.spec.training.batch_size);
        self.trainer.cache_features(draws, &self.context.dir)?;
        if let Some(ending) = self.train()? {
            return Ok(ending);
        }
        self.finish()
    }

    /// Trains to the last step or the early stop; an ending if it was told to stop before.
    fn train(&mut self) -> Result<Option<Ending>, Error> {
        let mut loader = self.loader()?;
        let mut meter = Meter::new(self.total, self.context.spec.tasks.len());
        while self.state.step.0 < self.total {
            // The loader ends only after an error or the last step.
            let Some(batch) = loader.next().transpose()? else {
                break;
            };
            let told = self.context.control.told();
            let report = self.trainer.step(&batch, told != Told::GoOn)?;
            self.state.step = self.state.step.next();
            self.state.samples += report.samples;
            self.state.tokens += report.tokens;
            let done = self.state.step.0;
            self.context.control.set_step(done);
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
            if report.stop && done < self.total && !stop_early {
                self.checkpoint(true)?;
                return Ok(Some(Ending::Stopped));
            }
            if due {
                self.checkpoint(false)?;
                meter.restart();
            }
            if stop_early {
                tracing::info!(
                    step = done,
                    "no better model for long enough: stopping early"
                );
                break;
            }
        }
        Ok(None)
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

    /// Evaluates, keeps the model if it is the best, and says whether to stop early.
    fn evaluate(&mut self) -> Result<bool, Error> {
        let step = self.state.step;
        let Some(mut evaluation) = self.trainer.evaluate(Which::Validation, step)? else {
            return Ok(false);
        };
        let best = self
            .state
            .best
            .is_none_or(|(best, _)| evaluation.selection > best);
        evaluation.best = best;
        if best {
            self.state.best = Some((evaluation.selection, step));
            self.state.evaluations_without_gain = 0;
            if self.context.spec.evaluation.select_best {
                self.trainer.save_best(&self.store, &self.state)?;
            }
        } else {
            self.state.evaluations_without_gain += 1;
        }
        self.metrics.evaluation(&evaluation);
        (self.tell)(Content::Evaluation(evaluation));
        let patience = self.context.spec.evaluation.early_stopping_patience;
        Ok(patience.is_some_and(|patience| self.state.evaluations_without_gain >= patience))
    }

    /// Writes a checkpoint. If it need not be and cannot, training goes on with a warning: the older
    /// ones are intact.
    fn checkpoint(&mut self, needed: bool) -> Result<(), Error> {
        match self.trainer.save_run(&self.store, &mut self.state) {
            Ok(path) => {
                let (step, path) = (self.state.step, path.display().to_string());
                tracing::info!(step = step.0, path, "checkpoint written");
                (self.tell)(Content::Checkpoint(Checkpoint {
                    step,
                    path,
                    best: false,
                }));
                Ok(())
            }
            Err(error @ Error::Comm(_)) => Err(error),
            Err(error) if needed => Err(error),
            Err(error) => {
                tracing::error!(step = self.state.step.0, %error, "checkpoint failed; training goes on");
                Ok(())
            }
        }
    }

    /// Takes the best model, tests it and exports it.
    fn finish(&mut self) -> Result<Ending, Error> {
        let mut step = self.state.step;
        if self.context.spec.evaluation.select_best
            && let Some((_, best)) = self.state.best
            && best != step
        {
            self.trainer
                .load_best(&self.store, &self.context.dir, best)?;
            step = best;
        }
        if let Some(evaluation) = self.trainer.evaluate(Which::Test, step)? {
            self.metrics.evaluation(&evaluation);
            (self.tell)(Content::Evaluation(evaluation));
        }
        for task in self.trainer.tasks().iter() {
            let lost = task.splits().map(|split| split.lost()).sum::<u64>();
            if lost > 0 && self.context.rank == Rank(0) {
                tracing::warn!(
                    task = task.name,
                    lost,
                    "answers lie beyond backbone.max_tokens and were learned as if there were none"
                );
            }
        }
        let target = self.context.spec.output.as_ref().map(PathBuf::from);
        let target = target.unwrap_or_else(|| self.context.dir.join("export"));
        self.trainer.export(&target, step)?;
        if self.context.rank == Rank(0) {
            tracing::info!(step = step.0, path = %target.display(), "exported");
        }
        Ok(Ending::Exported(absolute(&target)))
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}
