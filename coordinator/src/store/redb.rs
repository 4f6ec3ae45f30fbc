//! The embedded store: one redb file. Every write is one transaction that ends with fsync; the file
//! is locked while it is open.

use super::{Lead, Log, Store, StoreError, follows, within};
use redb::{
    CommitError, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError, TransactionError,
};
use std::fs::{self, File};
use std::path::Path;
use uuid::Uuid;

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
/// At most one row: the number that it contains, and the snapshot.
const SNAPSHOT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshot");

/// `cluster`: a UUID; `term`: how often the store was opened.
const IDENTITY: TableDefinition<'_, &str, &str> = TableDefinition::new("identity");

/// Name of the file in the data directory.
const FILE: &str = "coordinator.redb";

/// Records in a file of the data directory.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
    path: String,
    /// Number of the newest record.
    newest: u64,
    /// Number that the snapshot contains.
    oldest: u64,
    lead: Lead,
}

impl RedbStore {
    /// Opens the store of this data directory; makes both if need be.
    ///
    /// # Errors
    ///
    /// The directory can't be made, another coordinator has the store open, or its file is
    /// damaged.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let file = directory.join(FILE);
        let path = file.display().to_string();
        let io = |source| StoreError::Io {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(directory).map_err(|source| StoreError::Io {
            path: directory.display().to_string(),
            source,
        })?;
        let database =
            Database::create(&file).map_err(|error| from_database(error, path.clone()))?;
        // A new file is durable once its directory entry is.
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io)?;
        let mut store = Self {
            database,
            path,
            newest: 0,
            oldest: 0,
            lead: Lead::default(),
        };
        store.make_tables().map_err(|fault| store.error(fault))?;
        store.lead = store.take_lead().map_err(|fault| store.error(fault))?;
        let log = store.load()?;
        store.newest = log.newest();
        store.oldest = log.snapshot.map_or(0, |(applied, _)| applied);
        Ok(store)
    }

    fn make_tables(&self) -> Result<(), Fault> {
        let write = self.database.begin_write()?;
        write.open_table(RECORDS)?;
        write.open_table(SNAPSHOT)?;
        write.commit()?;
        Ok(())
    }

    /// The next term.
    fn take_lead(&self) -> Result<Lead, Fault> {
        let write = self.database.begin_write()?;
        let lead = {
            let mut identity = write.open_table(IDENTITY)?;
            let cluster = identity
                .get("cluster")?
                .map(|cluster| cluster.value().to_owned());
            let cluster = cluster.unwrap_or_else(|| Uuid::new_v4().to_string());
            let term = identity.get("term")?.map(|term| term.value().to_owned());
            let term = term.and_then(|term| term.parse::<u64>().ok()).unwrap_or(0) + 1;
            identity.insert("cluster", cluster.as_str())?;
            identity.insert("term", term.to_string().as_str())?;
            Lead { term, cluster }
        };
        write.commit()?;
        Ok(lead)
    }

    fn try_append(&self, first: u64, entries: &[Vec<u8>]) -> Result<(), Fault> {
        let write = self.database.begin_write()?;
        {
            let mut records = write.open_table(RECORDS)?;
            for (number, entry) in (first..).zip(entries) {
                records.insert(number, entry.as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }

    fn try_load(&self) -> Result<Log, Fault> {
        let read = self.database.begin_read()?;
        let mut log = Log::default();
        for row in read.open_table(SNAPSHOT)?.iter()? {
            let (applied, snapshot) = row?;
            log.snapshot = Some((applied.value(), snapshot.value().to_vec()));
        }
        for row in read.open_table(RECORDS)?.iter()? {
            let (number, record) = row?;
            log.entries.push((number.value(), record.value().to_vec()));
        }
        Ok(log)
    }

    fn try_snapshot(&self, applied: u64, snapshot: &[u8]) -> Result<(), Fault> {
        let write = self.database.begin_write()?;
        {
            let mut snapshots = write.open_table(SNAPSHOT)?;
            snapshots.retain(|_, _| false)?;
            snapshots.insert(applied, snapshot)?;
            write
                .open_table(RECORDS)?
                .retain_in(..=applied, |_, _| false)?;
        }
        write.commit()?;
        Ok(())
    }

    fn error(&self, fault: Fault) -> StoreError {
        let path = self.path.clone();
        match fault {
            Fault::Storage(error) => from_storage(error, path),
            Fault::Other(detail) => StoreError::Corrupt { path, detail },
        }
    }
}

impl Store for RedbStore {
    fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<(), StoreError> {
        follows(self.newest, first)?;
        self.try_append(first, entries)
            .map_err(|fault| self.error(fault))?;
        self.newest += entries.len() as u64;
        Ok(())
    }

    fn load(&mut self) -> Result<Log, StoreError> {
        self.try_load().map_err(|fault| self.error(fault))
    }

    fn snapshot(&mut self, applied: u64, snapshot: &[u8]) -> Result<(), StoreError> {
        within(self.oldest, self.newest, applied)?;
        self.try_snapshot(applied, snapshot)
            .map_err(|fault| self.error(fault))?;
        self.oldest = applied;
        Ok(())
    }

    fn lead(&self) -> Lead {
        self.lead.clone()
    }
}

/// Every error of redb but those of opening, in two kinds.
enum Fault {
    Storage(StorageError),
    Other(String),
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<TableError> for Fault {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => Self::Storage(error),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<TransactionError> for Fault {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => Self::Storage(error),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<CommitError> for Fault {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => Self::Storage(error),
            other => Self::Other(other.to_string()),
        }
    }
}

fn from_database(error: DatabaseError, path: String) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
        DatabaseError::Storage(error) => from_storage(error, path),
        other => StoreError::Corrupt {
            path,
            detail: other.to_string(),
        },
    }
}

fn from_storage(error: StorageError, path: String) -> StoreError {
    match error {
        // redb says so of a file that is not its own.
        StorageError::Io(source) if source.kind() == std::io::ErrorKind::InvalidData => {
            StoreError::Corrupt {
                path,
                detail: source.to_string(),
            }
        }
        StorageError::Io(source) => StoreError::Io { path, source },
        StorageError::Corrupted(detail) => StoreError::Corrupt { path, detail },
        other => StoreError::Io {
            path,
            source: std::io::Error::other(other.to_string()),
        },
    }
}
