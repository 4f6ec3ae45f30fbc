//! Data and models by URL, from a real S3 server and an HTTP server.

use espalier_proto::v1::job::State;
use espalier_tests::{Cluster, espalier, job};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Both servers over a folder; they end when their standard input does.
pub struct Stores {
    child: Child,
    pub s3: String,
    http: String,
}

impl Stores {
    /// What workers are told of the S3 server.
    pub fn variables(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT_URL", self.s3.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "never-to-be-seen"),
        ];
        let own = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        own.to_vec()
    }

    pub fn serve(folder: &Path) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let packages = root.join(".espalier/pys3");
        assert!(
            packages.is_dir(),
            "there is no {}: run python3 deploy/setup/setup.py s3",
            packages.display()
        );
        let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        let mut child = Command::new(python)
            .arg(root.join("tests/python/stores.py"))
            .arg(folder)
            .env("PYTHONPATH", packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| said[name].as_str().unwrap().to_owned();
        Self {
            s3: address("s3"),
            http: address("http"),
            child,
        }
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spec(name: &str, cluster: &Cluster) -> Value {
    let mut spec = job(name, cluster.toy(), 10);
    spec["resources"] = json!({"ranks": 2});
    spec
}

// Promise: a job whose model and data are URLs ends with the bytes of one that reads the same files, with
// two workers that share a cache; a key that isn't there ends a job with the URL, and no secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urls() {
    let mut cluster = Cluster::start().unwrap();
    let stores = Stores::serve(&cluster.toy().dir);
    cluster.variables = stores.variables();
    cluster.worker("a", 1).await.unwrap();
    cluster.worker("b", 1).await.unwrap();
    cluster.submit(&spec("paths", &cluster)).unwrap();

    let mut remote = spec("urls", &cluster);
    remote["backbone"]["path"] = json!("s3://bucket/model");
    let data = &mut remote["tasks"][0]["data"];
    data["train"] = json!(["s3://bucket/topic.train.jsonl"]);
    data["validation"] = json!(format!("{}/topic.validation.jsonl", stores.http));
    let test = cluster.toy().path("topic.test.jsonl");
    data["test"] = json!(format!("file://{}", test.display()));
    cluster.submit(&remote).unwrap();

    let mut missing = remote.clone();
    missing["name"] = json!("missing");
    missing["tasks"][0]["data"]["train"] = json!("s3://bucket/nowhere.jsonl");
    cluster.submit(&missing).unwrap();

    let mut models = Vec::new();
    for name in ["paths", "urls"] {
        let done = cluster.wait_for(name, State::Succeeded).await.unwrap();
        let export = Path::new(&done.export_path);
        models.push(
            ["model.safetensors", "heads.safetensors"].map(|f| fs::read(export.join(f)).unwrap()),
        );
        assert!(export.join("tokenizer.json").is_file());
    }
    assert!(models[0] == models[1], "URLs and paths give other bytes");

    let failed = cluster.wait_for("missing", State::Failed).await.unwrap();
    let failure = failed.failure.unwrap();
    assert_eq!(failure.code, "fetch", "{}", failure.message);
    let parts = ["s3://bucket/nowhere.jsonl", "not found", &stores.s3];
    for part in parts {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
    for entry in fs::read_dir(cluster.dir().join("logs")).unwrap() {
        let log = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!log.contains("never-to-be-seen"), "{log}");
    }
}

// Promise: URLs are checked without a cluster and without a network.
#[test]
fn validated_offline() {
    let dir = tempfile::tempdir().unwrap();
    let text = |train: &str| {
        format!(
            "name: far\nbackbone: {{path: s3://bucket/model}}\ntasks:\n  - name: topic\n    head: single_label\n    data: {{train: '{train}'}}\n"
        )
    };
    let validate = |train: &str| {
        fs::write(dir.path().join("job.yaml"), text(train)).unwrap();
        espalier(dir.path(), &["validate", "job.yaml"], "").unwrap()
    };
    let good = validate("https://host.invalid/topic.parquet?signature=1");
    assert_eq!(
        (good.code, good.stderr.as_str()),
        (0, ""),
        "{}",
        good.said()
    );
    for (train, part) in [
        ("gs://bucket/topic.parquet", "`gs`"),
        ("s3://bucket", "no key"),
        ("https://host/topic.tsv?signature=1", ".tsv"),
    ] {
        let bad = validate(train);
        assert_eq!(bad.code, 1, "{}", bad.said());
        let said = bad.said();
        assert!(
            said.contains("tasks[0].data.train") && said.contains(part),
            "{said}"
        );
    }
}
