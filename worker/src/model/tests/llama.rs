//! Where configurations of Llama keep what they say of rotary positions.

use super::*;
use serde_json::json;

/// The golden configuration without a word of rotary positions, and then with these fields.
fn config(fields: &Value) -> Value {
    let mut config = golden()["llama"]["config"].clone();
    let all = config.as_object_mut().unwrap();
    all.remove("rope_theta");
    all.remove("rope_scaling");
    all.extend(fields.as_object().unwrap().clone());
    config
}

/// Features of the texts by a model of this configuration.
fn features(fields: &Value) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    let source = directory(dir.path(), &config(fields));
    let backbone = build(&source, &options(Init::Pretrained, Pooling::Mean)).unwrap();
    let batch = batch("llama");
    let pass = forward(backbone.as_ref(), &batch, false);
    let features = pass.features().unwrap().flatten(0, -1);
    torch::data(&features).unwrap().to_vec()
}

// Promise: the base of rotary angles is the one that the configuration names, whether beside the other fields or in
// rope_parameters, where transformers 5 writes it; without one it is 10000.
#[test]
fn the_base_of_rotary_angles_is_found_where_transformers_writes_it() {
    let beside = features(&json!({"rope_theta": 3.0}));
    let parameters = json!({"rope_theta": 3, "rope_type": "default"});
    let within = features(&json!({"rope_parameters": parameters}));
    assert_eq!(beside, within);
    let both = features(&json!({"rope_theta": 7.0, "rope_parameters": parameters}));
    assert_eq!(both, within, "rope_parameters is what transformers reads");
    let without = features(&json!({}));
    assert_eq!(without, features(&json!({"rope_theta": 10000.0})));
    assert_ne!(without, within);
}

// Promise: `linear` scaling of positions acts, and is found in both places where transformers writes it.
#[test]
fn linear_scaling_is_found() {
    let scaled = json!({"type": "linear", "factor": 2.0});
    let beside = features(&json!({"rope_theta": 3.0, "rope_scaling": scaled}));
    let within = json!({"rope_theta": 3.0, "rope_type": "linear", "factor": 2.0});
    assert_eq!(beside, features(&json!({"rope_parameters": within})));
    assert_ne!(beside, features(&json!({"rope_theta": 3.0})));
}

// Promise: rotary positions that are not computed here are refused by the name of their field, never taken for
// plain ones.
#[test]
fn other_rotary_positions_are_refused() {
    let refuse = |fields: Value| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(path, config(&fields).to_string()).unwrap();
        let source = Source::open(dir.path()).unwrap();
        let built = build(&source, &options(Init::Random, Pooling::Mean));
        built.unwrap_err().to_string()
    };
    let scaled = json!({"rope_type": "yarn", "rope_theta": 500000.0, "factor": 8.0});
    let said = refuse(json!({"rope_parameters": scaled}));
    assert!(said.contains("rope_parameters"), "{said}");
    let partial = json!({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0});
    let said = refuse(json!({"rope_parameters": partial}));
    assert!(said.contains("low_freq_factor is missing"), "{said}");
    let crossed = json!({"rope_type": "llama3", "low_freq_factor": 4.0, "high_freq_factor": 1.0});
    let said = refuse(json!({"rope_scaling": crossed}));
    assert!(
        said.contains("low_freq_factor below high_freq_factor"),
        "{said}"
    );
    let none = json!({"rope_type": "linear", "factor": 0});
    let said = refuse(json!({"rope_scaling": none}));
    assert!(said.contains("factor is missing or no number"), "{said}");
    let (two, four) = (
        json!({"rope_type": "linear", "factor": 2.0}),
        json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 3.0}),
    );
    let said = refuse(json!({"rope_scaling": two, "rope_parameters": four}));
    assert!(said.contains("different positions"), "{said}");
    let said = refuse(json!({"rope_parameters": {"rope_type": "default"}}));
    assert!(said.contains("names no rope_theta"), "{said}");
    let no_number = json!({"rope_type": "default", "rope_theta": "much"});
    let said = refuse(json!({"rope_parameters": no_number}));
    assert!(said.contains("rope_theta must be a number"), "{said}");
    let partly = json!({
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
    });
    for fields in [
        json!({"rope_parameters": partly}),
        json!({"partial_rotary_factor": 0.5}),
    ] {
        let said = refuse(fields);
        assert!(said.contains("partial_rotary_factor 0.5"), "{said}");
    }
}
