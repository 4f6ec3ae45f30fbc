//! The few functions of the CUDA driver that a communicator needs: contexts, streams, events, copies.
//!
//! The driver's library (`libcuda.so.1`) rather than the runtime's: it is there wherever a GPU works,
//! under one name, and its streams and events are those of libtorch and NCCL. The context is the
//! device's primary one, which both of them use.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::{Arc, OnceLock};

use super::dynamic::{Said, Search, table};
use crate::error::Result;

type Code = c_int;
const SUCCESS: Code = 0;
const NOT_READY: Code = 600;
const STREAM_NON_BLOCKING: c_uint = 1;
const EVENT_DISABLE_TIMING: c_uint = 2;
const ATTRIBUTE_MEMORY_TYPE: c_int = 2;
const ATTRIBUTE_DEVICE_ORDINAL: c_int = 9;
const MEMORY_TYPE_DEVICE: c_uint = 2;

table! {
    /// Signatures as in `cuda.h`; `_v2` where the header maps the plain name to it.
    Table {
        init: b"cuInit" (c_uint) -> Code;
        driver_version: b"cuDriverGetVersion" (*mut c_int) -> Code;
        error_string: b"cuGetErrorString" (Code, *mut *const c_char) -> Code;
        device_count: b"cuDeviceGetCount" (*mut c_int) -> Code;
        device_get: b"cuDeviceGet" (*mut c_int, c_int) -> Code;
        device_name: b"cuDeviceGetName" (*mut c_char, c_int, c_int) -> Code;
        retain: b"cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int) -> Code;
        release: b"cuDevicePrimaryCtxRelease_v2" (c_int) -> Code;
        push: b"cuCtxPushCurrent_v2" (*mut c_void) -> Code;
        pop: b"cuCtxPopCurrent_v2" (*mut *mut c_void) -> Code;
        stream_create: b"cuStreamCreate" (*mut *mut c_void, c_uint) -> Code;
        stream_destroy: b"cuStreamDestroy_v2" (*mut c_void) -> Code;
        stream_query: b"cuStreamQuery" (*mut c_void) -> Code;
        stream_wait: b"cuStreamWaitEvent" (*mut c_void, *mut c_void, c_uint) -> Code;
        event_create: b"cuEventCreate" (*mut *mut c_void, c_uint) -> Code;
        event_destroy: b"cuEventDestroy_v2" (*mut c_void) -> Code;
        event_record: b"cuEventRecord" (*mut c_void, *mut c_void) -> Code;
        event_query: b"cuEventQuery" (*mut c_void) -> Code;
        attribute: b"cuPointerGetAttribute" (*mut c_void, c_int, u64) -> Code;
        allocate: b"cuMemAlloc_v2" (*mut u64, usize) -> Code;
        free: b"cuMemFree_v2" (u64) -> Code;
        upload: b"cuMemcpyHtoD_v2" (u64, *const c_void, usize) -> Code;
        download: b"cuMemcpyDtoH_v2" (*mut c_void, u64, usize) -> Code;
        copy_async: b"cuMemcpyDtoDAsync_v2" (u64, u64, usize, *mut c_void) -> Code;
    }
}

/// The loaded driver.
pub(crate) struct Cuda {
    table: Table,
}

/// A device's primary context, kept while this value lives.
#[derive(Debug)]
pub(crate) struct Context {
    cuda: &'static Cuda,
    raw: Raw,
    device: c_int,
    ordinal: usize,
}

/// A handle of the driver.
#[derive(Clone, Copy)]
struct Raw(*mut c_void);

// SAFETY: rule: the driver's handles may be used from any thread of the process (CUDA C Programming
// Guide, driver API), and its functions are thread-safe.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

/// A stream of this crate, which runs beside all others. Destroyed when dropped; the driver lets work
/// that is under way finish first, without blocking the caller.
#[derive(Debug)]
pub(crate) struct Stream {
    context: Arc<Context>,
    raw: Raw,
}

/// A point in a stream.
#[derive(Debug)]
pub(crate) struct Event {
    context: Arc<Context>,
    raw: Raw,
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Pointer::fmt(&self.0, f)
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cuda")
    }
}

fn search() -> Search {
    Search {
        name: "libcuda.so.1",
        candidates: vec!["libcuda.so.1".into()],
        note: String::new(),
        remedy: "It comes with NVIDIA's driver: install that, and start a container with access to its GPUs; or let the job compute on the CPU",
    }
}

impl Cuda {
    /// The driver, loaded once per process.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) where there is no driver or no device.
    pub(crate) fn get() -> Result<&'static Cuda> {
        static CUDA: OnceLock<Result<Cuda>> = OnceLock::new();
        CUDA.get_or_init(Cuda::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Cuda> {
        let search = search();
        let table = Table::load(search.open()?).map_err(|e| search.unavailable(e))?;
        let cuda = Cuda { table };
        // SAFETY: rule: cuInit may be called by any thread at any time, with 0.
        cuda.check("cuInit", unsafe { (cuda.table.init)(0) })
            .map_err(|e| search.unavailable(e))?;
        Ok(cuda)
    }

    /// The driver's CUDA version, such as 13000.
    pub(crate) fn version(&self) -> Said<i32> {
        let mut version = 0;
        // SAFETY: rule: an out-pointer must be valid for the write; it is a local variable.
        self.check("cuDriverGetVersion", unsafe {
            (self.table.driver_version)(&mut version)
        })?;
        Ok(version)
    }

    /// The name of device `ordinal`, such as `NVIDIA H100`.
    pub(crate) fn device_name(&self, ordinal: usize) -> Said<String> {
        let device = self.device(ordinal)?;
        let mut name = [0u8; 256];
        // SAFETY: rule: the driver writes at most the given number of bytes, NUL included.
        self.check("cuDeviceGetName", unsafe {
            (self.table.device_name)(name.as_mut_ptr().cast(), 255, device)
        })?;
        let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
        Ok(String::from_utf8_lossy(&name[..end]).into_owned())
    }

    fn device(&self, ordinal: usize) -> Said<c_int> {
        let mut count = 0;
        // SAFETY: rule: out-pointers must be valid for the write; they are local variables.
        self.check("cuDeviceGetCount", unsafe {
            (self.table.device_count)(&mut count)
        })?;
        let wanted = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        if wanted >= count {
            return Err(format!(
                "cuda:{ordinal} is not there: the driver shows {count} device(s) to this process"
            ));
        }
        let mut device = 0;
        // SAFETY: as above; the ordinal is below the count.
        self.check("cuDeviceGet", unsafe {
            (self.table.device_get)(&mut device, wanted)
        })?;
        Ok(device)
    }

    fn check(&self, what: &str, code: Code) -> Said<()> {
        if code == SUCCESS {
            return Ok(());
        }
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: rule: on success the driver points `text` to a static NUL-terminated string; it
        // stays null for codes that it does not know.
        let text = unsafe {
            (self.table.error_string)(code, &mut text);
            if text.is_null() {
                "unknown error".into()
            } else {
                CStr::from_ptr(text).to_string_lossy()
            }
        };
        Err(format!("{what}: {text} (CUDA error {code})"))
    }
}

impl Context {
    /// Takes the primary context of device `ordinal`, making it if nobody has yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) where there is no driver or no such device.
    pub(crate) fn new(ordinal: usize) -> Result<Context> {
        let cuda = Cuda::get()?;
        let fail = |reason: String| search().unavailable(reason);
        let device = cuda.device(ordinal).map_err(fail)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: rule: the out-pointer must be valid for the write; the device comes from cuDeviceGet.
        cuda.check("cuDevicePrimaryCtxRetain", unsafe {
            (cuda.table.retain)(&mut raw, device)
        })
        .map_err(fail)?;
        Ok(Context {
            cuda,
            raw: Raw(raw),
            device,
            ordinal,
        })
    }

    pub(crate) fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Runs `body` with this context current on the calling thread, and puts back what was.
    pub(crate) fn with<R>(&self, body: impl FnOnce() -> Said<R>) -> Said<R> {
        let table = &self.cuda.table;
        // SAFETY: rule: the context must be alive; this value retains it.
        self.cuda
            .check("cuCtxPushCurrent", unsafe { (table.push)(self.raw.0) })?;
        let result = body();
        let mut popped = std::ptr::null_mut();
        // SAFETY: rule: pops what was pushed above on this thread (pushes and pops are paired).
        self.cuda
            .check("cuCtxPopCurrent", unsafe { (table.pop)(&mut popped) })?;
        result
    }

    /// `Err` unless `address` is device memory of this context's device.
    pub(crate) fn owns(&self, address: *mut u8) -> Said<()> {
        let (mut kind, mut ordinal): (c_uint, c_int) = (0, -1);
        let at = address as u64;
        self.with(|| {
            // SAFETY: rule: the driver looks the address up and never reads through it; the results
            // are an unsigned and an int as documented for these attributes.
            let code = unsafe {
                (self.cuda.table.attribute)((&raw mut kind).cast(), ATTRIBUTE_MEMORY_TYPE, at)
            };
            self.cuda.check("cuPointerGetAttribute", code)?;
            // SAFETY: as above.
            let code = unsafe {
                (self.cuda.table.attribute)((&raw mut ordinal).cast(), ATTRIBUTE_DEVICE_ORDINAL, at)
            };
            self.cuda.check("cuPointerGetAttribute", code)
        })
        .map_err(|e| format!("{address:p} is not known to the CUDA driver: {e}"))?;
        if kind != MEMORY_TYPE_DEVICE {
            return Err(format!("{address:p} is not in a device's memory"));
        }
        if usize::try_from(ordinal).ok() != Some(self.ordinal) {
            return Err(format!(
                "{address:p} is in memory of cuda:{ordinal}, expected cuda:{}",
                self.ordinal
            ));
        }
        Ok(())
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Said<u64> {
        let mut address = 0;
        self.with(|| {
            // SAFETY: rule: the out-pointer must be valid for the write; the size is not 0.
            let code = unsafe { (self.cuda.table.allocate)(&mut address, bytes.max(1)) };
            self.cuda
                .check(&format!("allocate {bytes} bytes on the device"), code)
        })?;
        Ok(address)
    }

    /// # Safety
    /// `address` comes from [`allocate`](Context::allocate), is freed once, and nothing uses it.
    pub(crate) unsafe fn free(&self, address: u64) {
        let _ = self.with(|| {
            // SAFETY: as this function demands.
            let code = unsafe { (self.cuda.table.free)(address) };
            self.cuda.check("cuMemFree", code)
        });
    }

    /// # Safety
    /// `address` has room for `bytes`, and nothing on the device uses it meanwhile.
    pub(crate) unsafe fn upload(&self, address: u64, bytes: &[u8]) -> Said<()> {
        self.with(|| {
            // SAFETY: the source is a slice, the target as this function demands.
            let code =
                unsafe { (self.cuda.table.upload)(address, bytes.as_ptr().cast(), bytes.len()) };
            self.cuda.check("cuMemcpyHtoD", code)
        })
    }

    /// # Safety
    /// `address` holds as many bytes, and nothing on the device writes them meanwhile.
    pub(crate) unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Said<()> {
        self.with(|| {
            // SAFETY: the target is a slice, the source as this function demands.
            let code = unsafe {
                (self.cuda.table.download)(bytes.as_mut_ptr().cast(), address, bytes.len())
            };
            self.cuda.check("cuMemcpyDtoH", code)
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: rule: one release per retain; streams, events and buffers hold an Arc of this
        // value, so that none of them outlives it.
        let _ = unsafe { (self.cuda.table.release)(self.device) };
    }
}

impl Stream {
    pub(crate) fn new(context: &Arc<Context>) -> Said<Stream> {
        let mut raw = std::ptr::null_mut();
        context.with(|| {
            // SAFETY: rule: the out-pointer must be valid for the write, a context be current.
            let code = unsafe { (context.cuda.table.stream_create)(&mut raw, STREAM_NON_BLOCKING) };
            context.cuda.check("cuStreamCreate", code)
        })?;
        Ok(Stream {
            context: context.clone(),
            raw: Raw(raw),
        })
    }

    pub(crate) fn raw(&self) -> *mut c_void {
        self.raw.0
    }

    /// Later work of this stream begins after `event`.
    pub(crate) fn wait(&self, event: &Event) -> Said<()> {
        let cuda = self.context.cuda;
        // SAFETY: rule: both handles must be alive and of one device; both borrow live values.
        let code = unsafe { (cuda.table.stream_wait)(self.raw.0, event.raw.0, 0) };
        cuda.check("cuStreamWaitEvent", code)
    }

    /// True once all work is done, or can never be done because the device has failed.
    pub(crate) fn drained(&self) -> bool {
        // SAFETY: rule: the handle must be alive; it is this value's.
        unsafe { (self.context.cuda.table.stream_query)(self.raw.0) != NOT_READY }
    }

    /// Copies within the device, in the order of this stream.
    ///
    /// # Safety
    /// Both addresses are device memory of `bytes` bytes that don't overlap and that nobody else
    /// uses until work queued here has passed.
    pub(crate) unsafe fn copy(&self, to: *mut u8, from: *const u8, bytes: usize) -> Said<()> {
        let cuda = self.context.cuda;
        self.context.with(|| {
            // SAFETY: as this function demands.
            let code =
                unsafe { (cuda.table.copy_async)(to as u64, from as u64, bytes, self.raw.0) };
            cuda.check("cuMemcpyDtoDAsync", code)
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: rule: destroyed once, by its owner; pending work is completed by the driver.
        let _ = unsafe { (self.context.cuda.table.stream_destroy)(self.raw.0) };
    }
}

impl Event {
    /// An event at the current end of `stream`, a raw handle (null: the default stream).
    ///
    /// # Safety
    /// `stream` is a live stream of the context's device, or null.
    pub(crate) unsafe fn record(context: &Arc<Context>, stream: *mut c_void) -> Said<Event> {
        let cuda = context.cuda;
        let mut raw = std::ptr::null_mut();
        context.with(|| {
            // SAFETY: rule: the out-pointer must be valid for the write, a context be current.
            let code = unsafe { (cuda.table.event_create)(&mut raw, EVENT_DISABLE_TIMING) };
            cuda.check("cuEventCreate", code)
        })?;
        let event = Event {
            context: context.clone(),
            raw: Raw(raw),
        };
        context.with(|| {
            // SAFETY: the event was made above; the stream is as this function demands. The context
            // is current, which says whose default stream null means.
            let code = unsafe { (cuda.table.event_record)(event.raw.0, stream) };
            cuda.check("cuEventRecord", code)
        })?;
        Ok(event)
    }

    /// An event at the current end of `stream`.
    pub(crate) fn of(stream: &Stream) -> Said<Event> {
        // SAFETY: the stream is alive while it is borrowed.
        unsafe { Event::record(&stream.context, stream.raw.0) }
    }

    /// True once the stream has passed it.
    ///
    /// # Errors
    /// What the device said: an earlier kernel failed, for instance.
    pub(crate) fn passed(&self) -> Said<bool> {
        let cuda = self.context.cuda;
        // SAFETY: rule: the handle must be alive; it is this value's.
        match unsafe { (cuda.table.event_query)(self.raw.0) } {
            NOT_READY => Ok(false),
            code => cuda.check("cuEventQuery", code).map(|()| true),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: rule: destroyed once, by its owner; the driver allows it before it has passed.
        let _ = unsafe { (self.context.cuda.table.event_destroy)(self.raw.0) };
    }
}
