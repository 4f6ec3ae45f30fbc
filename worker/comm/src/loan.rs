//! Lent memory on a shared-memory link: messages that are read where they are instead of being
//! copied through the ring.
//!
//! Beside its ring each direction has a short queue of records. The producer *shows* a piece of
//! memory (the consumer maps it and answers whether that worked), later *lends* parts of it, each
//! at a position of the byte stream: that many bytes are not in the ring but there. The consumer
//! counts the bytes it has done with; the producer's message is sent once all of it has come
//! back. Memory that is freed is *hidden*, so that the consumer unmaps it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use crate::lent::{Borrowed, Lent, Ticket};
use crate::segment::{RECORDS, SLOTS, State};

/// Shorter messages go through the ring: copying them is cheaper than a way there and back.
const LEAST: usize = 16 * 1024;

/// What a producer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// Memory that will be lent; `serial` counts what was shown.
    Show {
        slot: usize,
        serial: u64,
        ticket: Ticket,
    },
    /// What was shown in this slot is gone.
    Hide { slot: usize },
    /// The bytes at `at` of the stream lie there.
    Lend(Loan),
}

/// Bytes of a message in the producer's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loan {
    /// Position in the stream of the first byte not yet taken.
    pub(crate) at: u64,
    slot: usize,
    /// Position in the memory, and bytes left.
    offset: u64,
    pub(crate) len: u64,
}

/// The producer's side.
#[derive(Debug, Default)]
pub(crate) struct Lender {
    /// By slot, with serial numbers; `SLOTS` at most.
    shown: Vec<Option<(Weak<Lent>, u64)>>,
    /// Pieces of memory shown so far.
    serial: u64,
    posted: u64,
    /// Bytes lent since the beginning, and those that have come back.
    pub(crate) lent: u64,
    returned: u64,
}

/// The consumer's side.
#[derive(Debug, Default)]
pub(crate) struct Borrower {
    /// By slot.
    maps: Vec<Option<Borrowed>>,
    read: u64,
    next: Option<Loan>,
    /// Lent bytes taken since the beginning.
    pub(crate) taken: u64,
}

impl Lender {
    /// Lends `bytes`, which come at `at` of the stream, if the other side can read them. Else they
    /// have to go through the ring; memory that it does not know is shown to it for the next time.
    pub(crate) fn lend(&mut self, state: &State, bytes: &[u8], at: u64) -> bool {
        self.hide_the_gone(state);
        if bytes.len() < LEAST {
            return false;
        }
        let Some((memory, offset)) = crate::lent::find(bytes) else {
            return false;
        };
        match self.slot(&memory) {
            Some((slot, serial)) if answered(state, slot, serial) => {
                let len = bytes.len() as u64;
                let loan = Loan {
                    at,
                    slot,
                    offset: offset as u64,
                    len,
                };
                let lends = self.post(state, Record::Lend(loan));
                if lends {
                    self.lent += len;
                }
                lends
            }
            Some(_) => false,
            None => {
                self.show(state, &memory);
                false
            }
        }
    }

    /// True if `bytes` are all of a memory that the other side has mapped, and `lend` will lend them
    /// now.
    pub(crate) fn knows_all_of(&self, state: &State, bytes: &[u8]) -> bool {
        let Some((memory, 0)) = crate::lent::find(bytes) else {
            return false;
        };
        // Before it lends, `lend` may have to hide what was freed until then.
        let unread = self
            .posted
            .saturating_sub(state.read.0.load(Ordering::Acquire));
        bytes.len() >= LEAST
            && memory.len() == bytes.len()
            && unread + (self.shown.len() as u64) < RECORDS as u64
            && self
                .slot(&memory)
                .is_some_and(|(slot, serial)| answered(state, slot, serial))
    }

    /// Where a memory was shown, and its serial number.
    fn slot(&self, memory: &Arc<Lent>) -> Option<(usize, u64)> {
        self.shown.iter().enumerate().find_map(|(slot, shown)| {
            let (weak, serial) = shown.as_ref()?;
            std::ptr::eq(weak.as_ptr(), Arc::as_ptr(memory)).then_some((slot, *serial))
        })
    }

    /// Bytes that the other side has not given back.
    pub(crate) fn owed(&self) -> u64 {
        self.lent - self.returned
    }

    /// Bytes given back since the last look.
    pub(crate) fn returned(&mut self, state: &State) -> Result<u64, String> {
        let returned = state.returned.0.load(Ordering::Acquire);
        match returned.checked_sub(self.returned) {
            Some(n) if n <= self.owed() => {
                self.returned = returned;
                Ok(n)
            }
            _ => Err(format!(
                "shared memory is corrupt: {returned} bytes returned of {} lent",
                self.lent
            )),
        }
    }

    /// True if something has come back that `returned` has not told.
    pub(crate) fn has_news(&self, state: &State) -> bool {
        state.returned.0.load(Ordering::Acquire) != self.returned
    }

    fn show(&mut self, state: &State, memory: &Arc<Lent>) {
        let free = self.shown.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.shown.len());
        if slot == SLOTS {
            return;
        }
        let record = Record::Show {
            slot,
            serial: self.serial + 1,
            ticket: memory.ticket(),
        };
        if self.post(state, record) {
            self.serial += 1;
            let shown = Some((Arc::downgrade(memory), self.serial));
            match self.shown.get_mut(slot) {
                Some(free) => *free = shown,
                None => self.shown.push(shown),
            }
        }
    }

    fn hide_the_gone(&mut self, state: &State) {
        for slot in 0..self.shown.len() {
            let gone = |(weak, _): &(Weak<Lent>, u64)| weak.strong_count() == 0;
            if self.shown[slot].as_ref().is_some_and(gone)
                && self.post(state, Record::Hide { slot })
            {
                self.shown[slot] = None;
            }
        }
    }

    /// False if the other side has not read enough of the records before.
    fn post(&mut self, state: &State, record: Record) -> bool {
        let read = state.read.0.load(Ordering::Acquire);
        if self.posted.wrapping_sub(read) >= RECORDS as u64 {
            return false;
        }
        let place = &state.records[(self.posted % RECORDS as u64) as usize];
        for (word, value) in place.iter().zip(record.encode()) {
            word.store(value, Ordering::Relaxed);
        }
        self.posted += 1;
        state.posted.0.store(self.posted, Ordering::Release);
        true
    }
}

impl Borrower {
    /// The next bytes of the stream that are lent, if any are known. `peer` is for the log.
    pub(crate) fn next(&mut self, state: &State, peer: usize) -> Result<Option<Loan>, String> {
        while self.next.is_none() {
            let corrupt = |what: &dyn std::fmt::Debug| {
                Err(format!("shared memory is corrupt: record {what:?}"))
            };
            let posted = state.posted.0.load(Ordering::Acquire);
            match posted.checked_sub(self.read) {
                Some(0) => break,
                Some(n) if n <= RECORDS as u64 => {}
                _ => return corrupt(&posted),
            }
            let words = state.records[(self.read % RECORDS as u64) as usize]
                .each_ref()
                .map(|word| word.load(Ordering::Relaxed));
            let Some(record) = Record::decode(words) else {
                return corrupt(&words);
            };
            match record {
                Record::Show {
                    slot,
                    serial,
                    ticket,
                } => {
                    let map = Borrowed::open(&ticket).inspect_err(|reason| {
                        tracing::warn!(
                            peer, %reason, "no access to memory lent by a peer, it sends bytes instead"
                        );
                    });
                    state.answers[slot].store(answer(serial, map.is_ok()), Ordering::Release);
                    let len = self.maps.len().max(slot + 1);
                    self.maps.resize_with(len, || None);
                    self.maps[slot] = map.ok();
                }
                Record::Hide { slot } => {
                    if let Some(map) = self.maps.get_mut(slot) {
                        *map = None;
                    }
                }
                Record::Lend(loan) => {
                    let Ok(len) = usize::try_from(loan.len) else {
                        return corrupt(&record);
                    };
                    let map = self.maps.get(loan.slot).and_then(Option::as_ref);
                    if len == 0 || map.and_then(|m| m.bytes(loan.offset, len)).is_none() {
                        return corrupt(&record);
                    }
                    self.next = Some(loan);
                }
            }
            self.read += 1;
            state.read.0.store(self.read, Ordering::Release);
        }
        Ok(self.next)
    }

    /// Bytes left of the next loan.
    pub(crate) fn loan_len(&self) -> Option<usize> {
        // `next` has seen that the length fits.
        self.next.map(|loan| loan.len as usize)
    }

    /// The first `most` bytes of the next loan, or all that are left.
    pub(crate) fn bytes(&self, most: usize) -> &[u8] {
        self.next
            .and_then(|loan| {
                let len = most.min(loan.len as usize);
                self.maps.get(loan.slot)?.as_ref()?.bytes(loan.offset, len)
            })
            .unwrap_or_default()
    }

    /// `len` bytes from `at` of the next loan, to be written.
    pub(crate) fn bytes_mut(&mut self, at: usize, len: usize) -> Option<&mut [u8]> {
        let loan = self.next?;
        let at = at as u64;
        if at + len as u64 > loan.len {
            return None;
        }
        self.maps[loan.slot]
            .as_mut()?
            .bytes_mut(loan.offset + at, len)
    }

    /// Gives `n` bytes of the next loan back; true if it was the rest.
    pub(crate) fn give_back(&mut self, state: &State, n: usize) -> bool {
        let Some(loan) = &mut self.next else {
            return false;
        };
        let n = n as u64;
        loan.at += n;
        loan.offset += n;
        loan.len -= n;
        self.taken += n;
        // Release: what was read was read before the owner may write again.
        state.returned.0.store(self.taken, Ordering::Release);
        let done = loan.len == 0;
        if done {
            self.next = None;
        }
        done
    }
}

/// True if the consumer has mapped what was shown as number `serial`.
fn answered(state: &State, slot: usize, serial: u64) -> bool {
    state.answers[slot].load(Ordering::Acquire) == answer(serial, true)
}

/// What a consumer says to the memory shown as number `serial`.
fn answer(serial: u64, mapped: bool) -> u64 {
    serial << 1 | u64::from(mapped)
}

impl Record {
    fn encode(&self) -> [u64; 8] {
        match *self {
            Record::Show {
                slot,
                serial,
                ticket,
            } => {
                let Ticket {
                    pid,
                    fd,
                    len,
                    token: [first, second],
                } = ticket;
                [1, slot as u64, serial, pid, fd, len, first, second]
            }
            Record::Hide { slot } => [2, slot as u64, 0, 0, 0, 0, 0, 0],
            Record::Lend(Loan {
                at,
                slot,
                offset,
                len,
            }) => [3, slot as u64, at, offset, len, 0, 0, 0],
        }
    }

    /// None for what no record looks like.
    fn decode(words: [u64; 8]) -> Option<Record> {
        let [kind, slot, a, b, c, d, e, f] = words;
        let slot = usize::try_from(slot).ok().filter(|&slot| slot < SLOTS)?;
        match kind {
            1 => Some(Record::Show {
                slot,
                serial: a,
                ticket: Ticket {
                    pid: b,
                    fd: c,
                    len: d,
                    token: [e, f],
                },
            }),
            2 => Some(Record::Hide { slot }),
            3 => Some(Record::Lend(Loan {
                at: a,
                slot,
                offset: b,
                len: c,
            })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SharedMemory;

    #[test]
    fn memory_is_shown_lent_given_back_and_hidden() {
        // Promise: the first message shows memory, later ones lend it, bytes come back as they are
        // taken, and memory that was dropped is unmapped by the other side; more of it than there
        // are slots or records does no harm.
        let (segment, _posted) = crate::segment::create().expect("segment");
        let state = segment.state(0);
        let (mut lender, mut borrower) = (Lender::default(), Borrower::default());
        for round in 0..200u8 {
            let mut memory = SharedMemory::new(2 * LEAST).expect("memory");
            memory.as_mut_slice::<u8>().fill(round);
            let bytes = &memory.as_slice::<u8>()[LEAST / 2..][..LEAST];
            assert!(!lender.lend(state, bytes, 0), "not known yet");
            assert!(!lender.lend(state, bytes, 0), "no answer yet");
            assert_eq!(borrower.next(state, 1), Ok(None));
            assert!(!lender.lend(state, &bytes[1..], 0), "too short");
            assert!(lender.lend(state, bytes, 77));
            let loan = borrower.next(state, 1).expect("records").expect("loan");
            assert_eq!((loan.at, loan.len), (77, LEAST as u64));
            assert_eq!(borrower.bytes(100), [round; 100]);
            assert!(!borrower.give_back(state, 100));
            assert_eq!(lender.returned(state), Ok(100));
            assert!(borrower.give_back(state, LEAST - 100));
            assert_eq!(lender.returned(state), Ok(LEAST as u64 - 100));
            assert_eq!(lender.owed(), 0);
            drop(memory);
            assert!(!lender.lend(state, &[], 0));
            assert_eq!(borrower.next(state, 1), Ok(None));
            assert!(borrower.maps.iter().all(Option::is_none));
            assert!(lender.shown.iter().all(Option::is_none));
        }
        let all: Vec<_> = (0..SLOTS + 3)
            .map(|_| SharedMemory::new(LEAST).expect("memory"))
            .collect();
        for memory in &all {
            assert!(!lender.lend(state, memory.as_slice(), 0));
        }
        borrower.next(state, 1).expect("records");
        let known = all.iter().filter(|m| lender.lend(state, m.as_slice(), 0));
        assert_eq!(known.count(), SLOTS);
    }

    #[test]
    fn memory_out_of_reach_travels_as_bytes() {
        // Promise: where a peer can't map what was shown (here: no such process), it says so, and
        // nothing is lent to it.
        let (segment, _posted) = crate::segment::create().expect("segment");
        let state = segment.state(0);
        let (mut lender, mut borrower) = (Lender::default(), Borrower::default());
        let memory = SharedMemory::new(LEAST).expect("memory");
        assert!(!lender.lend(state, memory.as_slice(), 0));
        let pid = &state.records[0][3];
        assert_eq!(pid.load(Ordering::Relaxed), u64::from(std::process::id()));
        pid.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(borrower.next(state, 1), Ok(None));
        assert_eq!(state.answers[0].load(Ordering::Relaxed), answer(1, false));
        for _ in 0..3 {
            assert!(!lender.lend(state, memory.as_slice(), 0));
            assert!(!lender.knows_all_of(state, memory.as_slice()));
        }
        assert_eq!(state.posted.0.load(Ordering::Relaxed), 1, "not shown again");
    }

    #[test]
    fn nonsense_from_the_other_side_is_an_error() {
        // Promise: records and counters written by another process are never trusted.
        for record in [
            [0; 8],
            [2, SLOTS as u64, 0, 0, 0, 0, 0, 0],
            // Lends what was never shown.
            [3, 0, 0, 0, 1 << 20, 0, 0, 0],
        ] {
            let (segment, _posted) = crate::segment::create().expect("segment");
            let state = segment.state(0);
            for (word, value) in state.records[0].iter().zip(record) {
                word.store(value, Ordering::Relaxed);
            }
            state.posted.0.store(1, Ordering::Release);
            let error = Borrower::default().next(state, 1).expect_err("nonsense");
            assert!(error.contains("corrupt"), "{error}");
            state.returned.0.store(1, Ordering::Release);
            let error = Lender::default().returned(state).expect_err("nonsense");
            assert!(error.contains("corrupt"), "{error}");
        }
    }
}
