//! Plain memory that collectives read and write: typed on the outside, bytes inside.
//!
//! With `segment.rs`, `shm.rs`, `lent.rs`, `stream.rs` and the files named in `nccl/mod.rs`, the only
//! one of the crate with `unsafe` code.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};
use std::fmt;

use crate::bf16::Bf16;

/// Element type of a [`Region`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DType {
    /// Raw bytes; can be moved, not summed.
    U8,
    /// 32-bit IEEE float.
    F32,
    /// 64-bit IEEE float.
    F64,
    /// The upper half of a 32-bit IEEE float; can be moved, not summed.
    BF16,
}

/// Which memory a [`Region`] is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Memory {
    /// The host's: what this process can read and write itself.
    Host,
    /// A CUDA device's, by its ordinal in this process.
    Device(usize),
}

/// A type that a collective can move: plain old data, any bit pattern is valid.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The tag that travels in headers.
    const DTYPE: DType;
}

/// An [`Element`] that can be summed.
pub trait Number: Element {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for crate::bf16::Bf16 {}
}

/// `len` elements at an address: what an operation works on.
///
/// A region does not own its memory. Nothing here reads through the address of one in a device's
/// memory; the CPU communicator refuses it.
pub struct Region {
    ptr: *mut u8,
    len: usize,
    dtype: DType,
    memory: Memory,
}

/// Memory that an asynchronous operation may keep using while the caller goes on.
///
/// # Safety
///
/// `region` must describe memory that is valid for reads and writes, that nobody else touches
/// while the value is held by a [`Handle`](crate::Handle), and whose address does not change
/// when the value is moved.
pub unsafe trait Buffer: Send + 'static {
    /// The memory behind this buffer.
    fn region(&mut self) -> Region;
}

/// Memory owned by somebody else, such as a libtorch tensor, lent to an operation.
///
/// ```
/// # use espalier_comm::RawBuffer;
/// let mut owned_elsewhere = vec![0f32; 8];
/// // SAFETY: the vector outlives the buffer and is not touched meanwhile.
/// let buffer = unsafe { RawBuffer::new(owned_elsewhere.as_mut_ptr(), 8) };
/// # drop(buffer);
/// ```
#[derive(Debug)]
pub struct RawBuffer<T: Element> {
    ptr: *mut T,
    len: usize,
    memory: Memory,
}

impl DType {
    /// Bytes per element.
    pub const fn width(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::BF16 => 2,
            DType::F32 => 4,
            DType::F64 => 8,
        }
    }

    pub(crate) const fn code(self) -> u8 {
        match self {
            DType::U8 => 0,
            DType::F32 => 1,
            DType::F64 => 2,
            DType::BF16 => 3,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<DType> {
        match code {
            0 => Some(DType::U8),
            1 => Some(DType::F32),
            2 => Some(DType::F64),
            3 => Some(DType::BF16),
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::U8 => "u8",
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::BF16 => "bf16",
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memory::Host => f.write_str("host memory"),
            Memory::Device(ordinal) => write!(f, "memory of cuda:{ordinal}"),
        }
    }
}

impl Element for u8 {
    const DTYPE: DType = DType::U8;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for Bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Number for f32 {}
impl Number for f64 {}

// SAFETY: a region is an address with a promise (see `Region::new`) that nobody else touches the
// memory while the operation runs; elements are plain data without thread affinity.
unsafe impl Send for Region {}

impl Region {
    /// Describes `len` elements at `ptr` in the host's memory.
    ///
    /// # Safety
    ///
    /// From the moment the region is handed to [`Communicator::issue`](crate::Communicator::issue)
    /// until the returned [`Pending`](crate::Pending) is done (waited for, dropped, or seen to be
    /// done; for ever, if it failed with an error that
    /// [keeps the memory](crate::Error::keeps_memory)), the memory must be valid for reads and
    /// writes and nobody else may access it. Where an operation only reads (the `send` side of an
    /// all-to-all), others may read too. `ptr` must be aligned for `T`, and non-null even when
    /// `len` is 0.
    pub unsafe fn new<T: Element>(ptr: *mut T, len: usize) -> Region {
        Region {
            ptr: ptr.cast(),
            len,
            dtype: T::DTYPE,
            memory: Memory::Host,
        }
    }

    /// Describes `len` elements at `ptr` in the memory of CUDA device `ordinal`.
    ///
    /// # Safety
    ///
    /// As for [`new`](Region::new), with reads and writes of the device instead of this process.
    /// Work that was put on the caller's current stream before the call may still write: the
    /// operation begins after it.
    pub unsafe fn on_device<T: Element>(ptr: *mut T, len: usize, ordinal: usize) -> Region {
        Region {
            ptr: ptr.cast(),
            len,
            dtype: T::DTYPE,
            memory: Memory::Device(ordinal),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Which memory it is in.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Address of the first element.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        assert_eq!(self.memory, Memory::Host, "only the host's memory is read");
        // SAFETY: `new` promises that the memory is readable while an operation runs, and the
        // crate looks at a region only then; u8 has no alignment or validity demands.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len * self.dtype.width()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        assert_eq!(
            self.memory,
            Memory::Host,
            "only the host's memory is written"
        );
        // SAFETY: as in `bytes`, and `new` promises exclusive access; every bit pattern is valid
        // for every element type.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len * self.dtype.width()) }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Region {
            ptr,
            len,
            dtype,
            memory,
        } = self;
        write!(f, "{len} {dtype} at {ptr:p} in {memory}")
    }
}

// SAFETY: the heap block of a vector stays where it is when the vector is moved, and the handle
// owns the vector, so nobody else can reach it.
unsafe impl<T: Element> Buffer for Vec<T> {
    fn region(&mut self) -> Region {
        Region {
            ptr: self.as_mut_ptr().cast(),
            len: self.len(),
            dtype: T::DTYPE,
            memory: Memory::Host,
        }
    }
}

// SAFETY: as for vectors.
unsafe impl<T: Element> Buffer for Box<[T]> {
    fn region(&mut self) -> Region {
        Region {
            ptr: self.as_mut_ptr().cast(),
            len: self.len(),
            dtype: T::DTYPE,
            memory: Memory::Host,
        }
    }
}

impl<T: Element> RawBuffer<T> {
    /// Lends `len` elements at `ptr` in the host's memory.
    ///
    /// # Safety
    ///
    /// The memory must be valid for reads and writes, and nobody else may access it, until the
    /// [`Handle`](crate::Handle) that takes the buffer has been waited for or dropped (dropping
    /// waits too). If the handle is leaked, that means for ever.
    pub unsafe fn new(ptr: *mut T, len: usize) -> Self {
        RawBuffer {
            ptr,
            len,
            memory: Memory::Host,
        }
    }

    /// Lends `len` elements at `ptr` in the memory of CUDA device `ordinal`.
    ///
    /// # Safety
    ///
    /// As for [`new`](RawBuffer::new), with reads and writes of the device; work on the caller's
    /// current stream before the call may still write.
    pub unsafe fn on_device(ptr: *mut T, len: usize, ordinal: usize) -> Self {
        RawBuffer {
            ptr,
            len,
            memory: Memory::Device(ordinal),
        }
    }
}

// SAFETY: see `Region`; the promise is made in `RawBuffer::new`.
unsafe impl<T: Element> Send for RawBuffer<T> {}

// SAFETY: `RawBuffer::new` promises validity and exclusiveness; the address is a plain value.
unsafe impl<T: Element> Buffer for RawBuffer<T> {
    fn region(&mut self) -> Region {
        Region {
            ptr: self.ptr.cast(),
            len: self.len,
            dtype: T::DTYPE,
            memory: self.memory,
        }
    }
}

/// Region over a borrowed slice. The caller must keep the borrow until the operation is done;
/// `ext.rs` does so by waiting before it returns.
pub(crate) fn borrow_mut<T: Element>(slice: &mut [T]) -> Region {
    Region {
        ptr: slice.as_mut_ptr().cast(),
        len: slice.len(),
        dtype: T::DTYPE,
        memory: Memory::Host,
    }
}

/// Region over a slice that the operation only reads; otherwise as [`borrow_mut`].
pub(crate) fn borrow<T: Element>(slice: &[T]) -> Region {
    Region {
        ptr: slice.as_ptr().cast_mut().cast(),
        len: slice.len(),
        dtype: T::DTYPE,
        memory: Memory::Host,
    }
}

/// So many zero bytes, or why there is no room for them. They come from the system as they are, so that pages
/// cost memory only when they are written: what a peer promises to send is not taken before it comes.
pub(crate) fn zeroed(len: usize) -> Result<Vec<u8>, String> {
    if len == 0 {
        return Ok(Vec::new());
    }
    let layout = Layout::array::<u8>(len).map_err(|e| e.to_string())?;
    // SAFETY: the layout is not empty.
    let ptr = unsafe { alloc_zeroed(layout) };
    if ptr.is_null() {
        return Err(format!("there is no room for {len} bytes"));
    }
    // SAFETY: the global allocator gave `ptr` for the layout of `len` bytes, which is that of a vector
    // of this capacity; all of them are initialised, to 0.
    Ok(unsafe { Vec::from_raw_parts(ptr, len, len) })
}

#[cfg(test)]
mod tests {
    use super::zeroed;

    // Promise: an absurd length is an error, not the end of the process.
    #[test]
    fn an_absurd_length_is_an_error() {
        for len in [usize::MAX, isize::MAX as usize, 1 << 62] {
            zeroed(len).expect_err("no room");
        }
        assert_eq!(zeroed(0), Ok(Vec::new()));
        assert_eq!(zeroed(5), Ok(vec![0; 5]));
    }
}
