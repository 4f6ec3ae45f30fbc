//! Memory that other processes of this host can reach where it is.
//!
//! ```text
//! memfd, sealed against shrinking, mapped by its owner and by whoever borrows
//! +--------------------------+---------------+
//! | data, whole pages        | token, 1 page |
//! +--------------------------+---------------+
//! ```
//!
//! An operation's buffer that lies in such memory is recognised by its address. It has no name in
//! any folder, so a kill leaves nothing behind; a borrower's mapping stays valid after the owner's
//! death, and since the file can't shrink, touching it can never fault. Where a failed operation
//! leaves the borrowers' writes in doubt, the owner's addresses get fresh memory (`renew`).
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::{Error, Result};
use crate::memory::Element;

/// What /proc calls the files made here.
const NAME: &str = "espalier-lent";
const TOKEN: usize = 16;

/// Page-aligned, zeroed memory of this process that ranks of the same host reach in place.
///
/// Buffers of operations that lie in it (wholly) travel over shared-memory links as a place and a
/// length instead of bytes: the receiver reads them where they are, and the operation is done only
/// when nobody reads any more. An all-reduce over *all* of such memory on every rank is faster
/// still: the owner of a slice writes its sum to all ranks' memory. Apart from that peers only read,
/// and to this process it is ordinary memory. Where a wholly lent all-reduce fails, it holds zeros
/// afterwards.
///
/// A peer maps it when it hears of it first; that message, and all messages to a peer that can't
/// map it (another user, another PID namespace), travel as bytes.
/// [`Moved::lent`](crate::Moved::lent) counts what did not.
///
/// ```
/// let mut memory = espalier_comm::SharedMemory::new(4 * 1000)?;
/// memory.as_mut_slice::<f32>()[999] = 1.5;
/// assert_eq!(memory.as_slice::<f32>().len(), 1000);
/// # Ok::<(), espalier_comm::Error>(())
/// ```
pub struct SharedMemory {
    map: Arc<Map>,
    len: usize,
}

/// A [`SharedMemory`] as links see it: its file of now.
#[derive(Debug)]
pub(crate) struct Lent {
    map: Arc<Map>,
    len: usize,
    file: OwnedFd,
    token: [u64; 2],
}

/// What another process needs to map it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) pid: u64,
    pub(crate) fd: u64,
    /// Bytes of the data.
    pub(crate) len: u64,
    /// Random, to know the file again: process ids mean other processes elsewhere.
    pub(crate) token: [u64; 2],
}

/// Another process's [`SharedMemory`].
#[derive(Debug)]
pub(crate) struct Borrowed {
    map: Map,
    len: usize,
}

/// A mapping of a whole file.
#[derive(Debug)]
struct Map {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: an address range that belongs to the value alone; who may read and write the memory is
// ruled by the owners (`SharedMemory` and `Borrowed` by borrowing, `Lent` gives out nothing).
unsafe impl Send for Map {}
// SAFETY: as above; a shared `Map` only gives its address.
unsafe impl Sync for Map {}

/// All of this process, by address.
static ALL: RwLock<BTreeMap<usize, Arc<Lent>>> = RwLock::new(BTreeMap::new());

impl SharedMemory {
    /// `bytes` bytes of zeros.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is not that much memory, or no descriptor left.
    pub fn new(bytes: usize) -> Result<SharedMemory> {
        let failed = |e: String| Error::system(format!("make {bytes} bytes of shared memory"), e);
        let (file, token, size) = make(bytes).map_err(failed)?;
        let map = Arc::new(Map::new(&file, size).map_err(failed)?);
        publish(Lent {
            map: map.clone(),
            len: bytes,
            file,
            token,
        });
        Ok(SharedMemory { map, len: bytes })
    }

    /// Address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.base.as_ptr()
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All whole elements.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        // SAFETY: inside the mapping, aligned to a page, any bits are a valid element; who writes
        // holds `&mut self` or keeps the promise of `Region::new`, other processes included.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len() / size_of::<T>()) }
    }

    /// All whole elements.
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr().cast(), self.len() / size_of::<T>()) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // Links that showed it to peers notice with the next message. Peers' mappings stay valid.
        ALL.write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.as_ptr().addr());
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SharedMemory({} bytes at {:p})",
            self.len(),
            self.as_ptr()
        )
    }
}

/// A file for `len` bytes of data, its token and its size.
fn make(len: usize) -> std::result::Result<(OwnedFd, [u64; 2], usize), String> {
    let (data, size) = sizes(len).ok_or("more than the address space")?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(NAME, flags).map_err(|e| format!("memfd: {e}"))?;
    // Allocated now: too little memory must be an error here, not a SIGBUS later.
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size as u64)
        .map_err(|e| format!("allocate {size} bytes: {e}"))?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(|e| format!("seal: {e}"))?;
    let mut random = [0u8; TOKEN];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| format!("get random bytes: {e}"))?;
    match rustix::io::pwrite(&file, &random, data as u64) {
        Ok(TOKEN) => Ok((file, token(random), size)),
        other => Err(format!("write its token: {other:?}")),
    }
}

fn token(bytes: [u8; TOKEN]) -> [u64; 2] {
    let mut words = [0; 2];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

fn publish(lent: Lent) {
    let base = lent.map.base.as_ptr().addr();
    ALL.write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(base, Arc::new(lent));
}

/// Gives the addresses of `bytes`, which are all of a [`SharedMemory`], fresh memory: whoever still
/// writes to what was there before can't reach this process any more. The content is lost.
pub(crate) fn renew(bytes: &mut [u8]) -> std::result::Result<(), String> {
    let Some((old, 0)) = find(bytes).filter(|(lent, _)| lent.len == bytes.len()) else {
        return Err("not all of a shared memory".into());
    };
    let made = make(old.len).and_then(|(file, token, _)| {
        old.map.replace(Some(&file))?;
        Ok((file, token))
    });
    match made {
        Ok((file, token)) => publish(Lent {
            map: old.map.clone(),
            len: old.len,
            file,
            token,
        }),
        Err(reason) => {
            tracing::warn!(%reason, "shared memory becomes ordinary memory after a failure");
            old.map.replace(None)?;
            ALL.write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&bytes.as_ptr().addr());
        }
    }
    Ok(())
}

impl Lent {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket {
            pid: u64::from(std::process::id()),
            // Descriptors are not negative.
            fd: self.file.as_raw_fd().unsigned_abs().into(),
            len: self.len as u64,
            token: self.token,
        }
    }
}

/// The lent memory that `bytes` lies in, and where.
pub(crate) fn find(bytes: &[u8]) -> Option<(Arc<Lent>, usize)> {
    let at = bytes.as_ptr().addr();
    let all = ALL.read().unwrap_or_else(PoisonError::into_inner);
    let (&base, lent) = all.range(..=at).next_back()?;
    (at - base + bytes.len() <= lent.len).then(|| (lent.clone(), at - base))
}

impl Borrowed {
    /// Maps what the ticket describes, after making sure that it is that.
    pub(crate) fn open(ticket: &Ticket) -> std::result::Result<Borrowed, String> {
        let path = format!("/proc/{}/fd/{}", ticket.pid, ticket.fd);
        // Looked at before it is opened: opening some other thing could have effects.
        let link = rustix::fs::readlink(&path, Vec::new()).map_err(|e| format!("{path}: {e}"))?;
        if !link
            .to_bytes()
            .starts_with(format!("/memfd:{NAME}").as_bytes())
        {
            return Err(format!("{path} is {link:?}, not lent memory"));
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|e| format!("open {path}: {e}"))?;
        let len = usize::try_from(ticket.len).map_err(|e| e.to_string())?;
        let (data, size) = sizes(len).ok_or("more than the address space")?;
        let found = rustix::fs::fstat(&file).map_err(|e| format!("stat {path}: {e}"))?;
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|e| format!("{path}: {e}"))?;
        if u64::try_from(found.st_size) != Ok(size as u64) || !seals.contains(SealFlags::SHRINK) {
            return Err(format!(
                "{path} has {} bytes and seals {seals:?}, expected {size} bytes that can't shrink",
                found.st_size
            ));
        }
        let mut found = [0; TOKEN];
        let read = rustix::io::pread(&file, &mut found, data as u64);
        if read != Ok(TOKEN) || token(found) != ticket.token {
            return Err(format!("{path} is not the memory that was lent"));
        }
        let map = Map::new(&file, size)?;
        Ok(Borrowed { map, len })
    }

    /// `len` bytes from `at`; None if there are not that many.
    ///
    /// The owner has promised to leave them alone until they are given back. If it breaks off, it
    /// says so in the link before it goes on, and whoever read them throws the result away: see
    /// `ShmLink::borrow`.
    pub(crate) fn bytes(&self, at: u64, len: usize) -> Option<&[u8]> {
        let at = self.inside(at, len)?;
        // SAFETY: inside the mapping (just checked), which lives as long as `self`; the file can't
        // shrink, so every page is there. Written by nobody meanwhile, see above.
        Some(unsafe { std::slice::from_raw_parts(self.map.base.as_ptr().add(at), len) })
    }

    /// As `bytes`, for writing: part of an operation in which no other rank, the owner included,
    /// touches these bytes before they are given back; see `direct.rs`.
    pub(crate) fn bytes_mut(&mut self, at: u64, len: usize) -> Option<&mut [u8]> {
        let at = self.inside(at, len)?;
        // SAFETY: as in `bytes`, and exclusive by the rule above. An owner that breaks off has
        // other memory at its addresses before it goes on (`renew`).
        Some(unsafe { std::slice::from_raw_parts_mut(self.map.base.as_ptr().add(at), len) })
    }

    fn inside(&self, at: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(at).ok()?;
        (at.checked_add(len)? <= self.len).then_some(at)
    }
}

/// Bytes of the data in whole pages, and of the file.
fn sizes(len: usize) -> Option<(usize, usize)> {
    let page = rustix::param::page_size();
    let data = len.checked_next_multiple_of(page)?;
    let size = data.checked_add(page)?;
    (size <= isize::MAX as usize).then_some((data, size))
}

impl Map {
    fn new(file: &OwnedFd, size: usize) -> std::result::Result<Map, String> {
        // SAFETY: a fresh shared mapping at an address the kernel chooses aliases no Rust object.
        // The file has `size` bytes, allocated in full and sealed against shrinking.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                file,
                0,
            )
        }
        .map_err(|e| format!("map {size} bytes: {e}"))?;
        let base = NonNull::new(base.cast()).ok_or("mapped at null")?;
        Ok(Map { base, size })
    }

    /// Puts `file` (of the same size), or memory of this process alone, in the place of what is
    /// mapped there.
    fn replace(&self, file: Option<&OwnedFd>) -> std::result::Result<(), String> {
        let (base, access) = (
            self.base.as_ptr().cast(),
            ProtFlags::READ | ProtFlags::WRITE,
        );
        // SAFETY: exactly the range of this mapping is replaced, so nobody else's memory is; it
        // stays readable and writable throughout, and any bits are valid in it. The caller (`renew`)
        // has exclusive access to all data in it.
        unsafe {
            match file {
                Some(file) => {
                    let flags = MapFlags::SHARED | MapFlags::POPULATE | MapFlags::FIXED;
                    rustix::mm::mmap(base, self.size, access, flags, file, 0)
                }
                None => {
                    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
                    rustix::mm::mmap_anonymous(base, self.size, access, flags)
                }
            }
        }
        .map(drop)
        .map_err(|e| format!("map {} bytes anew: {e}", self.size))
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: base and size come from mmap, and no reference into it outlives self.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_by_any_part_of_it_until_it_is_dropped() {
        // Promise: a buffer is taken for lent memory if it lies wholly in it, and only then.
        let mut memory = SharedMemory::new(10_000).expect("memory");
        memory.as_mut_slice::<u8>()[9_999] = 7;
        let (found, at) = find(&memory.as_slice::<u8>()[5_000..]).expect("inside");
        assert_eq!((found.len, at), (10_000, 5_000));
        assert!(find(memory.as_slice()).is_some());
        assert!(find(&[0u8; 64]).is_none());
        // SAFETY: only its address is looked at; the page's rest and the token's page are mapped.
        let longer = unsafe { std::slice::from_raw_parts(memory.as_ptr(), 10_001) };
        assert!(find(longer).is_none());
        let address = memory.as_ptr();
        drop((found, memory));
        let all = ALL.read().expect("registry");
        assert!(!all.contains_key(&address.addr()));
    }

    #[test]
    fn only_the_lent_memory_is_mapped() {
        // Promise: a ticket that means something else here (another file, another size, another
        // process) is an error in words, and the right one shows the owner's bytes.
        let mut memory = SharedMemory::new(9_000).expect("memory");
        memory.as_mut_slice::<u8>()[8_999] = 7;
        let ticket = find(memory.as_slice()).expect("lent").0.ticket();
        let borrowed = Borrowed::open(&ticket).expect("the right one");
        assert_eq!(borrowed.bytes(8_998, 2), Some(&[0, 7][..]));
        assert_eq!(borrowed.bytes(8_999, 2), None);
        assert_eq!(borrowed.bytes(u64::MAX, 2), None);
        let mut wrong = ticket;
        wrong.token[1] ^= 1;
        let error = Borrowed::open(&wrong).expect_err("token");
        assert!(error.contains("not the memory"), "{error}");
        let wrong = Ticket {
            len: 90_000,
            ..ticket
        };
        let error = Borrowed::open(&wrong).expect_err("size");
        assert!(error.contains("expected"), "{error}");
        let other = std::fs::File::open("/dev/null").expect("open");
        let fd = other.as_raw_fd().unsigned_abs().into();
        let error = Borrowed::open(&Ticket { fd, ..ticket }).expect_err("file");
        assert!(error.contains("not lent memory"), "{error}");
        drop(memory);
        assert_eq!(
            borrowed.bytes(8_998, 2),
            Some(&[0, 7][..]),
            "outlives its owner"
        );
    }

    #[test]
    fn renewed_memory_is_out_of_reach() {
        // Promise: after renewal what another process writes to the memory as it knew it does not
        // show here, and the memory can be lent again.
        let mut memory = SharedMemory::new(9_000).expect("memory");
        let ticket = find(memory.as_slice()).expect("lent").0.ticket();
        let mut borrowed = Borrowed::open(&ticket).expect("borrow");
        borrowed.bytes_mut(100, 1).expect("inside")[0] = 5;
        assert_eq!(memory.as_slice::<u8>()[100], 5);
        assert!(renew(&mut memory.as_mut_slice()[1..]).is_err());
        renew(memory.as_mut_slice()).expect("renew");
        borrowed.bytes_mut(101, 1).expect("inside")[0] = 6;
        assert_eq!(memory.as_slice::<u8>()[100..102], [0, 0]);
        let again = find(memory.as_slice()).expect("lent").0.ticket();
        assert_ne!(ticket.token, again.token);
        assert!(Borrowed::open(&again).is_ok());
        renew(memory.as_mut_slice()).expect("renew");
        memory.as_mut_slice().fill(1u8);
    }
}
