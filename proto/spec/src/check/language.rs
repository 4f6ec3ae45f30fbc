//! Rules of tasks that predict the next token.

use super::Findings;
use crate::job::{ClassWeights, HeadKind, Join, TaskSpec};

/// What such a task cannot have, and what only such a task can have.
pub(super) fn rules(task: &TaskSpec, path: &str, found: &mut Findings) {
    let data = &task.data;
    if task.head != HeadKind::CausalLm {
        found.require(
            data.join == Join::Nothing,
            &format!("{path}.data.join"),
            || {
                let head = task.head.as_str();
                format!("is for `causal_lm` only, and this head is `{head}`; remove it")
            },
        );
        return;
    }
    let labels = [
        ("data.labels", data.labels.is_some()),
        ("data.columns.label", data.columns.label.is_some()),
        ("data.columns.pair", data.columns.pair.is_some()),
        (
            "loss.class_weights",
            task.loss.class_weights != ClassWeights::None,
        ),
    ];
    for (field, given) in labels {
        found.require(!given, &format!("{path}.{field}"), || {
            "is nothing to `causal_lm`, which learns each token from those before it; remove it"
                .to_owned()
        });
    }
    found.require(
        task.input_group.is_none(),
        &format!("{path}.input_group"),
        || {
            "is for tasks that label whole texts; `causal_lm` has inputs of its own: remove it"
                .to_owned()
        },
    );
}

/// Words' vectors are dropped out for the heads `tags` and `span` and not for `causal_lm`, those of frames for `ctc` and
/// not for `segmentation`.
pub(super) fn beside(tasks: &[TaskSpec], found: &mut Findings) {
    let has = |head: HeadKind| tasks.iter().position(|task| task.head == head);
    for (head, beside) in [
        (HeadKind::CausalLm, HeadKind::Tags),
        (HeadKind::CausalLm, HeadKind::Span),
        (HeadKind::Segmentation, HeadKind::Ctc),
    ] {
        if let (Some(index), Some(other)) = (has(head), has(beside)) {
            found.add(
                format!("tasks[{index}].head"),
                format!(
                    "is `{}`, which cannot be in one job with the head `{}` of tasks[{other}]; \
                     make it two jobs",
                    head.as_str(),
                    beside.as_str()
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::JobSpec;
    use crate::check::{check, tests::valid};
    use serde_json::{Value, json};

    fn said(change: impl FnOnce(&mut Value)) -> Vec<(String, String)> {
        let mut value = valid();
        change(&mut value);
        let spec: JobSpec = serde_json::from_value(value).expect("right types");
        let found = check(&spec).err().unwrap_or_default();
        found.into_iter().map(|v| (v.field, v.message)).collect()
    }

    #[test]
    fn causal_lm_learns_from_texts_alone() {
        // What other heads have and this one has not is refused at its field, each once.
        let found = said(|job| {
            job["tasks"][1] = json!({
                "name": "language", "head": "causal_lm", "input_group": "a", "metric": "mse",
                "data": {"train": "a.jsonl", "labels": ["a", "b"], "columns": {"pair": "p", "label": "l"}},
                "loss": {"class_weights": "balanced", "label_smoothing": 0.1},
            });
        });
        for field in [
            "data.labels",
            "data.columns.label",
            "data.columns.pair",
            "loss.class_weights",
            "loss.label_smoothing",
            "metric",
        ] {
            let field = format!("tasks[1].{field}");
            assert_eq!(
                found.iter().filter(|(f, _)| *f == field).count(),
                1,
                "{field}: {found:?}"
            );
        }
        assert!(
            found
                .iter()
                .any(|(field, _)| field == "tasks[1].input_group")
        );
    }

    #[test]
    fn joining_is_for_causal_lm_and_tags_are_not_beside_it() {
        let found = said(|job| {
            job["tasks"][0]["data"]["join"] = json!("apart");
            job["tasks"][1] =
                json!({"name": "b", "head": "causal_lm", "data": {"train": "b.jsonl"}});
            job["tasks"][2] = json!({"name": "c", "head": "tags", "data": {"train": "c.jsonl"}});
        });
        let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["tasks[0].data.join", "tasks[1].head"], "{found:?}");
    }
}
