//! A rank's passes of a step: forward, heads and backward, slot by slot.

use super::Error;
use super::costs::{Run, Tally};
use super::exact::ExactSum;
use super::exchange::Held;
use super::headset::{HeadPass, Seen};
use super::lanes::{RowId, Slot};
use super::step::Sums;
use super::trainer::Trainer;
use crate::agent::watched::{Phase, enter};
use crate::data::{RankStep, Sample};
use crate::model::{Batch, Moment, Pass};
use crate::torch;
use espalier_spec::exchange::Sharding;
use std::time::Instant;
use tch::{Device, Tensor};

impl Trainer {
    /// Forward and backward over this rank's micro-batches, slot by slot; a block's exchange starts
    /// when a slot's backward through it has ended for the last time.
    pub(super) fn accumulate(&mut self, batch: &RankStep) -> Result<Sums, Error> {
        let mut sums = Sums {
            losses: vec![ExactSum::default(); self.tasks.len()],
            adaptation: match self.heads.adapts() {
                true => vec![ExactSum::default(); self.tasks.len()],
                false => Vec::new(),
            },
            // On every rank, also on one that serves no task: ranks sum them up together.
            row_samples: match self.balancing.parts() {
                1 => Vec::new(),
                _ => vec![0.0; self.balancing.rows().len()],
            },
            ..Sums::default()
        };
        // The rows that all passes of the step read.
        let samples = self.micros(batch, Slot::ALL).into_iter().flatten();
        let inputs = samples.flat_map(|sample| [&sample.input].into_iter().chain(&sample.more));
        let ids = inputs.filter_map(|input| Some(input.ids()?.iter().copied()));
        let ids: Vec<u32> = ids.flatten().chain(self.class_ids()).collect();
        self.fetch_rows(ids.into_iter())?;
        let rank = self.exchange.comm().rank();
        let own = self.exchange.lanes().of(rank).to_vec();
        let most = self.exchange.lanes().most();
        let mut slot = 0;
        while slot < most {
            let slots = slot..slot + self.sharing(&own, slot);
            let micros = own.get(slot).map(|what| self.micros(batch, *what));
            let micros = micros.unwrap_or_default();
            for what in own.get(slots.clone()).unwrap_or_default() {
                self.note_samples(*what, &micros, &mut sums);
                sums.rows.push(Default::default());
            }
            let passes = self.equally_many(micros.len().max(1), self.passes);
            for pass in 0..passes {
                let samples = micros.get(pass).map_or(&[][..], Vec::as_slice);
                let last = pass + 1 == passes;
                if samples.is_empty() {
                    for slot in slots.clone() {
                        self.empty_pass(batch, (slot, last), &mut sums)?;
                    }
                } else {
                    let place = (&own[slots.clone()], slot, last);
                    self.micro_batch(batch, samples, place, &mut sums)?;
                }
            }
            slot = slots.end;
        }
        self.bind(0)?;
        self.drop_rows()?;
        let heads = self.blocks() - 1;
        self.exchange.send(heads, 0, self.heads.block())?;
        Ok(sums)
    }

    /// How many slots from `slot` on are over the same samples, so that one forward pass serves them.
    fn sharing(&self, own: &[Slot], slot: usize) -> usize {
        let what = |slot: &Slot| slot.task.map(|t| (self.groups.leader(t), slot.part));
        let first = own.get(slot).and_then(what);
        // With full sharding all ranks gather blocks slot by slot, whatever they share.
        if first.is_none() || self.exchange.how().sharding == Sharding::Full {
            return 1;
        }
        own[slot..].iter().take_while(|s| what(s) == first).count()
    }

    /// Counts a slot's samples, where a batch is cut into parts.
    fn note_samples(&self, what: Slot, micros: &[Vec<&Sample>], sums: &mut Sums) {
        let (true, Some(task)) = (what.parts > 1, what.task) else {
            return;
        };
        let train = &self.tasks[task].train;
        let samples = micros.iter().flatten();
        let count = samples
            .filter(|sample| !sample.at.target && train.has_label(sample.at.sample as usize))
            .count();
        let rows = self.balancing.rows();
        let row = |row: &RowId| row.task == task && row.part == what.part;
        if let Some(place) = rows.iter().position(row) {
            sums.row_samples[place] += count as f64;
        }
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
            sums.early = Some(self.balancing.early(batch, &sums.losses, None, exchange)?);
        }
        for (index, block) in held.blocks.iter().enumerate().skip(self.from).rev() {
            exchange.need(index, below(index, self.from), &held)?;
            if last {
                exchange.send(index, slot, block)?;
            }
            exchange.release(index, block)?;
        }
        Ok(())
    }

    /// One forward pass, and a backward pass for each of `slots`, the first of which is number
    /// `first`; `last` says that no pass of them follows.
    fn micro_batch(
        &mut self,
        batch: &RankStep,
        samples: &[&Sample],
        (slots, first, last): (&[Slot], usize, bool),
        sums: &mut Sums,
    ) -> Result<(), Error> {
        let ctx = self.context(batch.step);
        let micro = self.micro(samples, slots)?;
        let packed = &micro.batch;
        sums.tokens += micro.tokens;
        let scales = self.balancing.loss_scales(&batch.counts);
        let heads = self.blocks() - 1;

        let backbone = self.backbone.as_ref();
        let blocks = backbone.blocks();
        let held = Held {
            blocks,
            owners: &self.owners,
        };
        let several = self.exchange.lanes().most() > 1;
        let (exchange, from) = (&mut self.exchange, self.from);
        let mut pass = Some(Pass::forward(
            backbone,
            packed,
            &ctx,
            |moment| match moment {
                Moment::Forward(index) => {
                    enter(Phase::Forward(index));
                    exchange.need(index, Some(index + 1), &held)
                }
                Moment::ForwardDone(index) => exchange.release(index, &blocks[index]),
                _ => Ok(()),
            },
        )?);
        exchange.gathered(heads)?;
        self.heads.block().push()?;
        for (place, what) in slots.iter().enumerate() {
            let Some(mut run) = pass.take() else { break };
            let slot = first + place;
            if several {
                blocks.iter().try_for_each(|block| block.bind(slot))?;
            }
            let leaves = run.leaves(self.heads.wants_rows())?;
            let features = &leaves.features;
            let seen = Seen {
                samples,
                micro: &micro,
                leaves: &leaves,
            };
            let how = HeadPass {
                ctx: &ctx,
                scales: &scales,
                only: what.task,
            };
            let (losses, adaptation) = (&mut sums.losses, &mut sums.adaptation);
            let mut tally = Tally { losses, adaptation };
            let by_task = self.balancing.is_early()
                && self.balancing.scales_features()
                && (self.groups.any_shared() || leaves.rows.is_some())
                && features.requires_grad();
            if by_task {
                let set = &self.heads;
                let parts = set.backward_by_task(seen, &self.tasks, how, &mut tally)?;
                let shared = self.groups.any_shared();
                let products = shared.then(|| parts.products(self.tasks.len()));
                let products = products.transpose()?;
                let balancing = &mut self.balancing;
                let losses = &sums.losses;
                let decision = balancing.early(batch, losses, products.as_deref(), exchange)?;
                parts.combine(&decision.weights)?;
                sums.early = Some(decision);
            } else {
                let set = &self.heads;
                let runs = set.backward(seen, &self.tasks, how, &mut tally)?;
                if self.balancing.is_early() {
                    let losses = &sums.losses;
                    let decision = self.balancing.early(batch, losses, None, exchange)?;
                    if self.balancing.scales_features() {
                        weigh(&features.grad(), &runs, &decision.weights)?;
                    }
                    sums.early = Some(decision);
                }
            }
            if !leaves.wants_grad() {
                pass = Some(run);
                continue;
            }
            let mut tell = |moment| match moment {
                Moment::Backward(index) => {
                    enter(Phase::Backward(index));
                    exchange.need(index, below(index, from), &held)
                }
                Moment::BackwardDone(index) => {
                    if last {
                        exchange.send(index, slot, &blocks[index])?;
                    }
                    exchange.release(index, &blocks[index])
                }
                _ => Ok::<(), Error>(()),
            };
            let rows = if place + 1 == slots.len() {
                run.backward(&leaves, &mut tell)?
            } else {
                let rows = run.backward_keeping(&leaves, &mut tell)?;
                pass = Some(run);
                rows
            };
            if let (Some(rows), Batch::Tokens(tokens)) = (rows, packed) {
                let (ids, values) = &mut sums.rows[slot];
                ids.extend(&tokens.host_ids);
                match self.device {
                    Device::Cpu => values.extend(torch::data(&rows.f_contiguous()?)?),
                    _ => values.extend(torch::numbers(&rows)?),
                }
            }
        }
        Ok(())
    }

    /// The samples of a slot: its task's (and part's), or all, in the loader's micro-batches.
    pub(super) fn micros<'a>(&self, batch: &'a RankStep, what: Slot) -> Vec<Vec<&'a Sample>> {
        let mut micros = Vec::new();
        for shard in &batch.shards {
            // A sample of the target goes where the one that it is drawn with goes.
            let mut seen = [0; 2];
            for micro in &shard.micro {
                let samples: Vec<&Sample> = micro
                    .iter()
                    .filter(|sample| match what.task {
                        None => true,
                        Some(task) => {
                            let own = usize::from(sample.at.task) == self.groups.leader(task);
                            let seen = &mut seen[usize::from(sample.at.target)];
                            *seen += usize::from(own);
                            own && (what.parts == 1 || *seen % what.parts == what.part)
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
}

/// The block that backward comes to after `index`, if it goes on below it.
fn below(index: usize, from: usize) -> Option<usize> {
    index.checked_sub(1).filter(|below| *below >= from)
}

/// Multiplies the rows of the features' gradient by their tasks' weights.
fn weigh(grad: &Tensor, runs: &[Run], weights: &[f64]) -> Result<(), Error> {
    if !grad.defined() {
        return Ok(());
    }
    for (task, rows) in runs {
        let weight = weights[*task];
        if weight == 1.0 {
            continue;
        }
        let mut own = grad.f_narrow(0, rows.start as i64, rows.len() as i64)?;
        // What is not wanted may be no number, so it is not multiplied by 0.
        let _ = if weight == 0.0 {
            own.f_zero_()?
        } else {
            own.f_mul_scalar_(weight)?
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a task of weight 0 leaves nothing in the features' gradient, be its own no number; the
    // others' rows are multiplied by theirs.
    #[test]
    fn what_is_not_wanted_is_nothing() {
        let nan = f32::NAN;
        let grad = Tensor::from_slice(&[1.0f32, 2.0, nan, nan, 5.0, 6.0]).view([3, 2]);
        let runs: [Run; 3] = [(0, 0..1), (1, 1..2), (2, 2..3)];
        weigh(&grad, &runs, &[1.0, 0.0, 3.0]).unwrap();
        assert_eq!(
            torch::data(&grad).unwrap(),
            [1.0, 2.0, 0.0, 0.0, 15.0, 18.0]
        );
    }
}
