//! The end of a step: owners combine their slices, step them and send them to all who keep them.

use super::Error;
use super::balancing::Decision;
use super::owner::Pace;
use super::trainer::Trainer;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::SyncPath;
use std::time::{Duration, Instant};

/// Added to the gradient's norm when clipping, as in PyTorch's `clip_grad_norm_`.
const CLIP_EPS: f64 = 1e-6;

impl Trainer {
    /// Owners combine and step their slices and send them to all. Returns the time it took to
    /// combine.
    pub(super) fn update(
        &mut self,
        step: u64,
        decision: &Decision,
        norm: f64,
    ) -> Result<Duration, Error> {
        let limit = self.spec.training.clip_norm;
        let clipped = limit > 0.0 && norm > limit;
        let scale = if clipped {
            limit / (norm + CLIP_EPS)
        } else {
            1.0
        };
        let factor = self.schedule.factor(step);
        let optimizer = &self.spec.training.optimizer;
        let head_rate = optimizer.head_rate() * factor;
        let last = self.blocks() - 1;
        let rates = (0..last).map(|index| optimizer.block_rate(last - 1 - index) * factor);
        let rates: Vec<f64> = rates.chain([head_rate]).collect();
        let thaw = self.thaw;
        let pace_of = |index: usize| Pace {
            rate: rates[index],
            // Adam's corrections count the steps of the block's own moments.
            step: step + 1 - thaw.since(index).min(step),
            scale,
        };
        let mut combining = Duration::ZERO;
        // First what the next forward needs first.
        if let (Some(rows), Some(table), 0) = (&mut self.rows, self.backbone.table_mut(), self.from)
        {
            let begun = Instant::now();
            if self.balancing.elementwise().is_some() {
                rows.combine(&self.tracks.table, &[1.0]);
            } else if self.balancing.buffers().is_some() {
                rows.combine(&self.tracks.table, &decision.row_weights);
            } else {
                rows.combine_own(&decision.row_weights);
            }
            combining += begun.elapsed();
            rows.step(self.exchange.comm(), table, &self.optimizer, pace_of(0))?;
        }
        let replicated = self.exchange.how().sharding == Sharding::None;
        let shares = replicated && self.exchange.how().sync != SyncPath::AllReduce;
        for index in self.from..=last {
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
            for index in self.from..=last {
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
            Some(owner) => owner.step(block, grad, &self.optimizer, pace),
            None => Ok(()),
        }
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
