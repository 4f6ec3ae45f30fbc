//! Memory on a device, for programs without libtorch: checks of this crate, mostly.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::Arc;

use super::cuda::Context;
use crate::error::{Error, Result};
use crate::memory::{Buffer, Element, Region, borrow, borrow_mut};

/// Elements in the memory of a CUDA device. Freed when dropped.
#[derive(Debug)]
pub struct DeviceBuffer<T: Element> {
    context: Arc<Context>,
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> DeviceBuffer<T> {
    /// Copies `values` to device `ordinal`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver or that device, [`Error::System`] without room.
    pub fn new(ordinal: usize, values: &[T]) -> Result<DeviceBuffer<T>> {
        let context = Arc::new(Context::new(ordinal)?);
        let fail = |reason: String| Error::system(format!("copy to cuda:{ordinal}"), reason);
        let address = context.allocate(size_of_val(values)).map_err(fail)?;
        let buffer = DeviceBuffer {
            context,
            address,
            len: values.len(),
            element: PhantomData,
        };
        // SAFETY: the memory was allocated above with this size, and nobody else knows it yet.
        unsafe { buffer.context.upload(address, borrow(values).bytes()) }.map_err(fail)?;
        Ok(buffer)
    }

    /// Copies the content back to the host. What was queued on this process's own streams is not
    /// waited for; operations of a communicator are done when their handle says so.
    ///
    /// # Errors
    /// [`Error::System`] with the driver's answer.
    pub fn read(&self) -> Result<Vec<T>>
    where
        T: Default,
    {
        let mut values = vec![T::default(); self.len];
        let mut region = borrow_mut(&mut values);
        // SAFETY: the memory is this value's and has this size; an operation that it was lent to has
        // let go of it, since the handle owned it.
        unsafe { self.context.download(self.address, region.bytes_mut()) }
            .map_err(|e| Error::system(format!("copy from cuda:{}", self.context.ordinal()), e))?;
        Ok(values)
    }
}

// SAFETY: the memory is allocated for as long as the value lives, the handle owns the value, and
// moving the value does not move the memory.
unsafe impl<T: Element> Buffer for DeviceBuffer<T> {
    fn region(&mut self) -> Region {
        // SAFETY: as above.
        unsafe {
            Region::on_device(
                self.address as usize as *mut T,
                self.len,
                self.context.ordinal(),
            )
        }
    }
}

impl<T: Element> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed here only, and no operation holds it (see `read`).
        unsafe { self.context.free(self.address) };
    }
}
