//! One forward pass with the graph cut between blocks, and its backward, block by block.

use super::{Backbone, Batch, Context, Error};
use crate::torch;
use tch::Tensor;

/// A moment of a pass; blocks are told apart by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A block is about to run forward: its parameters are needed.
    Forward(usize),
    /// It has run forward.
    ForwardDone(usize),
    /// It is about to run backward: its parameters are needed again.
    Backward(usize),
    /// It has run backward: its gradient is complete for this pass.
    BackwardDone(usize),
}

/// A forward pass that can be run backward.
#[derive(Debug)]
pub struct Pass<'a> {
    backbone: &'a dyn Backbone,
    batch: &'a Batch,
    ctx: Context,
    /// The first block that is trained at this step; the ones below left no graph.
    first: usize,
    /// Input of each block from `first` on: an autograd leaf.
    inputs: Vec<Tensor>,
    /// Output of each block from `first` on; none where it is to be computed again.
    outputs: Vec<Option<Tensor>>,
    features: Tensor,
    /// Output of the last block.
    rows: Tensor,
}

/// What heads read of a pass, cut from its graph: leaves that require grad if any block is trained.
#[derive(Debug)]
pub struct Leaves {
    /// Features f32 [b, h], in the order the samples were given in.
    pub features: Tensor,
    /// Vectors of the rows of the packed batch f32 [t, h], if they were asked for.
    pub rows: Option<Tensor>,
}

impl Leaves {
    /// Whether there is a backward to run.
    #[must_use]
    pub fn wants_grad(&self) -> bool {
        let wants = |leaf: &Tensor| leaf.requires_grad();
        wants(&self.features) || self.rows.as_ref().is_some_and(wants)
    }
}

impl<'a> Pass<'a> {
    /// Runs all blocks over a batch; `tell` hears of every [`Moment`]. Blocks below the first trained
    /// one, and below `ctx.from`, run without a graph; with `ctx.train` off none leaves one. With `ctx.recompute` only the
    /// blocks' inputs are kept, and backward computes each block again (Chen et al. 2016, arXiv
    /// 1604.06174): dropout is a function of its counters, so the bits are the same.
    ///
    /// # Errors
    /// If the batch does not fit the backbone or libtorch refuses, or what `tell` returns.
    pub fn forward<E: From<Error>>(
        backbone: &'a dyn Backbone,
        batch: &'a Batch,
        ctx: &Context,
        mut tell: impl FnMut(Moment) -> Result<(), E>,
    ) -> Result<Self, E> {
        let count = backbone.blocks().len();
        if let Batch::Features(features) = batch {
            return Ok(Self::done(backbone, batch, ctx, features.shallow_clone()));
        }
        let first = match backbone.blocks().iter().position(super::Block::trainable) {
            Some(first) if ctx.train => first.max(ctx.from).min(count),
            _ => count,
        };
        let (begin, mut x) = match batch.start() {
            Some(start) => (start.blocks.min(first), start.x.shallow_clone()),
            None => (0, backbone.input(batch)?),
        };
        for index in begin..first {
            tell(Moment::Forward(index))?;
            backbone.blocks()[index].push()?;
            // Frozen blocks give the same features in every epoch: nothing is dropped there.
            x = tch::no_grad(|| backbone.forward(index, &x, batch, &Context::eval()))?;
            tell(Moment::ForwardDone(index))?;
        }
        let mut pass = Self::done(backbone, batch, ctx, Tensor::new());
        pass.first = first;
        for index in first..count {
            tell(Moment::Forward(index))?;
            backbone.blocks()[index].push()?;
            // The table's rows are a leaf already if the table is trained.
            let wants_grad = index > first || x.requires_grad();
            let input = leaf(&x, wants_grad)?;
            if ctx.recompute {
                x = tch::no_grad(|| backbone.forward(index, &input, batch, ctx))?;
                pass.outputs.push(None);
            } else {
                let output = backbone.forward(index, &input, batch, ctx)?;
                x = output.shallow_clone();
                pass.outputs.push(Some(output));
            }
            pass.inputs.push(input);
            tell(Moment::ForwardDone(index))?;
        }
        pass.rows = x.shallow_clone();
        pass.features = if first == count {
            tch::no_grad(|| backbone.pool(&x, batch))?
        } else {
            // Pooling has a graph of its own, cut from the last block.
            let leaf = leaf(&x, true)?;
            let features = backbone.pool(&leaf, batch)?;
            pass.inputs.push(leaf);
            features
        };
        Ok(pass)
    }

    /// A pass that leaves these features and no graph.
    fn done(backbone: &'a dyn Backbone, batch: &'a Batch, ctx: &Context, features: Tensor) -> Self {
        Self {
            backbone,
            batch,
            ctx: *ctx,
            first: backbone.blocks().len(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            features,
            rows: Tensor::new(),
        }
    }

    /// Features f32 [b, h], in the order the samples were given in, cut from the graph: a leaf that
    /// requires grad if any block is trained.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn features(&self) -> Result<Tensor, Error> {
        leaf(&self.features, !self.outputs.is_empty())
    }

    /// What heads read; the rows only if they want them.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn leaves(&self, wants_rows: bool) -> Result<Leaves, Error> {
        let rows = || leaf(&self.rows, !self.outputs.is_empty());
        Ok(Leaves {
            features: self.features()?,
            rows: wants_rows.then(rows).transpose()?,
        })
    }

    /// Runs backward from the gradients of the leaves, last block first; gradients accumulate in
    /// the blocks' flat buffers. `tell` hears of every [`Moment`]; activations are freed as it goes.
    /// Returns the gradient of the table's rows [T, h], if the table is trained.
    ///
    /// # Errors
    /// If libtorch refuses, or what `tell` returns.
    pub fn backward<E: From<Error>>(
        mut self,
        leaves: &Leaves,
        tell: impl FnMut(Moment) -> Result<(), E>,
    ) -> Result<Option<Tensor>, E> {
        self.run_backward(leaves, false, tell)
    }

    /// The same, and the activations stay: one forward pass serves several gradients.
    ///
    /// # Errors
    /// As [`Pass::backward`].
    pub fn backward_keeping<E: From<Error>>(
        &mut self,
        leaves: &Leaves,
        tell: impl FnMut(Moment) -> Result<(), E>,
    ) -> Result<Option<Tensor>, E> {
        self.run_backward(leaves, true, tell)
    }

    fn run_backward<E: From<Error>>(
        &mut self,
        leaves: &Leaves,
        keep: bool,
        mut tell: impl FnMut(Moment) -> Result<(), E>,
    ) -> Result<Option<Tensor>, E> {
        if self.outputs.is_empty() {
            return Ok(None);
        }
        let differentiate = if keep {
            torch::backward_keeping
        } else {
            torch::backward
        };
        let grad = leaves.features.f_grad().map_err(Error::from)?;
        if grad.defined() {
            differentiate(&[&self.features], &[&grad]).map_err(Error::from)?;
        }
        let mut grad = self.take_grad(self.outputs.len())?;
        if let Some(rows) = &leaves.rows {
            let own = rows.f_grad().map_err(Error::from)?;
            if own.defined() {
                grad = Some(match grad {
                    Some(pooled) => pooled.f_add(&own).map_err(Error::from)?,
                    None => own,
                });
            }
        }
        for place in (0..self.outputs.len()).rev() {
            let index = self.first + place;
            tell(Moment::Backward(index))?;
            self.backbone.blocks()[index].push()?;
            if let Some(output_grad) = &grad {
                let output = match &self.outputs[place] {
                    Some(output) => output.shallow_clone(),
                    None => {
                        let input = &self.inputs[place];
                        self.backbone.forward(index, input, self.batch, &self.ctx)?
                    }
                };
                differentiate(&[&output], &[output_grad]).map_err(Error::from)?;
            }
            grad = self.take_grad(place)?;
            if !keep {
                self.outputs.truncate(place);
                self.inputs.truncate(place);
            }
            tell(Moment::BackwardDone(index))?;
        }
        Ok(grad)
    }

    /// Takes the gradient of an input, which then has none.
    fn take_grad(&self, place: usize) -> Result<Option<Tensor>, Error> {
        let Some(input) = self.inputs.get(place) else {
            return Ok(None);
        };
        let grad = input.f_grad()?;
        if !grad.defined() {
            return Ok(None);
        }
        torch::set_grad(input, &Tensor::new())?;
        Ok(Some(grad))
    }
}

/// What the lowest `blocks` blocks make of a batch, without a graph and without dropout: what a pass takes
/// in their place, as [`super::Start`].
///
/// # Errors
/// If the batch does not fit the backbone or libtorch refuses.
pub fn lowest(backbone: &dyn Backbone, batch: &Batch, blocks: usize) -> Result<Tensor, Error> {
    tch::no_grad(|| {
        let ctx = Context::eval();
        let first = backbone.input(batch)?;
        (0..blocks).try_fold(first, |x, index| {
            backbone.blocks()[index].push()?;
            backbone.forward(index, &x, batch, &ctx)
        })
    })
}

fn leaf(x: &Tensor, wants_grad: bool) -> Result<Tensor, Error> {
    let leaf = x.f_detach()?;
    Ok(if wants_grad {
        leaf.f_set_requires_grad(true)?
    } else {
        leaf
    })
}
