//! What the two sides of a shared-memory link share: a file that both map.
//!
//! ```text
//! /dev/shm/espalier-<random>, mapped by both, unlinked once both have it
//! +--------+-----------------+-----------------+-----------------+-----------------+
//! | token  | state of ring 0 | state of ring 1 | bytes of ring 0 | bytes of ring 1 |
//! +--------+-----------------+-----------------+-----------------+-----------------+
//!            positions, sleep, records           creator -> other   other -> creator
//! ```
#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Bytes per ring. Both rings of a pair of ranks should fit the L2 caches beside the data.
pub(crate) const RING: usize = 512 * 1024;
/// Records of a direction that the other side may not have read yet.
pub(crate) const RECORDS: usize = 320;
/// Pieces of lent memory that a side can show the other one at a time.
pub(crate) const SLOTS: usize = 256;

const TOKEN_BYTES: usize = 16;
const STATE_AT: [usize; 2] = [4096, 4096 + 32768];
const DATA_AT: usize = 4096 + 2 * 32768;
const SEGMENT: usize = DATA_AT + 2 * RING;

/// State of one direction; each word on cache lines of its own (two: the CPU fetches in pairs).
#[repr(C)]
#[derive(Debug)]
pub(crate) struct State {
    /// Bytes that the producer has put into the ring since the beginning.
    pub(crate) head: Padded<AtomicU64>,
    /// Bytes that the consumer has taken out of it.
    pub(crate) tail: Padded<AtomicU64>,
    pub(crate) consumer_sleeps: Padded<AtomicU32>,
    pub(crate) producer_sleeps: Padded<AtomicU32>,
    /// Records that the producer has written since the beginning, the consumer has read.
    pub(crate) posted: Padded<AtomicU64>,
    pub(crate) read: Padded<AtomicU64>,
    /// Lent bytes that the consumer has done with since the beginning.
    pub(crate) returned: Padded<AtomicU64>,
    /// Set by the producer when it breaks off: what it has lent may change from now on.
    pub(crate) broken_off: Padded<AtomicU32>,
    /// The consumer's answer to the last piece of memory shown in each slot; see `loan.rs`.
    pub(crate) answers: [AtomicU64; SLOTS],
    pub(crate) records: [[AtomicU64; 8]; RECORDS],
}

#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Padded<T>(pub(crate) T);

const _: () = assert!(size_of::<State>() <= STATE_AT[1] - STATE_AT[0]);
const _: () = assert!(STATE_AT[1] + size_of::<State>() <= DATA_AT);

/// A mapping of the shared file.
#[derive(Debug)]
pub(crate) struct Segment {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone within the process; it may move to another
// thread together with it.
unsafe impl Send for Segment {}

/// What the other side needs to find the segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// File name under /dev/shm, without directory.
    pub(crate) name: String,
    /// Random bytes at the start of the segment, to know it again.
    pub(crate) token: [u8; TOKEN_BYTES],
}

/// The name of a segment, removed when dropped; mappings stay.
#[derive(Debug)]
struct Name(String);

/// A fresh segment under its name: dropped once the other side has mapped it, or will not.
#[derive(Debug)]
pub(crate) struct Posted {
    name: Name,
    token: [u8; TOKEN_BYTES],
}

impl Name {
    fn path(&self) -> String {
        path(&self.0)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = rustix::fs::unlink(self.path());
    }
}

impl Posted {
    /// What to tell the other side.
    pub(crate) fn offer(&self) -> Offer {
        Offer {
            name: self.name.0.clone(),
            token: self.token,
        }
    }
}

impl Segment {
    fn map(file: &OwnedFd) -> Result<Segment, String> {
        // SAFETY: a fresh shared mapping at an address the kernel chooses aliases no Rust object.
        // The file was allocated in full (`create`) or checked to be long enough (`attach`) and
        // nobody shrinks it: it has no name any more when the first byte is used.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                SEGMENT,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }
        .map_err(|e| format!("map {SEGMENT} bytes: {e}"))?;
        let base = NonNull::new(base.cast()).ok_or("mapped at null")?;
        Ok(Segment { base })
    }

    pub(crate) fn state(&self, ring: usize) -> &State {
        // SAFETY: the offset is inside the mapping, page-aligned base plus a multiple of 128 is
        // aligned for State, and State consists of atomics, for which any bits are valid and
        // which both processes only access atomically.
        unsafe { self.base.add(STATE_AT[ring]).cast::<State>().as_ref() }
    }

    pub(crate) fn data(&self, ring: usize) -> *mut u8 {
        // SAFETY: DATA_AT + ring * RING is inside the mapping of SEGMENT bytes.
        unsafe { self.base.add(DATA_AT + ring * RING).as_ptr() }
    }

    fn token(&self) -> *mut [u8; TOKEN_BYTES] {
        self.base.as_ptr().cast()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: base and length come from mmap, and no reference into it outlives self.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), SEGMENT) };
    }
}

fn path(name: &str) -> String {
    format!("/dev/shm/{name}")
}

/// Makes a segment for this process and one other.
pub(crate) fn create() -> Result<(Segment, Posted), String> {
    let mut random = [0u8; 2 * TOKEN_BYTES];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| format!("get random bytes: {e}"))?;
    let (tail, token) = random.split_at(TOKEN_BYTES);
    let token: [u8; TOKEN_BYTES] = token.try_into().map_err(|_| "token length".to_string())?;
    // The process id is for people who find a file that a kill in this very moment left behind.
    let name = tail
        .iter()
        .fold(format!("espalier-{}-", std::process::id()), |name, byte| {
            format!("{name}{byte:02x}")
        });
    let file = rustix::fs::open(
        path(&name),
        OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::RUSR | Mode::WUSR,
    )
    .map_err(|e| format!("create {}: {e}", path(&name)))?;
    let name = Name(name);
    // Allocate now: a full /dev/shm must be an error here, not a SIGBUS later.
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SEGMENT as u64)
        .map_err(|e| format!("allocate {SEGMENT} bytes in /dev/shm: {e}"))?;
    let segment = Segment::map(&file)?;
    // SAFETY: the token lies inside the mapping and the other side does not know it yet.
    unsafe { segment.token().write(token) };
    Ok((segment, Posted { name, token }))
}

/// Opens the other side of an offered segment.
pub(crate) fn attach(offer: &Offer) -> Result<Segment, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !offer.name.starts_with("espalier-") || !offer.name.chars().all(plain) {
        return Err(format!("odd segment name {:?}", offer.name));
    }
    let file = rustix::fs::open(
        path(&offer.name),
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
    .map_err(|e| format!("open {}: {e}", path(&offer.name)))?;
    let size = rustix::fs::fstat(&file)
        .map_err(|e| format!("stat {}: {e}", offer.name))?
        .st_size;
    if size != SEGMENT as i64 {
        return Err(format!(
            "{} has {size} bytes, expected {SEGMENT}",
            path(&offer.name)
        ));
    }
    let segment = Segment::map(&file)?;
    // SAFETY: the token lies inside the mapping; the creator wrote it before it made the offer.
    if unsafe { segment.token().read() } != offer.token {
        return Err(format!("{} is not the offered segment", path(&offer.name)));
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_offered_segment_is_taken() {
        // Promise: neither another segment nor another file is mapped by mistake.
        let (_link, posted) = create().expect("create");
        let mut offer = posted.offer();
        offer.token[0] ^= 1;
        let error = attach(&offer).expect_err("wrong token");
        assert!(error.contains("not the offered segment"), "{error}");
        offer.name = "espalier-1/../../etc/passwd".into();
        assert!(
            attach(&offer)
                .expect_err("wrong name")
                .contains("odd segment name")
        );
        let offer = posted.offer();
        drop(posted);
        assert!(
            attach(&offer)
                .expect_err("name gone")
                .contains("open /dev/shm/")
        );
    }
}
