//! Training on real data sets in Parquet; `make test-data` runs it. `ESPALIER_DATA` is their folder,
//! `ESPALIER_MINILM` the model's; both have defaults.
#![allow(clippy::unwrap_used)] // a test that can't go on fails here

use espalier_proto::v1::job::State;
use espalier_tests::Cluster;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// A folder from the environment, else from the repository; it must be there.
fn folder(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| root().join(default), PathBuf::from);
    assert!(
        path.is_dir(),
        "there is no {}: set {variable}",
        path.display()
    );
    path.canonicalize().unwrap()
}

fn job(name: &str, data: &Path) -> Value {
    let file = |set: &str, split: &str| data.join(set).join(format!("{split}.parquet"));
    json!({
        "name": name,
        "seed": 1,
        "backbone": {
            "path": folder("ESPALIER_MINILM", ".espalier/models/all-MiniLM-L6-v2"),
            "max_tokens": 48
        },
        "tasks": [
            {"name": "sentiment", "head": "single_label", "data": {
                "train": file("sst2", "train"), "validation": file("sst2", "validation"),
                "test": file("sst2", "test")}},
            {"name": "question", "head": "single_label", "data": {
                "train": file("trec6", "train"), "test": file("trec6", "test")}}
        ],
        "training": {"steps": 60, "batch_size": 32,
                     "optimizer": {"learning_rate": 2e-4, "head_learning_rate": 5e-3}}
    })
}

// Promise: 60 steps on SST-2 and TREC together are enough for accuracies far above the most
// frequent class: 0.50 and 0.19.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs data sets and a pretrained model: make test-data"]
async fn sst2_and_trec() {
    let data = folder("ESPALIER_DATA", "../shared/data");
    let mut cluster = Cluster::start().unwrap();
    cluster.patience = Duration::from_secs(400);
    cluster.worker("a", 1).await.unwrap();
    cluster.worker("b", 1).await.unwrap();
    cluster.submit(&job("real", &data)).unwrap();
    let done = cluster.wait_for("real", State::Succeeded).await.unwrap();
    let test = done.evaluations.iter().find(|e| e.split == "test").unwrap();
    for (task, samples, least) in [("sentiment", 1821, 0.75), ("question", 500, 0.7)] {
        let scores = &test.tasks[task];
        assert_eq!(scores.samples, samples, "{task}");
        let (ours, base) = (scores.metrics["accuracy"], scores.baseline["accuracy"]);
        println!("{task}: accuracy {ours:.3}, most frequent class {base:.3}");
        assert!(
            ours >= least && ours > base + 0.2,
            "{task}: {ours}, baseline {base}"
        );
    }
}

/// A job that trains a small network from nothing on images or sounds.
fn convnet(dir: &Path, set: &str, model: [Value; 2], training: Value) -> Value {
    let data = folder("ESPALIER_DATA", "../shared/data");
    let file = |split: &str| data.join(set).join(format!("{split}.parquet"));
    let path = dir.join(format!("{set}-model"));
    fs::create_dir_all(&path).unwrap();
    for (name, content) in ["config.json", "preprocessor_config.json"]
        .iter()
        .zip(model)
    {
        fs::write(path.join(name), content.to_string()).unwrap();
    }
    json!({
        "name": set, "seed": 1, "backbone": {"path": path, "init": "random"},
        "tasks": [{"name": "digit", "head": "single_label", "data": {
            "train": file("train"), "test": file("test")}}],
        "training": training
    })
}

async fn digits(cluster: &mut Cluster, spec: &Value, samples: u64, least: f64) -> f64 {
    cluster.submit(spec).unwrap();
    let name = spec["name"].as_str().unwrap();
    let done = cluster.wait_for(name, State::Succeeded).await.unwrap();
    let test = done.evaluations.iter().find(|e| e.split == "test").unwrap();
    let scores = &test.tasks["digit"];
    assert_eq!(scores.samples, samples);
    let accuracy = scores.metrics["accuracy"];
    assert!(accuracy >= least, "{name}: {accuracy}");
    accuracy
}

// Promise: real PNGs in Hugging Face's structs train a small network on two ranks; a thousand steps bring
// it far above the most frequent class (0.11).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs data sets: make test-data"]
async fn mnist() {
    let mut cluster = Cluster::start().unwrap();
    cluster.patience = Duration::from_secs(400);
    cluster.worker("a", 1).await.unwrap();
    cluster.worker("b", 1).await.unwrap();
    let dir = cluster.dir().to_owned();
    let training = |steps: u64| {
        json!({"steps": steps, "batch_size": 32,
               "optimizer": {"learning_rate": 3e-3, "head_learning_rate": 3e-3}})
    };
    let network = json!({"model_type": "espalier-convnet", "num_channels": 1,
                         "image_size": 28, "hidden_sizes": [16, 32, 64, 128]});
    let pixels = json!({"image_mean": [0.13], "image_std": [0.31]});
    let spec = convnet(&dir, "mnist", [network, pixels], training(1000));
    let accuracy = digits(&mut cluster, &spec, 10_000, 0.85).await;
    println!("mnist: accuracy {accuracy:.3}");
}

// Promise: a Parquet file that is cut off ends the job with bad_data and the file's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs data sets and a pretrained model: make test-data"]
async fn cut_off_parquet() {
    let data = folder("ESPALIER_DATA", "../shared/data");
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    let bytes = fs::read(data.join("trec6/train.parquet")).unwrap();
    let path = cluster.dir().join("cut.parquet");
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let mut spec = job("cut", &data);
    spec["tasks"][1]["data"]["train"] = json!(path);
    cluster.submit(&spec).unwrap();
    let failure = cluster
        .wait_for("cut", State::Failed)
        .await
        .unwrap()
        .failure;
    let failure = failure.unwrap();
    assert_eq!(failure.code, "bad_data", "{}", failure.message);
    assert!(
        failure.message.contains("cut.parquet"),
        "{}",
        failure.message
    );
}
