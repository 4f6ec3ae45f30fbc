//! A TorchScript module as the backbone of a job.

use crate::kit::{Layout, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::ExchangePlan;
use espalier_worker::engine::Sources;
use espalier_worker::predict::Predictor;
use espalier_worker::torch;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tch::{CModule, Device, Kind, Tensor};

const STEPS: u64 = 6;
/// Rank 0 serves two tasks, rank 1 two, one is shared.
const MIXED: [&[u32]; 3] = [&[0], &[0, 1], &[1]];
const WIDTH: i64 = 16;

fn layout(sharding: Sharding) -> Layout {
    let how = ExchangePlan {
        sharding,
        ..ExchangePlan::default()
    };
    Layout::new(2, &MIXED, how)
}

/// A job on a module that reads the toy's words; it gives one vector of each text.
fn job(dir: &Path) -> JobSpec {
    spec(dir, STEPS, |job| {
        let module = dir.join("module");
        fs::create_dir_all(&module).unwrap();
        fs::copy(
            dir.join("model/tokenizer.json"),
            module.join("tokenizer.json"),
        )
        .unwrap();
        let config = json!({"model_type": "espalier-torchscript", "width": WIDTH,
                            "modality": "text", "input": "ids"});
        fs::write(module.join("config.json"), config.to_string()).unwrap();
        let values = |size: &[i64]| {
            let numbers = Tensor::arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu));
            (numbers * 0.7 + 0.1).sin().view(size) * 0.3
        };
        let (table, weight, bias) = (
            values(&[64, WIDTH]),
            values(&[WIDTH, WIDTH]),
            values(&[WIDTH]),
        );
        let code = "def forward(self, ids):
  x = torch.tanh(torch.matmul(torch.embedding(self.table, ids), self.weight) + self.bias)
  return torch.mean(x, [1])
";
        let parameters = [("table", &table), ("weight", &weight), ("bias", &bias)];
        torch::write_script(&module.join("model.pt"), code, &parameters).unwrap();
        job["backbone"] = json!({"path": module});
    })
}

// Promise: a module trains like any backbone: the same bits with any sharding and after a resume, and it
// learns.
#[test]
fn the_same_bits_by_any_sharding() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path());
    let whole = train(&job, &layout(Sharding::Optimizer), STEPS);
    for sharding in [Sharding::None, Sharding::Full] {
        let other = train(&job, &layout(sharding), STEPS);
        other.assert_same(&whole, &format!("{sharding:?}"));
        let halves = train_in_halves(&job, &layout(sharding), STEPS);
        halves.assert_same(&whole, "in halves");
    }
}

// Promise: the export is a module that torch.jit.load reads, with the trained parameters; `predict` and a
// later job take it.
#[test]
fn an_export_is_a_module() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path());
    let outcome = train(&job, &layout(Sharding::Full), STEPS);
    let export = outcome.folder.path().join("export");
    let parameters = |path: &Path| -> BTreeMap<String, Tensor> {
        let module = CModule::load(path).unwrap();
        module.named_parameters().unwrap().into_iter().collect()
    };
    let before = parameters(&folder.path().join("module/model.pt"));
    let after = parameters(&export.join("model.pt"));
    let file = safetensors::SafeTensors::deserialize(&outcome.model).unwrap();
    assert!(after.keys().eq(before.keys()));
    for (name, tensor) in &after {
        assert_ne!(tensor, &before[name], "{name} was not trained");
        let bytes = file.tensor(name).unwrap().data().to_vec();
        let trained = Tensor::from_data_size(&bytes, &tensor.size(), Kind::Float);
        assert_eq!(tensor, &trained, "{name}");
    }
    let predictor = Predictor::load(&export).unwrap();
    assert_eq!(predictor.tasks(), ["topic", "mentions", "amount"]);
    job.backbone.path = export.to_str().unwrap().to_owned();
    assert!(Sources::load(&job).unwrap().profile(&job).is_ok());
}

// Promise: a head of words is refused where the module gives one vector of each text.
#[test]
fn heads_of_words_need_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path());
    let path = folder.path().join("tags.jsonl");
    let rows = "{\"tokens\": [\"apple\"], \"tags\": [\"B-x\"]}\n{\"tokens\": [\"ship\"], \"tags\": [\"O\"]}\n";
    fs::write(&path, rows).unwrap();
    job.tasks.truncate(1);
    let task = json!({"name": "words", "head": "tags", "data": {"train": path}});
    job.tasks[0] = serde_json::from_value(task).unwrap();
    let error = Sources::load(&job).unwrap().profile(&job).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("task words") && message.contains("each token"),
        "{message}"
    );
}
