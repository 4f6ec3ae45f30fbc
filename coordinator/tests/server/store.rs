//! One suite over every store.

use crate::kit::etcd::{Server, elect};
use espalier_coordinator::etcd::{Etcd, Keys};
use espalier_coordinator::store::{EtcdStore, MemoryStore, RedbStore, Store, StoreError};
use tokio::runtime::Runtime;

fn entries(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// Runs the suite; `reopen` closes a store and opens it again.
fn conforms<S: Store>(mut store: S, reopen: impl Fn(S) -> S) {
    // Promise: an empty store is empty, and numbers begin at 1.
    assert_eq!(store.load().unwrap().newest(), 0);
    assert!(matches!(
        store.append(2, &entries(&["a"])),
        Err(StoreError::Conflict {
            newest: 0,
            offered: 2
        })
    ));

    // Promise: what was appended comes back in order, also after reopening.
    store.append(1, &entries(&["a", "b"])).unwrap();
    store.append(3, &entries(&["c"])).unwrap();
    let mut store = reopen(store);
    let log = store.load().unwrap();
    assert_eq!(log.snapshot, None);
    assert_eq!(
        log.entries,
        [(1, b"a".to_vec()), (2, b"b".to_vec()), (3, b"c".to_vec())]
    );

    // Promise: a number is written once; a refused write changes nothing.
    assert!(matches!(
        store.append(3, &entries(&["x"])),
        Err(StoreError::Conflict { .. })
    ));
    assert!(matches!(
        store.append(5, &entries(&["x"])),
        Err(StoreError::Conflict { .. })
    ));
    assert_eq!(store.load().unwrap(), log);

    // Promise: a snapshot replaces the entries that it contains and no others.
    assert!(matches!(
        store.snapshot(4, b"s"),
        Err(StoreError::Conflict { .. })
    ));
    store.snapshot(2, b"ab").unwrap();
    let mut store = reopen(store);
    let log = store.load().unwrap();
    assert_eq!(log.snapshot, Some((2, b"ab".to_vec())));
    assert_eq!(log.entries, [(3, b"c".to_vec())]);
    assert!(matches!(
        store.snapshot(1, b"s"),
        Err(StoreError::Conflict { .. })
    ));

    // Promise: numbers go on after a snapshot of everything.
    store.snapshot(3, b"abc").unwrap();
    let mut store = reopen(store);
    store.append(4, &entries(&["d"])).unwrap();
    let log = store.load().unwrap();
    assert_eq!((log.newest(), log.entries.len()), (4, 1));
    assert_eq!(log.snapshot, Some((3, b"abc".to_vec())));
}

#[test]
fn memory_conforms() {
    conforms(MemoryStore::default(), |store| store);
}

#[test]
fn redb_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/on/demand");
    conforms(RedbStore::open(&path).unwrap(), |store| {
        drop(store);
        RedbStore::open(&path).unwrap()
    });
}

// Promise: two coordinators can't write one store.
#[test]
fn a_second_opener_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = RedbStore::open(directory.path()).unwrap();
    let error = RedbStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

// Promise: a damaged file is an error that names it, never an empty store or a panic.
#[test]
fn a_damaged_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("coordinator.redb");
    std::fs::write(
        &file,
        b"this is no database, but long enough to look at".repeat(200),
    )
    .unwrap();
    let error = RedbStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("coordinator.redb"), "{error}");
}

// Promise: a disk that can't be written is an error that names the place.
#[test]
fn an_unusable_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = RedbStore::open(&file.join("below")).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(error.to_string().contains("below"), "{error}");
}

// Promise: each opening of a store is a term of its own, of one cluster.
#[test]
fn terms_grow() {
    let directory = tempfile::tempdir().unwrap();
    let first = RedbStore::open(directory.path()).unwrap().lead();
    let second = RedbStore::open(directory.path()).unwrap().lead();
    assert_eq!((first.term, second.term), (1, 2));
    assert!(!first.cluster.is_empty());
    assert_eq!(first.cluster, second.cluster);
}

/// An etcd, and stores in it.
struct InEtcd {
    runtime: Runtime,
    _server: Server,
    etcd: Etcd,
    keys: Keys,
}

impl InEtcd {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let (server, etcd) = runtime.block_on(async {
            let server = Server::start().await;
            let etcd = server.etcd();
            (server, etcd)
        });
        Self {
            runtime,
            _server: server,
            etcd,
            keys: Keys::new("test"),
        }
    }

    fn elect(&self) -> i64 {
        self.runtime
            .block_on(elect(&self.etcd, &self.keys, "http://here"))
    }

    fn open(&self, term: i64) -> EtcdStore {
        let runtime = self.runtime.handle().clone();
        let identity = (term, "uid".to_owned());
        EtcdStore::open(runtime, self.etcd.clone(), self.keys.clone(), identity).unwrap()
    }

    /// Pieces of large values.
    fn pieces(&self, begin: &str) -> usize {
        let (from, end) = self.keys.parts_of(begin);
        self.runtime
            .block_on(self.etcd.range(&from, &end))
            .unwrap()
            .len()
    }
}

#[test]
fn etcd_conforms() {
    let etcd = InEtcd::new();
    let term = etcd.elect();
    conforms(etcd.open(term), |store| {
        drop(store);
        etcd.open(term)
    });
}

// Promise: a record or a snapshot that is larger than a request of etcd may be comes back whole, and
// nothing of what a snapshot replaced is left.
#[test]
fn etcd_keeps_large_values() {
    let etcd = InEtcd::new();
    let term = etcd.elect();
    let mut store = etcd.open(term);
    let large: Vec<u8> = (0..2_600_000_u32).map(|i| (i % 251) as u8).collect();
    store
        .append(1, &[b"small".to_vec(), large.clone()])
        .unwrap();
    assert_eq!(etcd.pieces("records-"), 3);
    let mut store = {
        drop(store);
        etcd.open(term)
    };
    let log = store.load().unwrap();
    assert!(log.entries == [(1, b"small".to_vec()), (2, large.clone())]);
    store.snapshot(2, &large).unwrap();
    assert_eq!((etcd.pieces("records-"), etcd.pieces("snapshot-")), (0, 3));
    store.append(3, &entries(&["c"])).unwrap();
    store.snapshot(3, &large[1..]).unwrap();
    assert_eq!(etcd.pieces("snapshot-"), 3);
    let log = etcd.open(term).load().unwrap();
    assert!(log.snapshot == Some((3, large[1..].to_vec())) && log.entries.is_empty());
}

// Promise: a leader that was replaced can write nothing, and what it tried is not seen; the new one
// goes on where the log is.
#[test]
fn etcd_fences() {
    let etcd = InEtcd::new();
    let mut old = etcd.open(etcd.elect());
    old.append(1, &entries(&["a"])).unwrap();
    let mut new = etcd.open(etcd.elect());
    for error in [
        old.append(2, &entries(&["lost"])).unwrap_err(),
        old.append(2, &[vec![0; 3_000_000]]).unwrap_err(),
        old.snapshot(1, b"lost").unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
        assert!(error.ends_lead() && !error.retryable());
    }
    new.append(2, &entries(&["b"])).unwrap();
    let log = new.load().unwrap();
    assert_eq!(log.entries, [(1, b"a".to_vec()), (2, b"b".to_vec())]);
    assert!(new.lead().term > old.lead().term);
}

// Promise: a write whose answer was lost can be tried again, and is done once; another one at its
// place is refused.
#[test]
fn etcd_writes_again() {
    let etcd = InEtcd::new();
    let term = etcd.elect();
    let (mut first, mut again, mut other) = (etcd.open(term), etcd.open(term), etcd.open(term));
    first.append(1, &entries(&["a", "b"])).unwrap();
    again.append(1, &entries(&["a", "b"])).unwrap();
    let error = other.append(1, &entries(&["x", "y"])).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    again.append(3, &entries(&["c"])).unwrap();
    assert_eq!(again.load().unwrap().entries.len(), 3);
}
