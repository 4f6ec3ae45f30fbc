//! The optimizer of the slices that this rank owns: state exists once in the cluster (ZeRO stage 1
//! and 2, Rajbhandari et al. 2020).

use super::Error;
use super::optimizer::{Method, Optimizer};
use crate::checkpoint::fill;
use crate::model::Block;
use crate::torch::{self, AdamWStep};
use std::ops::Range;
use tch::{Kind, Tensor};

/// What a step's updates are made with.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Learning rate.
    pub rate: f64,
    /// Number of the step, from 1.
    pub step: u64,
    /// Factor on the gradient (clipping).
    pub scale: f64,
}

/// The optimizer over one rank's slice of one block.
#[derive(Debug)]
pub struct SliceOptimizer {
    range: Range<usize>,
    /// First moments, or the momentum.
    first: Tensor,
    /// Second moments; of no numbers where the method has none.
    second: Tensor,
    has_second: bool,
    /// The slice's parameters, where the block itself is not kept (ZeRO stage 3).
    master: Option<Tensor>,
    /// What the slice's parameters were before the first step, where they are pulled back to it.
    start: Option<Tensor>,
    /// Parameters and moments are stepped where the block computes.
    there: bool,
}

impl SliceOptimizer {
    /// State of zeros for `range` of a block.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(range: Range<usize>, block: &Block, optimizer: &Optimizer) -> Result<Self, Error> {
        let zeros = |n: usize| Tensor::f_zeros([n as i64], (Kind::Float, block.flat().device()));
        let has_second = optimizer.has_second();
        Ok(Self {
            first: zeros(range.len())?,
            second: zeros(if has_second { range.len() } else { 0 })?,
            has_second,
            range,
            master: None,
            start: None,
            there: false,
        })
    }

    /// Steps parameters where their block computes from now on, and keeps the moments there.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn step_there(&mut self, block: &Block) -> Result<(), Error> {
        self.there = true;
        self.first = self.first.f_to_device(block.device())?;
        self.second = self.second.f_to_device(block.device())?;
        Ok(())
    }

    /// Keeps what the slice's parameters are now, and pulls them back to it from then on, in place of
    /// their weight decay. A trainer is made with the pretrained weights, before a checkpoint is taken
    /// up, so they need not be saved.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn hold_to_start(&mut self, block: &Block) -> Result<(), Error> {
        let slice = narrow(block.flat(), &self.range)?;
        let mut start = slice.f_zeros_like()?;
        start.f_copy_(&slice)?;
        self.start = Some(start);
        Ok(())
    }

    /// Numbers of optimizer state.
    #[must_use]
    pub fn numbers(&self) -> usize {
        self.first.numel() + self.second.numel() + self.start.as_ref().map_or(0, Tensor::numel)
    }

    /// Keeps the slice's parameters, so that the block may be let go.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn keep(&mut self, block: &Block) -> Result<(), Error> {
        let slice = narrow(block.flat(), &self.range)?;
        if self.master.is_none() {
            self.master = Some(slice.f_zeros_like()?);
        }
        if let Some(master) = &mut self.master {
            master.f_copy_(&slice)?;
        }
        Ok(())
    }

    /// Brings the slice's parameters back into the block.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn bring(&self, block: &Block) -> Result<(), Error> {
        if let Some(master) = &self.master {
            // Through memory, since autograd would take it for a change of what it has saved.
            block.about_to_change()?;
            let mut place = narrow(block.flat(), &self.range)?;
            torch::data_mut(&mut place)?.copy_from_slice(torch::data(master)?);
        }
        Ok(())
    }

    /// The slice.
    #[must_use]
    pub fn range(&self) -> &Range<usize> {
        &self.range
    }

    /// Numbers of parameters kept beside the block.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.master.as_ref().map_or(0, Tensor::numel)
    }

    /// First moments or momentum and, where the method has them, second moments, f32 [slice].
    #[must_use]
    pub fn moments(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.first, self.has_second.then_some(&self.second))
    }

    /// One step of the slice with its gradient, f32 [slice], which is scaled in place.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn step(
        &self,
        block: &Block,
        grad: &Tensor,
        optimizer: &Optimizer,
        pace: Pace,
    ) -> Result<(), Error> {
        if !self.there {
            block.about_to_change()?;
        }
        if pace.scale != 1.0 {
            let _ = grad.shallow_clone().f_mul_scalar_(pace.scale)?;
        }
        if let Some(start) = &self.start {
            let mut own = match &self.master {
                Some(master) => master.shallow_clone(),
                None => narrow(block.flat(), &self.range)?,
            };
            optimizer.pull(torch::data_mut(&mut own)?, torch::data(start)?, pace.rate);
        }
        let decay = if self.start.is_some() {
            0.0
        } else {
            optimizer.weight_decay
        };
        let split = block
            .decay_range()
            .end
            .clamp(self.range.start, self.range.end);
        let parts = [
            (self.range.start..split, decay),
            (split..self.range.end, 0.0),
        ];
        for (range, weight_decay) in parts {
            if range.is_empty() {
                continue;
            }
            let own = range.start - self.range.start..range.end - self.range.start;
            let parameters = match self.there {
                true => narrow(block.flat_to_step()?, &range)?,
                false => self.parameters(block, &range)?,
            };
            let how = (&optimizer.method, weight_decay, pace);
            self.step_part(parameters, &narrow(grad, &own)?, &own, how)?;
        }
        Ok(())
    }

    /// Steps `own` of the slice's numbers with their gradient, both f32 [own], which is scaled already.
    fn step_part(
        &self,
        mut parameters: Tensor,
        grad: &Tensor,
        own: &Range<usize>,
        (method, weight_decay, pace): (&Method, f64, Pace),
    ) -> Result<(), Error> {
        let mut first = narrow(&self.first, own)?;
        match method {
            Method::AdamW(adamw) => {
                let how = AdamWStep {
                    step: pace.step,
                    rate: pace.rate,
                    betas: adamw.betas,
                    weight_decay,
                    eps: adamw.eps,
                };
                let second = narrow(&self.second, own)?;
                torch::adamw(&parameters, grad, (&first, &second), &how)?;
            }
            Method::Sgd(sgd) => sgd.coefficients(pace.rate, weight_decay).apply(
                torch::data_mut(&mut parameters)?,
                torch::data(grad)?,
                torch::data_mut(&mut first)?,
                1.0,
            ),
        }
        Ok(())
    }

    /// The parameters `of` the block, within the slice, f32 [n]: a view of where they are kept.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn parameters(&self, block: &Block, of: &Range<usize>) -> Result<Tensor, Error> {
        match &self.master {
            Some(master) => narrow(
                master,
                &(of.start - self.range.start..of.end - self.range.start),
            ),
            None => {
                block.refresh()?;
                narrow(block.flat(), of)
            }
        }
    }

    /// Takes up parameters that cover `from` of the block, as many: all of them where the block is kept, else
    /// those that overlap the slice.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn put(&self, block: &Block, from: &Range<usize>, words: &[[u8; 4]]) -> Result<(), Error> {
        let Some(master) = &self.master else {
            block.about_to_change()?;
            let mut place = narrow(block.flat(), from)?;
            fill(torch::data_mut(&mut place)?, words);
            return Ok(());
        };
        let start = from.start.max(self.range.start);
        let end = from.end.min(self.range.end);
        if start < end {
            let ours = start - self.range.start..end - self.range.start;
            let mut place = narrow(master, &ours)?;
            let theirs = &words[start - from.start..end - from.start];
            fill(torch::data_mut(&mut place)?, theirs);
        }
        Ok(())
    }

    /// Takes up moments that cover `from` of the block, where they overlap this slice; says how many do.
    /// There are second ones where the method has them.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn restore(
        &mut self,
        from: &Range<usize>,
        first: &Tensor,
        second: Option<&Tensor>,
    ) -> Result<usize, Error> {
        let start = from.start.max(self.range.start);
        let end = from.end.min(self.range.end);
        if start >= end {
            return Ok(0);
        }
        let theirs = start - from.start..end - from.start;
        let ours = start - self.range.start..end - self.range.start;
        narrow(&self.first, &ours)?.f_copy_(&narrow(first, &theirs)?)?;
        if let Some(second) = second.filter(|_| self.has_second) {
            narrow(&self.second, &ours)?.f_copy_(&narrow(second, &theirs)?)?;
        }
        Ok(end - start)
    }
}

fn narrow(tensor: &Tensor, range: &Range<usize>) -> Result<Tensor, Error> {
    Ok(tensor.f_narrow(0, range.start as i64, range.len() as i64)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ParamSpec;
    use espalier_spec::job::{OptimizerMethod, OptimizerSpec};
    use tch::Device;

    fn optimizer(method: OptimizerMethod) -> Optimizer {
        Optimizer::new(&OptimizerSpec {
            method,
            weight_decay: 0.1,
            ..OptimizerSpec::default()
        })
    }

    fn block() -> Block {
        let specs = vec![ParamSpec::weight("w", &[40]), ParamSpec::bias("b", &[20])];
        let mut block = Block::new("test", specs, true, Device::Cpu).unwrap();
        let values: Vec<f32> = (0..40).map(|i| (i as f32).sin()).collect();
        block.load("w", &Tensor::from_slice(&values)).unwrap();
        let grad: Vec<f32> = (0..block.len()).map(|i| (i as f32).cos()).collect();
        block
            .grad()
            .unwrap()
            .shallow_clone()
            .copy_(&Tensor::from_slice(&grad));
        block
    }

    fn stepped(slices: &[Range<usize>], method: OptimizerMethod) -> Vec<f32> {
        let block = block();
        let optimizer = optimizer(method);
        let pace = Pace {
            rate: 1e-2,
            step: 1,
            scale: 0.5,
        };
        for slice in slices {
            let owner = SliceOptimizer::new(slice.clone(), &block, &optimizer).unwrap();
            let grad = narrow(block.grad().unwrap(), slice).unwrap();
            owner.step(&block, &grad, &optimizer, pace).unwrap();
            let numbers = if optimizer.has_second() { 2 } else { 1 };
            assert_eq!(owner.numbers(), numbers * slice.len());
        }
        torch::data(block.flat()).unwrap().to_vec()
    }

    // Promise: how a block is cut among owners changes no bit of the result; biases do not decay.
    #[test]
    fn owners_of_slices_do_what_one_owner_does() {
        let (sine, cosine, bias) = (3f32.sin(), 3f32.cos(), 48f32.cos());
        // A bias at 0 and a weight at sin 3 after the first step, where gradients are half of cos i.
        let weight = sine - 1e-2 * (0.5 * cosine + 0.1 * sine);
        for (method, bias, weight) in [
            (
                OptimizerMethod::Adamw,
                -1e-2 * bias.signum(),
                sine * (1.0 - 1e-3) - 1e-2 * cosine.signum(),
            ),
            (OptimizerMethod::Sgd, -1e-2 * 0.5 * bias, weight),
        ] {
            #[expect(
                clippy::single_range_in_vec_init,
                reason = "one owner of the whole block"
            )]
            let whole = stepped(&[0..80], method);
            let parts = stepped(&[0..32, 32..64, 64..80], method);
            assert_eq!(whole, parts, "{method:?}");
            for (index, expected) in [(48, bias), (3, weight)] {
                let found = whole[index];
                let what = format!("{method:?}, number {index}: {found}, expected {expected}");
                assert!((found - expected).abs() < 1e-6, "{what}");
            }
        }
    }

    // Promise: state saved by some slices is taken up by others.
    #[test]
    fn state_moves_between_cuts() {
        let block = block();
        let adamw = optimizer(OptimizerMethod::Adamw);
        let mut target = SliceOptimizer::new(10..50, &block, &adamw).unwrap();
        let numbers = |range: Range<i64>| {
            Tensor::arange_start(range.start, range.end, (Kind::Float, Device::Cpu))
        };
        for range in [0..32usize, 32..80] {
            let moments = numbers(range.start as i64..range.end as i64);
            let overlap = range.end.min(50) - range.start.max(10);
            let restored = target.restore(&range, &moments, Some(&moments)).unwrap();
            assert_eq!(restored, overlap);
        }
        assert!(target.moments().0.equal(&numbers(10..50)));
    }
}
