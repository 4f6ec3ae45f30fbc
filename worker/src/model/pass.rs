//! One forward pass with the graph cut between blocks, and its backward, block by block.

use super::{Backbone, Batch, Context, Error};
use crate::torch;
use tch::Tensor;

/// A forward pass that can be run backward.
#[derive(Debug)]
pub struct Pass {
    /// The first block that is trained; the ones below left no graph.
    first: usize,
    /// Input of each block from `first` on: an autograd leaf.
    inputs: Vec<Tensor>,
    /// Output of each block from `first` on.
    outputs: Vec<Tensor>,
    features: Tensor,
}

impl Pass {
    /// Runs all blocks over a batch. Blocks below the first trained one run without a graph; with
    /// `ctx.train` off none leaves one.
    ///
    /// # Errors
    /// If the batch does not fit the backbone or libtorch refuses.
    pub fn forward(backbone: &dyn Backbone, batch: &Batch, ctx: &Context) -> Result<Self, Error> {
        let count = backbone.blocks().len();
        let first = match backbone.blocks().iter().position(super::Block::trainable) {
            Some(first) if ctx.train => first,
            _ => count,
        };
        let mut x = backbone.input(batch)?;
        for index in 0..first {
            // Frozen blocks give the same features in every epoch: nothing is dropped there.
            x = tch::no_grad(|| backbone.forward(index, &x, batch, &Context::eval()))?;
        }
        let mut inputs = Vec::new();
        let mut outputs = Vec::new();
        for index in first..count {
            // The table's rows are a leaf already if the table is trained.
            let wants_grad = index > first || x.requires_grad();
            let input = x.f_detach()?;
            let input = if wants_grad {
                input.f_set_requires_grad(true)?
            } else {
                input
            };
            let output = backbone.forward(index, &input, batch, ctx)?;
            x = output.shallow_clone();
            inputs.push(input);
            outputs.push(output);
        }
        let pool = || backbone.pool(&x, batch);
        let features = if first == count {
            tch::no_grad(pool)?
        } else {
            // Pooling has a graph of its own, cut from the last block.
            let leaf = x.f_detach()?.f_set_requires_grad(true)?;
            let features = backbone.pool(&leaf, batch)?;
            inputs.push(leaf);
            features
        };
        Ok(Self {
            first,
            inputs,
            outputs,
            features,
        })
    }

    /// Features f32 [b, h], in the order the samples were given in, cut from the graph: a leaf that
    /// requires grad if any block is trained.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn features(&self) -> Result<Tensor, Error> {
        let leaf = self.features.f_detach()?;
        let any = !self.outputs.is_empty();
        Ok(if any {
            leaf.f_set_requires_grad(true)?
        } else {
            leaf
        })
    }

    /// Runs backward from the gradient of the features, last block first; gradients accumulate in
    /// the blocks' flat buffers. Calls `done` after each block; activations are freed as it goes.
    /// Returns the gradient of the table's rows [T, h], if the table is trained.
    ///
    /// # Errors
    /// If libtorch refuses, or what `done` returns.
    pub fn backward<E: From<Error>>(
        mut self,
        grad: &Tensor,
        mut done: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Option<Tensor>, E> {
        if self.outputs.is_empty() {
            return Ok(None);
        }
        torch::backward(&[&self.features], &[grad]).map_err(Error::from)?;
        let mut grad = self.pop_grad()?;
        while let Some(output) = self.outputs.pop() {
            let index = self.first + self.outputs.len();
            if let Some(output_grad) = &grad {
                torch::backward(&[&output], &[output_grad]).map_err(Error::from)?;
            }
            drop(output);
            grad = self.pop_grad()?;
            done(index)?;
        }
        Ok(grad)
    }

    /// The gradient of the last input left, which is dropped.
    fn pop_grad(&mut self) -> Result<Option<Tensor>, Error> {
        let Some(input) = self.inputs.pop() else {
            return Ok(None);
        };
        let grad = input.f_grad()?;
        Ok(grad.defined().then_some(grad))
    }
}
