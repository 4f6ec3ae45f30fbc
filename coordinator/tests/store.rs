//! One suite over every store.
#![allow(clippy::unwrap_used)] // a test that can't go on fails here

use espalier_coordinator::store::{MemoryStore, RedbStore, Store, StoreError};

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
