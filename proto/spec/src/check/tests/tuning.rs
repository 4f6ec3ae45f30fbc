//! Every rule of what is trained of the backbone, broken once.

use super::{broken_alone, check, with};
use serde_json::{Value, json};

#[test]
fn every_rule_of_tuning_names_its_field() {
    // Each rule, broken alone, is reported once, at its own field, with a word of what to do.
    broken_alone(vec![
        (
            "/tuning",
            json!({"last_blocks": 0}),
            "tuning.last_blocks",
            "tuning: heads",
        ),
        (
            "/tuning",
            json!({"adapter": {"size": 0}}),
            "tuning.adapter.size",
            "such as 64",
        ),
        (
            "/tuning",
            json!({"prompt": {"tokens": 0}}),
            "tuning.prompt.tokens",
            "such as 20",
        ),
        (
            "/tuning",
            json!({"prompt": {"init": {"text": " "}}}),
            "tuning.prompt.init.text",
            "init: random",
        ),
        (
            "/tuning",
            json!({"prefix": {"tokens": 2000}}),
            "tuning.prefix.tokens",
            "1 to 1024",
        ),
        (
            "/tuning",
            json!({"gradual": {"every_steps": 0}}),
            "tuning.gradual.every_steps",
            "tuning: all",
        ),
        (
            "/tuning",
            json!({"gradual": {"every_epochs": 0.0}}),
            "tuning.gradual.every_epochs",
            "above 0",
        ),
        (
            "/tuning",
            json!({"gradual": {"every_epochs": 1.0, "every_steps": 9}}),
            "tuning.gradual.every_epochs",
            "one of the two",
        ),
        (
            "/tuning",
            json!({"lora": {"rank": 0}}),
            "tuning.lora.rank",
            "1 to 1024",
        ),
        (
            "/tuning",
            json!({"lora": {"targets": []}}),
            "tuning.lora.targets",
            "query and value",
        ),
        (
            "/training/optimizer",
            json!({"block_decay": 0.0}),
            "training.optimizer.block_decay",
            "such as 0.9",
        ),
        (
            "/training/optimizer",
            json!({"block_decay": 1.5}),
            "training.optimizer.block_decay",
            "above 0 to 1",
        ),
        (
            "/training/optimizer",
            json!({"l2_sp": -0.1}),
            "training.optimizer.l2_sp",
            "at least 0",
        ),
    ]);
}

#[test]
fn new_tokens_need_a_word_table_that_is_trained() {
    // Rows that nothing would train are refused at their field; where the table is trained they are not.
    let fields = |tuning: Value| {
        let mut spec = with("/tuning", tuning);
        spec.backbone.extend_vocabulary = true;
        let violations = check(&spec).err().unwrap_or_default();
        let fields: Vec<String> = violations.into_iter().map(|v| v.field).collect();
        fields
    };
    for tuning in [
        json!("heads"),
        json!("biases"),
        json!({"last_blocks": 2}),
        json!({"lora": {}}),
        json!({"adapter": {}}),
    ] {
        let found = fields(tuning.clone());
        assert_eq!(found, ["backbone.extend_vocabulary"], "{tuning}");
    }
    for tuning in [json!("all"), json!({"gradual": {}})] {
        assert!(fields(tuning.clone()).is_empty(), "{tuning}");
    }
}

#[test]
fn rates_of_blocks_need_blocks_that_are_trained() {
    // What would have no effect is refused, at the field that would have none.
    let refused = |tuning: Value, optimizer: Value| {
        let mut spec = with("/tuning", tuning);
        spec.training.optimizer = serde_json::from_value(optimizer).expect("right types");
        let violations = check(&spec).err().unwrap_or_default();
        let fields: Vec<String> = violations.into_iter().map(|v| v.field).collect();
        fields
    };
    let (decay, pull) = (json!({"block_decay": 0.9}), json!({"l2_sp": 0.01}));
    let path = "training.optimizer";
    assert_eq!(
        refused(json!("heads"), decay.clone()),
        [format!("{path}.block_decay")]
    );
    assert_eq!(
        refused(json!({"prompt": {}}), decay.clone()),
        [format!("{path}.block_decay")]
    );
    for tuning in [
        json!("heads"),
        json!({"lora": {}}),
        json!({"adapter": {}}),
        json!({"prompt": {}}),
        json!({"prefix": {}}),
    ] {
        assert_eq!(refused(tuning, pull.clone()), [format!("{path}.l2_sp")]);
    }
    for tuning in [json!("all"), json!("biases"), json!({"last_blocks": 2})] {
        assert!(refused(tuning.clone(), decay.clone()).is_empty());
        assert!(refused(tuning, pull.clone()).is_empty());
    }
    let mut random = with("/backbone/init", json!("random"));
    random.training.optimizer.l2_sp = 0.01;
    let violations = check(&random).expect_err("random");
    assert_eq!(violations[0].field, "training.optimizer.l2_sp");
}
