//! The store that all coordinators share: a log of records, and the lease of their leader. What it
//! says is done is durable; a write that failed left nothing. Records of a term that is over are
//! refused: that is the fence.

use espalier_core::record::Change;
use espalier_core::{Record, Snapshot};
use std::collections::BTreeMap;

/// Milliseconds that a lease lasts without being renewed.
pub(crate) const LEASE: u64 = 2_000;
/// Records after which a snapshot takes their place.
const COMPACT: usize = 400;

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// Another leader's term has begun.
    Fenced,
    /// The disk failed, or the records don't follow those that are there.
    Failed,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) holder: usize,
    pub(crate) until: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) snapshot: Option<Snapshot>,
    /// Sequence number, term and record of all that the snapshot lacks.
    pub(crate) log: Vec<(u64, u64, Record)>,
    /// Sequence number of the newest record.
    pub(crate) last: u64,
    /// Term of the newest leader.
    pub(crate) term: u64,
    pub(crate) lease: Option<Lease>,
    /// Not to be reached before.
    pub(crate) down_until: u64,
    /// The process that each worker of the cluster is, as the records say.
    pub(crate) joined: BTreeMap<String, String>,
}

impl Store {
    /// Appends records from the number `first` on. A write that is there already is done.
    pub(crate) fn append(
        &mut self,
        term: u64,
        first: u64,
        records: &[Record],
        fenced: bool,
    ) -> Written {
        if fenced && term != self.term {
            return Written::Fenced;
        }
        if first <= self.last {
            let mine = |entry: &(u64, u64, Record)| entry.0 == first && entry.1 == term;
            // One that a snapshot holds already is this leader's too, since its term is the newest.
            let repeated = first <= self.compacted() || self.log.iter().any(mine);
            return if repeated {
                Written::Done
            } else {
                Written::Failed
            };
        }
        if first != self.last + 1 {
            return Written::Failed;
        }
        for record in records {
            self.last += 1;
            self.log.push((self.last, term, record.clone()));
            follow(&mut self.joined, record);
        }
        Written::Done
    }

    fn compacted(&self) -> u64 {
        match &self.snapshot {
            Some(Snapshot::V1 { applied, .. }) => *applied,
            None => 0,
        }
    }

    /// Whether it is time for a snapshot.
    pub(crate) fn is_long(&self) -> bool {
        self.log.len() > COMPACT
    }

    /// Replaces the records that a snapshot holds.
    pub(crate) fn compact(&mut self, snapshot: Snapshot) {
        let Snapshot::V1 { applied, .. } = &snapshot;
        let applied = *applied;
        self.log.retain(|entry| entry.0 > applied);
        self.snapshot = Some(snapshot);
    }

    /// Makes a coordinator the leader if nobody is; its term.
    pub(crate) fn campaign(&mut self, now: u64, holder: usize) -> Option<u64> {
        if self.lease.is_some_and(|lease| now <= lease.until) {
            return None;
        }
        self.term += 1;
        let until = now + LEASE;
        self.lease = Some(Lease { holder, until });
        Some(self.term)
    }

    /// Lengthens the lease of a leader that still has it.
    pub(crate) fn renew(&mut self, now: u64, holder: usize, term: u64) -> bool {
        let mine = |lease: &Lease| lease.holder == holder && now <= lease.until;
        if term != self.term || !self.lease.as_ref().is_some_and(mine) {
            return false;
        }
        let until = now + LEASE;
        self.lease = Some(Lease { holder, until });
        true
    }

    /// Whether this coordinator is the one that may act.
    pub(crate) fn is_led_by(&self, now: u64, holder: usize, term: u64) -> bool {
        let mine = |lease: Lease| lease.holder == holder && now <= lease.until;
        term == self.term && self.lease.is_some_and(mine)
    }
}

/// Keeps which process each worker is, as a record says.
pub(crate) fn follow(joined: &mut BTreeMap<String, String>, record: &Record) {
    let Record::V1(change) = record;
    match change {
        Change::WorkerJoined { worker } => {
            joined.insert(worker.name.0.clone(), worker.instance.clone());
        }
        Change::WorkerLeft { name } => {
            joined.remove(name.as_str());
        }
        _ => {}
    }
}
