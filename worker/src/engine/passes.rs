//! A rank's passes of a step: forward, heads and backward, slot by slot.

use super::Error;
use super::exact::ExactSum;
use super::exchange::Held;
use super::headset::key;
use super::lanes::Slot;
use super::step::Sums;
use super::trainer::Trainer;
use crate::data::{Input, RankStep, Sample};
use crate::model::{Batch, Moment, Pass};
use crate::torch;
use std::time::Instant;

impl Trainer {
    /// Forward and backward over this rank's micro-batches, slot by slot; a block's exchange starts
    /// when a slot's backward through it has ended for the last time.
    pub(super) fn accumulate(&mut self, batch: &RankStep) -> Result<Sums, Error> {
        let mut sums = Sums {
            losses: vec![ExactSum::default(); self.tasks.len()],
            ..Sums::default()
        };
        // The rows that all passes of the step read.
        let samples = micros(batch, Slot::ALL).into_iter().flatten();
        let ids = samples.filter_map(|sample| match &sample.input {
            Input::Tokens(ids) => Some(ids.iter().copied()),
            Input::Numbers(_) => None,
        });
        self.fetch_rows(ids.flatten())?;
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
            let passes = self.equally_many(micros.len().max(1), self.passes);
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
        self.drop_rows()?;
        let heads = self.blocks() - 1;
        self.exchange.send(heads, 0, self.heads.block())?;
        Ok(sums)
    }

    /// Brings the rows of these tokens here, where no rank keeps the whole word table. All ranks call
    /// it together.
    pub(super) fn fetch_rows(&mut self, ids: impl Iterator<Item = u32>) -> Result<(), Error> {
        let (Some(rows), Some(table)) = (&mut self.rows, self.backbone.table_mut()) else {
            return Ok(());
        };
        let Some(own) = rows.own_mut() else {
            return Ok(());
        };
        let mut rows: Vec<u32> = ids.collect();
        rows.sort_unstable();
        rows.dedup();
        let begun = Instant::now();
        own.fetch(self.exchange.comm(), table, rows)?;
        self.exchange.count_waited(begun.elapsed());
        Ok(())
    }

    /// Lets the rows that were fetched go.
    pub(super) fn drop_rows(&mut self) -> Result<(), Error> {
        match (&self.rows, self.backbone.table_mut()) {
            (Some(rows), Some(table)) if rows.own().is_some() => Ok(table.let_go()?),
            _ => Ok(()),
        }
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
        exchange.pass_by(&held)?;
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
}

/// The samples of a slot: its task's (and part's), or all, in the loader's micro-batches.
pub(super) fn micros(batch: &RankStep, what: Slot) -> Vec<Vec<&Sample>> {
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
