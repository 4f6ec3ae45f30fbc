//! The store of a cluster of coordinators: keys of etcd, written by the one that leads.
//!
//! Records of one batch are one value under the number of the first; a value that is larger than a
//! request of etcd may be is written in pieces first. Every write is a transaction that holds only
//! as long as this process leads (the key `lead/who` is as it was written at its election) and no
//! other has written (the key `head` names the newest record that it knows). So a leader that was
//! paused, cut off or replaced can't write, whatever it believes.

use super::{Lead, Log, Store, StoreError, follows, within};
use crate::etcd::{Etcd, EtcdError, Keys, delete, holds, put, written_at};
use espalier_proto::etcd::{Compare, RequestOp};
use std::future::Future;
use tokio::runtime::Handle;

/// Bytes that one request carries; etcd takes at most 1.5 MiB with all that is around them.
const PIECE: usize = 1 << 20;
/// First byte of a value that stands where it is.
const WHOLE: u8 = 0;
/// First byte of a value that says in which pieces it is: `NAME COUNT`.
const PIECES: u8 = 1;

/// Records in etcd. Its calls block: for a thread that may, outside async code.
#[derive(Debug)]
pub struct EtcdStore {
    runtime: Handle,
    etcd: Etcd,
    keys: Keys,
    /// Revision of the key `lead/who` as this process wrote it.
    term: i64,
    cluster: String,
    /// Number of the newest record.
    newest: u64,
    /// Number that the snapshot contains.
    oldest: u64,
    /// Numbers of the first records of each batch after the snapshot.
    batches: Vec<u64>,
}

impl EtcdStore {
    /// The store of the leader that was elected in `term`.
    ///
    /// # Errors
    ///
    /// etcd can't be read, or what it holds makes no sense.
    pub fn open(
        runtime: Handle,
        etcd: Etcd,
        keys: Keys,
        (term, cluster): (i64, String),
    ) -> Result<Self, StoreError> {
        let mut store = Self {
            runtime,
            etcd,
            keys,
            term,
            cluster,
            newest: 0,
            oldest: 0,
            batches: Vec::new(),
        };
        store.load()?;
        Ok(store)
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T, EtcdError>>) -> Result<T, StoreError> {
        Ok(self.runtime.block_on(future)?)
    }

    fn path(&self) -> String {
        format!("etcd at {}{}", self.etcd.endpoints(), self.keys.prefix())
    }

    fn corrupt(&self, detail: String) -> StoreError {
        StoreError::Corrupt {
            path: self.path(),
            detail,
        }
    }

    /// Writes `ops` if `also` holds and this process leads. False if not.
    fn write(&self, also: Option<Compare>, ops: Vec<RequestOp>) -> Result<bool, StoreError> {
        let mut compare = vec![written_at(&self.keys.who(), self.term)];
        compare.extend(also);
        let done = self.wait(self.etcd.txn(compare, ops))?;
        Ok(done.succeeded)
    }

    fn get(&self, key: &str) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
        let found = self.wait(self.etcd.get(key))?;
        Ok(found.map(|found| (found.mod_revision, found.value)))
    }

    fn fenced(&self) -> StoreError {
        StoreError::Fenced {
            path: self.path(),
            term: self.term,
        }
    }

    /// The value to write for `content`; what is too large for a request is written in pieces.
    fn place(&self, content: Vec<u8>, name: &str) -> Result<Vec<u8>, StoreError> {
        if content.len() <= PIECE {
            let mut value = vec![WHOLE];
            value.extend(content);
            return Ok(value);
        }
        let pieces = content.chunks(PIECE);
        let count = pieces.len();
        for (index, piece) in pieces.enumerate() {
            let op = put(&self.keys.part(name, index), piece.to_vec());
            if !self.write(None, vec![op])? {
                return Err(self.fenced());
            }
        }
        let mut value = vec![PIECES];
        value.extend(format!("{name} {count}").bytes());
        Ok(value)
    }

    /// What was placed.
    fn content(&self, value: Vec<u8>, what: &str) -> Result<Vec<u8>, StoreError> {
        let odd = || self.corrupt(format!("{what} is of no known form"));
        match value.split_first() {
            Some((&WHOLE, content)) => Ok(content.to_vec()),
            Some((&PIECES, place)) => {
                let place = std::str::from_utf8(place).map_err(|_| odd())?;
                let (name, count) = place.split_once(' ').ok_or_else(odd)?;
                let count: usize = count.parse().map_err(|_| odd())?;
                let (from, end) = self.keys.parts(name);
                let pieces = self.wait(self.etcd.range(&from, &end))?;
                if pieces.len() != count {
                    let found = pieces.len();
                    return Err(self.corrupt(format!("{what} has {found} of its {count} pieces")));
                }
                Ok(pieces.into_iter().flat_map(|piece| piece.value).collect())
            }
            _ => Err(odd()),
        }
    }

    /// Whether a write that was refused, or whose answer was lost, has been done all the same.
    fn was_done(&self, head: &str, key: &str, value: &[u8]) -> Result<bool, StoreError> {
        let leads = self
            .get(&self.keys.who())?
            .is_some_and(|(revision, _)| revision == self.term);
        if !leads {
            return Err(self.fenced());
        }
        let newest = self.get(&self.keys.head())?;
        let same = newest.is_some_and(|(_, newest)| newest == head.as_bytes());
        Ok(same && self.get(key)?.is_some_and(|(_, found)| found == value))
    }

    /// Reads all that is there.
    fn read(&mut self) -> Result<Log, StoreError> {
        let mut log = Log::default();
        if let Some((_, value)) = self.get(&self.keys.snapshot())? {
            let content = self.content(value, "the snapshot")?;
            let Some((applied, snapshot)) = content.split_first_chunk::<8>() else {
                return Err(self.corrupt("the snapshot has no number".into()));
            };
            log.snapshot = Some((u64::from_le_bytes(*applied), snapshot.to_vec()));
        }
        let oldest = log.snapshot.as_ref().map_or(0, |(applied, _)| *applied);
        let (from, end) = self.keys.records();
        let found = self.wait(self.etcd.range(&from, &end))?;
        let mut batches = Vec::new();
        for batch in found {
            let Some(first) = self.keys.first_of(&batch.key) else {
                let key = String::from_utf8_lossy(&batch.key).into_owned();
                return Err(self.corrupt(format!("{key} is no key of records")));
            };
            batches.push(first);
            let content = self.content(batch.value, &format!("the batch of record {first}"))?;
            let entries = unframe(&content)
                .ok_or_else(|| self.corrupt(format!("the batch of record {first} is cut off")))?;
            let numbered = (first..).zip(entries);
            log.entries
                .extend(numbered.filter(|(number, _)| *number > oldest));
        }
        let head = self.get(&self.keys.head())?;
        let head = head.map(|(_, head)| String::from_utf8_lossy(&head).into_owned());
        let newest = log.newest();
        if head.as_deref().unwrap_or("0") != newest.to_string() {
            let head = head.unwrap_or_default();
            return Err(self.corrupt(format!(
                "its newest record is {newest}, but its key `head` says {head:?}"
            )));
        }
        (self.newest, self.oldest, self.batches) = (newest, oldest, batches);
        Ok(log)
    }

    fn head_now(&self) -> Compare {
        match self.newest {
            0 => written_at(&self.keys.head(), 0),
            newest => holds(&self.keys.head(), &newest.to_string()),
        }
    }
}

impl Store for EtcdStore {
    fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<(), StoreError> {
        follows(self.newest, first)?;
        if entries.is_empty() {
            return Ok(());
        }
        let newest = self.newest + entries.len() as u64;
        let name = Keys::records_name(first, self.term);
        let value = self.place(frame(entries), &name)?;
        let (key, head) = (self.keys.record(first), newest.to_string());
        let ops = vec![
            put(&key, value.clone()),
            put(&self.keys.head(), head.clone().into_bytes()),
        ];
        if !self.write(Some(self.head_now()), ops)? && !self.was_done(&head, &key, &value)? {
            return Err(StoreError::Conflict {
                newest: self.newest,
                offered: first,
            });
        }
        self.newest = newest;
        self.batches.push(first);
        Ok(())
    }

    fn load(&mut self) -> Result<Log, StoreError> {
        match self.read() {
            // What another leader writes meanwhile is no damage.
            Err(StoreError::Corrupt { .. }) if !self.write(None, Vec::new())? => Err(self.fenced()),
            read => read,
        }
    }

    fn snapshot(&mut self, applied: u64, snapshot: &[u8]) -> Result<(), StoreError> {
        within(self.oldest, self.newest, applied)?;
        let mut content = applied.to_le_bytes().to_vec();
        content.extend(snapshot);
        let name = Keys::snapshot_name(applied, self.term);
        let value = self.place(content, &name)?;
        // Batches that end at or before `applied`: all before the one that holds the next record.
        let bound = match self
            .batches
            .iter()
            .rev()
            .find(|first| **first <= applied + 1)
        {
            Some(first) if applied < self.newest => *first,
            _ => applied + 1,
        };
        let (from, _) = self.keys.records();
        let ops = vec![
            put(&self.keys.snapshot(), value),
            delete(&from, &self.keys.record(bound)),
        ];
        if !self.write(None, ops)? {
            return Err(self.fenced());
        }
        self.oldest = applied;
        self.batches.retain(|first| *first >= bound);
        // Pieces of what was replaced. If this fails they are deleted at the next snapshot.
        let (records, _) = self.keys.parts_of("records-");
        let last = Keys::records_name(bound.saturating_sub(1), i64::MAX);
        let (_, records_end) = self.keys.parts_of(&last);
        let (snapshots, snapshots_end) = self.keys.parts_of("snapshot-");
        let (mine, mine_end) = self.keys.parts(&name);
        let ops = vec![
            delete(&records, &records_end),
            delete(&snapshots, &mine),
            delete(&mine_end, &snapshots_end),
        ];
        if let Err(error) = self.write(None, ops) {
            tracing::warn!("what a snapshot replaced stays until the next one: {error}");
        }
        Ok(())
    }

    fn lead(&self) -> Lead {
        Lead {
            term: u64::try_from(self.term).unwrap_or_default(),
            cluster: self.cluster.clone(),
        }
    }
}

/// Entries as one text of bytes: the length of each in 4 bytes, then the entry.
fn frame(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut all = Vec::with_capacity(entries.iter().map(|entry| entry.len() + 4).sum());
    for entry in entries {
        // An entry came in as one message, which is at most 1 GiB.
        let length = u32::try_from(entry.len()).unwrap_or(u32::MAX);
        all.extend(length.to_le_bytes());
        all.extend(entry);
    }
    all
}

/// The entries again; none if the bytes are no frame.
fn unframe(mut all: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut entries = Vec::new();
    while !all.is_empty() {
        let (length, rest) = all.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (entry, rest) = rest.split_at_checked(length)?;
        entries.push(entry.to_vec());
        all = rest;
    }
    Some(entries)
}

impl From<EtcdError> for StoreError {
    fn from(error: EtcdError) -> Self {
        match error {
            EtcdError::Away { endpoints, detail } => Self::Away {
                path: format!("etcd at {endpoints}"),
                detail,
            },
            EtcdError::Refused { endpoints, detail } => Self::Io {
                path: format!("etcd at {endpoints}"),
                source: std::io::Error::other(detail),
            },
            EtcdError::Address { .. } => Self::Io {
                path: "etcd".into(),
                source: std::io::Error::other(error.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: what goes into one value comes out of it, also nothing and empty entries; what was
    // cut off is noticed.
    #[test]
    fn frames() {
        let entries = vec![b"one".to_vec(), Vec::new(), vec![0; 70_000]];
        let bytes = frame(&entries);
        assert_eq!(unframe(&bytes).unwrap(), entries);
        assert_eq!(unframe(&[]).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(unframe(&bytes[..bytes.len() - 1]), None);
        assert_eq!(unframe(&bytes[..2]), None);
    }
}
