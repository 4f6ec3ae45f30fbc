//! The copy of a block that computes, where the host does not.
//!
//! The host's buffers are what exchanges, snapshots and files see. A device that computes has a copy of them: parameters
//! are pushed there before a block runs, if they have changed since, and a gradient is pulled back when the block's
//! backward has ended. So nobody outside of a pass needs to know where it ran. Pushes are not waited for: the host's
//! numbers change only after gradients of the step, or losses at least, have come back. A rank by itself may step the copy; then
//! the host's parameters follow when somebody reads them.

use super::{Block, Error, Param, view};
use crate::torch;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Kind, Tensor};

/// A block's buffers on the device that computes, laid out as the host's are.
#[derive(Debug)]
pub(super) struct DeviceCopy {
    pub(super) flat: Tensor,
    pub(super) rest: Tensor,
    pub(super) grads: Vec<Tensor>,
    /// The host's parameters have changed since they were pushed.
    is_behind: AtomicBool,
    /// The same of those that are not trained.
    rest_is_behind: AtomicBool,
    /// These parameters have changed since the host had them.
    host_is_behind: AtomicBool,
}

impl DeviceCopy {
    /// Zeros, like the host's new buffers; none where the host computes.
    pub(super) fn of(
        device: Device,
        [flat, rest]: [&Tensor; 2],
        grads: usize,
    ) -> Result<Option<Self>, Error> {
        if device == Device::Cpu {
            return Ok(None);
        }
        let like = |tensor: &Tensor| Tensor::f_zeros(tensor.size(), (Kind::Float, device));
        Ok(Some(Self {
            flat: like(flat)?,
            rest: like(rest)?,
            grads: (0..grads).map(|_| like(flat)).collect::<Result<_, _>>()?,
            is_behind: AtomicBool::new(false),
            rest_is_behind: AtomicBool::new(false),
            host_is_behind: AtomicBool::new(false),
        }))
    }
}

/// Zeros on the host that a device can read and write at full speed, without a copy in between.
pub(super) fn host_zeros(numbers: usize, device: Device) -> Result<Tensor, Error> {
    let mut zeros = Tensor::f_zeros([numbers as i64], (Kind::Float, Device::Cpu))?;
    if device != Device::Cpu {
        torch::pin(&mut zeros)?;
    }
    Ok(zeros)
}

impl Block {
    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> Device {
        let copy = self.copy.as_ref();
        copy.map_or(Device::Cpu, |copy| copy.flat.device())
    }

    /// Says that numbers of [`Block::flat`] are about to change: the device's must follow before it computes again.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn about_to_change(&self) -> Result<(), Error> {
        self.refresh()?;
        self.changed();
        Ok(())
    }

    pub(super) fn changed(&self) {
        if let Some(copy) = &self.copy {
            copy.is_behind.store(true, Ordering::Release);
        }
    }

    /// The same of the parameters that are not trained.
    pub(super) fn rest_changed(&self) {
        if let Some(copy) = &self.copy {
            copy.rest_is_behind.store(true, Ordering::Release);
        }
    }

    /// Brings parameters that were stepped on the device to the host; nothing happens where there are none.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn refresh(&self) -> Result<(), Error> {
        let copy = self.copy.as_ref();
        match copy.filter(|copy| copy.host_is_behind.swap(false, Ordering::AcqRel)) {
            Some(copy) => Ok(torch::overwrite(&self.flat, &copy.flat)?),
            None => Ok(()),
        }
    }

    /// All trained parameters f32 `[n]` where the block computes, to be stepped there.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn flat_to_step(&self) -> Result<&Tensor, Error> {
        self.push()?;
        Ok(match &self.copy {
            Some(copy) => {
                copy.host_is_behind.store(true, Ordering::Release);
                &copy.flat
            }
            None => &self.flat,
        })
    }

    /// All gradients of a slot, f32 `[n]` where the block computes; none if it is frozen.
    #[must_use]
    pub fn slot_there(&self, slot: usize) -> Option<&Tensor> {
        let grads = self.copy.as_ref().map_or(&self.grads, |copy| &copy.grads);
        grads.get(slot)
    }

    /// Brings parameters that have changed to the device that computes; nothing happens where that is the host.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn push(&self) -> Result<(), Error> {
        let Some(copy) = &self.copy else {
            return Ok(());
        };
        if copy.is_behind.swap(false, Ordering::AcqRel) {
            torch::overwrite(&copy.flat, &self.flat)?;
        }
        if copy.rest_is_behind.swap(false, Ordering::AcqRel) {
            torch::overwrite(&copy.rest, &self.rest)?;
        }
        Ok(())
    }

    /// Brings parameters that are not trained back from the device: what batch norms keep changes there.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn pull_untrained(&self) -> Result<(), Error> {
        if let Some(copy) = &self.copy {
            torch::overwrite(&self.rest, &copy.rest)?;
            if !self.trainable() {
                torch::overwrite(&self.flat, &copy.flat)?;
            }
        }
        Ok(())
    }

    /// Brings a slot's gradient back from the device, once nothing is added to it any more.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn pull_gradient(&self, slot: usize) -> Result<(), Error> {
        let copy = self.copy.as_ref().and_then(|copy| copy.grads.get(slot));
        if let (Some(there), Some(here)) = (copy, self.grads.get(slot)) {
            torch::overwrite(here, there)?;
        }
        Ok(())
    }

    /// The values of a parameter as the host has them, whoever computes; a view.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn host(&self, index: usize) -> Result<Tensor, Error> {
        self.refresh()?;
        let Param { range, frozen, .. } = &self.params[index];
        let home = if *frozen { &self.rest } else { &self.flat };
        view(home, range, &self.params[index].tensor.size())
    }
}
