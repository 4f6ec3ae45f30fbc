//! The main job from the job file to predictions.

use espalier_proto::v1::job::State;
use espalier_tests::{Cluster, espalier, job};
use serde_json::Value;

// Promise: two workers train three tasks of three kinds from two formats; every task beats its
// baseline on the test split, the export is complete and answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_train_three_tasks() {
    let mut cluster = Cluster::start().unwrap();
    cluster.worker("a", 1).await.unwrap();
    cluster.worker("b", 1).await.unwrap();
    cluster.submit(&job("main", cluster.toy(), 300)).unwrap();
    let done = cluster.wait_for("main", State::Succeeded).await.unwrap();
    let plan = done.plan.unwrap();
    assert_eq!(plan.seats.len(), 2, "every rank of the cluster is used");
    assert!(!plan.reasons.is_empty());

    let test = done.evaluations.iter().find(|e| e.split == "test").unwrap();
    for (task, metric) in [
        ("topic", "accuracy"),
        ("mentions", "macro_f1"),
        ("amount", "pearson"),
    ] {
        let scores = &test.tasks[task];
        assert_eq!(scores.samples, 48, "{task}");
        let (ours, base) = (scores.metrics[metric], scores.baseline[metric]);
        assert!(
            ours > base + 0.2,
            "{task}: {metric} {ours}, baseline {base}"
        );
    }

    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "heads.safetensors",
    ] {
        let path = std::path::Path::new(&done.export_path).join(file);
        assert!(path.is_file(), "{} is missing", path.display());
    }
    let args = ["predict", "--model", &done.export_path, "-o", "json"];
    let run = espalier(cluster.dir(), &args, "the old piano and violin\n").unwrap();
    assert_eq!(run.code, 0, "{}", run.said());
    let answer: Value = serde_json::from_str(run.stdout.trim()).unwrap();
    let text = answer.to_string();
    assert!(text.contains("music") && text.contains("amount"), "{text}");
}
