//! The flight recorder: the last operations of a rank, and what it waits for now, for whoever looks when
//! nothing moves any more.
//!
//! The progress thread notes an operation when it begins and when it ends, and a peer when it goes to sleep
//! over it: a few numbers under a lock that nobody else holds for long. Nothing is allocated.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::call::OpId;

/// Operations that are kept.
const KEPT: usize = 64;

/// The recorder of one communicator. Cloneable; may exist before the communicator
/// ([`Rendezvous::flight`](crate::Rendezvous::flight)) and outlive it.
#[derive(Debug, Clone)]
pub struct Flight {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    origin: Instant,
    issued: AtomicU64,
    moves: AtomicU64,
    rejected: AtomicU64,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    /// The operation of position `p` is at `p` modulo [`KEPT`].
    entries: [Option<Entry>; KEPT],
    waits: Option<(OpId, usize, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    op: OpId,
    bytes: u64,
    begun: Instant,
    ended: Option<Instant>,
    failed: bool,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It has begun.
    Running,
    /// It is over.
    Done,
    /// It has failed.
    Failed,
}

/// One operation that has begun. Times count from the making of the [`Flight`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Which one.
    pub op: OpId,
    /// Bytes of this rank's memory that it works on.
    pub bytes: u64,
    /// When it began.
    pub begun: Duration,
    /// When it ended.
    pub ended: Option<Duration>,
    /// How far it is.
    pub stage: Stage,
}

/// A wait for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The operation that waits.
    pub op: OpId,
    /// The first peer that something is expected from, else the first that does not take bytes.
    pub peer: usize,
    /// Time without a byte moved.
    pub waited: Duration,
}

/// What a [`Flight`] knows at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlightRecord {
    /// Time since the making of the [`Flight`].
    pub now: Duration,
    /// Operations that were issued; those beyond the last of `operations` have not begun.
    pub issued: u64,
    /// The last operations, at most 64, in order.
    pub operations: Vec<Operation>,
    /// What the running operation waits for; none while bytes move, or nothing runs.
    pub waits: Option<Wait>,
}

impl Default for Flight {
    fn default() -> Self {
        let ring = Mutex::new(Ring {
            entries: [None; KEPT],
            waits: None,
        });
        Flight {
            inner: Arc::new(Inner {
                origin: Instant::now(),
                issued: AtomicU64::new(0),
                moves: AtomicU64::new(0),
                rejected: AtomicU64::new(0),
                ring,
            }),
        }
    }
}

impl Flight {
    /// A recorder without operations.
    pub fn new() -> Flight {
        Flight::default()
    }

    /// Grows whenever an operation begins or ends, and when bytes move again after a wait: as long as it
    /// stays, nothing has moved.
    pub fn moves(&self) -> u64 {
        self.inner.moves.load(Ordering::Relaxed)
    }

    /// Attempts to get in that were refused: connections on which somebody did not prove that it knows the
    /// generation's secret, and records that were not what a peer had sealed.
    pub fn rejected(&self) -> u64 {
        self.inner.rejected.load(Ordering::Relaxed)
    }

    /// What is known now.
    pub fn record(&self) -> FlightRecord {
        let Inner { origin, issued, .. } = &*self.inner;
        let since = |moment: Instant| moment.saturating_duration_since(*origin);
        let ring = self.ring();
        let mut operations: Vec<Operation> = ring
            .entries
            .iter()
            .flatten()
            .map(|entry| Operation {
                op: entry.op,
                bytes: entry.bytes,
                begun: since(entry.begun),
                ended: entry.ended.map(since),
                stage: match entry.ended {
                    None => Stage::Running,
                    Some(_) if entry.failed => Stage::Failed,
                    Some(_) => Stage::Done,
                },
            })
            .collect();
        operations.sort_by_key(|operation| operation.op.seq);
        FlightRecord {
            now: origin.elapsed(),
            issued: issued.load(Ordering::Relaxed),
            operations,
            waits: ring.waits.map(|(op, peer, since)| Wait {
                op,
                peer,
                waited: since.elapsed(),
            }),
        }
    }

    /// So many operations were issued.
    pub(crate) fn issued(&self, count: u64) {
        self.inner.issued.store(count, Ordering::Relaxed);
    }

    pub(crate) fn begin(&self, op: OpId, bytes: u64) {
        self.moved();
        let entry = Entry {
            op,
            bytes,
            begun: Instant::now(),
            ended: None,
            failed: false,
        };
        self.ring().entries[place(op)] = Some(entry);
    }

    pub(crate) fn end(&self, op: OpId, failed: bool) {
        self.inner.moves.fetch_add(1, Ordering::Relaxed);
        let mut ring = self.ring();
        ring.waits = None;
        if let Some(entry) = &mut ring.entries[place(op)] {
            (entry.ended, entry.failed) = (Some(Instant::now()), failed);
        }
    }

    /// Nothing has moved since `since`, and this peer is waited for.
    pub(crate) fn waits(&self, op: OpId, peer: usize, since: Instant) {
        self.ring().waits = Some((op, peer, since));
    }

    /// Somebody tried to get in.
    pub(crate) fn reject(&self) {
        self.inner.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes move again.
    pub(crate) fn moved(&self) {
        self.inner.moves.fetch_add(1, Ordering::Relaxed);
        self.ring().waits = None;
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.inner
            .ring
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(op: OpId) -> usize {
    (op.seq % KEPT as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Kind;

    fn op(seq: u64) -> OpId {
        OpId {
            seq,
            kind: Kind::AllGather,
        }
    }

    // Promise: the last 64 operations are kept in order, whatever came before, each with its end.
    #[test]
    fn the_last_operations_are_kept() {
        let flight = Flight::new();
        for seq in 0..100 {
            flight.begin(op(seq), seq * 10);
            if seq < 99 {
                flight.end(op(seq), seq == 98);
            }
        }
        flight.issued(103);
        let record = flight.record();
        assert_eq!(record.issued, 103);
        let kept: Vec<u64> = record.operations.iter().map(|o| o.op.seq).collect();
        assert_eq!(kept, (36..100).collect::<Vec<_>>());
        let stages = |from: usize| record.operations[from..].iter().map(|o| o.stage);
        let last: Vec<Stage> = stages(61).collect();
        assert_eq!(last, [Stage::Done, Stage::Failed, Stage::Running]);
        let last = record.operations[63];
        assert_eq!((last.bytes, last.ended), (990, None));
        assert!(record.operations[62].ended >= Some(record.operations[62].begun));
        assert!(record.now >= last.begun);
    }

    // Promise: a wait is there while it lasts, and every sign of movement is counted.
    #[test]
    fn a_wait_ends_with_the_next_byte() {
        let flight = Flight::new();
        flight.begin(op(7), 8);
        let before = flight.moves();
        flight.waits(op(7), 3, Instant::now());
        assert_eq!(flight.moves(), before, "waiting is no movement");
        let waits = flight.record().waits.expect("it waits");
        assert_eq!((waits.op, waits.peer), (op(7), 3));
        flight.moved();
        assert_eq!(flight.record().waits, None);
        assert!(flight.moves() > before);
        flight.waits(op(7), 2, Instant::now());
        flight.end(op(7), true);
        assert_eq!(flight.record().waits, None);
    }
}
