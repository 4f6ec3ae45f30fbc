//! What `tch` lacks: a safe face on a few functions of libtorch's C++ API.
//!
//! With `worker/comm`'s memory files, the only place of `unsafe`.
#![allow(unsafe_code)]

use espalier_comm::{Buffer, RawBuffer, Region};
use std::ffi::{CStr, CString, c_char, c_int};
use tch::{Device, Kind, TchError, Tensor};

#[repr(C)]
struct Opaque {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn espalier_free(text: *mut c_char);
    fn espalier_set_grad(parameter: *mut Opaque, gradient: *mut Opaque) -> *mut c_char;
    fn espalier_backward(
        outputs: *const *mut Opaque,
        gradients: *const *mut Opaque,
        n: usize,
        keep: bool,
    ) -> *mut c_char;
    fn espalier_adamw(
        parameter: *mut Opaque,
        gradient: *mut Opaque,
        first: *mut Opaque,
        second: *mut Opaque,
        step: f64,
        rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> *mut c_char;
    fn espalier_overwrite(target: *mut Opaque, source: *mut Opaque) -> *mut c_char;
    fn espalier_load_cuda(library: *const c_char) -> *mut c_char;
    fn espalier_use_cuda(number: c_int) -> *mut c_char;
    fn espalier_pin(tensor: *mut Opaque) -> *mut c_char;
    fn espalier_resize_storage(tensor: *mut Opaque, bytes: usize) -> *mut c_char;
    fn espalier_write_script(
        path: *const c_char,
        source: *const c_char,
        names: *const *const c_char,
        values: *const *mut Opaque,
        n: usize,
    ) -> *mut c_char;
    fn espalier_dropout(
        out: *mut f32,
        row_keys: *const u64,
        rows: usize,
        width: usize,
        key: u64,
        p: f64,
    );
}

fn raw(tensor: &Tensor) -> *mut Opaque {
    tensor.as_ptr() as *mut Opaque
}

fn check(error: *mut c_char) -> Result<(), TchError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null answer is a NUL-terminated string from strdup that is ours to free.
    let text = unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        espalier_free(error);
        text
    };
    Err(TchError::Torch(text))
}

/// Makes `gradient` (same shape as `parameter`) the place that autograd accumulates into.
///
/// # Errors
/// If libtorch refuses.
pub fn set_grad(parameter: &Tensor, gradient: &Tensor) -> Result<(), TchError> {
    // SAFETY: both point to live at::Tensor objects for the call.
    check(unsafe { espalier_set_grad(raw(parameter), raw(gradient)) })
}

/// Runs the backward pass from `outputs`, each with the gradient of the final scalar with respect to
/// it; leaves accumulate into their `.grad`.
///
/// # Errors
/// If shapes differ or the graph was freed.
pub fn backward(outputs: &[&Tensor], gradients: &[&Tensor]) -> Result<(), TchError> {
    differentiate(outputs, gradients, false)
}

/// The same, and the graph stays, to be run backward again.
///
/// # Errors
/// As [`backward`].
pub fn backward_keeping(outputs: &[&Tensor], gradients: &[&Tensor]) -> Result<(), TchError> {
    differentiate(outputs, gradients, true)
}

fn differentiate(outputs: &[&Tensor], gradients: &[&Tensor], keep: bool) -> Result<(), TchError> {
    if outputs.len() != gradients.len() {
        let text = format!(
            "{} outputs but {} gradients",
            outputs.len(),
            gradients.len()
        );
        return Err(TchError::Torch(text));
    }
    let outputs: Vec<*mut Opaque> = outputs.iter().map(|t| raw(t)).collect();
    let gradients: Vec<*mut Opaque> = gradients.iter().map(|t| raw(t)).collect();
    // SAFETY: both arrays hold `len` pointers to live at::Tensor objects.
    check(unsafe { espalier_backward(outputs.as_ptr(), gradients.as_ptr(), outputs.len(), keep) })
}

/// Hyper-parameters of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Number of this step, from 1.
    pub step: u64,
    /// Learning rate.
    pub rate: f64,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the denominator.
    pub eps: f64,
}

/// One AdamW step in place, in one pass over memory. All tensors are f32 `[n]` on one device.
///
/// # Errors
/// If shapes or devices differ.
pub fn adamw(
    parameter: &Tensor,
    gradient: &Tensor,
    moments: (&Tensor, &Tensor),
    how: &AdamWStep,
) -> Result<(), TchError> {
    // SAFETY: all pointers are to live at::Tensor objects for the call.
    check(unsafe {
        espalier_adamw(
            raw(parameter),
            raw(gradient),
            raw(moments.0),
            raw(moments.1),
            how.step as f64,
            how.rate,
            how.betas[0],
            how.betas[1],
            how.weight_decay,
            how.eps,
        )
    })
}

/// Gives up the memory behind a tensor and all views of it, until [`hold`].
///
/// # Errors
/// If libtorch refuses.
pub fn let_go(tensor: &Tensor) -> Result<(), TchError> {
    // SAFETY: points to a live at::Tensor; its owner, the block, reads nothing until `hold`.
    check(unsafe { espalier_resize_storage(raw(tensor), 0) })
}

/// Has memory for an f32 tensor again, uninitialised; views of it are good again. Nothing happens
/// if it was not let go.
///
/// # Errors
/// If memory cannot be had.
pub fn hold(tensor: &Tensor) -> Result<(), TchError> {
    let bytes = 4 * tensor.numel();
    // SAFETY: points to a live at::Tensor whose storage is its own, `bytes` is its size.
    check(unsafe { espalier_resize_storage(raw(tensor), bytes) })
}

/// Writes a TorchScript module to `path`: `source` are its methods, in the language of TorchScript,
/// `parameters` what they read as `self.NAME`. For tests, and for small models without Python.
///
/// # Errors
/// If the source is wrong or the file cannot be written.
pub fn write_script(
    path: &std::path::Path,
    source: &str,
    parameters: &[(&str, &Tensor)],
) -> Result<(), TchError> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let source = CString::new(source)?;
    let names = parameters.iter().map(|(name, _)| CString::new(*name));
    let names = names.collect::<Result<Vec<CString>, _>>()?;
    let texts: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let values: Vec<*mut Opaque> = parameters.iter().map(|(_, value)| raw(value)).collect();
    // SAFETY: strings end with NUL and live as long as their owners above; both arrays hold `len`
    // pointers, the second to live at::Tensor objects.
    check(unsafe {
        espalier_write_script(
            path.as_ptr(),
            source.as_ptr(),
            texts.as_ptr(),
            values.as_ptr(),
            values.len(),
        )
    })
}

/// Copies the numbers of one tensor into another of the same size, on whatever devices they are; autograd does not
/// take it for a change of what it has saved. To the host it waits until they are there.
///
/// # Errors
/// If sizes differ or libtorch refuses.
pub fn overwrite(target: &Tensor, source: &Tensor) -> Result<(), TchError> {
    // SAFETY: both point to live at::Tensor objects for the call.
    check(unsafe { espalier_overwrite(raw(target), raw(source)) })
}

/// All numbers of an f32 tensor, on whatever device it is, row after row.
///
/// # Errors
/// If libtorch refuses.
pub fn numbers(tensor: &Tensor) -> Result<Vec<f32>, TchError> {
    Vec::<f32>::try_from(&tensor.f_detach()?.f_contiguous()?.f_flatten(0, -1)?)
}

/// Moves a tensor of the host into memory that a device reads and writes without a copy in between.
///
/// # Errors
/// If there is no device, or memory cannot be had.
pub fn pin(tensor: &mut Tensor) -> Result<(), TchError> {
    // SAFETY: points to a live at::Tensor, which nobody else reads during the call.
    check(unsafe { espalier_pin(raw(tensor)) })
}

/// Loads `library`, libtorch's part for CUDA, and makes it choose kernels that give the same bits every time. Must
/// come before anything asks libtorch for CUDA.
///
/// # Errors
/// What the dynamic linker says.
pub fn load_cuda(library: &std::path::Path) -> Result<(), TchError> {
    let library = CString::new(library.as_os_str().as_encoded_bytes())?;
    // SAFETY: the string ends with NUL and lives for the call.
    check(unsafe { espalier_load_cuda(library.as_ptr()) })
}

/// Makes this thread do on `device` what it does without naming one, where that is a CUDA device.
///
/// # Errors
/// If there is no such device.
pub fn use_device(device: Device) -> Result<(), TchError> {
    let Device::Cuda(number) = device else {
        return Ok(());
    };
    let number = c_int::try_from(number);
    let number = number.map_err(|error| TchError::Torch(error.to_string()))?;
    // SAFETY: takes a number alone.
    check(unsafe { espalier_use_cuda(number) })
}

/// A tensor of the host on `device`; the copy is not waited for.
///
/// # Errors
/// If memory cannot be had.
pub fn sent(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    let mut tensor = tensor.shallow_clone();
    if device == Device::Cpu {
        return Ok(tensor);
    }
    pin(&mut tensor)?;
    let kind = tensor.f_kind()?;
    tensor.f_to_device_(device, kind, true, false)
}

/// A dropout mask, f32 [rows, width]: 1/(1-p) with probability 1-p, else 0. Each value is a function
/// of (key, its row's key, its column) alone.
///
/// # Errors
/// If the tensor cannot be made.
pub fn dropout_mask(row_keys: &[u64], width: usize, key: u64, p: f64) -> Result<Tensor, TchError> {
    let size = [row_keys.len() as i64, width as i64];
    let mask = Tensor::f_empty(size, (Kind::Float, Device::Cpu))?;
    // SAFETY: the tensor is fresh, contiguous and has rows * width elements of f32.
    unsafe {
        let out = mask.data_ptr().cast::<f32>();
        espalier_dropout(out, row_keys.as_ptr(), row_keys.len(), width, key, p);
    }
    Ok(mask)
}

/// The memory of a contiguous CPU f32 tensor.
///
/// # Errors
/// If the tensor is of another kind, device or layout.
pub fn data(tensor: &Tensor) -> Result<&[f32], TchError> {
    let (pointer, length) = memory(tensor)?;
    // SAFETY: `memory` checked kind, device and contiguity; the borrow keeps the tensor alive.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// The memory of a contiguous CPU f32 tensor, for writing. Views of the same storage must not be
/// used while the slice lives.
///
/// # Errors
/// If the tensor is of another kind, device or layout.
pub fn data_mut(tensor: &mut Tensor) -> Result<&mut [f32], TchError> {
    let (pointer, length) = memory(tensor)?;
    // SAFETY: as in `data`; the exclusive borrow keeps other safe access through this handle away,
    // and callers keep views of the same storage idle.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
}

/// Address and length of a contiguous CPU f32 tensor, for communicators.
///
/// # Errors
/// If the tensor is of another kind, device or layout.
pub fn memory(tensor: &Tensor) -> Result<(*mut f32, usize), TchError> {
    let wrong = |what: &str| {
        Err(TchError::Torch(format!(
            "not a contiguous CPU f32 tensor: {what}"
        )))
    };
    if tensor.f_kind()? != Kind::Float {
        return wrong("kind");
    }
    if tensor.device() != Device::Cpu {
        return wrong("device");
    }
    if !tensor.is_contiguous() {
        return wrong("layout");
    }
    let length = tensor.numel();
    if length == 0 {
        // libtorch has no memory for nothing; slices and regions want an address all the same.
        return Ok((std::ptr::NonNull::<f32>::dangling().as_ptr(), 0));
    }
    Ok((tensor.data_ptr().cast::<f32>(), length))
}

/// A tensor's memory lent to a communicator, kept alive while the operation runs. Until the handle
/// gives it back, nothing else may use that memory.
#[derive(Debug)]
pub struct Lent {
    buffer: RawBuffer<f32>,
    tensor: Tensor,
}

impl Lent {
    /// Lends the memory of a contiguous CPU f32 tensor.
    ///
    /// # Errors
    /// If the tensor is of another kind, device or layout.
    pub fn new(tensor: &Tensor) -> Result<Self, TchError> {
        let (pointer, length) = memory(tensor)?;
        // SAFETY: the shallow clone keeps the storage alive as long as this buffer; the engine, the
        // only caller, leaves a block's buffer alone while its exchange is under way.
        let buffer = unsafe { RawBuffer::new(pointer, length) };
        Ok(Self {
            buffer,
            tensor: tensor.shallow_clone(),
        })
    }

    /// The tensor, once the operation has let go of it.
    #[must_use]
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }
}

// SAFETY: the memory is the tensor's own, which does not move; see `Lent::new`.
unsafe impl Buffer for Lent {
    fn region(&mut self) -> Region {
        self.buffer.region()
    }
}
