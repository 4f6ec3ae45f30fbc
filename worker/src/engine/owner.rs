//! The optimizer of the slices that this rank owns: state exists once in the cluster (ZeRO stage 1
//! and 2, Rajbhandari et al. 2020).

use super::Error;
use super::adamw::AdamW;
use crate::model::Block;
use crate::torch::{self, AdamWStep};
use std::ops::Range;
use tch::{Kind, Tensor};

/// Numbers summed in f32 before going on in f64.
const CHUNK: i64 = 1 << 14;

/// AdamW over one rank's slice of one block.
#[derive(Debug)]
pub struct SliceOptimizer {
    range: Range<usize>,
    first: Tensor,
    second: Tensor,
}

impl SliceOptimizer {
    /// State of zeros for `range` of a block.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(range: Range<usize>, block: &Block) -> Result<Self, Error> {
        let zeros = || Tensor::f_zeros([range.len() as i64], (Kind::Float, block.flat().device()));
        Ok(Self {
            first: zeros()?,
            second: zeros()?,
            range,
        })
    }

    /// The slice.
    #[must_use]
    pub fn range(&self) -> &Range<usize> {
        &self.range
    }

    /// First and second moments, f32 [slice].
    #[must_use]
    pub fn moments(&self) -> (&Tensor, &Tensor) {
        (&self.first, &self.second)
    }

    /// Sum of squares of the slice's gradient.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn sum_of_squares(&self, block: &Block) -> Result<f64, Error> {
        let Some(grad) = block.grad() else {
            return Ok(0.0);
        };
        let slice = narrow(grad, &self.range)?;
        let mut sum = 0.0;
        for chunk in slice.f_split(CHUNK, 0)? {
            sum += chunk.f_dot(&chunk)?.f_double_value(&[])?;
        }
        Ok(sum)
    }

    /// One step of the slice. `scale` multiplies the gradient (clipping).
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn step(
        &self,
        block: &Block,
        adamw: &AdamW,
        rate: f64,
        step: u64,
        scale: f64,
    ) -> Result<(), Error> {
        let Some(grad) = block.grad() else {
            return Ok(());
        };
        if scale != 1.0 {
            let _ = narrow(grad, &self.range)?.f_mul_scalar_(scale)?;
        }
        let split = block
            .decay_range()
            .end
            .clamp(self.range.start, self.range.end);
        let parts = [
            (self.range.start..split, adamw.weight_decay),
            (split..self.range.end, 0.0),
        ];
        for (range, weight_decay) in parts {
            if range.is_empty() {
                continue;
            }
            let own = range.start - self.range.start..range.end - self.range.start;
            let how = AdamWStep {
                step,
                rate,
                betas: adamw.betas,
                weight_decay,
                eps: adamw.eps,
            };
            torch::adamw(
                &narrow(block.flat(), &range)?,
                &narrow(grad, &range)?,
                (&narrow(&self.first, &own)?, &narrow(&self.second, &own)?),
                &how,
            )?;
        }
        Ok(())
    }

    /// Takes up moments that cover `from` of the block, where they overlap this slice.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn restore(
        &mut self,
        from: &Range<usize>,
        first: &Tensor,
        second: &Tensor,
    ) -> Result<(), Error> {
        let start = from.start.max(self.range.start);
        let end = from.end.min(self.range.end);
        if start >= end {
            return Ok(());
        }
        let theirs = start - from.start..end - from.start;
        let ours = start - self.range.start..end - self.range.start;
        narrow(&self.first, &ours)?.f_copy_(&narrow(first, &theirs)?)?;
        narrow(&self.second, &ours)?.f_copy_(&narrow(second, &theirs)?)?;
        Ok(())
    }
}

fn narrow(tensor: &Tensor, range: &Range<usize>) -> Result<Tensor, Error> {
    Ok(tensor.f_narrow(0, range.start as i64, range.len() as i64)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ParamSpec;
    use tch::Device;

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

    fn stepped(slices: &[Range<usize>]) -> (Vec<f32>, f64) {
        let block = block();
        let adamw = AdamW {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.1,
        };
        let mut squares = 0.0;
        for slice in slices {
            let owner = SliceOptimizer::new(slice.clone(), &block).unwrap();
            squares += owner.sum_of_squares(&block).unwrap();
            owner.step(&block, &adamw, 1e-2, 1, 0.5).unwrap();
        }
        (torch::data(block.flat()).unwrap().to_vec(), squares)
    }

    // Promise: how a block is cut among owners changes no bit of the result; biases do not decay.
    #[test]
    fn owners_of_slices_do_what_one_owner_does() {
        #[expect(
            clippy::single_range_in_vec_init,
            reason = "one owner of the whole block"
        )]
        let whole = stepped(&[0..80]);
        let parts = stepped(&[0..32, 32..64, 64..80]);
        assert_eq!(whole.0, parts.0);
        assert!((whole.1 - parts.1).abs() < 1e-4);
        let b0 = whole.0[48];
        assert!(
            (b0.abs() - 1e-2).abs() < 1e-6,
            "a bias moves by the rate alone: {b0}"
        );
    }

    // Promise: state saved by some slices is taken up by others.
    #[test]
    fn state_moves_between_cuts() {
        let block = block();
        let mut target = SliceOptimizer::new(10..50, &block).unwrap();
        let numbers = |range: Range<i64>| {
            Tensor::arange_start(range.start, range.end, (Kind::Float, Device::Cpu))
        };
        for range in [0..32usize, 32..80] {
            let moments = numbers(range.start as i64..range.end as i64);
            target.restore(&range, &moments, &moments).unwrap();
        }
        assert!(target.moments().0.equal(&numbers(10..50)));
    }
}
