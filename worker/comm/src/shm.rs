//! A link over shared memory: one ring of bytes per direction.
//!
//! ```text
//! /dev/shm/espalier-<random>, mapped by both, unlinked once both have it
//! +--------+-----------------+-----------------+-----------------+-----------------+
//! | token  | state of ring 0 | state of ring 1 | bytes of ring 0 | bytes of ring 1 |
//! +--------+-----------------+-----------------+-----------------+-----------------+
//!            head, tail, who sleeps              creator -> other   other -> creator
//! ```
//!
//! `head` counts bytes written since the beginning, `tail` bytes taken; only the producer moves
//! the one, only the consumer the other. A side that finds nothing to do says so in `sleeps` and
//! polls its sockets; the other side then sends a wake-up over the control connection.
#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::control::Control;
use crate::flow::{Intake, Outgoing};

/// Bytes per ring. Both rings of a pair of ranks should fit the L2 caches beside the data.
const RING: usize = 512 * 1024;
/// Bytes after which a copy is made visible, so that the other side can start on them.
const PUBLISH: usize = 64 * 1024;
/// Most bytes per turn, so that both directions and all peers get theirs.
const TURN: usize = 256 * 1024;
/// A sleeping producer is woken once this much is free: not for every few bytes.
const ROOM: usize = RING / 2;

const TOKEN_BYTES: usize = 16;
const STATE_AT: [usize; 2] = [1024, 2048];
const DATA_AT: usize = 4096;
const SEGMENT: usize = DATA_AT + 2 * RING;

/// State of a ring; each word on cache lines of its own (two: the CPU fetches in pairs).
#[repr(C)]
struct State {
    head: Padded<AtomicU64>,
    tail: Padded<AtomicU64>,
    consumer_sleeps: Padded<AtomicU32>,
    producer_sleeps: Padded<AtomicU32>,
}

#[repr(C, align(128))]
struct Padded<T>(T);

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

/// One side of a segment.
#[derive(Debug)]
pub(crate) struct ShmLink {
    segment: Segment,
    /// Ring that this side writes (0 for the creator); the other one is read.
    tx: usize,
    head: u64,
    tail: u64,
    /// Bytes that the last look left in the incoming ring: a partial element.
    left_alone: usize,
}

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

    fn state(&self, ring: usize) -> &State {
        // SAFETY: the offset is inside the mapping, page-aligned base plus a multiple of 128 is
        // aligned for State, and State consists of atomics, for which any bits are valid and
        // which both processes only access atomically.
        unsafe { self.base.add(STATE_AT[ring]).cast::<State>().as_ref() }
    }

    fn data(&self, ring: usize) -> *mut u8 {
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
pub(crate) fn create() -> Result<(ShmLink, Posted), String> {
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
    let link = ShmLink {
        segment,
        tx: 0,
        head: 0,
        tail: 0,
        left_alone: 0,
    };
    Ok((link, Posted { name, token }))
}

/// Opens the other side of an offered segment.
pub(crate) fn attach(offer: &Offer) -> Result<ShmLink, String> {
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
    Ok(ShmLink {
        segment,
        tx: 1,
        head: 0,
        tail: 0,
        left_alone: 0,
    })
}

impl ShmLink {
    /// Copies what fits into the outgoing ring. `Err` means that the ring is corrupt.
    pub(crate) fn send(
        &mut self,
        out: &mut Outgoing<'_>,
        control: &mut Control,
    ) -> Result<usize, String> {
        let mut total = 0;
        while total < TURN {
            let [head, payload] = out.rest();
            let bytes = if head.is_empty() { payload } else { head };
            let free = self.free()?;
            let at = (self.head % RING as u64) as usize;
            let n = bytes.len().min(free).min(RING - at).min(PUBLISH);
            if n == 0 {
                break;
            }
            // SAFETY: at + n <= RING, so the target is inside this ring; these `n` bytes are
            // free, so by protocol the consumer does not look at them until `head` covers them;
            // the source is ordinary memory and can't overlap the mapping.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    self.segment.data(self.tx).add(at),
                    n,
                );
            }
            self.head += n as u64;
            out.advance(n);
            total += n;
            let state = self.segment.state(self.tx);
            state.head.0.store(self.head, Ordering::Release);
            wake_if(&state.consumer_sleeps.0, control);
        }
        Ok(total)
    }

    /// Hands what is in the incoming ring to `intake`. `Err` means that the ring is corrupt.
    pub(crate) fn recv(
        &mut self,
        peer: usize,
        intake: &mut dyn Intake,
        control: &mut Control,
    ) -> Result<usize, String> {
        let mut total = 0;
        self.left_alone = 0;
        while total < TURN {
            let want = intake.want(peer);
            if want == 0 {
                break;
            }
            let ready = self.ready()?;
            let at = (self.tail % RING as u64) as usize;
            let n = want.min(ready).min(RING - at).min(PUBLISH);
            if n == 0 {
                break;
            }
            // SAFETY: at + n <= RING, so the bytes are inside this ring; `head` covers them (the
            // Acquire load in `ready` saw the producer's Release), and by protocol the producer
            // does not touch them before `tail` has passed them, which happens below.
            let bytes =
                unsafe { std::slice::from_raw_parts(self.segment.data(1 - self.tx).add(at), n) };
            let taken = intake.put(peer, bytes);
            if taken == 0 {
                self.left_alone = n;
                break;
            }
            self.tail += taken as u64;
            total += taken;
            let state = self.segment.state(1 - self.tx);
            state.tail.0.store(self.tail, Ordering::Release);
            if RING - self.ready()? >= ROOM {
                wake_if(&state.producer_sleeps.0, control);
            }
        }
        Ok(total)
    }

    /// Announces that this side is about to sleep, because it waits for bytes (`reading`) or for
    /// room (`writing`). False if it should not, since something has come up.
    pub(crate) fn doze(&mut self, reading: bool, writing: bool) -> Result<bool, String> {
        let (rx, tx) = (self.segment.state(1 - self.tx), self.segment.state(self.tx));
        rx.consumer_sleeps
            .0
            .store(u32::from(reading), Ordering::SeqCst);
        tx.producer_sleeps
            .0
            .store(u32::from(writing), Ordering::SeqCst);
        // Orders the announcement before the look at the counters; `wake_if` does the reverse.
        fence(Ordering::SeqCst);
        // A partial element was left alone: only more bytes help.
        let readable = reading && self.ready()? > self.left_alone;
        let writable = writing && self.free()? >= ROOM;
        Ok(!readable && !writable)
    }

    /// This side is awake again.
    pub(crate) fn wake(&mut self) {
        self.segment
            .state(1 - self.tx)
            .consumer_sleeps
            .0
            .store(0, Ordering::Relaxed);
        self.segment
            .state(self.tx)
            .producer_sleeps
            .0
            .store(0, Ordering::Relaxed);
    }

    /// Free bytes of the outgoing ring.
    fn free(&self) -> Result<usize, String> {
        let tail = self.segment.state(self.tx).tail.0.load(Ordering::Acquire);
        Ok(RING - distance(tail, self.head)?)
    }

    /// Bytes waiting in the incoming ring.
    fn ready(&self) -> Result<usize, String> {
        let head = self
            .segment
            .state(1 - self.tx)
            .head
            .0
            .load(Ordering::Acquire);
        distance(self.tail, head)
    }
}

/// Bytes from `tail` to `head`. The other process could have written anything there: checked, so
/// that no address is computed from nonsense.
fn distance(tail: u64, head: u64) -> Result<usize, String> {
    match head.checked_sub(tail) {
        Some(n) if n <= RING as u64 => Ok(n as usize),
        _ => Err(format!("shared ring is corrupt: head {head}, tail {tail}")),
    }
}

fn wake_if(sleeps: &AtomicU32, control: &mut Control) {
    fence(Ordering::SeqCst);
    if sleeps.load(Ordering::Relaxed) != 0 && sleeps.swap(0, Ordering::Relaxed) != 0 {
        control.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Place;
    use std::net::{TcpListener, TcpStream};

    fn control() -> Control {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        Control::new(stream).expect("control")
    }

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

    #[test]
    fn nonsense_from_the_other_side_is_an_error() {
        // Promise: counters written by another process are never trusted as addresses.
        let (mut ours, posted) = create().expect("create");
        let theirs = attach(&posted.offer()).expect("attach");
        theirs
            .segment
            .state(1)
            .head
            .0
            .store(u64::MAX, Ordering::Release);
        theirs.segment.state(0).tail.0.store(7, Ordering::Release);
        let (mut control, mut bytes) = (control(), [0u8; 64]);
        let received = ours.recv(0, &mut Place::new([&mut bytes[..]]), &mut control);
        assert!(received.expect_err("head").contains("corrupt"));
        let sent = ours.send(&mut Outgoing::new(&[], &[1; 64]), &mut control);
        assert!(sent.expect_err("tail").contains("corrupt"));
    }

    #[test]
    fn bytes_survive_the_end_of_the_ring() {
        // Promise: order and content hold across the wrap, with both sides at different paces.
        let (mut ours, posted) = create().expect("create");
        let mut theirs = attach(&posted.offer()).expect("attach");
        let sent: Vec<u8> = (0..RING * 3 + 5).map(|i| (i % 251) as u8).collect();
        let mut received = vec![0u8; sent.len()];
        let (mut out, mut control) = (Outgoing::new(&sent[..9], &sent[9..]), control());
        let mut place = Place::new([&mut received[..]]);
        for turn in 0.. {
            if turn % 3 != 0 {
                ours.send(&mut out, &mut control).expect("send");
            }
            theirs.recv(0, &mut place, &mut control).expect("receive");
            if place.done() {
                break;
            }
        }
        assert_eq!(out.left(), 0);
        assert!(received == sent);
    }
}
