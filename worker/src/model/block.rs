//! Blocks: one layer group of a backbone, all its parameters in one flat buffer.

mod adopt;
mod copy;
mod param;

pub use param::{Param, ParamSpec, Part};
pub(super) use param::{Piece, Role};

use super::Error;
use super::bottleneck::Bottleneck;
use super::lora::Update;
use crate::torch;
use copy::{DeviceCopy, host_zeros};
use std::ops::Range;
use tch::{Device, Tensor};

/// Parameters start at multiples of this many numbers: whole cache lines.
const ALIGN: usize = 16;

/// One layer group: trained parameters in one flat f32 buffer, gradients in a second one of the same
/// layout; those that decay come first. What is not trained lies in a buffer of its own, that no
/// owner, exchange or optimizer sees. A block of which nothing is trained has all in the first one. These
/// buffers are on the host; another device computes with a copy of them ([`Block::push`]).
#[derive(Debug)]
pub struct Block {
    name: String,
    params: Vec<Param>,
    flat: Tensor,
    /// Parameters that are not trained, of a block that is.
    rest: Tensor,
    /// Flat gradients, one for each slot; none if the block is frozen.
    grads: Vec<Tensor>,
    /// What computes in place of the buffers above, if it is not the host.
    copy: Option<DeviceCopy>,
    decay_end: usize,
    pub(super) updates: Vec<Update>,
    pub(super) bottlenecks: Vec<Bottleneck>,
}

impl Block {
    /// A block of zeros that computes on `device`. Parameters are numbered in the order of `specs`, those that decay
    /// first, and what is beside the pretrained model last. With `trainable` those are trained that say so.
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
        let zeros = |n: usize| host_zeros(n, device);
        let (flat, rest) = (zeros(end)?, zeros(rest_end)?);
        let grads = if trainable {
            vec![zeros(end)?]
        } else {
            Vec::new()
        };
        let copy = DeviceCopy::of(device, [&flat, &rest], grads.len())?;
        let (of_flat, of_rest, of_grads) = match &copy {
            None => (&flat, &rest, &grads),
            Some(copy) => (&copy.flat, &copy.rest, &copy.grads),
        };
        let mut params = Vec::new();
        for (spec, range) in specs.into_iter().zip(places) {
            let frozen = trainable && !spec.trained;
            let home = if frozen { of_rest } else { of_flat };
            let mut tensor = view(home, &range, &spec.shape)?.f_detach()?;
            if let Some(grad) = of_grads.first().filter(|_| !frozen) {
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
            copy,
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
            grads.push(host_zeros(first.numel(), self.device())?);
        }
        self.grads = grads;
        if let Some(copy) = &mut self.copy {
            copy.grads.truncate(count.max(1));
            while copy.grads.len() < count {
                copy.grads.push(copy.flat.f_zeros_like()?);
            }
        }
        self.bind(0)
    }

    /// Makes a slot's gradient the one that backward accumulates into.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn bind(&self, slot: usize) -> Result<(), Error> {
        let Some(grad) = self.slot_there(slot) else {
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

    /// A parameter, where it computes, by the order in which the block was described: decaying ones first.
    #[must_use]
    pub fn param(&self, index: usize) -> &Tensor {
        &self.params[index].tensor
    }

    /// The numbers of the flat buffers that a parameter takes.
    #[must_use]
    pub fn range(&self, index: usize) -> Range<usize> {
        self.params[index].range.clone()
    }

    /// All trained parameters (all of a frozen block), f32 `[n]` on the host. Who writes there says
    /// [`Block::about_to_change`], who reads what may have been stepped on a device [`Block::refresh`].
    #[must_use]
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// All gradients, f32 `[n]` on the host; none if the block is frozen.
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
        if let Some(copy) = &self.copy {
            torch::let_go(&copy.flat)?;
        }
        Ok(torch::let_go(&self.flat)?)
    }

    /// Has memory for the parameters again; their values must be brought.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn hold(&self) -> Result<(), Error> {
        if let Some(copy) = &self.copy {
            torch::hold(&copy.flat)?;
            self.changed();
        }
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

    /// Sets the gradients of all slots to zero, where it computes.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn zero_grad(&mut self) -> Result<(), Error> {
        let grads = match &mut self.copy {
            Some(copy) => &mut copy.grads,
            None => &mut self.grads,
        };
        for grad in grads {
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
        let (mut place, frozen) = (self.narrow(&piece)?, piece.frozen);
        place.f_copy_(&values.f_reshape([-1])?)?;
        match frozen {
            true => self.rest_changed(),
            false => self.changed(),
        }
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
        self.refresh()?;
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
