//! Every rule of a task broken once.

use super::{broken_alone, check, with};
use serde_json::json;

#[test]
fn every_rule_of_a_task_names_its_field() {
    // Each rule, broken alone, is reported once, at its own field, with a word of what to do.
    broken_alone(vec![
        (
            "/tasks/1/name",
            json!("section"),
            "tasks[1].name",
            "already the name of tasks[0]",
        ),
        (
            "/tasks/1/name",
            json!("a b"),
            "tasks[1].name",
            "letters, digits",
        ),
        (
            "/tasks/0/adapter",
            json!({"size": 0}),
            "tasks[0].adapter.size",
            "such as 16",
        ),
        (
            "/tasks/0/data/train",
            json!([]),
            "tasks[0].data.train",
            "at least one file",
        ),
        (
            "/tasks/0/data/train",
            json!("a.txt"),
            "tasks[0].data.train",
            ".parquet, .jsonl or .csv",
        ),
        (
            "/tasks/0/data/train",
            json!("dir.d/a"),
            "tasks[0].data.train",
            "no file extension",
        ),
        (
            "/tasks/0/data/validation",
            json!(""),
            "tasks[0].data.validation",
            "empty path",
        ),
        (
            "/tasks/0/data/test",
            json!("a.parquet"),
            "tasks[0].data.test",
            "also a training file",
        ),
        (
            "/tasks/0/data/columns",
            json!({"input": "x", "label": "x"}),
            "tasks[0].data.columns",
            "same column",
        ),
        (
            "/tasks/0/data/columns/label",
            json!(""),
            "tasks[0].data.columns.label",
            "is empty",
        ),
        (
            "/tasks/0/data/labels",
            json!(["web"]),
            "tasks[0].data.labels",
            "1 of at least 2",
        ),
        (
            "/tasks/0/data/labels",
            json!(["a", "b", "a"]),
            "tasks[0].data.labels",
            "twice (entries 0 and 2)",
        ),
        (
            "/tasks/1/data/labels",
            json!(["a"]),
            "tasks[1].data.labels",
            "no classes",
        ),
        (
            "/tasks/0/data/max_train_samples",
            json!(0),
            "tasks[0].data.max_train_samples",
            "at least 1",
        ),
        (
            "/tasks/0/data/augment",
            json!({"flip": true, "time_mask": 3}),
            "tasks[0].data.augment",
            "of one kind",
        ),
        (
            "/tasks/0/data/samples_per_class",
            json!(0),
            "tasks[0].data.samples_per_class",
            "leave it out",
        ),
        (
            "/tasks/1/data/samples_per_class",
            json!(8),
            "tasks[1].data.samples_per_class",
            "`single_label` only",
        ),
        (
            "/tasks/0/data/columns",
            json!({"pair": "label", "label": "label"}),
            "tasks[0].data.columns.pair",
            "also another column",
        ),
        (
            "/tasks/0/loss/contrastive",
            json!({"share": 0.0}),
            "tasks[0].loss.contrastive.share",
            "remove `contrastive`",
        ),
        (
            "/tasks/0/loss/contrastive",
            json!({"temperature": 0.0}),
            "tasks[0].loss.contrastive.temperature",
            "such as 0.1",
        ),
        (
            "/tasks/0/loss/contrastive",
            json!({"kind": "cosine", "temperature": 0.3}),
            "tasks[0].loss.contrastive.temperature",
            "`kind: sup_con` only",
        ),
        (
            "/tasks/1/loss/contrastive",
            json!({}),
            "tasks[1].loss.contrastive",
            "`single_label` only",
        ),
        ("/tasks/0/weight", json!(-1.0), "tasks[0].weight", "above 0"),
        (
            "/tasks/0/loss/label_smoothing",
            json!(1.0),
            "tasks[0].loss.label_smoothing",
            "below 1",
        ),
        (
            "/tasks/2/loss/label_smoothing",
            json!(0.1),
            "tasks[2].loss.label_smoothing",
            "`single_label` only",
        ),
        (
            "/tasks/1/loss/class_weights",
            json!("balanced"),
            "tasks[1].loss.class_weights",
            "no classes",
        ),
        (
            "/tasks/0/loss/class_weights",
            json!({"given": {"wbe": 2.0}}),
            "tasks[0].loss.class_weights.given.wbe",
            "web, games",
        ),
        (
            "/tasks/0/loss/class_weights",
            json!({"given": {"web": -2.0}}),
            "tasks[0].loss.class_weights.given.web",
            "at least 0",
        ),
        (
            "/tasks/0/loss/class_weights",
            json!({"given": {"web": 0.0, "games": 0.0}}),
            "tasks[0].loss.class_weights",
            "every class weighs 0",
        ),
        (
            "/tasks/0/metric",
            json!("mse"),
            "tasks[0].metric",
            "accuracy or macro_f1",
        ),
        (
            "/tasks/1/metric",
            json!("accuracy"),
            "tasks[1].metric",
            "mse or pearson or spearman",
        ),
    ]);
}

#[test]
fn a_task_is_evaluated_with_the_others() {
    // A cadence of a task's own that no evaluation of the job could keep is refused, with one that would do.
    let found = |every: Option<u64>, own: u64| -> Vec<String> {
        let mut spec = with("/tasks/0/evaluation", json!({"every_steps": own}));
        spec.evaluation.every_steps = every;
        let found = check(&spec).err().unwrap_or_default();
        found.iter().map(ToString::to_string).collect()
    };
    assert_eq!(found(Some(20), 60), Vec::<String>::new());
    assert_eq!(found(Some(20), 20), Vec::<String>::new());
    for (every, own, part) in [
        (Some(20), 50, "such as 60"),
        (Some(20), 10, "such as 20"),
        (Some(20), 0, "is 0"),
        (None, 20, "set evaluation.every_steps"),
    ] {
        let said = found(every, own);
        assert_eq!(said.len(), 1, "{said:?}");
        let place = "tasks[0].evaluation.every_steps: ";
        assert!(
            said[0].starts_with(place) && said[0].contains(part),
            "{said:?}"
        );
    }
    // The second task has nothing to evaluate on.
    let mut spec = with("/tasks/1/evaluation", json!({"every_steps": 20}));
    spec.evaluation.every_steps = Some(20);
    let found = check(&spec).expect_err("no validation files");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].field, "tasks[1].evaluation");
}

#[test]
fn a_task_s_own_adapter_needs_a_head_that_reads_features() {
    // What compares texts, and what is exported as a plain language model, has no place for one.
    for head in ["label_embedding", "causal_lm", "tags", "ordinal"] {
        let task = json!({"name": "popularity", "head": head, "data": {"train": "d.jsonl"},
                          "adapter": {"size": 4}});
        let spec = with("/tasks", json!([task]));
        let found = check(&spec).err().unwrap_or_default();
        let refused = found.iter().any(|one| one.field == "tasks[0].adapter");
        let expected = matches!(head, "label_embedding" | "causal_lm");
        assert_eq!(refused, expected, "{head}: {found:?}");
    }
}
