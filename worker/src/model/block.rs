//! Blocks: one layer group of a backbone, all its parameters in one flat buffer.

use super::Error;
use crate::torch;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Parameters start at multiples of this many numbers: whole cache lines.
const ALIGN: usize = 16;

/// What a block is built from.
#[derive(Debug)]
pub struct ParamSpec {
    /// Full Hugging Face name, such as `encoder.layer.0.output.dense.weight`.
    pub name: String,
    /// Shape.
    pub shape: Vec<i64>,
    /// Whether weight decay applies: not to biases and norms.
    pub decay: bool,
    /// Hugging Face names of its equal parts along the first dimension, where one of our
    /// parameters holds several of theirs (query, key and value); else empty.
    pub parts: Vec<String>,
}

impl ParamSpec {
    /// A weight matrix: decays.
    pub fn weight(name: impl Into<String>, shape: &[i64]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            decay: true,
            parts: Vec::new(),
        }
    }

    /// A bias or the parameter of a norm: does not decay.
    pub fn bias(name: impl Into<String>, shape: &[i64]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            decay: false,
            parts: Vec::new(),
        }
    }

    /// Says which Hugging Face parameters it holds, one after another along the first dimension.
    #[must_use]
    pub fn made_of(mut self, parts: Vec<String>) -> Self {
        self.parts = parts;
        self
    }
}

/// A parameter: a view into its block's flat buffer.
#[derive(Debug)]
pub struct Param {
    /// Full Hugging Face name.
    pub name: String,
    /// The view, an autograd leaf whose `.grad` is the same place of the flat gradient.
    pub tensor: Tensor,
    range: Range<usize>,
    parts: Vec<String>,
}

impl Param {
    /// Hugging Face names with the shape and the numbers (of the flat buffer) of each.
    fn pieces(&self) -> Vec<(&str, Vec<i64>, Range<usize>)> {
        let mut shape = self.tensor.size();
        if self.parts.is_empty() {
            return vec![(&self.name, shape, self.range.clone())];
        }
        let count = self.parts.len();
        shape[0] /= count as i64;
        let length = self.range.len() / count;
        let start = |index: usize| self.range.start + index * length;
        let pieces = self.parts.iter().enumerate();
        pieces
            .map(|(i, name)| (name.as_str(), shape.clone(), start(i)..start(i) + length))
            .collect()
    }
}

/// One layer group: parameters in one flat f32 buffer, gradients in a second one of the same layout.
/// Parameters that decay come first.
#[derive(Debug)]
pub struct Block {
    name: String,
    params: Vec<Param>,
    flat: Tensor,
    /// Flat gradients, one for each slot; none if the block is frozen.
    grads: Vec<Tensor>,
    decay_end: usize,
}

impl Block {
    /// A block of zeros. Order of `specs` is kept among those that decay and among those that do not.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(
        name: impl Into<String>,
        specs: Vec<ParamSpec>,
        trainable: bool,
        device: Device,
    ) -> Result<Self, Error> {
        let (decaying, others): (Vec<_>, Vec<_>) = specs.into_iter().partition(|spec| spec.decay);
        let mut at = 0usize;
        let mut places = Vec::new();
        let mut decay_end = 0;
        for (index, spec) in decaying.iter().chain(&others).enumerate() {
            let length = spec.shape.iter().product::<i64>().unsigned_abs() as usize;
            places.push(at..at + length);
            at = (at + length).next_multiple_of(ALIGN);
            if index + 1 == decaying.len() {
                decay_end = at;
            }
        }
        let zeros = || Tensor::f_zeros([at as i64], (Kind::Float, device));
        let flat = zeros()?;
        let grads = if trainable {
            vec![zeros()?]
        } else {
            Vec::new()
        };
        let mut params = Vec::new();
        for (spec, range) in decaying.into_iter().chain(others).zip(places) {
            let mut tensor = view(&flat, &range, &spec.shape)?.f_detach()?;
            if let Some(grad) = grads.first() {
                tensor = tensor.f_set_requires_grad(true)?;
                torch::set_grad(&tensor, &view(grad, &range, &spec.shape)?)?;
            }
            params.push(Param {
                name: spec.name,
                tensor,
                range,
                parts: spec.parts,
            });
        }
        Ok(Self {
            name: name.into(),
            params,
            flat,
            grads,
            decay_end,
        })
    }

    /// Gives the block `count` gradients, so that what several tasks have to say stays apart.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn set_slots(&mut self, count: usize) -> Result<(), Error> {
        let Some(first) = self.grads.first() else {
            return Ok(());
        };
        let mut grads = vec![first.shallow_clone()];
        while grads.len() < count {
            grads.push(first.f_zeros_like()?);
        }
        self.grads = grads;
        self.bind(0)
    }

    /// Makes a slot's gradient the one that backward accumulates into.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn bind(&self, slot: usize) -> Result<(), Error> {
        let Some(grad) = self.grads.get(slot) else {
            return Ok(());
        };
        for param in &self.params {
            let place = view(grad, &param.range, &param.tensor.size())?;
            torch::set_grad(&param.tensor, &place)?;
        }
        Ok(())
    }

    /// Name of the block.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parameters, those that decay first.
    #[must_use]
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// A parameter by the order in which the block was described: decaying ones first.
    #[must_use]
    pub fn param(&self, index: usize) -> &Tensor {
        &self.params[index].tensor
    }

    /// The numbers of the flat buffers that a parameter takes.
    #[must_use]
    pub fn range(&self, index: usize) -> Range<usize> {
        self.params[index].range.clone()
    }

    /// All parameters, f32 `[n]`.
    #[must_use]
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// All gradients, f32 `[n]`; none if the block is frozen.
    #[must_use]
    pub fn grad(&self) -> Option<&Tensor> {
        self.grads.first()
    }

    /// All gradients of a slot, f32 `[n]`; none if the block is frozen.
    #[must_use]
    pub fn slot(&self, slot: usize) -> Option<&Tensor> {
        self.grads.get(slot)
    }

    /// Gradients that are kept apart; none if the block is frozen.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.grads.len()
    }

    /// Gives up the memory of the parameters until [`Block::hold`]: somebody else has them.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn let_go(&self) -> Result<(), Error> {
        Ok(torch::let_go(&self.flat)?)
    }

    /// Has memory for the parameters again; their values must be brought.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn hold(&self) -> Result<(), Error> {
        Ok(torch::hold(&self.flat)?)
    }

    /// Numbers in the flat buffer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flat.numel()
    }

    /// Whether the block has no parameters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// Whether the block is trained.
    #[must_use]
    pub fn trainable(&self) -> bool {
        !self.grads.is_empty()
    }

    /// The numbers that weight decay applies to; the others follow.
    #[must_use]
    pub fn decay_range(&self) -> Range<usize> {
        0..self.decay_end
    }

    /// Sets the gradients of all slots to zero.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn zero_grad(&mut self) -> Result<(), Error> {
        for grad in &mut self.grads {
            let _ = grad.f_zero_()?;
        }
        Ok(())
    }

    /// Hugging Face names and shapes of everything in the block.
    #[must_use]
    pub fn names(&self) -> Vec<(String, Vec<i64>)> {
        let pieces = self.params.iter().flat_map(Param::pieces);
        pieces
            .map(|(name, shape, _)| (name.to_owned(), shape))
            .collect()
    }

    /// Copies values into the parameter of this Hugging Face name.
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes differ, [`Error::UnknownParameter`] if there is none of this name.
    pub fn load(&mut self, name: &str, values: &Tensor) -> Result<(), Error> {
        let pieces = self.params.iter().flat_map(Param::pieces);
        let Some((_, expected, range)) = pieces.into_iter().find(|(own, ..)| *own == name) else {
            return Err(Error::UnknownParameter {
                name: name.to_owned(),
            });
        };
        let found = values.size();
        if expected != found {
            return Err(Error::Shape {
                name: name.to_owned(),
                expected,
                found,
            });
        }
        let mut place = self.narrow(&range)?;
        place.f_copy_(&values.f_reshape([-1])?)?;
        Ok(())
    }

    /// Hugging Face names and values; the tensors are views.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn export(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let pieces = self.params.iter().flat_map(Param::pieces);
        let view = |(name, shape, range): (&str, Vec<i64>, Range<usize>)| {
            Ok((name.to_owned(), self.narrow(&range)?.f_view(&shape[..])?))
        };
        pieces.map(view).collect()
    }

    fn narrow(&self, range: &Range<usize>) -> Result<Tensor, Error> {
        Ok(self
            .flat
            .f_narrow(0, range.start as i64, range.len() as i64)?)
    }
}

fn view(whole: &Tensor, range: &Range<usize>, shape: &[i64]) -> Result<Tensor, Error> {
    Ok(whole
        .f_narrow(0, range.start as i64, range.len() as i64)?
        .f_view(shape)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        let specs = vec![
            ParamSpec::bias("b", &[3]),
            ParamSpec::weight("w", &[2, 3]),
            ParamSpec::weight("v", &[5]),
        ];
        Block::new("test", specs, true, Device::Cpu).unwrap()
    }

    // Promise: parameters and gradients are views of the flat buffers; autograd writes in place.
    #[test]
    fn autograd_accumulates_into_the_flat_gradient() {
        let mut block = block();
        assert_eq!(block.decay_range(), 0..32);
        block
            .load(
                "w",
                &Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]),
            )
            .unwrap();
        assert_eq!(
            torch::data(block.flat()).unwrap()[..6],
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        );
        for _ in 0..2 {
            let loss = (block.param(0) * 2.0).sum(Kind::Float);
            loss.backward();
        }
        let grad = torch::data(block.grad().unwrap()).unwrap();
        assert_eq!(grad[..6], [4.0; 6]);
        assert!(grad[6..].iter().all(|&g| g == 0.0));
    }

    // Promise: a bound slot takes what backward accumulates, the others keep theirs.
    #[test]
    fn slots_keep_gradients_apart() {
        let mut block = block();
        block.set_slots(2).unwrap();
        for (slot, factor) in [(0, 2.0), (1, 3.0)] {
            block.bind(slot).unwrap();
            (block.param(0) * factor).sum(Kind::Float).backward();
        }
        for (slot, expected) in [(0, 2.0), (1, 3.0)] {
            let grad = torch::data(block.slot(slot).unwrap()).unwrap();
            assert_eq!(grad[..6], [expected; 6]);
        }
        block.zero_grad().unwrap();
        assert!(block.slot(1).unwrap().sum(Kind::Float).double_value(&[]) == 0.0);
    }

    #[test]
    fn a_wrong_shape_names_the_parameter() {
        let error = block()
            .load("w", &Tensor::zeros([3, 2], (Kind::Float, Device::Cpu)))
            .unwrap_err();
        assert!(matches!(error, Error::Shape { name, .. } if name == "w"));
    }
}
