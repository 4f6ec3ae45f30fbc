//! The step, in the order in which it happens: pack, forward, heads, backward by block, exchange,
//! agree, weigh, step, gather.

use super::Error;
use super::agree::Agreed;
use super::balancing::Decision;
use super::exact::ExactSum;
use super::exchange::Held;
use super::headset::{LossSum, key};
use super::lanes::Slot;
use super::owner::Pace;
use super::rows::RowGradient;
use super::trainer::Trainer;
use crate::data::{RankStep, Sample};
use crate::model::{Batch, Moment, Pass};
use crate::torch;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::SyncPath;
use std::time::{Duration, Instant};

/// Added to the gradient's norm when clipping, as in PyTorch's `clip_grad_norm_`.
const CLIP_EPS: f64 = 1e-6;

/// What all ranks know after a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Loss of each task over the step's samples.
    pub losses: Vec<LossSum>,
    /// Global L2 norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Samples trained on, all ranks together.
    pub samples: u64,
    /// Real tokens trained on, all ranks together.
    pub tokens: u64,
    /// Some rank was told to stop at this boundary.
    pub stop: bool,
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
    pub(super) tokens: u64,
    /// Token ids and gradients of the rows they read, of all micro-batches of each slot.
    rows: Vec<(Vec<u32>, Vec<f32>)>,
    /// Samples of each row of the gradient matrix, where a batch is cut into parts.
    pub(super) row_samples: Vec<f64>,
    /// Weights that had to be known before backward.
    early: Option<Decision>,
}

impl Trainer {
    /// Trains on one step's batch. `stop` says that this rank was told to stop: all ranks learn it.
    ///
    /// # Errors
    /// [`Error::LossNotFinite`] and [`Error::GradientNotFinite`], on all ranks alike and before any
    /// parameter is touched; or what model, heads, balancer and communicator say.
    pub fn step(&mut self, batch: &RankStep, stop: bool) -> Result<StepReport, Error> {
        let begun = Instant::now();
        self.zero_grad()?;
        let mut sums = self.accumulate(batch)?;
        let agreed = self.reduce(&mut sums, stop)?;
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
        let combining = self.update(batch.step, &decision, norm)?;
        if self.balancing.wants_losses_after() {
            self.look_again(batch, &decision)?;
        }
        let losses = agreed.losses(&batch.counts);
        Ok(StepReport {
            samples: losses.iter().map(|loss| loss.count).sum(),
            losses,
            gradient_norm: norm,
            tokens: agreed.tokens,
            stop: agreed.stop,
            gram: self.balancing.task_gram(&agreed, &batch.counts),
            weights: decision.weights,
            times: StepTimes {
                total: begun.elapsed(),
                waited: self.exchange.take_waited(),
                exchange: self.exchange.take_span(),
                balancing: balancing + combining,
            },
        })
    }

    /// Forward and backward over this rank's micro-batches, slot by slot; a block's exchange starts
    /// when a slot's backward through it has ended for the last time.
    fn accumulate(&mut self, batch: &RankStep) -> Result<Sums, Error> {
        let mut sums = Sums {
            losses: vec![ExactSum::default(); self.tasks.len()],
            ..Sums::default()
        };
        let rank = self.exchange.comm().rank();
        let own = self.exchange.lanes().of(rank).to_vec();
        for slot in 0..self.exchange.lanes().most() {
            let micros = own.get(slot).map(|what| micros(batch, *what));
            let micros = micros.unwrap_or_default();
            if let Some(what) = own.get(slot)
                && what.parts > 1
            {
                let rows = self.balancing.rows();
                sums.row_samples.resize(rows.len(), 0.0);
                let row = |row: &super::lanes::RowId| {
                    Some(row.task) == what.task && row.part == what.part
                };
                if let Some(place) = rows.iter().position(row) {
                    let count: usize = micros.iter().map(Vec::len).sum();
                    sums.row_samples[place] += count as f64;
                }
            }
            if slot < own.len() {
                self.bind(slot)?;
                sums.rows.push(Default::default());
            }
            let passes = match self.exchange.how().sharding {
                // Every pass gathers parameters, so all ranks make equally many.
                Sharding::Full => self.passes,
                _ => micros.len().max(1),
            };
            for pass in 0..passes {
                let samples = micros.get(pass).map_or(&[][..], Vec::as_slice);
                let place = (slot, pass + 1 == passes);
                if samples.is_empty() {
                    self.empty_pass(batch, place, &mut sums)?;
                } else {
                    self.micro_batch(batch, samples, place, &mut sums)?;
                }
            }
        }
        self.bind(0)?;
        let heads = self.blocks() - 1;
        self.exchange.send(heads, 0, self.heads.block())?;
        Ok(sums)
    }

    /// Nothing to compute, but the other ranks wait for this one.
    fn empty_pass(
        &mut self,
        batch: &RankStep,
        (slot, last): (usize, bool),
        sums: &mut Sums,
    ) -> Result<(), Error> {
        let held = Held {
            blocks: self.backbone.blocks(),
            owners: &self.owners,
        };
        let exchange = &mut self.exchange;
        for (index, block) in held.blocks.iter().enumerate() {
            exchange.need(index, Some(index + 1), &held)?;
            exchange.release(index, block)?;
        }
        if self.balancing.is_early() {
            sums.early = Some(self.balancing.early(batch, &sums.losses, exchange)?);
        }
        for (index, block) in held.blocks.iter().enumerate().rev() {
            exchange.need(index, index.checked_sub(1), &held)?;
            if last {
                exchange.send(index, slot, block)?;
            }
            exchange.release(index, block)?;
        }
        Ok(())
    }

    fn micro_batch(
        &mut self,
        batch: &RankStep,
        samples: &[&Sample],
        (slot, last): (usize, bool),
        sums: &mut Sums,
    ) -> Result<(), Error> {
        let ctx = self.context(batch.step);
        let keys: Vec<u64> = samples.iter().map(|sample| key(sample)).collect();
        let inputs: Vec<_> = samples.iter().map(|sample| &sample.input).collect();
        let packed = self.batch(&inputs, &keys)?;
        sums.tokens += packed.tokens() as u64;
        let scales = self.balancing.loss_scales(&batch.counts);
        let heads = self.blocks() - 1;
        let early = self.balancing.is_early();

        let backbone = self.backbone.as_ref();
        let blocks = backbone.blocks();
        let held = Held {
            blocks,
            owners: &self.owners,
        };
        let exchange = &mut self.exchange;
        let pass = Pass::forward(backbone, &packed, &ctx, |moment| match moment {
            Moment::Forward(index) => exchange.need(index, Some(index + 1), &held),
            Moment::ForwardDone(index) => exchange.release(index, &blocks[index]),
            _ => Ok(()),
        })?;
        exchange.gathered(heads)?;
        let features = pass.features()?;
        let settings = (&ctx, scales.as_slice());
        let losses = &mut sums.losses;
        let runs = self
            .heads
            .backward(&features, samples, &self.tasks, settings, losses)?;
        let grad = features.grad();
        if early {
            let decision = self.balancing.early(batch, &sums.losses, exchange)?;
            for (task, rows) in runs {
                let weight = decision.weights[task];
                let scales = self.balancing.scales_features() && grad.defined();
                if scales && weight != 1.0 {
                    let _ = grad
                        .f_narrow(0, rows.start as i64, rows.len() as i64)?
                        .f_mul_scalar_(weight)?;
                }
            }
            sums.early = Some(decision);
        }
        if !grad.defined() {
            return Ok(());
        }
        let rows = pass.backward(&grad, |moment| match moment {
            Moment::Backward(index) => exchange.need(index, index.checked_sub(1), &held),
            Moment::BackwardDone(index) => {
                if last {
                    exchange.send(index, slot, &blocks[index])?;
                }
                exchange.release(index, &blocks[index])
            }
            _ => Ok(()),
        })?;
        if let (Some(rows), Batch::Tokens(tokens)) = (rows, &packed) {
            let (ids, values) = &mut sums.rows[slot];
            ids.extend(&tokens.host_ids);
            values.extend(torch::data(&rows.f_contiguous()?)?);
        }
        Ok(())
    }

    /// Ends the exchange of gradients and lets all ranks agree on what the step was.
    fn reduce(&mut self, sums: &mut Sums, stop: bool) -> Result<Agreed, Error> {
        if let (Some(rows), Some(table)) = (&mut self.rows, self.backbone.table()) {
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

    /// Owners combine and step their slices and send them to all. Returns the time it took to
    /// combine.
    fn update(&mut self, step: u64, decision: &Decision, norm: f64) -> Result<Duration, Error> {
        let limit = self.spec.training.clip_norm;
        let clipped = limit > 0.0 && norm > limit;
        let scale = if clipped {
            limit / (norm + CLIP_EPS)
        } else {
            1.0
        };
        let factor = self.schedule.factor(step);
        let optimizer = &self.spec.training.optimizer;
        let rate = optimizer.learning_rate * factor;
        let head_rate = optimizer.head_rate() * factor;
        let number = step + 1;
        let last = self.blocks() - 1;
        let pace_of = |index: usize| Pace {
            rate: if index == last { head_rate } else { rate },
            step: number,
            scale,
        };
        let mut combining = Duration::ZERO;
        // First what the next forward needs first.
        if let (Some(rows), Some(table)) = (&mut self.rows, self.backbone.table_mut()) {
            let begun = Instant::now();
            if self.balancing.elementwise().is_some() {
                rows.combine(&self.tracks.table, &[1.0]);
            } else if self.balancing.buffers().is_some() {
                rows.combine(&self.tracks.table, &decision.row_weights);
            } else {
                rows.combine_own(&decision.row_weights);
            }
            combining += begun.elapsed();
            let data = table.data_mut()?;
            rows.optimizer
                .step(data, &self.adamw, rate, number, scale as f32);
            rows.gather(self.exchange.comm(), table)?;
        }
        let replicated = self.exchange.how().sharding == Sharding::None;
        let shares = replicated && self.exchange.how().sync != SyncPath::AllReduce;
        for index in 0..=last {
            if self.owners[index].is_none() {
                continue;
            }
            let begun = Instant::now();
            let combined = if index == last {
                self.weigh_heads(decision, shares)?
            } else {
                self.combine(index, decision, shares)?
            };
            combining += begun.elapsed();
            if shares {
                let block = block_at(self.backbone.as_ref(), &self.heads, index);
                self.exchange.share_gradient(index, block)?;
                continue;
            }
            self.step_block(index, &combined, pace_of(index))?;
            if !replicated {
                let block = block_at(self.backbone.as_ref(), &self.heads, index);
                if !self.exchange.is_sharded(index, block) {
                    self.exchange.gather(index, block)?;
                }
            }
        }
        if shares {
            for index in 0..=last {
                self.exchange.gathered(index)?;
                let whole = self.block(index).grad().map(tch::Tensor::shallow_clone);
                if let Some(whole) = whole {
                    self.step_block(index, &whole, pace_of(index))?;
                }
            }
        }
        Ok(combining)
    }

    fn step_block(&mut self, index: usize, grad: &tch::Tensor, pace: Pace) -> Result<(), Error> {
        let block = block_at(self.backbone.as_ref(), &self.heads, index);
        match &self.owners[index] {
            Some(owner) => owner.step(block, grad, &self.adamw, pace),
            None => Ok(()),
        }
    }

    /// Losses of the step's batch with the new parameters, for balancers that learn from them.
    fn look_again(&mut self, batch: &RankStep, decision: &Decision) -> Result<(), Error> {
        let ctx = self.context(batch.step);
        let mut losses = vec![ExactSum::default(); self.tasks.len()];
        self.settle()?;
        for samples in batch.shards.iter().flat_map(|shard| &shard.micro) {
            let samples: Vec<&Sample> = samples.iter().collect();
            let keys: Vec<u64> = samples.iter().map(|sample| key(sample)).collect();
            let inputs: Vec<_> = samples.iter().map(|sample| &sample.input).collect();
            let packed = self.batch(&inputs, &keys)?;
            let features = tch::no_grad(|| {
                let quiet = |_| Ok::<(), Error>(());
                let pass = Pass::forward(self.backbone.as_ref(), &packed, &ctx, quiet)?;
                Ok::<_, Error>(pass.features()?.f_detach()?)
            })?;
            self.heads
                .measure(&features, &samples, &self.tasks, &ctx, &mut losses)?;
        }
        self.balancing
            .observe(batch, &losses, &mut self.exchange, decision)
    }
}

fn block_at<'a>(
    backbone: &'a dyn crate::model::Backbone,
    heads: &'a super::HeadSet,
    index: usize,
) -> &'a crate::model::Block {
    backbone
        .blocks()
        .get(index)
        .unwrap_or_else(|| heads.block())
}

/// The samples of a slot: its task's (and part's), or all, in the loader's micro-batches.
fn micros(batch: &RankStep, what: Slot) -> Vec<Vec<&Sample>> {
    let mut micros = Vec::new();
    for shard in &batch.shards {
        let mut seen = 0;
        for micro in &shard.micro {
            let samples: Vec<&Sample> = micro
                .iter()
                .filter(|sample| match what.task {
                    None => true,
                    Some(task) => {
                        let own = usize::from(sample.at.task) == task;
                        seen += usize::from(own);
                        own && (what.parts == 1 || seen % what.parts == what.part)
                    }
                })
                .collect();
            if !samples.is_empty() {
                micros.push(samples);
            }
        }
    }
    micros
}
