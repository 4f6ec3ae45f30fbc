//! Every rule of domain adaptation broken once.

use super::{broken_alone, valid, with};
use crate::JobSpec;
use crate::check::check;
use crate::job::{SelectBy, TaskAdapterSpec, Tuning};
use serde_json::{Value, json};

/// A mapping `adaptation` with some fields changed.
fn adaptation(method: &str, fields: Value) -> Value {
    let mut value = json!({"method": method, "target": {"train": "t.parquet"}});
    for (name, field) in fields.as_object().expect("an object") {
        value[name] = field.clone();
    }
    value
}

#[test]
fn every_rule_of_adaptation_names_its_field() {
    // Each rule, broken alone, is reported once, at its own field, with a word of what to do.
    let own = "/tasks/0/adaptation";
    broken_alone(vec![
        (
            own,
            adaptation("dann", json!({"weight": 0.0})),
            "tasks[0].adaptation.weight",
            "remove `adaptation`",
        ),
        (
            own,
            adaptation("dann", json!({"params": {"hiden": 3}})),
            "tasks[0].adaptation.params.hiden",
            "did you mean `hidden`?",
        ),
        (
            own,
            adaptation("afn", json!({"params": {"step": 1, "radius": 10}})),
            "tasks[0].adaptation.params.step",
            "remove one of the two",
        ),
        (
            own,
            adaptation("cdan", json!({"params": {"reversed_entropy": true}})),
            "tasks[0].adaptation.params.reversed_entropy",
            "set params.entropy to true",
        ),
        (
            own,
            adaptation("mcc", json!({"params": {"temperature": -1}})),
            "tasks[0].adaptation.params.temperature",
            "above 0",
        ),
        (
            own,
            adaptation("coral", json!({"params": {"x": 1}})),
            "tasks[0].adaptation.params.x",
            "it has none",
        ),
        (
            own,
            adaptation("coral", json!({"target": {"train": []}})),
            "tasks[0].adaptation.target.train",
            "at least one file",
        ),
        (
            own,
            adaptation("coral", json!({"target": {"train": "t.txt"}})),
            "tasks[0].adaptation.target.train",
            "no reader knows",
        ),
        (
            own,
            adaptation("coral", json!({"target": {"train": "a.parquet"}})),
            "tasks[0].adaptation.target.train",
            "also in data.train",
        ),
        (
            own,
            adaptation("coral", json!({"target": {"train": "c.csv"}})),
            "tasks[0].adaptation.target.train",
            "also in data.test",
        ),
        (
            own,
            adaptation("coral", json!({"sources": "apart"})),
            "tasks[0].adaptation.sources",
            "data.train has 1 file",
        ),
        (
            "/tasks/1/adaptation",
            adaptation("afn", json!({"sources": "apart"})),
            "tasks[1].adaptation.sources",
            "`afn` does not compare",
        ),
        (
            "/tasks/1/adaptation",
            adaptation("cdan", json!({})),
            "tasks[1].adaptation.method",
            "dann, mmd or coral",
        ),
    ]);
}

#[test]
fn a_method_or_field_that_does_not_exist_is_no_spec() {
    // Adaptation without a target, or of an unknown method, cannot be read at all.
    for broken in [
        json!({"method": "dann"}),
        adaptation("dnan", json!({})),
        adaptation("dann", json!({"target": {"train": "t.csv", "labels": []}})),
    ] {
        let mut value = valid();
        value["tasks"][0]["adaptation"] = broken.clone();
        let read: Result<JobSpec, _> = serde_json::from_value(value);
        assert!(read.is_err(), "{broken}");
    }
}

#[test]
fn several_files_are_several_sources() {
    // A task of two files may have a source each.
    let several = adaptation("mmd", json!({"sources": "apart"}));
    assert_eq!(check(&with("/tasks/1/adaptation", several)), Ok(()));
}

#[test]
fn what_cannot_work_together_is_refused() {
    // A frozen backbone has no features to change, a shared input no other domain.
    let one = |method: &str| with("/tasks/0/adaptation", adaptation(method, json!({})));
    let said = |spec: &JobSpec, field: &str, words: &str| {
        let found = check(spec).expect_err(words);
        let fits = |v: &&crate::check::Violation| v.field == field && v.message.contains(words);
        assert_eq!(found.iter().filter(fits).count(), 1, "{words}: {found:?}");
    };
    let mut spec = one("dann");
    assert_eq!(check(&spec), Ok(()));
    spec.tuning = Tuning::Heads;
    said(&spec, "tasks[0].adaptation", "keeps the backbone as it is");
    spec.tasks[0].adapter = Some(TaskAdapterSpec::default());
    assert_eq!(check(&spec), Ok(()));
    let mut spec = one("mcc");
    spec.tuning = Tuning::Heads;
    assert_eq!(check(&spec), Ok(()));
    spec.tasks[0].input_group = Some("g".to_owned());
    said(&spec, "tasks[0].adaptation", "tasks[0].input_group");
}

#[test]
fn choosing_without_labels_needs_probabilities() {
    // `select_by` looks at tasks with something to look at: all must be `single_label`.
    let mut spec = with("/evaluation/select_by", json!("entropy"));
    assert_eq!(check(&spec), Ok(()));
    spec.tasks[1].data.validation = spec.tasks[0].data.validation.clone();
    let found = check(&spec).expect_err("a regression");
    assert_eq!(found[0].field, "evaluation.select_by");
    assert!(found[0].message.contains("tasks[1]"), "{found:?}");
    spec.tasks[0].data.validation = None;
    spec.tasks[1].data.validation = None;
    let found = check(&spec).expect_err("nothing to look at");
    assert!(found[0].message.contains("give a task"), "{found:?}");
    spec.evaluation.select_by = SelectBy::Metric;
    assert_eq!(check(&spec), Ok(()));
}
