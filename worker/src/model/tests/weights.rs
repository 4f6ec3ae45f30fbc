//! Models in several files.

use super::*;
use serde_json::json;

const INDEX: &str = "model.safetensors.index.json";

/// The golden BERT, its weights in one file.
fn whole(dir: &Path) -> Source {
    directory(dir, &golden()["bert"]["config"])
}

/// Cuts the one file in two, every other tensor into each, and writes their index.
fn cut(dir: &Path) {
    let path = dir.join("model.safetensors");
    let tensors = Tensor::read_safetensors(&path).unwrap();
    let mut map = serde_json::Map::new();
    for shard in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let own = tensors.iter().enumerate().filter(|(k, _)| k % 2 == shard);
        let own: Vec<(&str, &Tensor)> = own.map(|(_, (n, t))| (n.as_str(), t)).collect();
        Tensor::write_safetensors(&own, dir.join(&name)).unwrap();
        map.extend(own.iter().map(|(n, _)| ((*n).to_owned(), json!(name))));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(dir.join(INDEX), index.to_string()).unwrap();
    std::fs::remove_file(path).unwrap();
}

fn features(source: &Source) -> Tensor {
    let backbone = build(source, &options(Init::Pretrained, Pooling::Mean)).unwrap();
    let batch = batch("bert");
    forward(backbone.as_ref(), &batch, false)
        .features()
        .unwrap()
}

// Promise: a model in several files is the model in one.
#[test]
fn several_files_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let source = whole(dir.path());
    let expected = features(&source);
    cut(dir.path());
    assert!(expected.equal(&features(&source)));
}

// Promise: what is wrong with a model of several files is said with the file, and nothing outside of the directory is
// read for it.
#[test]
fn bad_indices_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = whole(dir.path());
    cut(dir.path());
    let first = "model-00001-of-00002.safetensors";
    let good: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join(INDEX)).unwrap()).unwrap();
    let refused = |index: &str| {
        std::fs::write(dir.path().join(INDEX), index).unwrap();
        let built = build(&source, &options(Init::Pretrained, Pooling::Mean));
        built.unwrap_err().to_string()
    };
    let with = |tensor: &str, file: &str| {
        let mut index = good.clone();
        index["weight_map"][tensor] = json!(file);
        refused(&index.to_string())
    };
    let said = refused("{");
    assert!(said.contains(&format!("{INDEX}: EOF")), "{said}");
    let said = refused(r#"{"weight_map": {}}"#);
    assert!(said.contains("names no tensor"), "{said}");
    let said = with("x", "../secret.safetensors");
    assert!(said.contains("\"../secret.safetensors\""), "{said}");
    let said = with("x", "pytorch_model.bin");
    assert!(said.contains("expected a safetensors file"), "{said}");
    let said = with("x", "model-00003-of-00002.safetensors");
    assert!(
        said.contains("cannot read model-00003-of-00002.safetensors"),
        "{said}"
    );
    let said = with("x", first);
    assert!(
        said.contains(&format!("{first}: tensor x is missing")),
        "{said}"
    );
    // The index lists less than the model needs, and the rest is nowhere.
    std::fs::remove_file(dir.path().join(first)).unwrap();
    let mut less = good.clone();
    let map = less["weight_map"].as_object_mut().unwrap();
    map.retain(|_, file| *file != first);
    let said = refused(&less.to_string());
    assert!(
        said.contains(&format!("{INDEX}: tensor ")) && said.contains(" is missing"),
        "{said}"
    );
    std::fs::remove_file(dir.path().join(INDEX)).unwrap();
    let built = build(&source, &options(Init::Pretrained, Pooling::Mean));
    let said = built.unwrap_err().to_string();
    assert!(said.contains("cannot read model.safetensors"), "{said}");
}
