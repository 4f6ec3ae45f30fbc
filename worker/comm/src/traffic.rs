//! Counters of bytes moved, per kind of operation.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::call::Kind;

/// What one kind of operation has moved since the communicator began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Operations finished, failed ones included.
    pub calls: u64,
    /// Bytes this rank handed to its links, headers (40 bytes per peer) included.
    pub sent: u64,
    /// Bytes this rank took from its links, headers included.
    pub received: u64,
    /// Bytes of `sent` that peers read where they are, in [`SharedMemory`](crate::SharedMemory).
    pub lent: u64,
}

/// Snapshot of a rank's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    per_kind: [Moved; Kind::ALL.len()],
}

/// The live counters, written by the progress thread only.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    cells: [[AtomicU64; 4]; Kind::ALL.len()],
}

impl Traffic {
    /// Counters of one kind.
    pub fn of(&self, kind: Kind) -> Moved {
        self.per_kind[usize::from(kind.code())]
    }

    /// These and those of another communicator, kind by kind.
    #[cfg(feature = "nccl")]
    pub(crate) fn plus(mut self, other: &Traffic) -> Traffic {
        for (mine, theirs) in self.per_kind.iter_mut().zip(&other.per_kind) {
            mine.calls += theirs.calls;
            mine.sent += theirs.sent;
            mine.received += theirs.received;
            mine.lent += theirs.lent;
        }
        self
    }

    /// Sum over all kinds.
    pub fn total(&self) -> Moved {
        self.per_kind.iter().fold(Moved::default(), |sum, m| Moved {
            calls: sum.calls + m.calls,
            sent: sum.sent + m.sent,
            received: sum.received + m.received,
            lent: sum.lent + m.lent,
        })
    }
}

impl Meter {
    pub(crate) fn add(&self, kind: Kind, [sent, received, lent]: [u64; 3]) {
        let cell = &self.cells[usize::from(kind.code())];
        for (counter, value) in cell.iter().zip([1, sent, received, lent]) {
            counter.fetch_add(value, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Traffic {
        let mut traffic = Traffic::default();
        for (moved, cell) in traffic.per_kind.iter_mut().zip(&self.cells) {
            let [calls, sent, received, lent] = cell.each_ref().map(|c| c.load(Ordering::Relaxed));
            *moved = Moved {
                calls,
                sent,
                received,
                lent,
            };
        }
        traffic
    }
}
