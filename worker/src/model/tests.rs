//! Every family of backbones against transformers' numbers; `tests/golden/backbones.py` made them.

use super::*;
use crate::torch;
use espalier_spec::job::LoraSpec;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tch::Kind;

mod convnet;
mod dropout;
mod llama;
mod resnet;
mod virtual_tokens;
mod weights;

const TEXTS: [&[u32]; 4] = [&[3, 4, 7, 2], &[3, 9], &[5, 6, 8, 10, 2, 3], &[9, 2]];
const IMAGES: usize = 3;
const SHAPE: [i64; 3] = [2, 6, 6];
/// Where the second text of each begins, in the family `pairs`: BERT that reads pairs of texts.
const SECONDS: [Option<u32>; 4] = [Some(2), None, Some(5), Some(1)];
const FAMILIES: [&str; 14] = [
    "bert",
    "pairs",
    "roberta",
    "distilbert",
    "mpnet",
    "vit",
    "ast",
    "resnet",
    "bottleneck",
    "gpt2",
    "llama",
    "llama_tied",
    "llama_linear",
    "llama_3",
];
/// What these take.
const LARGE: [i64; 3] = [2, 18, 18];
/// Of sounds: mel bins and frames.
const SOUND: [i64; 3] = [1, 10, 13];
const DECODERS: [&str; 5] = ["gpt2", "llama", "llama_tied", "llama_linear", "llama_3"];

fn golden() -> Value {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

fn options(init: Init, pooling: Pooling) -> Options {
    Options {
        init,
        seed: 1,
        tuning: Tuning::All,
        pooling,
        dropout: None,
        device: Device::Cpu,
    }
}

/// Writes the configuration, and weights by the formula that the golden numbers were made with.
fn directory(dir: &Path, config: &Value) -> Source {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let source = Source::open(dir).unwrap();
    let kind = config["model_type"].as_str().unwrap();
    if kind == "resnet" {
        let size = serde_json::json!({"size": {"shortest_edge": LARGE[1]}});
        std::fs::write(dir.join("preprocessor_config.json"), size.to_string()).unwrap();
    }
    let has_pooler = !["distilbert", "gpt2", "llama", "espalier-convnet"].contains(&kind);
    let pooling = if has_pooler {
        Pooling::Pooler
    } else {
        Pooling::Mean
    };
    let empty = build(&source, &options(Init::Random, pooling)).unwrap();
    let mut tensors = empty.tensors().unwrap();
    tensors.sort_by(|one, other| one.0.cmp(&other.0));
    for (k, (name, tensor)) in tensors.iter_mut().enumerate() {
        let is_norm = name.to_lowercase().contains("norm") && name.ends_with("weight")
            || name.ends_with("running_var");
        *tensor = values(k, &tensor.size(), f64::from(u8::from(is_norm)));
    }
    if config["tie_word_embeddings"] == false
        || kind == "llama" && config.get("tie_word_embeddings").is_none()
    {
        let size = empty.table().unwrap().weight().unwrap().size();
        tensors.push((LM_HEAD.to_owned(), values(100, &size, 0.0)));
    }
    Tensor::write_safetensors(&tensors, dir.join("model.safetensors")).unwrap();
    source
}

/// Number j of tensor k by the golden numbers' formula.
fn values(k: usize, size: &[i64], start: f64) -> Tensor {
    let count = size.iter().product::<i64>() as usize;
    let value = |j: usize| (start + 0.2 * (k as f64 + 0.7 * j as f64).sin()) as f32;
    let values: Vec<f32> = (0..count).map(value).collect();
    Tensor::from_slice(&values).view(size)
}

fn batch(family: &str) -> Batch {
    if family == "pairs" {
        let keys = [1, 2, 3, 4];
        let pairs = TokenBatch::pack_pairs(&TEXTS, &SECONDS, &keys, Device::Cpu);
        return Batch::Tokens(pairs.unwrap());
    }
    let shape = match family {
        "vit" => SHAPE,
        "ast" => SOUND,
        "resnet" | "bottleneck" => LARGE,
        _ => [0; 3],
    };
    if shape[0] == 0 {
        return Batch::Tokens(TokenBatch::pack(&TEXTS, &[1, 2, 3, 4], Device::Cpu).unwrap());
    }
    let length = shape.iter().product::<i64>() as usize;
    let pixel = |j: usize| (0.3 * j as f64).sin() as f32;
    let pixels: Vec<f32> = (0..IMAGES * length).map(pixel).collect();
    let samples: Vec<&[f32]> = pixels.chunks(length).collect();
    images(&samples, &[1, 2, 3], shape, Device::Cpu).unwrap()
}

fn forward<'a>(backbone: &'a dyn Backbone, batch: &'a Batch, train: bool) -> Pass<'a> {
    let ctx = Context {
        train,
        ..Context::default()
    };
    Pass::forward(backbone, batch, &ctx, |_| Ok::<(), Error>(())).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let all = value.as_array().unwrap().iter();
    all.map(|number| number.as_f64().unwrap()).collect()
}

// Promise: features of every family are those of transformers, whatever the pooling, to 1e-5.
#[test]
fn features_are_those_of_transformers() {
    let golden = golden();
    for family in FAMILIES {
        let dir = tempfile::tempdir().unwrap();
        let source = directory(dir.path(), &golden[family]["config"]);
        let batch = batch(family);
        for (name, expected) in golden[family]["features"].as_object().unwrap() {
            let pooling = serde_json::from_value(Value::from(name.as_str())).unwrap();
            let backbone = build(&source, &options(Init::Pretrained, pooling)).unwrap();
            let pass = forward(backbone.as_ref(), &batch, false);
            let features = pass.features().unwrap().flatten(0, -1);
            let found = torch::data(&features).unwrap();
            let expected = numbers(expected);
            assert_eq!(found.len(), expected.len(), "{family}, {name}");
            for (found, expected) in found.iter().zip(&expected) {
                let error = (f64::from(*found) - expected).abs();
                let most = 1e-5 * (1.0 + expected.abs());
                assert!(error < most, "{family}, {name}: {found}, not {expected}");
            }
        }
    }
}

// Promise: gradients of every family are those of PyTorch's autograd, tensor by tensor.
#[test]
fn gradients_are_those_of_transformers() {
    let golden = golden();
    for family in FAMILIES {
        let dir = tempfile::tempdir().unwrap();
        let source = directory(dir.path(), &golden[family]["config"]);
        let batch = batch(family);
        let backbone = build(&source, &options(Init::Pretrained, Pooling::Mean)).unwrap();
        let pass = forward(backbone.as_ref(), &batch, true);
        let size = pass.features().unwrap().size();
        let count = size.iter().product::<i64>() as usize;
        let weights: Vec<f32> = (0..count).map(|j| (j as f64).cos() as f32).collect();
        let weights = Tensor::from_slice(&weights).view(&size[..]);
        let leaves = pass.leaves(false).unwrap();
        (&leaves.features * weights).sum(Kind::Float).backward();
        let rows = pass.backward(&leaves, |_| Ok::<(), Error>(())).unwrap();

        let mut squares = BTreeMap::new();
        let trained = backbone.blocks().iter().flat_map(Block::params);
        for param in trained.filter(|param| param.tensor.requires_grad()) {
            let square = param.tensor.grad().square().sum(Kind::Double);
            squares.insert(param.names().join("+"), square.double_value(&[]));
        }
        if let (Some(rows), Batch::Tokens(tokens)) = (rows, &batch) {
            let table = backbone.table().unwrap();
            let mut whole = Tensor::zeros_like(table.weight().unwrap()).detach();
            let whole = whole.index_add_(0, &tokens.ids, &rows);
            let square = whole.square().sum(Kind::Double).double_value(&[]);
            squares.insert(table.name().to_owned(), square);
        }
        let expected = golden[family]["gradients"].as_object().unwrap();
        let mut seen = 0;
        for (names, square) in squares {
            let each = names.split('+').map(|name| {
                seen += 1;
                let norm = expected.get(name).and_then(Value::as_f64);
                norm.unwrap_or_else(|| panic!("{family}: no {name}"))
                    .powi(2)
            });
            let (found, expected) = (square.sqrt(), each.sum::<f64>().sqrt());
            let error = (found - expected).abs();
            assert!(
                error < 1e-5 * (1.0 + expected),
                "{family}, {names}: {found}, not {expected}"
            );
        }
        assert_eq!(seen, expected.len(), "{family}");
    }
}

// Promise: logits of decoders are those of transformers, with a vocabulary matrix that is the word table and
// with one of its own; and token by token, from a cache, they are those of the whole text.
#[test]
fn logits_are_those_of_transformers_and_of_the_cache() {
    let golden = golden();
    for family in DECODERS {
        let dir = tempfile::tempdir().unwrap();
        let source = directory(dir.path(), &golden[family]["config"]);
        let backbone = build(&source, &options(Init::Pretrained, Pooling::Last)).unwrap();
        let decoder = backbone.decoder().unwrap();
        let matrix = decoder.vocabulary().unwrap();
        let mut expected = numbers(&golden[family]["logits"]).into_iter();
        for text in TEXTS {
            let batch = Batch::Tokens(TokenBatch::pack(&[text], &[1], Device::Cpu).unwrap());
            let pass = forward(backbone.as_ref(), &batch, false);
            let rows = pass.leaves(true).unwrap().rows.unwrap();
            let mut cache = decoder.cache(text.len()).unwrap();
            let (start, rest) = text.split_at(text.len() / 2);
            let mut parts = vec![decoder.extend(start, &mut cache).unwrap()];
            for id in rest {
                parts.push(decoder.extend(&[*id], &mut cache).unwrap());
            }
            assert!(decoder.extend(&[2], &mut cache).is_err(), "no room");
            let distance = (Tensor::cat(&parts, 0) - &rows).abs().max();
            assert!(distance.double_value(&[]) < 1e-5, "{family}");
            let logits = rows.matmul(&matrix.transpose(0, 1)).flatten(0, -1);
            for found in torch::data(&logits.contiguous()).unwrap() {
                let expected = expected.next().unwrap();
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 1e-5, "{family}: {found}, not {expected}");
            }
        }
        assert_eq!(expected.next(), None, "{family}");
    }
}

// Promise: low-rank updates of matrices that are stored as [in, out] act as they are exported.
#[test]
fn updates_of_gpt2_act_as_they_are_merged() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let source = directory(dir.path(), &golden["gpt2"]["config"]);
    let lora = LoraSpec {
        rank: 2,
        targets: vec!["c_attn".to_owned(), "c_fc".to_owned()],
        ..LoraSpec::default()
    };
    let tuned = Options {
        tuning: Tuning::Lora(lora),
        ..options(Init::Pretrained, Pooling::Mean)
    };
    let mut backbone = build(&source, &tuned).unwrap();
    for block in backbone.blocks_mut() {
        for (k, (name, tensor)) in block.updates().unwrap().into_iter().enumerate() {
            block.load(&name, &values(k, &tensor.size(), 0.0)).unwrap();
        }
    }
    let batch = batch("gpt2");
    let features = |backbone: &dyn Backbone| forward(backbone, &batch, false).features().unwrap();
    let acted = features(backbone.as_ref());
    let merged = backbone.export().unwrap();
    Tensor::write_safetensors(&merged, dir.path().join("model.safetensors")).unwrap();
    let plain = build(&source, &options(Init::Pretrained, Pooling::Mean)).unwrap();
    let plain = features(plain.as_ref());
    assert!((&acted - &plain).abs().max().double_value(&[]) < 1e-5);
    let before = numbers(&golden["gpt2"]["features"]["mean"]);
    let moved = torch::data(&plain).unwrap().iter().zip(before);
    assert!(
        moved
            .into_iter()
            .any(|(x, y)| (f64::from(*x) - y).abs() > 1e-3)
    );
}

// Promise: a random start follows GPT-2's: norms are 1, and matrices that end in a residual are smaller.
#[test]
fn gpt2_starts_at_random_as_it_did() {
    let config = serde_json::json!({
        "model_type": "gpt2", "vocab_size": 50, "n_embd": 64, "n_layer": 8, "n_head": 4, "n_positions": 16,
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let source = Source::open(dir.path()).unwrap();
    assert_eq!(source.max_positions(), Some(16));
    let backbone = build(&source, &options(Init::Random, Pooling::Last)).unwrap();
    for (name, tensor) in backbone.tensors().unwrap() {
        let expected = match name.as_str() {
            name if name.ends_with("bias") => 0.0,
            name if name.ends_with("c_proj.weight") => 0.02 / 4.0,
            name if name.contains("ln_") => {
                assert!(tensor.eq_tensor(&tensor.ones_like()).all().int64_value(&[]) == 1);
                0.0
            }
            _ => 0.02,
        };
        let found = tensor.std(false).double_value(&[]);
        assert!(
            (found - expected).abs() < 0.1 * expected + 1e-9,
            "{name}: {found}, not {expected}"
        );
    }
}

// Promise: dropout of images is a function of the sample, not of its place in the batch.
#[test]
fn dropout_of_images_follows_the_sample() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let source = directory(dir.path(), &golden["vit"]["config"]);
    let dropping = Options {
        dropout: Some(0.3),
        ..options(Init::Pretrained, Pooling::Cls)
    };
    let backbone = build(&source, &dropping).unwrap();
    let length = SHAPE.iter().product::<i64>() as usize;
    let pixels: Vec<f32> = (0..2 * length).map(|j| (0.1 * j as f32).sin()).collect();
    let (one, other) = pixels.split_at(length);
    let features = |samples: &[&[f32]], keys: &[u64]| {
        let batch = images(samples, keys, SHAPE, Device::Cpu).unwrap();
        forward(backbone.as_ref(), &batch, true).features().unwrap()
    };
    let first = features(&[one, other], &[7, 8]);
    let second = features(&[other, one], &[8, 7]);
    let same = |i, j| (first.get(i) - second.get(j)).abs().max().double_value(&[]) < 1e-6;
    assert!(same(0, 1) && same(1, 0));
    let again = features(&[one, other], &[9, 8]);
    assert!((first.get(0) - again.get(0)).abs().max().double_value(&[]) > 1e-3);
}

// Promise: what a family cannot do is said with the file and what to choose instead.
#[test]
fn bad_configurations_are_named() {
    let golden = golden();
    let refuse = |family: &str, field: &str, value: Value, pooling| {
        let dir = tempfile::tempdir().unwrap();
        let mut config = golden[family]["config"].clone();
        config[field] = value;
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let source = Source::open(dir.path()).unwrap();
        let built = build(&source, &options(Init::Random, pooling));
        built.unwrap_err().to_string()
    };
    let said = refuse("distilbert", "dropout", 0.1.into(), Pooling::Pooler);
    assert!(said.contains("has no pooler"), "{said}");
    let said = refuse("vit", "patch_size", 4.into(), Pooling::Mean);
    assert!(said.contains("no multiple of patch_size 4"), "{said}");
    for (family, pooling) in [("resnet", "last"), ("bottleneck", "cls")] {
        let way = serde_json::from_value(pooling.into()).unwrap();
        let said = refuse(family, "hidden_act", "relu".into(), way);
        let expected = format!("backbone.pooling is {pooling}, but resnet has only mean, max");
        assert!(said.contains(&expected), "{said}");
    }
    let said = refuse("roberta", "num_attention_heads", 3.into(), Pooling::Mean);
    assert!(
        said.contains("no multiple of num_attention_heads 3"),
        "{said}"
    );
    let said = refuse("gpt2", "n_head", 3.into(), Pooling::Mean);
    assert!(said.contains("no multiple of n_head 3"), "{said}");
    let said = refuse("gpt2", "n_head", 2.into(), Pooling::Pooler);
    assert!(said.contains("set backbone.pooling to last"), "{said}");
    let said = refuse("llama", "num_key_value_heads", 3.into(), Pooling::Mean);
    assert!(said.contains("num_key_value_heads 3"), "{said}");
    let scaled = serde_json::json!({"rope_type": "yarn", "factor": 2.0});
    let said = refuse("llama", "rope_scaling", scaled, Pooling::Mean);
    assert!(said.contains("rope_scaling"), "{said}");
    let said = refuse("ast", "max_length", 3.into(), Pooling::Mean);
    assert!(
        said.contains("max_length is 3, expected at least 4"),
        "{said}"
    );
    let said = refuse("vit", "hidden_act", "swish".into(), Pooling::Mean);
    assert!(said.contains("hidden_act \"swish\""), "{said}");
}

// Promise: frames are the patches at one time, as many as the configuration says without the model, in the
// order of time.
#[test]
fn frames_are_in_order_of_time() {
    let golden = golden();
    for (family, shape) in [("vit", SHAPE), ("ast", SOUND)] {
        let dir = tempfile::tempdir().unwrap();
        let source = directory(dir.path(), &golden[family]["config"]);
        assert_eq!(source.modality().unwrap(), Modality::Image(shape));
        let backbone = build(&source, &options(Init::Pretrained, Pooling::Mean)).unwrap();
        let frames = backbone.frames().unwrap();
        assert_eq!(source.frames().unwrap(), Some(frames));
        let batch = batch(family);
        let pass = forward(backbone.as_ref(), &batch, false);
        let rows = pass.leaves(true).unwrap().rows.unwrap();
        let found = frames.of(&rows).unwrap();
        let columns = if family == "vit" { 2 } else { 3 };
        assert_eq!(found.size(), [IMAGES as i64, columns, 8]);
        // Patches make rectangles, so the mean over time is that over all of them.
        let mean = found.mean_dim(&[1i64][..], false, Kind::Float);
        let distance = (mean - pass.features().unwrap()).abs().max();
        assert!(distance.double_value(&[]) < 1e-5, "{family}");
    }
    let dir = tempfile::tempdir().unwrap();
    let source = directory(dir.path(), &golden["resnet"]["config"]);
    assert_eq!(source.frames().unwrap(), None);
}

// Promise: RoBERTa's positions begin behind its padding's, so it takes that many tokens fewer.
#[test]
fn roberta_takes_fewer_tokens_than_positions() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let source = directory(dir.path(), &golden["roberta"]["config"]);
    assert_eq!(source.max_positions(), Some(8));
    let backbone = build(&source, &options(Init::Pretrained, Pooling::Mean)).unwrap();
    let long = TokenBatch::pack(&[&[2; 9]], &[0], Device::Cpu).unwrap();
    let error = backbone.input(&Batch::Tokens(long)).unwrap_err();
    assert!(error.to_string().contains("takes 8 at most"), "{error}");
}

// Promise: what heads say of single tokens and what they say of pooled features reach the backbone
// together: half of the mean by one way and half by the other is the mean.
#[test]
fn gradients_of_rows_and_features_add_up() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let source = directory(dir.path(), &golden["bert"]["config"]);
    let batch = batch("bert");
    let Batch::Tokens(tokens) = &batch else {
        panic!("texts");
    };
    let gradients = |share: f64| -> Vec<f32> {
        let backbone = build(&source, &options(Init::Pretrained, Pooling::Mean)).unwrap();
        let pass = forward(backbone.as_ref(), &batch, true);
        let leaves = pass.leaves(true).unwrap();
        let rows = leaves.rows.as_ref().unwrap();
        let mut loss = leaves.features.square().sum(Kind::Float) * (1.0 - share);
        if share > 0.0 {
            for (start, text) in tokens.first_rows().into_iter().zip(TEXTS) {
                let own = rows.narrow(0, start, text.len() as i64);
                let mean = own.mean_dim(&[0i64][..], false, Kind::Float);
                loss += mean.square().sum(Kind::Float) * share;
            }
        }
        loss.backward();
        assert!(leaves.wants_grad());
        pass.backward(&leaves, |_| Ok::<(), Error>(())).unwrap();
        let grads = backbone.blocks().iter().filter_map(Block::grad);
        grads
            .flat_map(|grad| torch::data(grad).unwrap().to_vec())
            .collect()
    };
    let expected = gradients(0.0);
    for share in [0.5, 1.0] {
        let pairs = expected.iter().zip(gradients(share));
        let worst = pairs.fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 1e-5, "{share}: {worst}");
    }
}
