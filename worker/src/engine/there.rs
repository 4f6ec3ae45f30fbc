//! A rank by itself on a device: owner of everything, it combines and steps where it computed, and gradients never
//! come to the host. What comes are the scalar products, all in one go.

use super::Error;
use super::agree::Agreed;
use super::balancing::Decision;
use super::exact::ExactSum;
use super::optimizer::Method;
use super::trainer::Trainer;
use crate::model::Block;
use espalier_balance::Gradients;
use espalier_spec::exchange::Sharding;
use tch::{Device, Kind, Tensor};

/// Sums of products of numbers on a device, on their way to where they are added.
#[derive(Default)]
struct Products {
    /// f64 [] each.
    sums: Vec<Tensor>,
    to: Vec<To>,
}

/// Where a sum is added.
#[derive(Clone, Copy)]
enum To {
    /// A pair of rows of the gradient matrix.
    Gram(usize),
    /// The square of a task's head.
    Head(usize),
}

impl Products {
    fn push(&mut self, to: To, a: &Tensor, b: &Tensor) -> Result<(), Error> {
        self.sums.push(a.f_mul(b)?.f_sum(Kind::Double)?);
        self.to.push(to);
        Ok(())
    }

    fn add(self, mine: &mut Agreed) -> Result<(), Error> {
        if self.sums.is_empty() {
            return Ok(());
        }
        let sums = Vec::<f64>::try_from(&Tensor::f_stack(&self.sums, 0)?)?;
        for (to, sum) in self.to.into_iter().zip(sums) {
            let place: Option<&mut ExactSum> = match to {
                To::Gram(pair) => mine.gram.get_mut(pair),
                To::Head(task) => mine.heads.get_mut(task),
            };
            if let Some(place) = place {
                place.add(sum);
            }
        }
        Ok(())
    }
}

impl Trainer {
    /// Whether this rank may do everything where it computes: nobody shares a block with it, and the job's rules are such
    /// that libtorch has them on every device.
    pub(super) fn may_stay(&self) -> bool {
        let on_host = matches!(
            self.balancing.needs(),
            Gradients::Buffers | Gradients::Elementwise | Gradients::Excess
        );
        self.device != Device::Cpu
            && self.exchange.alone()
            && self.exchange.how().sharding == Sharding::Optimizer
            && matches!(self.optimizer.method, Method::AdamW(_))
            && !self.optimizer.pulls()
            && !on_host
    }

    /// From now on owners step where blocks compute.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub(super) fn stay(&mut self) -> Result<(), Error> {
        self.exchange.leave_there();
        for index in 0..self.owners.len() {
            let block = match self.backbone.blocks().get(index) {
                Some(block) => block,
                None => self.heads.block(),
            };
            if let Some(owner) = &mut self.owners[index] {
                owner.step_there(block)?;
            }
        }
        Ok(())
    }

    /// [`Trainer::scalar_products`] on the device.
    pub(super) fn scalar_products_there(&self, mine: &mut Agreed) -> Result<(), Error> {
        let mut products = Products::default();
        for (index, block) in self.backbone.blocks().iter().enumerate() {
            if !block.trainable() || index < self.from {
                continue;
            }
            let rows = self.rows_there(block)?;
            let mut pair = 0;
            for (place, left) in rows.iter().enumerate() {
                for right in &rows[place..] {
                    products.push(To::Gram(pair), left, right)?;
                    pair += 1;
                }
            }
        }
        if let Some(grad) = self.heads.block().slot_there(0) {
            for task in 0..self.tasks.len() {
                for range in self.heads.ranges(task) {
                    let own = grad.f_narrow(0, range.start as i64, range.len() as i64)?;
                    products.push(To::Head(task), &own, &own)?;
                }
            }
        }
        self.products_of_rows(mine);
        products.add(mine)
    }

    /// A block's combined gradient on its device.
    pub(super) fn combine_there(&self, index: usize, decision: &Decision) -> Result<Tensor, Error> {
        let mut rows = self.rows_there(self.block(index))?;
        if !self.exchange.lanes().is_apart() {
            let none = || Error::Plan(format!("no gradient of block {index}"));
            return rows.pop().ok_or_else(none);
        }
        let mut total: Option<Tensor> = None;
        for (row, weight) in rows.iter().zip(&decision.row_weights) {
            // What is not wanted may be no number, so it is not multiplied by 0.
            if *weight == 0.0 {
                continue;
            }
            let more = row.f_mul_scalar(f64::from(*weight))?;
            total = Some(match total {
                Some(mut sum) => sum.f_add_(&more)?,
                None => more,
            });
        }
        match (total, rows.first()) {
            (Some(total), _) => Ok(total),
            (None, Some(first)) => Ok(first.f_zeros_like()?),
            (None, None) => Err(Error::Plan(format!("no gradients of block {index}"))),
        }
    }

    /// Rows of the gradient matrix where they were computed; one row if tasks are together.
    fn rows_there(&self, block: &Block) -> Result<Vec<Tensor>, Error> {
        let slot = |slot: usize| {
            let frozen = || Error::Plan(format!("{} has no gradient {slot}", block.name()));
            block.slot_there(slot).ok_or_else(frozen)
        };
        let lanes = self.exchange.lanes();
        if !lanes.is_apart() {
            return Ok(vec![slot(0)?.shallow_clone()]);
        }
        let mut rows = Vec::new();
        for row in lanes.rows() {
            let mut sum: Option<Tensor> = None;
            for lane in &row.lanes {
                let own = slot(lane.slot)?;
                sum = Some(match sum {
                    Some(sum) => sum.f_add(own)?,
                    None => own.shallow_clone(),
                });
            }
            rows.push(match sum {
                Some(sum) => sum,
                None => slot(0)?.f_zeros_like()?,
            });
        }
        Ok(rows)
    }
}
