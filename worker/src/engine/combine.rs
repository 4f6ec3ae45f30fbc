//! What an owner does with the gradients of its slices: their scalar products, and their weighted
//! sum.

use super::Error;
use super::agree::Agreed;
use super::balancing::Decision;
use super::kernel::{self, Lane, Row};
use super::trainer::Trainer;
use crate::model::Block;
use crate::torch;
use std::ops::Range;
use tch::Tensor;

impl Trainer {
    /// Adds the scalar products of all rows over this rank's slices, and the heads' sums of squares.
    ///
    /// # Errors
    /// If memory is not on the CPU.
    pub(super) fn scalar_products(&self, mine: &mut Agreed) -> Result<(), Error> {
        if self.exchange.stays() {
            return self.scalar_products_there(mine);
        }
        for (index, block) in self.backbone.blocks().iter().enumerate() {
            if block.trainable() && index >= self.from {
                let slice = self.exchange.slice(index);
                let rows = self.gradient_rows(index, block)?;
                kernel::gram(
                    &self.threads,
                    &rows,
                    slice.start,
                    slice.len(),
                    &mut mine.gram,
                );
            }
        }
        self.products_of_rows(mine);
        let slice = self.exchange.slice(self.blocks() - 1);
        if let Some(grad) = self.heads.block().grad() {
            let grad = torch::data(grad)?;
            for task in 0..self.tasks.len() {
                for range in self.heads.ranges(task) {
                    let own = overlap(&range, &slice);
                    mine.heads[task].merge(&kernel::squares(
                        &self.threads,
                        &grad[own.clone()],
                        own.start,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Adds the scalar products of the word table's rows that this rank owns.
    pub(super) fn products_of_rows(&self, mine: &mut Agreed) {
        let rank = self.exchange.comm().rank();
        if let Some(rows) = &self.rows {
            rows.gram(rows.gradients(), rank, &mut mine.gram);
        }
    }

    /// Rows of the gradient matrix over this rank's slice; one row if tasks are together.
    fn gradient_rows<'a>(&'a self, index: usize, block: &'a Block) -> Result<Vec<Row<'a>>, Error> {
        if self.exchange.lanes().is_apart() {
            return self.exchange.rows(index, block);
        }
        let Some(grad) = block.grad() else {
            return Ok(Vec::new());
        };
        let slice = &torch::data(grad)?[self.exchange.slice(index)];
        Ok(vec![Row {
            lanes: vec![Lane::F32(slice)],
        }])
    }

    /// A block's combined gradient: of this rank's slice, or of the whole block where every rank has
    /// the sum of it all. With `share` it is put in its place of the block's gradient, too.
    ///
    /// # Errors
    /// If memory is not on the CPU.
    pub(super) fn combine(
        &mut self,
        index: usize,
        decision: &Decision,
        share: bool,
    ) -> Result<Tensor, Error> {
        if self.exchange.stays() {
            return self.combine_there(index, decision);
        }
        let slice = self.exchange.slice(index);
        if !self.exchange.lanes().is_apart() {
            let range = if share {
                slice
            } else {
                self.exchange.stepped(index)
            };
            return self.grad_of(self.block(index), &range);
        }
        let combined = if self.balancing.elementwise().is_some() {
            // Made already, for its norm.
            let made = self.tracks.blocks.get(index).and_then(|made| made.first());
            made.ok_or_else(|| Error::Plan(format!("no update of block {index}")))?
                .shallow_clone()
        } else {
            let mut combined = self.scratch.f_narrow(0, 0, slice.len() as i64)?;
            let rows = self.rows_to_combine(index)?;
            let out = torch::data_mut(&mut combined)?;
            kernel::combine(
                &self.threads,
                &rows,
                &decision.row_weights,
                slice.start,
                out,
            );
            combined
        };
        if share {
            self.grad_of(self.block(index), &slice)?
                .f_copy_(&combined)?;
        }
        Ok(combined)
    }

    /// The heads' gradient where this rank has it, every task's part multiplied by its weight.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn weigh_heads(&self, decision: &Decision, share: bool) -> Result<Tensor, Error> {
        let index = self.blocks() - 1;
        let range = if share {
            self.exchange.slice(index)
        } else {
            self.exchange.stepped(index)
        };
        for (task, weight) in decision.head_weights.iter().enumerate() {
            if *weight == 1.0 {
                continue;
            }
            for part in self.heads.ranges(task) {
                let mut grad = self.grad_of(self.heads.block(), &overlap(&part, &range))?;
                // What is not wanted may be no number, so it is not multiplied by 0.
                let _ = match *weight {
                    0.0 => grad.f_zero_()?,
                    weight => grad.f_mul_scalar_(weight)?,
                };
            }
        }
        self.grad_of(self.heads.block(), &range)
    }

    /// A range of a block's first gradient, where its owner steps.
    fn grad_of(&self, block: &Block, range: &Range<usize>) -> Result<Tensor, Error> {
        let grad = match self.exchange.stays() {
            true => block.slot_there(0),
            false => block.grad(),
        };
        let grad = grad.ok_or_else(|| Error::Plan(format!("{} is frozen", block.name())))?;
        Ok(grad.f_narrow(0, range.start as i64, range.len() as i64)?)
    }
}

/// What two ranges share; empty where that is nothing.
fn overlap(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}
