//! A store that forgets everything with the process: for tests.

use super::{Log, Store, StoreError, follows, within};

/// Records in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    log: Log,
}

impl Store for MemoryStore {
    fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<(), StoreError> {
        follows(self.log.newest(), first)?;
        self.log
            .entries
            .extend((first..).zip(entries.iter().cloned()));
        Ok(())
    }

    fn load(&mut self) -> Result<Log, StoreError> {
        Ok(self.log.clone())
    }

    fn snapshot(&mut self, applied: u64, snapshot: &[u8]) -> Result<(), StoreError> {
        let oldest = self
            .log
            .snapshot
            .as_ref()
            .map_or(0, |(applied, _)| *applied);
        within(oldest, self.log.newest(), applied)?;
        self.log.snapshot = Some((applied, snapshot.to_vec()));
        self.log.entries.retain(|(number, _)| *number > applied);
        Ok(())
    }
}
