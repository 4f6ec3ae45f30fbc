//! What goes out to and comes in from each peer in one phase of an operation.

use crate::stream;

/// Slots of at least this many bytes are written past the caches: whoever waits for that much
/// will find little of it there anyway.
const STREAMED: usize = 1024 * 1024;

/// Bytes on their way to one peer, in two parts.
#[derive(Debug, Default)]
pub(crate) struct Outgoing<'a> {
    parts: [&'a [u8]; 2],
    /// Bytes copied or lent.
    sent: usize,
    /// Lent bytes that have not come back.
    lent: usize,
    /// Parts that `fresh` has given.
    asked: usize,
}

/// Takes the bytes that arrive. One value serves all peers, since the order in which peers are
/// listened to can matter (sums are combined in rank order).
pub(crate) trait Intake {
    /// Bytes wanted from `peer` now; 0 when it is not its turn or nothing is left.
    fn want(&self, peer: usize) -> usize;
    /// Takes a prefix of `bytes` (at most `want`) and says how much. May leave a partial element.
    fn put(&mut self, peer: usize, bytes: &[u8]) -> usize;
    /// Where the next bytes of `peer` can be written directly; at most `want`, not empty if
    /// `want > 0`.
    fn space(&mut self, peer: usize) -> &mut [u8];
    /// `n` bytes of `space` were written.
    fn filled(&mut self, peer: usize, n: usize);
    /// True once nothing is wanted from anybody any more.
    fn done(&self) -> bool;
}

/// Puts each peer's bytes at a place of its own.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    slots: Vec<(&'a mut [u8], usize)>,
    missing: usize,
}

/// Two intakes: from each peer, what the first one wants comes before what the second one wants.
#[derive(Debug)]
pub(crate) struct Then<A, B> {
    pub(crate) first: A,
    pub(crate) second: B,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(head: &'a [u8], payload: &'a [u8]) -> Self {
        Outgoing {
            parts: [head, payload],
            ..Outgoing::default()
        }
    }

    /// Bytes that are not gone for good.
    pub(crate) fn left(&self) -> usize {
        self.parts[0].len() + self.parts[1].len() - self.sent + self.lent
    }

    /// The unsent rest, in order; either part may be empty.
    pub(crate) fn rest(&self) -> [&'a [u8]; 2] {
        let [head, payload] = self.parts;
        let of_head = self.sent.min(head.len());
        [&head[of_head..], &payload[self.sent - of_head..]]
    }

    /// `n` bytes were copied.
    pub(crate) fn advance(&mut self, n: usize) {
        self.sent += n;
    }

    /// The part that begins here; each only once, so that a link can decide how it travels.
    pub(crate) fn fresh(&mut self) -> Option<&'a [u8]> {
        let head = self.parts[0].len();
        let part = match self.sent {
            0 if head > 0 => 0,
            n if n == head => 1,
            _ => return None,
        };
        if self.asked > part || self.parts[part].is_empty() {
            return None;
        }
        self.asked = part + 1;
        Some(self.parts[part])
    }

    /// `n` bytes were lent; they count as left until they are returned.
    pub(crate) fn lend(&mut self, n: usize) {
        self.sent += n;
        self.lent += n;
    }

    /// `n` bytes besides the two parts are lent.
    pub(crate) fn lend_besides(&mut self, n: usize) {
        self.lent += n;
    }

    /// `n` lent bytes came back.
    pub(crate) fn returned(&mut self, n: usize) {
        self.lent -= n;
    }
}

impl<'a> Place<'a> {
    /// One slot per rank; this rank's own is empty.
    pub(crate) fn new(slots: impl IntoIterator<Item = &'a mut [u8]>) -> Self {
        let slots: Vec<_> = slots.into_iter().map(|s| (s, 0)).collect();
        let missing = slots.iter().map(|(s, _)| s.len()).sum();
        Place { slots, missing }
    }
}

impl Intake for Place<'_> {
    fn want(&self, peer: usize) -> usize {
        let (slot, done) = &self.slots[peer];
        slot.len() - done
    }

    fn put(&mut self, peer: usize, bytes: &[u8]) -> usize {
        let (slot, done) = &mut self.slots[peer];
        let n = bytes.len().min(slot.len() - *done);
        let long = slot.len() >= STREAMED;
        let place = &mut slot[*done..*done + n];
        if long {
            stream::copy(place, &bytes[..n]);
        } else {
            place.copy_from_slice(&bytes[..n]);
        }
        *done += n;
        self.missing -= n;
        n
    }

    fn space(&mut self, peer: usize) -> &mut [u8] {
        let (slot, done) = &mut self.slots[peer];
        &mut slot[*done..]
    }

    fn filled(&mut self, peer: usize, n: usize) {
        self.slots[peer].1 += n;
        self.missing -= n;
    }

    fn done(&self) -> bool {
        self.missing == 0
    }
}

impl<A: Intake, B: Intake> Intake for Then<A, B> {
    fn want(&self, peer: usize) -> usize {
        match self.first.want(peer) {
            0 => self.second.want(peer),
            n => n,
        }
    }

    fn put(&mut self, peer: usize, bytes: &[u8]) -> usize {
        match self.first.want(peer) {
            0 => self.second.put(peer, bytes),
            _ => self.first.put(peer, bytes),
        }
    }

    fn space(&mut self, peer: usize) -> &mut [u8] {
        match self.first.want(peer) {
            0 => self.second.space(peer),
            _ => self.first.space(peer),
        }
    }

    fn filled(&mut self, peer: usize, n: usize) {
        match self.first.want(peer) {
            0 => self.second.filled(peer, n),
            _ => self.first.filled(peer, n),
        }
    }

    fn done(&self) -> bool {
        self.first.done() && self.second.done()
    }
}
