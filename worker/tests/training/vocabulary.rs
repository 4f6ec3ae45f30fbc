//! New tokens of a pretrained decoder: rows beyond those that its files have.

use crate::kit::{Layout, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::job::Init;
use espalier_spec::plan::ExchangePlan;
use espalier_worker::engine::Sources;
use espalier_worker::generate::Sampling;
use espalier_worker::model::LM_HEAD;
use espalier_worker::predict::{Answer, Predictor};
use serde_json::{Value, json};
use std::path::Path;
use tch::{Device, Kind, Tensor};

const STEPS: u64 = 6;
/// Tokens of the toy's tokenizer, and how many of them the decoder was pretrained with.
const TOKENS: i64 = 34;
const KNOWN: i64 = 30;
/// Both ranks serve the task.
const RANKS: [&[u32]; 1] = [&[0, 1]];

/// A job on a decoder that was pretrained without the last tokens of the toy's tokenizer.
fn learn(dir: &Path, family: &str) -> JobSpec {
    let job = spec(dir, STEPS, |job| {
        let file = |split: &str| dir.join(format!("topic.{split}.jsonl"));
        job["tasks"] = json!([{
            "name": "language", "head": "causal_lm",
            "data": {"train": file("train"), "test": file("test"), "join": "apart"},
        }]);
        job["backbone"] = json!({
            "path": dir.join("model"), "pooling": "last", "extend_vocabulary": true,
        });
    });
    let config = match family {
        "gpt2" => json!({
            "model_type": "gpt2", "vocab_size": KNOWN, "n_embd": 32, "n_layer": 2, "n_head": 2,
            "n_positions": 16, "initializer_range": 0.1,
        }),
        _ => json!({
            "model_type": "llama", "vocab_size": KNOWN, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16,
            "initializer_range": 0.1, "tie_word_embeddings": false,
        }),
    };
    std::fs::write(dir.join("model/config.json"), config.to_string()).unwrap();
    let mut random = job.clone();
    random.backbone.init = Init::Random;
    random.backbone.extend_vocabulary = false;
    let sources = Sources::load(&random).unwrap();
    let backbone = sources.backbone(&random, Device::Cpu).unwrap();
    let mut tensors = backbone.export().unwrap();
    if family == "llama" {
        let matrix = backbone.decoder().unwrap().vocabulary().unwrap();
        tensors.push((LM_HEAD.to_owned(), matrix));
    }
    Tensor::write_safetensors(&tensors, dir.join("model/model.safetensors")).unwrap();
    job
}

// Promise: a decoder gets rows for tokens that it does not know: old rows stay as they are, new ones are
// their mean, in the word table and in a vocabulary matrix of its own alike.
#[test]
fn new_rows_begin_as_the_mean() {
    for family in ["gpt2", "llama"] {
        let folder = tempfile::tempdir().unwrap();
        let job = learn(folder.path(), family);
        let sources = Sources::load(&job).unwrap();
        let backbone = sources.backbone(&job, Device::Cpu).unwrap();
        let table = backbone.table().unwrap();
        let matrix = backbone.decoder().unwrap().vocabulary().unwrap();
        for rows in [table.weight().unwrap(), &matrix] {
            assert_eq!(rows.size(), [TOKENS, 32], "{family}");
            let known = rows.narrow(0, 0, KNOWN);
            let mean = known.mean_dim(&[0i64][..], true, Kind::Float);
            let new = rows.narrow(0, KNOWN, TOKENS - KNOWN);
            let distance = (new - mean).abs().max();
            assert!(distance.double_value(&[]) < 1e-6, "{family}");
        }
        let file = folder.path().join("model/model.safetensors");
        let stored = Tensor::read_safetensors(file).unwrap();
        let both = [(table.name(), table.weight().unwrap()), (LM_HEAD, &matrix)];
        for (name, rows) in both {
            let old = stored.iter().find(|(stored, _)| stored == name);
            if let Some((_, old)) = old {
                assert!(rows.narrow(0, 0, KNOWN).equal(old), "{family}: {name}");
            }
        }
    }
}

// Promise: neither sharding nor a resume changes a bit of a run with new tokens; its export has the new size
// and is read back, and goes on with tokens of one kind alone where that is asked for.
#[test]
fn extended_models_are_trained_and_read_back() {
    for family in ["gpt2", "llama"] {
        let folder = tempfile::tempdir().unwrap();
        let job = learn(folder.path(), family);
        let layout = |sharding| {
            let how = ExchangePlan {
                sharding,
                ..ExchangePlan::default()
            };
            Layout::new(2, &RANKS, how)
        };
        let once = train(&job, &layout(Sharding::Optimizer), STEPS);
        once.assert_same(&train(&job, &layout(Sharding::Full), STEPS), family);
        let halves = train_in_halves(&job, &layout(Sharding::Optimizer), STEPS);
        assert!(
            once.model == halves.model && once.heads == halves.heads,
            "{family}"
        );
        let export = once.folder.path().join("export");
        let config = std::fs::read(export.join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["vocab_size"], TOKENS, "{family}");

        let mut predictor = Predictor::load(&export).unwrap();
        // One of the new tokens, and no other one begins so.
        predictor.keep_to("pi").unwrap();
        let sampling = Sampling {
            max_new_tokens: 3,
            temperature: 1.0,
            ..Sampling::default()
        };
        let made = predictor.go_on("the", &[], (&sampling, 0)).unwrap();
        let Answer::Text { completion, .. } = &made["language"] else {
            panic!("no text: {made:?}");
        };
        assert_eq!(completion.trim(), "piano piano piano", "{family}");
        let error = predictor.keep_to("qq").unwrap_err().to_string();
        assert!(error.contains("begins with \"qq\""), "{error}");
    }
}

// Promise: a model that goes on with no texts is refused before training, with what to do.
#[test]
fn encoders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let job = spec(folder.path(), 1, |job| {
        job["backbone"]["extend_vocabulary"] = json!(true);
    });
    let error = Sources::load(&job).unwrap_err().to_string();
    assert!(
        error.contains("is for decoders (gpt2, llama): remove it"),
        "{error}"
    );
}
