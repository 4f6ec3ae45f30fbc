//! Where the layers of a family drop numbers.

use super::*;

/// How far training moves what the first layer gives, by dropout alone, where nothing but the bias of attention's
/// output is added to the residual: the weights whose names contain one of `silent` are 0.
fn moved(family: &str, silent: [&str; 2]) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let source = directory(dir.path(), &golden()[family]["config"]);
    let path = dir.path().join("model.safetensors");
    let mut tensors = Tensor::read_safetensors(&path).unwrap();
    for (name, tensor) in &mut tensors {
        if silent.iter().any(|part| name.contains(part)) {
            *tensor = tensor.zeros_like();
        }
    }
    Tensor::write_safetensors(&tensors, &path).unwrap();
    // The job's rate takes the place of all that the configuration has.
    let dropping = Options {
        dropout: Some(0.3),
        ..options(Init::Pretrained, Pooling::Mean)
    };
    let backbone = build(&source, &dropping).unwrap();
    let batch = batch(family);
    let rows: usize = TEXTS.iter().map(|text| text.len()).sum();
    let x_th = values(9, &[rows as i64, 8], 0.0);
    let given = |train: bool| {
        let ctx = Context {
            train,
            ..Context::default()
        };
        backbone.forward(1, &x_th, &batch, &ctx).unwrap()
    };
    let distance = (given(true) - given(false)).abs().max();
    distance.double_value(&[])
}

// Promise: DistilBERT drops nothing between attention and its residual, as in transformers, whatever rate the job
// sets; BERT does.
#[test]
fn attention_of_distilbert_reaches_its_residual_whole() {
    let distilbert = moved("distilbert", ["v_lin", "ffn.lin2"]);
    assert!(distilbert < 1e-6, "{distilbert}");
    let bert = moved("bert", ["self.value", ".0.output.dense"]);
    assert!(bert > 1e-3, "{bert}");
}
