//! TorchScript modules where they are forbidden: in a process of its own, since that holds for all of it.
#![allow(clippy::unwrap_used)]

use espalier_spec::job::{Init, Pooling, Tuning};
use espalier_worker::engine;
use espalier_worker::model::{Options, Source, build, forbid_scripts, write_script};
use serde_json::json;
use tch::Device;

// Promise: a worker that lets jobs name only some files runs none of their programs, neither as a backbone
// nor when it writes an export, and says what would let them in.
#[test]
fn a_module_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"model_type": "espalier-torchscript", "width": 3, "modality": "text"});
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    // Whoever opened it would say that it is no module.
    std::fs::write(dir.path().join("model.pt"), "nonsense").unwrap();
    let options = Options {
        init: Init::Pretrained,
        seed: 1,
        tuning: Tuning::All,
        pooling: Pooling::Mean,
        dropout: None,
        device: Device::Cpu,
    };
    let source = Source::open(dir.path()).unwrap();
    let opened = build(&source, &options).unwrap_err().to_string();
    assert!(opened.contains("not a TorchScript module"), "{opened}");
    forbid_scripts();
    let error = build(&source, &options).unwrap_err();
    assert!(error.to_string().contains("--allow-modules"), "{error}");
    let failure = engine::Error::from(error).failure();
    assert_eq!(failure.code, "not_allowed");
    assert!(!failure.retryable);
    let fields = config.as_object().unwrap();
    let written = write_script(dir.path(), dir.path(), fields, &[]);
    let error = written.unwrap_err().to_string();
    assert!(error.contains("--allow-modules"), "{error}");
}
