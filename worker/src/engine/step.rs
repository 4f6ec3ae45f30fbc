//! The step, in the order in which it happens: pack, forward, heads, backward by block, exchange,
//! agree, weigh, step, gather.

use super::Error;
use super::agree::{Agreed, Stop};
use super::balancing::Decision;
use super::exact::ExactSum;
use super::headset::LossSum;
use super::rows::RowGradient;
use super::trainer::Trainer;
use crate::agent::watched::{Phase, enter};
use crate::data::{RankStep, agreements};
use espalier_spec::job::AdaptiveBy;
use std::time::{Duration, Instant};

/// What all ranks know after a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Loss of each task over the step's samples.
    pub losses: Vec<LossSum>,
    /// Loss of each task's adaptation over its pairs; empty if no task has one.
    pub adaptation: Vec<LossSum>,
    /// Global L2 norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Samples trained on, all ranks together.
    pub samples: u64,
    /// Real tokens trained on, all ranks together.
    pub tokens: u64,
    /// What ranks were told about stopping at this boundary.
    pub stop: Stop,
    /// What each task's gradient was multiplied by; 0 for a task that was not in the step.
    pub weights: Vec<f64>,
    /// Scalar products of the tasks' gradients, K x K row-major, where owners saw them apart; none
    /// with a task that was not in the step.
    pub gram: Option<Vec<Option<f64>>>,
    /// This rank's times.
    pub times: StepTimes,
}

/// Where a rank's time went; differs between ranks and runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepTimes {
    /// The whole step.
    pub total: Duration,
    /// Waiting for other ranks with nothing to compute.
    pub waited: Duration,
    /// From the first gradient sent to the last received, hidden behind computing or not.
    pub exchange: Duration,
    /// Scalar products, weights and the combined gradient.
    pub balancing: Duration,
    /// When the first gradient was sent.
    pub exchange_begun: Option<Instant>,
}

impl PartialEq for StepTimes {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What one rank contributes.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) losses: Vec<ExactSum>,
    /// Of adaptations; empty if there are none.
    pub(super) adaptation: Vec<ExactSum>,
    pub(super) tokens: u64,
    /// Token ids and gradients of the rows they read, of all micro-batches of each slot.
    pub(super) rows: Vec<(Vec<u32>, Vec<f32>)>,
    /// Samples of each row of the gradient matrix, where a batch is cut into parts: equally many numbers on
    /// all ranks.
    pub(super) row_samples: Vec<f64>,
    /// Weights that had to be known before backward.
    pub(super) early: Option<Decision>,
}

impl Trainer {
    /// Trains on one step's batch. `stop` says what this rank was told about stopping: all ranks learn it.
    ///
    /// # Errors
    /// [`Error::LossNotFinite`] and [`Error::GradientNotFinite`], on all ranks alike and before any
    /// parameter is touched; or what model, heads, balancer and communicator say.
    pub fn step(&mut self, batch: &RankStep, stop: impl Into<Stop>) -> Result<StepReport, Error> {
        let begun = Instant::now();
        self.exchange.unless_aborted()?;
        let from = self.thaw.first(batch.step);
        if from < self.from && self.exchange.comm().rank() == 0 {
            let blocks = self.backbone.blocks().len();
            let (step, trained) = (batch.step, blocks - from);
            tracing::info!(step, trained, blocks, "a block more is trained");
        }
        self.from = from;
        self.zero_grad()?;
        let mut sums = self.accumulate(batch)?;
        enter(Phase::Agreeing);
        let agreed = self.reduce(&mut sums, stop.into())?;
        let weighing = Instant::now();
        let decision = match sums.early {
            Some(decision) => decision,
            None => self.decide(batch, &agreed)?,
        };
        let balancing = self.gram_time + weighing.elapsed();
        self.check(batch.step, &agreed, &decision)?;
        let norm = agreed.norm(&decision);
        if !norm.is_finite() {
            return Err(Error::GradientNotFinite { step: batch.step });
        }
        enter(Phase::Updating);
        let combining = self.update(batch.step, &decision, norm)?;
        if self.balancing.wants_losses_after() {
            self.look_again(batch, &decision)?;
        }
        let losses = agreed.losses(&batch.counts);
        let gram = self.balancing.task_gram(&agreed, &batch.counts);
        if let Some(follower) = &mut self.follower {
            let seen: Vec<_> = match follower.by() {
                AdaptiveBy::Losses => losses.iter().map(|loss| (loss.sum, loss.count)).collect(),
                AdaptiveBy::Affinity => agreements(gram.as_deref(), losses.len()),
            };
            if follower.observe(batch.step + 1, &seen) {
                self.order.follow(follower.factors());
            }
        }
        Ok(StepReport {
            samples: batch.drawn,
            losses,
            adaptation: agreed.adaptation(&batch.counts),
            gradient_norm: norm,
            tokens: agreed.tokens,
            stop: agreed.stop,
            gram,
            weights: decision.weights,
            times: StepTimes {
                total: begun.elapsed(),
                waited: self.exchange.take_waited(),
                exchange: self.exchange.take_span(),
                balancing: balancing + combining,
                exchange_begun: self.exchange.take_first(),
            },
        })
    }

    /// Ends the exchange of gradients and lets all ranks agree on what the step was.
    fn reduce(&mut self, sums: &mut Sums, stop: Stop) -> Result<Agreed, Error> {
        if let (Some(rows), Some(table), 0) = (&mut self.rows, self.backbone.table(), self.from) {
            let width = table.width();
            let slots = std::mem::take(&mut sums.rows);
            let collect =
                |(ids, values): (Vec<u32>, Vec<f32>)| RowGradient::collect(&ids, &values, width);
            let slots = slots.into_iter().map(collect).collect();
            rows.exchange(self.exchange.comm(), self.exchange.lanes(), slots)?;
        }
        self.exchange.receive()?;
        let begun = Instant::now();
        let mut mine = Agreed::new(sums, stop, self.exchange.lanes());
        self.scalar_products(&mut mine)?;
        self.gram_time = begun.elapsed();
        mine.agree(&mut self.exchange)?;
        Ok(mine)
    }

    fn check(&self, step: u64, agreed: &Agreed, decision: &Decision) -> Result<(), Error> {
        let bad =
            |task: &usize| !agreed.loss(*task).is_finite() && !decision.skipped.contains(task);
        match (0..self.tasks.len()).find(bad) {
            Some(task) => Err(Error::LossNotFinite {
                task: self.spec.tasks[task].name.clone(),
                step,
            }),
            None => Ok(()),
        }
    }
}
