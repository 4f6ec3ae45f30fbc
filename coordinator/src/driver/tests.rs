use super::*;
use crate::store::MemoryStore;

// Promise: a worker that is refused reads why, even if it closed its side of the stream before the
// driver came to look at it.
#[tokio::test]
async fn a_refused_worker_reads_why() {
    let config = espalier_core::Config::new("1.0.0");
    let (driver, handle) = Driver::open(config, 1000, Box::new(MemoryStore::default())).unwrap();
    let hello = Hello {
        name: "stranger".into(),
        version: "9.9.9".into(),
        host: "elsewhere".into(),
        devices: vec!["cpu".into()],
        instance: "1".into(),
        running: Vec::new(),
    };
    // Both wait before the driver runs, so that it takes them together.
    let (connection, mut orders) = handle.connect(hello).await.unwrap();
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
