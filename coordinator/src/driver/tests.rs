use super::*;
use crate::store::{Log, MemoryStore, StoreError};
use espalier_core::Outcome;
use espalier_spec::Generation;
use std::io::ErrorKind::StorageFull;

fn hello(name: &str, version: &str) -> Hello {
    Hello {
        name: name.into(),
        version: version.into(),
        host: "elsewhere".into(),
        devices: vec!["cpu".into()],
        instance: name.into(),
        running: Vec::new(),
        preempted: false,
    }
}

fn open(store: impl Store, snapshot_every: u64) -> (Driver, Handle) {
    let config = espalier_core::Config::new("1.0.0");
    Driver::open(config, snapshot_every, Box::new(store)).unwrap()
}

/// A store in memory that has no room for snapshots.
#[derive(Default)]
struct Full(MemoryStore);

impl Store for Full {
    fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<(), StoreError> {
        self.0.append(first, entries)
    }

    fn load(&mut self) -> Result<Log, StoreError> {
        self.0.load()
    }

    fn snapshot(&mut self, _applied: u64, _snapshot: &[u8]) -> Result<(), StoreError> {
        Err(StoreError::Io {
            path: "memory".into(),
            source: StorageFull.into(),
        })
    }
}

/// A store in memory whose writes say that they have begun and wait until they may go on.
struct Slow {
    kept: MemoryStore,
    begun: mpsc::UnboundedSender<()>,
    go_on: std::sync::mpsc::Receiver<()>,
}

impl Store for Slow {
    fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<(), StoreError> {
        self.begun.send(()).unwrap();
        self.go_on.recv().unwrap();
        self.kept.append(first, entries)
    }

    fn load(&mut self) -> Result<Log, StoreError> {
        self.kept.load()
    }

    fn snapshot(&mut self, applied: u64, snapshot: &[u8]) -> Result<(), StoreError> {
        self.kept.snapshot(applied, snapshot)
    }
}

// Promise: a worker that is refused reads why, even if it closed its side of the stream before the
// driver came to look at it.
#[tokio::test]
async fn a_refused_worker_reads_why() {
    let (driver, handle) = open(MemoryStore::default(), 1000);
    let stranger = hello("stranger", "9.9.9");
    // Both wait before the driver runs, so that it takes them together.
    let (connection, mut orders) = handle.connect(stranger).await.unwrap();
    let conn = connection.conn;
    handle
        .report(Event::WorkerDisconnected { conn })
        .await
        .unwrap();
    let (stop, stopped) = watch::channel(false);
    let driving = tokio::spawn(driver.run(stopped));
    let answer = orders
        .recv()
        .await
        .expect("the stream ended without a word");
    let said = answer.unwrap_err().to_string();
    assert!(said.contains("9.9.9") && said.contains("1.0.0"), "{said}");
    stop.send(true).unwrap();
    driving.await.unwrap().unwrap();
}

// Promise: a store that can't be compacted ends no lead: what is written stays written, and workers are
// taken in as before.
#[tokio::test]
async fn a_log_that_only_grows_is_no_end() {
    let (driver, handle) = open(Full::default(), 1);
    let (stop, stopped) = watch::channel(false);
    let driving = tokio::spawn(driver.run(stopped));
    for name in ["a", "b"] {
        let (_connection, mut orders) = handle.connect(hello(name, "1.0.0")).await.unwrap();
        let first = orders.recv().await.expect("the driver has ended");
        assert!(matches!(first, Ok(Order::Welcome { .. })), "{first:?}");
    }
    stop.send(true).unwrap();
    driving.await.unwrap().unwrap();
}

// Promise: a disk that is slow makes nobody look dead: heartbeats count from when they came, not from when
// the driver came to read them.
#[tokio::test]
async fn a_slow_write_makes_nobody_late() {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let (go_on, wait) = std::sync::mpsc::channel();
    let store = Slow {
        kept: MemoryStore::default(),
        begun,
        go_on: wait,
    };
    let (driver, handle) = open(store, 1000);
    let (stop, stopped) = watch::channel(false);
    let mut workers = Vec::new();
    for name in ["a", "b"] {
        workers.push(handle.connect(hello(name, "1.0.0")).await.unwrap());
    }
    let driving = tokio::spawn(driver.run(stopped));
    begins.recv().await.unwrap();
    // While this write waits, twice the time passes after which a silent worker is gone.
    let config = espalier_core::Config::new("1.0.0");
    let beat = config.heartbeat_interval_ms;
    for _ in 0..2 * config.gone_after_ms / beat {
        handle.clock.pass(Duration::from_millis(beat));
        for (connection, _) in &workers {
            let (conn, running) = (connection.conn, Vec::new());
            handle
                .report(Event::Heartbeat { conn, running })
                .await
                .unwrap();
        }
    }
    // For whatever else is to be written.
    (0..100).for_each(|_| go_on.send(()).unwrap());
    let known = handle.read(|machine| machine.workers().len()).await;
    assert_eq!(known.unwrap(), 2);
    for (_, orders) in &mut workers {
        let first = orders.recv().await;
        assert!(
            matches!(first, Some(Ok(Order::Welcome { .. }))),
            "{first:?}"
        );
        assert!(orders.is_empty() && !orders.is_closed());
    }
    stop.send(true).unwrap();
    driving.await.unwrap().unwrap();
}

// Promise: a report is acknowledged only once all that was decided with it is durable; one that comes again, be it
// on another stream, is acknowledged once more and changes nothing.
#[tokio::test]
async fn what_is_acknowledged_is_durable() {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let (go_on, wait) = std::sync::mpsc::channel();
    let store = Slow {
        kept: MemoryStore::default(),
        begun,
        go_on: wait,
    };
    let (driver, handle) = open(store, 1000);
    let (mut first, _orders) = handle.connect(hello("w", "1.0.0")).await.unwrap();
    // Nobody gave the worker this generation: the machine counts the report as stale.
    let stopped_as = |conn| Event::Stopped {
        conn,
        job: "unknown".into(),
        generation: Generation(1),
        outcome: Outcome::Ordered,
    };
    let event = stopped_as(first.conn);
    handle.deliver(first.conn, 7, event).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let driving = tokio::spawn(driver.run(stopped));
    begins.recv().await.unwrap();
    assert!(!first.acknowledged.has_changed().unwrap());
    (0..100).for_each(|_| go_on.send(()).unwrap());
    first.acknowledged.changed().await.unwrap();
    assert_eq!(*first.acknowledged.borrow_and_update(), 7);

    let (mut second, _orders) = handle.connect(hello("w", "1.0.0")).await.unwrap();
    for sequence in [6, 7] {
        let event = stopped_as(second.conn);
        handle.deliver(second.conn, sequence, event).await.unwrap();
    }
    second.acknowledged.changed().await.unwrap();
    assert_eq!(*second.acknowledged.borrow_and_update(), 7);
    let stale = handle.read(|machine| machine.cluster().stale_reports).await;
    assert_eq!(stale.unwrap(), 1);
    stop.send(true).unwrap();
    driving.await.unwrap().unwrap();
}
