//! Checkpoints that are copied to a real S3 server.

use super::fetch::Stores;
use espalier_proto::v1::job::State;
use espalier_tests::{Cluster, job};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const STEPS: u64 = 400;

fn spec(cluster: &Cluster, name: &str) -> Value {
    let mut spec = job(name, cluster.toy(), STEPS);
    spec["resources"] = json!({"ranks": 2, "shards": 2});
    spec
}

async fn finish(cluster: &Cluster, name: &str) -> Vec<Vec<u8>> {
    let done = cluster.wait_for(name, State::Succeeded).await.unwrap();
    let export = Path::new(&done.export_path);
    let files = ["model.safetensors", "heads.safetensors"];
    files.map(|f| fs::read(export.join(f)).unwrap()).to_vec()
}

// Promise: a paused job whose worker and checkpoints are gone goes on from their copies, and ends with the bytes of
// one that was never stopped; nobody reads a secret in a log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_checkpoints_come_back() {
    let mut cluster = Cluster::start().unwrap();
    let stores = Stores::serve(&cluster.toy().dir);
    cluster.variables = stores.variables();
    cluster.worker("a", 2).await.unwrap();
    cluster.submit(&spec(&cluster, "calm")).unwrap();
    let calm = finish(&cluster, "calm").await;

    let mut copied = spec(&cluster, "copied");
    copied["checkpoint"]["upload"] = json!("s3://bucket/copies");
    cluster.submit(&copied).unwrap();
    cluster.checkpoint("copied", 0).await.unwrap();
    assert_eq!(cluster.cli(&["pause", "copied"]).unwrap().code, 0);
    let paused = cluster.wait_for("copied", State::Paused).await.unwrap();
    let checkpoint = PathBuf::from(paused.checkpoint.unwrap().path);
    cluster.kill_worker("a");
    fs::remove_dir_all(checkpoint.parent().unwrap()).unwrap();
    cluster.worker("b", 2).await.unwrap();
    assert_eq!(cluster.cli(&["resume", "copied"]).unwrap().code, 0);
    assert!(finish(&cluster, "copied").await == calm, "other bytes");
    for entry in fs::read_dir(cluster.dir().join("logs")).unwrap() {
        let log = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!log.contains("never-to-be-seen"), "{log}");
    }
}
