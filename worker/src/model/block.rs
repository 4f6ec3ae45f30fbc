//! Blocks: one layer group of a backbone, all its parameters in one flat buffer.

mod adopt;

use super::Error;
use super::bottleneck::Bottleneck;
use super::lora::Update;
use crate::torch;
use espalier_spec::job::AdapterKind;
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
    /// What it is to the layers that low-rank updates may be added to.
    pub role: Role,
    /// Whether it is trained, where its block is.
    pub trained: bool,
    /// Hugging Face names of its equal parts along the first dimension, where one of our
    /// parameters holds several of theirs (query, key and value); else empty.
    pub parts: Vec<String>,
    /// The part of a layer that a linear layer's output is, and its width, where an adapter may stand
    /// behind it.
    pub gives: Option<(Part, i64)>,
}

/// A part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Attention.
    Attention,
    /// The feed-forward part.
    Feed,
}

/// What a parameter is to low-rank updates and adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    Plain,
    /// The matrix [out, in] of a linear layer: it may get one.
    Linear,
    /// The same, stored as [in, out].
    Transposed,
    /// Part of one; not in a model's files.
    Update,
    /// Part of an adapter; not in a model's file of weights.
    Adapter(AdapterKind),
    /// Learned vectors before those of each sample; not in a model's file of weights.
    Prompt,
    /// Learned keys or values of a layer, of so many heads; not in a model's file of weights.
    Prefix(i64),
}

impl Role {
    /// Whether it belongs to an adapter.
    pub(super) fn is_adapter(self) -> bool {
        matches!(self, Self::Adapter(_))
    }

    /// Whether it is beside the pretrained model, whose file of weights does not hold it.
    pub(super) fn is_beside(self) -> bool {
        let is_virtual = matches!(self, Self::Prompt | Self::Prefix(_));
        self == Self::Update || self.is_adapter() || is_virtual
    }
}

impl ParamSpec {
    /// A weight matrix: decays.
    pub fn weight(name: impl Into<String>, shape: &[i64]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            decay: true,
            role: Role::Plain,
            trained: true,
            parts: Vec::new(),
            gives: None,
        }
    }

    /// The matrix [out, in] of a linear layer: a weight that low-rank updates may be added to.
    pub fn linear(name: impl Into<String>, shape: &[i64]) -> Self {
        Self {
            role: Role::Linear,
            ..Self::weight(name, shape)
        }
    }

    /// The matrix of a linear layer that is stored as [in, out], as GPT-2 has them.
    pub fn transposed(name: impl Into<String>, shape: &[i64]) -> Self {
        Self {
            role: Role::Transposed,
            ..Self::weight(name, shape)
        }
    }

    /// A bias or the parameter of a norm: does not decay.
    pub fn bias(name: impl Into<String>, shape: &[i64]) -> Self {
        Self {
            decay: false,
            ..Self::weight(name, shape)
        }
    }

    /// Says that what its linear layer gives, `width` numbers for each row, is what a part of a layer of
    /// the model gives.
    #[must_use]
    pub fn giving(mut self, part: Part, width: i64) -> Self {
        self.gives = Some((part, width));
        self
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
    /// Where it lies, among the trained numbers or, if `frozen`, among the others.
    range: Range<usize>,
    frozen: bool,
    pub(super) role: Role,
    /// The matrix of a linear layer, stored as [in, out].
    pub(super) is_transposed: bool,
    parts: Vec<String>,
}

/// A piece of a parameter that has a Hugging Face name of its own.
pub(super) struct Piece<'a> {
    pub(super) name: &'a str,
    pub(super) shape: Vec<i64>,
    range: Range<usize>,
    frozen: bool,
    pub(super) role: Role,
}

impl Param {
    /// Whether it is not trained: its range lies among such numbers.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Its Hugging Face names.
    pub(super) fn names(&self) -> Vec<&str> {
        match self.parts.is_empty() {
            true => vec![&self.name],
            false => self.parts.iter().map(String::as_str).collect(),
        }
    }

    /// What has a Hugging Face name.
    fn pieces(&self) -> Vec<Piece<'_>> {
        let mut shape = self.tensor.size();
        let piece = |name, shape, range| Piece {
            name,
            shape,
            range,
            frozen: self.frozen,
            role: self.role,
        };
        if self.parts.is_empty() {
            return vec![piece(&self.name, shape, self.range.clone())];
        }
        let count = self.parts.len();
        shape[0] /= count as i64;
        let length = self.range.len() / count;
        let start = |index: usize| self.range.start + index * length;
        let pieces = self.parts.iter().enumerate();
        pieces
            .map(|(i, name)| piece(name, shape.clone(), start(i)..start(i) + length))
            .collect()
    }
}

/// One layer group: trained parameters in one flat f32 buffer, gradients in a second one of the same
/// layout; those that decay come first. What is not trained lies in a buffer of its own, that no
/// owner, exchange or optimizer sees. A block of which nothing is trained has all in the first one.
#[derive(Debug)]
pub struct Block {
    name: String,
    params: Vec<Param>,
    flat: Tensor,
    /// Parameters that are not trained, of a block that is.
    rest: Tensor,
    /// Flat gradients, one for each slot; none if the block is frozen.
    grads: Vec<Tensor>,
    decay_end: usize,
    pub(super) updates: Vec<Update>,
    pub(super) bottlenecks: Vec<Bottleneck>,
}

impl Block {
    /// A block of zeros. Parameters are numbered in the order of `specs`, those that decay first, and
    /// what is beside the pretrained model last. With `trainable` those are trained that say so.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(
        name: impl Into<String>,
        specs: Vec<ParamSpec>,
        trainable: bool,
        device: Device,
    ) -> Result<Self, Error> {
        let mut specs = specs;
        specs.sort_by_key(|spec| (spec.role.is_beside(), !spec.decay));
        let trainable = trainable && specs.iter().any(|spec| spec.trained);
        let frozen = |spec: &ParamSpec| trainable && !spec.trained;
        let mut places = vec![0..0; specs.len()];
        let mut lay = |chosen: &dyn Fn(&ParamSpec) -> bool, mut at: usize| {
            for (spec, place) in specs.iter().zip(&mut places).filter(|(s, _)| chosen(s)) {
                let length = spec.shape.iter().product::<i64>().unsigned_abs() as usize;
                *place = at..at + length;
                at = (at + length).next_multiple_of(ALIGN);
            }
            at
        };
        let decay_end = lay(&|spec| !frozen(spec) && spec.decay, 0);
        let end = lay(&|spec| !frozen(spec) && !spec.decay, decay_end);
        let rest_end = lay(&frozen, 0);
        let zeros = |n: usize| Tensor::f_zeros([n as i64], (Kind::Float, device));
        let (flat, rest) = (zeros(end)?, zeros(rest_end)?);
        let grads = if trainable {
            vec![zeros(end)?]
        } else {
            Vec::new()
        };
        let mut params = Vec::new();
        for (spec, range) in specs.into_iter().zip(places) {
            let frozen = trainable && !spec.trained;
            let home = if frozen { &rest } else { &flat };
            let mut tensor = view(home, &range, &spec.shape)?.f_detach()?;
            if let Some(grad) = grads.first().filter(|_| !frozen) {
                tensor = tensor.f_set_requires_grad(true)?;
                torch::set_grad(&tensor, &view(grad, &range, &spec.shape)?)?;
            }
            params.push(Param {
                name: spec.name,
                tensor,
                range,
                frozen,
                role: spec.role,
                is_transposed: spec.role == Role::Transposed,
                parts: spec.parts,
            });
        }
        Ok(Self {
            name: name.into(),
            params,
            flat,
            rest,
            grads,
            decay_end,
            updates: Vec::new(),
            bottlenecks: Vec::new(),
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
        for param in self.params.iter().filter(|param| !param.frozen) {
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

    /// All trained parameters (all of a frozen block), f32 `[n]`.
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

    /// Numbers that are not trained, beside the flat buffer of a block that is.
    #[must_use]
    pub fn untrained(&self) -> usize {
        self.rest.numel()
    }

    /// Whether the block has no parameters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// Whether matrices of linear layers are stored as [in, out].
    #[must_use]
    pub fn is_transposed(&self) -> bool {
        self.params.iter().any(|param| param.is_transposed)
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

    /// All pieces that have names, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.params.iter().flat_map(Param::pieces)
    }

    /// Names and shapes of everything in the block, also of what is beside the pretrained model.
    #[must_use]
    pub fn names(&self) -> Vec<(String, Vec<i64>)> {
        let pieces = self.pieces();
        pieces
            .map(|piece| (piece.name.to_owned(), piece.shape))
            .collect()
    }

    /// The same without what is beside it: what a model's file of weights holds.
    #[must_use]
    pub fn model_names(&self) -> Vec<(String, Vec<i64>)> {
        let pieces = self.pieces().filter(|piece| !piece.role.is_beside());
        pieces
            .map(|piece| (piece.name.to_owned(), piece.shape))
            .collect()
    }

    /// Copies values into the parameter of this name.
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes differ, [`Error::UnknownParameter`] if there is none of this name.
    pub fn load(&mut self, name: &str, values: &Tensor) -> Result<(), Error> {
        let Some(piece) = self.pieces().find(|piece| piece.name == name) else {
            return Err(Error::UnknownParameter {
                name: name.to_owned(),
            });
        };
        let found = values.size();
        if piece.shape != found {
            return Err(Error::Shape {
                name: name.to_owned(),
                expected: piece.shape,
                found,
            });
        }
        let mut place = self.narrow(&piece)?;
        place.f_copy_(&values.f_reshape([-1])?)?;
        Ok(())
    }

    /// Names and values of everything in the block, low-rank updates too; the tensors are views.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let pieces = self.pieces();
        let value = |piece: Piece<'_>| Ok((piece.name.to_owned(), self.value(&piece)?));
        pieces.map(value).collect()
    }

    pub(super) fn value(&self, piece: &Piece<'_>) -> Result<Tensor, Error> {
        Ok(self.narrow(piece)?.f_view(&piece.shape[..])?)
    }

    fn narrow(&self, piece: &Piece<'_>) -> Result<Tensor, Error> {
        let home = if piece.frozen { &self.rest } else { &self.flat };
        let (start, length) = (piece.range.start as i64, piece.range.len() as i64);
        Ok(home.f_narrow(0, start, length)?)
    }
}

fn view(whole: &Tensor, range: &Range<usize>, shape: &[i64]) -> Result<Tensor, Error> {
    Ok(whole
        .f_narrow(0, range.start as i64, range.len() as i64)?
        .f_view(shape)?)
}

#[cfg(test)]
mod tests;
