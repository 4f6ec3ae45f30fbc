//! The step, in the order in which it happens: pack, forward, heads, backward by block, exchange,
//! agree, step, gather.

use super::Error;
use super::headset::{LossSum, key};
use super::rows::RowGradient;
use super::trainer::Trainer;
use crate::data::{RankStep, Sample};
use crate::model::{Batch, Pass};
use crate::torch;

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
}

/// What one rank contributes.
#[derive(Debug, Default)]
struct Sums {
    losses: Vec<LossSum>,
    tokens: u64,
    /// Token ids and gradients of the rows they read, of all micro-batches.
    ids: Vec<u32>,
    row_grads: Vec<f32>,
}

impl Trainer {
    /// Trains on one step's batch. `stop` says that this rank was told to stop: all ranks learn it.
    ///
    /// # Errors
    /// [`Error::LossNotFinite`] and [`Error::GradientNotFinite`], on all ranks alike and before any
    /// parameter is touched; or what model, heads and communicator say.
    pub fn step(&mut self, batch: &RankStep, stop: bool) -> Result<StepReport, Error> {
        self.zero_grad()?;
        let sums = self.accumulate(batch)?;
        let report = self.reduce(batch.step, &sums, stop)?;
        self.update(batch.step, report.gradient_norm)?;
        Ok(report)
    }

    /// Forward and backward over this rank's micro-batches; a block's exchange starts when its
    /// backward has ended for the last time.
    fn accumulate(&mut self, batch: &RankStep) -> Result<Sums, Error> {
        let samples: u32 = batch.counts.iter().sum();
        let scale = 1.0 / f64::from(samples.max(1));
        let losses = vec![LossSum::default(); self.tasks.len()];
        let mut sums = Sums {
            losses,
            ..Sums::default()
        };
        let micros: Vec<&Vec<Sample>> =
            batch.shards.iter().flat_map(|shard| &shard.micro).collect();
        let heads = self.blocks() - 1;
        if micros.is_empty() {
            // Nothing to compute, but the other ranks wait for this one's zeros.
            for index in (0..=heads).rev() {
                let block = self
                    .backbone
                    .blocks()
                    .get(index)
                    .unwrap_or(self.heads.block());
                self.exchange.reduce(index, block)?;
            }
        }
        for (place, samples) in micros.iter().enumerate() {
            let last = place + 1 == micros.len();
            self.micro_batch(samples, (batch.step, scale), last, &mut sums)?;
        }
        Ok(sums)
    }

    fn micro_batch(
        &mut self,
        samples: &[Sample],
        (step, scale): (u64, f64),
        last: bool,
        sums: &mut Sums,
    ) -> Result<(), Error> {
        let ctx = self.context(step);
        let keys: Vec<u64> = samples.iter().map(key).collect();
        let inputs: Vec<_> = samples.iter().map(|sample| &sample.input).collect();
        let batch = self.batch(&inputs, &keys)?;
        sums.tokens += batch.tokens() as u64;

        let pass = Pass::forward(self.backbone.as_ref(), &batch, &ctx)?;
        let features = pass.features()?;
        self.heads.backward(
            &features,
            samples,
            &self.tasks,
            (&ctx, scale),
            &mut sums.losses,
        )?;
        let heads = self.blocks() - 1;
        let Self {
            exchange, backbone, ..
        } = self;
        if last {
            exchange.reduce(heads, self.heads.block())?;
        }
        let grad = features.grad();
        if !grad.defined() {
            return Ok(());
        }
        let blocks = backbone.blocks();
        let rows = pass.backward(&grad, |index| {
            if last {
                exchange.reduce(index, &blocks[index])
            } else {
                Ok(())
            }
        })?;
        if let (Some(rows), Batch::Tokens(tokens)) = (rows, &batch) {
            sums.ids.extend(&tokens.host_ids);
            sums.row_grads.extend(torch::data(&rows.f_contiguous()?)?);
        }
        Ok(())
    }

    /// Ends the exchange of gradients and lets all ranks agree on what the step was.
    fn reduce(&mut self, step: u64, sums: &Sums, stop: bool) -> Result<StepReport, Error> {
        if let (Some(rows), Some(table)) = (&mut self.rows, self.backbone.table()) {
            let width = table.width();
            let gradient = RowGradient::collect(&sums.ids, &sums.row_grads, width);
            self.exchange
                .reduce_rows(&gradient, &rows.owned, &mut rows.optimizer, width)?;
        }
        self.exchange.finish()?;
        let mut squares = self
            .rows
            .as_ref()
            .map_or(0.0, |rows| rows.optimizer.sum_of_squares());
        for (index, owner) in self.owners.iter().enumerate() {
            if let Some(owner) = owner {
                squares += owner.sum_of_squares(self.block(index))?;
            }
        }
        let mut numbers = vec![f64::from(u8::from(stop)), squares, sums.tokens as f64];
        for loss in &sums.losses {
            numbers.extend([loss.sum, loss.count as f64]);
        }
        self.exchange.agree(&mut numbers)?;

        let losses = numbers[3..].chunks_exact(2);
        let losses: Vec<LossSum> = losses
            .map(|pair| LossSum {
                sum: pair[0],
                count: pair[1] as u64,
            })
            .collect();
        if let Some(task) = losses.iter().position(|loss| !loss.sum.is_finite()) {
            return Err(Error::LossNotFinite {
                task: self.spec.tasks[task].name.clone(),
                step,
            });
        }
        if !numbers[1].is_finite() {
            return Err(Error::GradientNotFinite { step });
        }
        Ok(StepReport {
            samples: losses.iter().map(|loss| loss.count).sum(),
            losses,
            gradient_norm: numbers[1].sqrt(),
            tokens: numbers[2] as u64,
            stop: numbers[0] > 0.0,
        })
    }

    /// Owners step their slices and send them to all.
    fn update(&mut self, step: u64, norm: f64) -> Result<(), Error> {
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
        let Self {
            exchange,
            backbone,
            heads,
            owners,
            adamw,
            ..
        } = self;
        // First what the next forward needs first.
        if let (Some(rows), Some(table)) = (&mut self.rows, backbone.table_mut()) {
            rows.optimizer
                .step(table.data_mut()?, adamw, rate, number, scale as f32);
            exchange.gather_rows(&rows.optimizer, table)?;
        }
        let last = owners.len() - 1;
        for (index, owner) in owners.iter().enumerate() {
            let block = backbone.blocks().get(index).unwrap_or(heads.block());
            if let Some(owner) = owner {
                let rate = if index == last { head_rate } else { rate };
                owner.step(block, adamw, rate, number, scale)?;
                exchange.gather(index, block)?;
            }
        }
        exchange.finish()
    }
}
