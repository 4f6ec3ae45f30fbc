//! NCCL's functions, bound by hand.
//!
//! `cudarc` has bindings too, but they are not used here: it asks the loader for `libnccl.so` and
//! cannot be told another name, while what is installed (by PyPI's `nvidia-nccl-cu13`, and by Debian
//! without the `-dev` package) is `libnccl.so.2`; and it reads result codes into a Rust enum, so that a
//! code of a newer NCCL would be undefined behaviour. Eighteen functions are less than working around
//! that. Codes are plain integers here.
//!
//! All communicators are made non-blocking: a call may answer "in progress", which is no error, and
//! [`Nccl::state`] is asked until it says otherwise.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::driver::Word;
use super::dynamic::{Said, Search, table};
use crate::error::Result;
use crate::memory::DType;

/// Names the library, or the folder that it is in.
pub(crate) const VARIABLE: &str = "ESPALIER_NCCL";

/// Bytes of a unique id.
pub(crate) const ID_BYTES: usize = 128;

/// The oldest version with everything that is used here, and a few years of fixes to it.
const OLDEST: c_int = 21801;

type Code = c_int;
const SUCCESS: Code = 0;
const IN_PROGRESS: Code = 7;
const SUM: c_int = 0;

#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([c_char; ID_BYTES]);

/// `ncclConfig_t` as it was in 2.14. Newer libraries copy as many bytes as `size` says, and take
/// defaults for every field that is newer than `version`.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

table! {
    /// Signatures as in `nccl.h`.
    Table {
        version: b"ncclGetVersion" (*mut c_int) -> Code;
        unique_id: b"ncclGetUniqueId" (*mut UniqueId) -> Code;
        init: b"ncclCommInitRankConfig" (*mut *mut c_void, c_int, UniqueId, c_int, *mut Config) -> Code;
        async_error: b"ncclCommGetAsyncError" (*mut c_void, *mut Code) -> Code;
        finalize: b"ncclCommFinalize" (*mut c_void) -> Code;
        destroy: b"ncclCommDestroy" (*mut c_void) -> Code;
        abort: b"ncclCommAbort" (*mut c_void) -> Code;
        error_string: b"ncclGetErrorString" (Code) -> *const c_char;
        last_error: b"ncclGetLastError" (*mut c_void) -> *const c_char;
        all_reduce: b"ncclAllReduce" (*const c_void, *mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> Code;
        reduce: b"ncclReduce" (*const c_void, *mut c_void, usize, c_int, c_int, c_int, *mut c_void, *mut c_void) -> Code;
        reduce_scatter: b"ncclReduceScatter" (*const c_void, *mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> Code;
        all_gather: b"ncclAllGather" (*const c_void, *mut c_void, usize, c_int, *mut c_void, *mut c_void) -> Code;
        broadcast: b"ncclBroadcast" (*const c_void, *mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> Code;
        send: b"ncclSend" (*const c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> Code;
        recv: b"ncclRecv" (*mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> Code;
        group_start: b"ncclGroupStart" () -> Code;
        group_end: b"ncclGroupEnd" () -> Code;
    }
}

/// The loaded library.
pub(crate) struct Nccl {
    table: Table,
    version: c_int,
}

/// A communicator of the library: one thread uses it at a time, which is why it is no `Copy`.
#[derive(Debug)]
pub(crate) struct Comm(*mut c_void);

// SAFETY: rule: NCCL binds a communicator to a device, not to a thread; calls on it must come from
// one thread at a time (NCCL user guide, thread safety), which owning or borrowing this value gives.
unsafe impl Send for Comm {}

/// One part of an operation: what NCCL is to do with which device memory. Lengths count elements.
///
/// # Safety of launching
/// The addresses come from a `Region` whose maker promised that they are valid on the device until
/// the operation is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    AllReduce {
        at: *mut u8,
        len: usize,
    },
    /// Rank `root` gets the sum of everybody's `at`.
    Reduce {
        at: *mut u8,
        len: usize,
        root: usize,
    },
    /// Rank r's sum goes to its `into`; `from` has `len` elements per rank.
    ReduceScatter {
        from: *mut u8,
        into: *mut u8,
        len: usize,
    },
    /// Rank r's `from` goes to everybody's `into[r * len..]`.
    AllGather {
        from: *mut u8,
        into: *mut u8,
        len: usize,
    },
    Broadcast {
        at: *mut u8,
        len: usize,
        root: usize,
    },
    Send {
        from: *mut u8,
        len: usize,
        peer: usize,
    },
    Receive {
        into: *mut u8,
        len: usize,
        peer: usize,
    },
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nccl {}", text_of(self.version))
    }
}

/// A version code as people write it.
fn text_of(version: c_int) -> String {
    format!(
        "{}.{}.{}",
        version / 10_000,
        version / 100 % 100,
        version % 100
    )
}

fn search(set: Option<OsString>) -> Search {
    let (candidates, note) = match set {
        Some(set) => {
            let path = PathBuf::from(set);
            let path = if path.is_dir() {
                path.join("libnccl.so.2")
            } else {
                path
            };
            (vec![path], format!(" as {VARIABLE} says"))
        }
        None => (
            vec!["libnccl.so.2".into(), "libnccl.so".into()],
            format!("; {VARIABLE} is not set"),
        ),
    };
    Search {
        name: "libnccl.so.2",
        candidates,
        note,
        remedy: "Install NCCL 2.18 or later (PyPI: nvidia-nccl-cu13; Debian: libnccl2) and put its folder on LD_LIBRARY_PATH, or set ESPALIER_NCCL to the file or its folder",
    }
}

impl Nccl {
    /// The library, loaded once per process.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable).
    pub(crate) fn get() -> Result<&'static Nccl> {
        static NCCL: OnceLock<Result<Nccl>> = OnceLock::new();
        NCCL.get_or_init(|| Nccl::load(std::env::var_os(VARIABLE)))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn load(set: Option<OsString>) -> Result<Nccl> {
        let search = search(set);
        let table = Table::load(search.open()?).map_err(|e| search.unavailable(e))?;
        let mut nccl = Nccl { table, version: 0 };
        // SAFETY: rule: the out-pointer must be valid for the write; it is a field of a local value.
        let code = unsafe { (nccl.table.version)(&mut nccl.version) };
        nccl.check("ncclGetVersion", code)
            .map_err(|e| search.unavailable(e))?;
        if nccl.version < OLDEST {
            let found = format!("found version {}", nccl.version());
            return Err(search.unavailable(found));
        }
        if matches!(nccl.version, 22501 | 22803..=22808) {
            tracing::warn!(
                version = nccl.version(),
                "this version of NCCL is known for trouble with aborts; 2.28.9 is not"
            );
        }
        Ok(nccl)
    }

    /// Such as `2.28.9`.
    pub(crate) fn version(&self) -> String {
        text_of(self.version)
    }

    /// A fresh id for one communicator.
    pub(crate) fn unique_id(&self) -> Said<[u8; ID_BYTES]> {
        let mut id = UniqueId([0; ID_BYTES]);
        // SAFETY: rule: the out-pointer must be valid for the write; it is a local variable.
        let code = unsafe { (self.table.unique_id)(&mut id) };
        self.check("ncclGetUniqueId", code)?;
        Ok(id.0.map(|c| c as u8))
    }

    /// Begins to make a communicator on the current device; [`state`](Nccl::state) says when it is
    /// ready. On failure too, a communicator that was made so far is given, to be aborted.
    pub(crate) fn init(
        &self,
        id: &[u8; ID_BYTES],
        rank: usize,
        size: usize,
    ) -> (Option<Comm>, Said<()>) {
        let (Ok(rank), Ok(size)) = (c_int::try_from(rank), c_int::try_from(size)) else {
            return (None, Err(format!("rank {rank} of {size} is too large")));
        };
        let mut config = Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 21400,
            blocking: 0,
        };
        let mut comm = std::ptr::null_mut();
        // SAFETY: rule: the pointers must be valid for the call, the config begin with its size and
        // the magic number. NCCL copies both before it returns.
        let code = unsafe {
            (self.table.init)(
                &mut comm,
                size,
                UniqueId(id.map(|b| b as c_char)),
                rank,
                &mut config,
            )
        };
        let made = (!comm.is_null()).then_some(Comm(comm));
        let mut result = self.check("ncclCommInitRankConfig", code);
        if result.is_ok() && made.is_none() {
            result = Err("ncclCommInitRankConfig gave no communicator".into());
        }
        (made, result)
    }

    /// How it stands with what was asked for last, and with everything that runs.
    pub(crate) fn state(&self, comm: &Comm) -> Word {
        let mut state = SUCCESS;
        // SAFETY: rule: the communicator must be alive and used by this thread alone: it is
        // borrowed, and `destroy` and `abort` consume it.
        let code = unsafe { (self.table.async_error)(comm.0, &mut state) };
        if let Err(reason) = self.check("ncclCommGetAsyncError", code) {
            return Word::Failed(reason);
        }
        match state {
            SUCCESS => Word::Done,
            IN_PROGRESS => Word::Busy,
            code => Word::Failed(self.describe(code)),
        }
    }

    /// Queues `parts` on `stream` as one group.
    ///
    /// # Safety
    /// `stream` is a live stream of the communicator's device; the memory of all parts is valid
    /// device memory until the stream has passed them, and not used by others meanwhile.
    pub(crate) unsafe fn launch(
        &self,
        comm: &Comm,
        stream: *mut c_void,
        dtype: DType,
        parts: &[Part],
    ) -> Said<()> {
        // SAFETY: rule: groups are per thread and each start is paired with one end, below.
        self.check("ncclGroupStart", unsafe { (self.table.group_start)() })?;
        let queued = parts.iter().try_for_each(|part| {
            // SAFETY: as this function demands; the communicator is alive as it is borrowed.
            unsafe { self.queue(comm, stream, dtype, part) }
        });
        // SAFETY: as above. Also after a failure: an open group would swallow the next one.
        let ended = self.check("ncclGroupEnd", unsafe { (self.table.group_end)() });
        queued.and(ended)
    }

    /// # Safety
    /// As for `launch`.
    unsafe fn queue(
        &self,
        comm: &Comm,
        stream: *mut c_void,
        dtype: DType,
        part: &Part,
    ) -> Said<()> {
        let (t, comm) = (&self.table, comm.0);
        let dtype = match dtype {
            DType::U8 => 1,
            DType::F32 => 7,
            DType::F64 => 8,
            DType::BF16 => 9,
        };
        // Ranks come from a world whose size fitted a c_int in `init`.
        let rank = |r: usize| r as c_int;
        // SAFETY: rule: NCCL reads `from` and writes `into` on the device only, within `len` elements
        // (times the number of ranks where it says so); the caller of `launch` promises these.
        let (what, code) = unsafe {
            match *part {
                Part::AllReduce { at, len } => (
                    "ncclAllReduce",
                    (t.all_reduce)(at.cast(), at.cast(), len, dtype, SUM, comm, stream),
                ),
                Part::Reduce { at, len, root } => (
                    "ncclReduce",
                    (t.reduce)(
                        at.cast(),
                        at.cast(),
                        len,
                        dtype,
                        SUM,
                        rank(root),
                        comm,
                        stream,
                    ),
                ),
                Part::ReduceScatter { from, into, len } => (
                    "ncclReduceScatter",
                    (t.reduce_scatter)(from.cast(), into.cast(), len, dtype, SUM, comm, stream),
                ),
                Part::AllGather { from, into, len } => (
                    "ncclAllGather",
                    (t.all_gather)(from.cast(), into.cast(), len, dtype, comm, stream),
                ),
                Part::Broadcast { at, len, root } => (
                    "ncclBroadcast",
                    (t.broadcast)(at.cast(), at.cast(), len, dtype, rank(root), comm, stream),
                ),
                Part::Send { from, len, peer } => (
                    "ncclSend",
                    (t.send)(from.cast(), len, dtype, rank(peer), comm, stream),
                ),
                Part::Receive { into, len, peer } => (
                    "ncclRecv",
                    (t.recv)(into.cast(), len, dtype, rank(peer), comm, stream),
                ),
            }
        };
        self.check(what, code)
    }

    /// Begins to bring everything to its end, with the peers.
    pub(crate) fn finalize(&self, comm: &Comm) -> Said<()> {
        // SAFETY: rule: as in `state`; finalizing happens once, by the state machine.
        self.check("ncclCommFinalize", unsafe { (self.table.finalize)(comm.0) })
    }

    /// Frees a finalized communicator.
    pub(crate) fn destroy(&self, comm: Comm) {
        // SAFETY: rule: a communicator is destroyed or aborted once; this consumes it.
        if let Err(reason) = self.check("ncclCommDestroy", unsafe { (self.table.destroy)(comm.0) })
        {
            tracing::warn!(reason, "destroying a communicator");
        }
    }

    /// Stops everything and frees the communicator. May wait for the device.
    pub(crate) fn abort(&self, comm: Comm) {
        // SAFETY: rule: a communicator is destroyed or aborted once, while no other thread is in a
        // call on it; this consumes it.
        if let Err(reason) = self.check("ncclCommAbort", unsafe { (self.table.abort)(comm.0) }) {
            tracing::warn!(reason, "aborting a communicator");
        }
    }

    fn check(&self, what: &str, code: Code) -> Said<()> {
        match code {
            SUCCESS | IN_PROGRESS => Ok(()),
            code => Err(format!("{what}: {}", self.describe(code))),
        }
    }

    fn describe(&self, code: Code) -> String {
        // SAFETY: rule: both functions give static or thread-local NUL-terminated strings that stay
        // valid until the next call on this thread; they may be null, and the argument is unused.
        let [name, detail] = unsafe {
            [
                (self.table.error_string)(code),
                (self.table.last_error)(std::ptr::null_mut()),
            ]
            .map(|text| {
                if text.is_null() {
                    String::new()
                } else {
                    CStr::from_ptr(text).to_string_lossy().trim().to_string()
                }
            })
        };
        let detail = if detail.is_empty() {
            "set NCCL_DEBUG=WARN to hear more".to_string()
        } else {
            detail
        };
        format!("{name} (NCCL result {code}): {detail}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_for_is_what_the_variable_says() {
        // Promise: ESPALIER_NCCL names a file or a folder, and the error says that it was asked.
        let folder = std::env::temp_dir();
        for (set, looked) in [
            ("/nowhere/libnccl.so.2", "/nowhere/libnccl.so.2".to_string()),
            (
                &*folder.to_string_lossy(),
                folder.join("libnccl.so.2").to_string_lossy().into_owned(),
            ),
        ] {
            let error = Nccl::load(Some(set.into())).expect_err("nothing there");
            let text = error.to_string();
            assert!(text.starts_with("libnccl.so.2 cannot be used"), "{text}");
            assert!(
                text.contains(&looked) && text.contains("as ESPALIER_NCCL says"),
                "{text}"
            );
            assert!(text.contains("nvidia-nccl-cu13"), "{text}");
        }
        let unset = search(None);
        assert_eq!(unset.candidates[0], PathBuf::from("libnccl.so.2"));
        assert_eq!(text_of(22809), "2.28.9");
    }
}
