//! Bad input through the whole cluster: each job fails with a code and names the place.

use espalier_proto::v1;
use espalier_proto::v1::job::State;
use espalier_tests::{Cluster, job};
use serde_json::{Value, json};
use std::fs;

async fn failure(cluster: &Cluster, spec: &Value) -> (v1::Failure, v1::Job) {
    cluster.submit(spec).unwrap();
    let name = spec["name"].as_str().unwrap();
    let job = cluster.wait_for(name, State::Failed).await.unwrap();
    (job.failure.clone().unwrap(), job)
}

/// A checkpoint has all its files at their full length.
fn whole(checkpoint: &str) {
    let dir = std::path::Path::new(checkpoint);
    let manifest = fs::read_to_string(dir.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    for file in manifest["files"].as_array().unwrap() {
        let path = dir.join(file["name"].as_str().unwrap());
        let bytes = fs::metadata(&path).unwrap().len();
        assert_eq!(bytes, file["bytes"].as_u64().unwrap(), "{}", path.display());
    }
}

/// A job fails with `code`, its message names all of `words`, and it would fail again.
async fn fails(cluster: &Cluster, spec: &Value, code: &str, words: &[&str]) {
    let (failure, _) = failure(cluster, spec).await;
    assert_eq!(failure.code, code, "{}", failure.message);
    assert!(!failure.retryable, "{failure:?}");
    for word in words {
        assert!(
            failure.message.contains(word),
            "{word:?} is not in: {}",
            failure.message
        );
    }
}

// Promise: wrong data ends the job with bad_data, the file and what is wrong in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data() {
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    let toy = cluster.toy().clone();
    let file = |name: &str, content: &str| {
        let path = toy.path(name);
        fs::write(&path, content).unwrap();
        path
    };

    let mut spec = job("label-set", &toy, 10);
    spec["tasks"][0]["data"]["labels"] = json!(["fruit", "traffic", "musik"]);
    fails(
        &cluster,
        &spec,
        "bad_data",
        &["topic.train.jsonl", "row ", "music", "musik"],
    )
    .await;

    let mut spec = job("column", &toy, 10);
    spec["tasks"][2]["data"]["columns"] = json!({"label": "lable"});
    fails(
        &cluster,
        &spec,
        "bad_data",
        &["amount.train.csv", "lable", "label"],
    )
    .await;

    let mut spec = job("empty", &toy, 10);
    spec["tasks"][1]["data"]["train"] = json!(file("empty.jsonl", ""));
    fails(&cluster, &spec, "bad_data", &["mentions", "empty.jsonl"]).await;

    let mut spec = job("no-json", &toy, 10);
    let good = "{\"text\": \"plum\", \"label\": \"fruit\"}\n";
    let bad = format!("{good}{good}{{\"text\": \"plum\n");
    spec["tasks"][0]["data"]["train"] = json!(file("cut.jsonl", &bad));
    fails(&cluster, &spec, "bad_data", &["cut.jsonl", "row 3"]).await;
}

// Promise: a wrong model directory ends the job with bad_model, the directory, the file and tensor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn model() {
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    let toy = cluster.toy().clone();
    // A whole pretrained directory to damage: what a job exports.
    let mut seed = job("seed", &toy, 1);
    seed["output"] = json!(toy.path("whole"));
    cluster.submit(&seed).unwrap();
    cluster.wait_for("seed", State::Succeeded).await.unwrap();

    let damaged = |name: &str, damage: &dyn Fn(&std::path::Path)| {
        let dir = toy.path(name);
        fs::create_dir(&dir).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(toy.path("whole").join(file), dir.join(file)).unwrap();
        }
        damage(&dir);
        let mut spec = job(name, &toy, 10);
        spec["backbone"] = json!({"path": dir});
        spec
    };
    let edit = |dir: &std::path::Path, field: &str, value: Value| {
        let path = dir.join("config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config[field] = value;
        fs::write(path, config.to_string()).unwrap();
    };

    let spec = damaged("truncated", &|dir| {
        let path = dir.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    });
    fails(
        &cluster,
        &spec,
        "bad_model",
        &["truncated", "model.safetensors"],
    )
    .await;

    let spec = damaged("weightless", &|dir| {
        fs::remove_file(dir.join("model.safetensors")).unwrap()
    });
    fails(
        &cluster,
        &spec,
        "bad_model",
        &["weightless", "model.safetensors"],
    )
    .await;

    let spec = damaged("configless", &|dir| {
        fs::remove_file(dir.join("config.json")).unwrap()
    });
    fails(&cluster, &spec, "bad_model", &["configless", "config.json"]).await;

    let spec = damaged("shape", &|dir| edit(dir, "intermediate_size", json!(96)));
    fails(
        &cluster,
        &spec,
        "bad_model",
        &["intermediate.dense", "96", "64"],
    )
    .await;

    let spec = damaged("strange", &|dir| edit(dir, "model_type", json!("mamba")));
    fails(&cluster, &spec, "bad_model", &["mamba", "bert"]).await;
}

// Promise: a loss that is no number ends the job with nan_loss and the task's name; the checkpoint
// before is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_is_no_number() {
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    let mut spec = job("nan", cluster.toy(), 200);
    // Straight up through the warm-up: the first steps are harmless.
    spec["training"]["optimizer"]["learning_rate"] = json!(1e30);
    spec["training"]["optimizer"]["head_learning_rate"] = json!(1e30);
    spec["checkpoint"] = json!({"every_steps": 1});
    let (failure, job) = failure(&cluster, &spec).await;
    assert_eq!(failure.code, "nan_loss", "{}", failure.message);
    let tasks = ["topic", "mentions", "amount"];
    assert!(
        tasks.iter().any(|task| failure.message.contains(task)),
        "{}",
        failure.message
    );
    let checkpoint = job.checkpoint.unwrap();
    assert!(checkpoint.step >= 1);
    whole(&checkpoint.path);
}

// Promise: when a checkpoint cannot be written the older one stays whole, training goes on, and the
// job's logs say which file could not be written; a pause that cannot write one is a pause all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_for_a_checkpoint() {
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    cluster
        .submit(&job("full", cluster.toy(), 1_000_000))
        .unwrap();
    cluster.checkpoint("full", 0).await.unwrap();
    cluster.limit_files("a", 30_000).unwrap();
    let line = cluster
        .log_line("full", |text| text.contains("checkpoint failed"))
        .await
        .unwrap();
    assert!(line.contains("safetensors"), "{line}");
    let job = cluster.job("full").await.unwrap();
    assert_eq!(job.state(), State::Running, "{}", job.state_reason);
    let checkpoint = job.checkpoint.unwrap();
    whole(&checkpoint.path);
    assert_eq!(cluster.cli(&["pause", "full"]).unwrap().code, 0);
    let paused = cluster.wait_for("full", State::Paused).await.unwrap();
    assert_eq!(paused.checkpoint.unwrap().path, checkpoint.path);
    assert_eq!(cluster.cli(&["cancel", "full"]).unwrap().code, 0);
}
