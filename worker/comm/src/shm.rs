//! A link over shared memory: one ring of bytes per direction, and lent memory beside it.
//!
//! Of a ring, `head` counts bytes written since the beginning, `tail` bytes taken; only the
//! producer moves the one, only the consumer the other. A side that finds nothing to do says so in
//! `sleeps` and polls its sockets; the other side then sends a wake-up over the control connection.
//! Long messages that lie in [lent memory](crate::SharedMemory) take part in the same stream of
//! bytes without going through the ring: see `loan.rs`.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering, fence};

use crate::control::Control;
use crate::flow::{Intake, Outgoing};
use crate::loan::{Borrower, Lender};
use crate::segment::{self, Offer, Posted, RING, Segment};

/// Bytes after which a copy is made visible, so that the other side can start on them.
const PUBLISH: usize = 64 * 1024;
/// Most bytes per turn, so that both directions and all peers get theirs.
const TURN: usize = 256 * 1024;
/// A sleeping producer is woken once this much is free: not for every few bytes.
const ROOM: usize = RING / 2;

/// One side of a segment.
#[derive(Debug)]
pub(crate) struct ShmLink {
    segment: Segment,
    /// Ring that this side writes (0 for the creator); the other one is read.
    tx: usize,
    /// Positions in the outgoing and the incoming ring.
    head: u64,
    tail: u64,
    /// Bytes that the last look left in the incoming ring: a partial element.
    left_alone: usize,
    lender: Lender,
    borrower: Borrower,
}

/// Makes a segment for this process and one other.
pub(crate) fn create() -> Result<(ShmLink, Posted), String> {
    segment::create().map(|(segment, posted)| (ShmLink::new(segment, 0), posted))
}

/// Opens the other side of an offered segment.
pub(crate) fn attach(offer: &Offer) -> Result<ShmLink, String> {
    segment::attach(offer).map(|segment| ShmLink::new(segment, 1))
}

impl ShmLink {
    fn new(segment: Segment, tx: usize) -> ShmLink {
        ShmLink {
            segment,
            tx,
            head: 0,
            tail: 0,
            left_alone: 0,
            lender: Lender::default(),
            borrower: Borrower::default(),
        }
    }

    /// Positions in the outgoing and the incoming ring, in bytes since the beginning.
    pub(crate) fn positions(&self) -> (u64, u64) {
        (self.head, self.tail)
    }

    /// Bytes lent to the other side since the beginning.
    pub(crate) fn lent(&self) -> u64 {
        self.lender.lent
    }

    /// True if `bytes` are all of a memory that the other side can reach: `lend_ahead` would work.
    pub(crate) fn knows_all_of(&self, bytes: &[u8]) -> bool {
        self.lender.knows_all_of(self.segment.state(self.tx), bytes)
    }

    /// Lends `bytes` behind the next `after` bytes, which are still to be copied into the ring: the
    /// other side knows of the loan when it has them. False if it can't be lent.
    pub(crate) fn lend_ahead(&mut self, bytes: &[u8], after: usize) -> bool {
        let at = self.head + self.lender.lent + after as u64;
        self.lender.lend(self.segment.state(self.tx), bytes, at)
    }

    /// Length of the loan that comes next, if one is known.
    pub(crate) fn loan(&mut self, peer: usize) -> Result<Option<usize>, String> {
        Ok(match self.until_loan(peer)? {
            Some(0) => self.borrower.loan_len(),
            _ => None,
        })
    }

    /// `len` bytes from `at` of the loan that comes next, which nobody else touches.
    pub(crate) fn loan_mut(&mut self, at: usize, len: usize) -> Option<&mut [u8]> {
        self.borrower.bytes_mut(at, len)
    }

    /// Gives all of the loan that comes next back.
    pub(crate) fn give_back(&mut self, control: &mut Control) {
        let state = self.segment.state(1 - self.tx);
        if let Some(len) = self.borrower.loan_len()
            && self.borrower.give_back(state, len)
        {
            wake_if(&state.producer_sleeps.0, control);
        }
    }

    /// Lends what can be lent and copies what fits into the outgoing ring; gives the bytes that
    /// are gone for good. `Err` means that the segment is corrupt.
    pub(crate) fn send(
        &mut self,
        out: &mut Outgoing<'_>,
        control: &mut Control,
    ) -> Result<usize, String> {
        let mut total = 0;
        if self.lender.owed() > 0 {
            let returned = self.lender.returned(self.segment.state(self.tx))? as usize;
            out.returned(returned);
            total += returned;
        }
        while total < TURN {
            if let Some(part) = out.fresh() {
                let state = self.segment.state(self.tx);
                let at = self.head + self.lender.lent;
                if self.lender.lend(state, part, at) {
                    out.lend(part.len());
                    wake_if(&state.consumer_sleeps.0, control);
                    continue;
                }
            }
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

    /// Hands what has come to `intake`. `Err` means that the segment is corrupt, or that the other
    /// side has broken off: what `intake` got may be wrong.
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
            // Before the records: what is lent ahead of bytes in the ring is told before them.
            let ready = self.ready()?;
            let before = match self.until_loan(peer)? {
                Some(0) => {
                    let taken = self.borrow(want.min(PUBLISH), peer, intake, control)?;
                    total += taken;
                    if taken == 0 {
                        break;
                    }
                    continue;
                }
                other => other.unwrap_or(usize::MAX),
            };
            let at = (self.tail % RING as u64) as usize;
            let n = want.min(ready).min(before).min(RING - at).min(PUBLISH);
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

    /// Hands at most `most` bytes of the loan that comes next to `intake`.
    fn borrow(
        &mut self,
        most: usize,
        peer: usize,
        intake: &mut dyn Intake,
        control: &mut Control,
    ) -> Result<usize, String> {
        let state = self.segment.state(1 - self.tx);
        let taken = intake.put(peer, self.borrower.bytes(most));
        // The owner says that it breaks off before it uses its memory again: if it hasn't said so
        // by now, what was read is what it had lent.
        fence(Ordering::Acquire);
        if state.broken_off.0.load(Ordering::Acquire) != 0 {
            return Err("it broke off while its memory was read".into());
        }
        if self.borrower.give_back(state, taken) {
            wake_if(&state.producer_sleeps.0, control);
        }
        Ok(taken)
    }

    /// Bytes of the stream before the next loan; None if none is known.
    fn until_loan(&mut self, peer: usize) -> Result<Option<usize>, String> {
        let here = self.tail + self.borrower.taken;
        match self.borrower.next(self.segment.state(1 - self.tx), peer)? {
            None => Ok(None),
            Some(loan) => match loan.at.checked_sub(here) {
                Some(before) => Ok(Some(before.try_into().unwrap_or(usize::MAX))),
                None => Err(format!("shared memory is corrupt: {loan:?} at {here}")),
            },
        }
    }

    /// Announces that this side is about to sleep, because it waits for bytes of `peer` (`reading`)
    /// or for room (`writing`). False if it should not, since something has come up.
    pub(crate) fn doze(
        &mut self,
        peer: usize,
        reading: bool,
        writing: bool,
    ) -> Result<bool, String> {
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
        let readable =
            reading && (self.ready()? > self.left_alone || self.until_loan(peer)? == Some(0));
        // While something is lent, nothing else is left to be written.
        let writable = writing
            && match self.lender.owed() {
                0 => self.free()? >= ROOM,
                _ => self.lender.has_news(self.segment.state(self.tx)),
            };
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

impl Drop for ShmLink {
    fn drop(&mut self) {
        // Before anybody hears that an operation has failed (the links are closed first): from
        // then on its memory may be used again, and peers must not believe what they read.
        let state = self.segment.state(self.tx);
        state.broken_off.0.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
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
        Control::new((stream, None)).expect("control")
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
    #[test]
    fn what_was_read_of_an_owner_that_broke_off_is_not_believed() {
        // Promise: a message in lent memory arrives whole, counts as sent only when it was read, and
        // is an error if its owner may have used the memory again meanwhile.
        let mut memory = crate::SharedMemory::new(RING).expect("memory");
        memory.as_mut_slice::<u8>().fill(9);
        for breaks in [false, true] {
            let (mut ours, posted) = create().expect("create");
            let mut theirs = attach(&posted.offer()).expect("attach");
            let mut control = control();
            let mut received = vec![0u8; RING];
            for lent in [false, true] {
                let mut out = Outgoing::new(&[1; 8], memory.as_slice());
                let mut head = [0; 8];
                let mut heads = Place::new([&mut head[..]]);
                let mut place = Place::new([&mut received[..]]);
                ours.send(&mut out, &mut control).expect("send");
                theirs.recv(0, &mut heads, &mut control).expect("head");
                if lent && breaks {
                    assert_eq!(out.left(), RING);
                    drop(ours);
                    let error = theirs.recv(0, &mut place, &mut control);
                    assert!(error.expect_err("gone").contains("broke off"));
                    break;
                }
                while !place.done() {
                    theirs.recv(0, &mut place, &mut control).expect("receive");
                    ours.send(&mut out, &mut control).expect("send");
                }
                assert_eq!((head, out.left()), ([1; 8], 0));
                assert!(received.iter().all(|&byte| byte == 9));
                assert_eq!(ours.lent(), if lent { RING as u64 } else { 0 });
                received.fill(0);
            }
        }
    }
}
