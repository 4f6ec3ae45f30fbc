//! Rules of tasks that give every pixel a class.

use super::Findings;
use crate::job::{HeadKind, TaskSpec};
use crate::segmentation::MOST_CLASSES;

/// What such a task needs, and what only such a task can have.
pub(super) fn rules(task: &TaskSpec, path: &str, found: &mut Findings) {
    if task.head != HeadKind::Segmentation {
        let field = format!("{path}.segmentation");
        found.require(task.segmentation.is_none(), &field, || {
            let head = task.head.as_str();
            format!("is for `segmentation` only, and this head is `{head}`; remove it")
        });
        return;
    }
    let field = format!("{path}.data.labels");
    match &task.data.labels {
        None => found.add(
            field,
            "is missing; a mask holds numbers, so name the class of each of its values: 0, 1, and \
             so on",
        ),
        Some(labels) => found.require(labels.len() <= MOST_CLASSES, &field, || {
            let count = labels.len();
            format!(
                "lists {count} classes, but pixels of a mask are bytes; expected at most \
                 {MOST_CLASSES}"
            )
        }),
    }
    let field = format!("{path}.data.columns.pair");
    found.require(task.data.columns.pair.is_none(), &field, || {
        "names a second text, but the head `segmentation` reads images; remove it".to_owned()
    });
    let field = format!("{path}.data.augment");
    found.require(!task.data.augment.of_sounds(), &field, || {
        "time_mask and frequency_mask are for sounds, but the head `segmentation` reads images; \
         expected crop or flip"
            .to_owned()
    });
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

    fn scene(labels: &[&str]) -> Value {
        json!({
            "name": "scene", "head": "segmentation",
            "data": {"train": "scene.jsonl", "labels": labels},
        })
    }

    #[test]
    fn masks_need_named_classes() {
        // A mask without names of classes is refused; one with names, weights and an ignored value is not.
        let found = said(|job| {
            job["tasks"][1] = scene(&["ground", "sky"]);
            job["tasks"][1]["segmentation"] = json!({"ignore_index": 0});
            job["tasks"][1]["loss"] = json!({"class_weights": {"given": {"sky": 2.0}}});
            job["tasks"][1]["metric"] = json!("accuracy");
        });
        assert!(found.is_empty(), "{found:?}");
        let found = said(|job| {
            job["tasks"][1] = scene(&["ground", "sky"]);
            job["tasks"][1]["data"] = json!({"train": "scene.jsonl"});
        });
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "tasks[1].data.labels");
    }

    #[test]
    fn what_does_not_fit_is_refused_at_its_field() {
        // Each once: what other heads have, what the head reads nowhere, and its own settings elsewhere.
        let found = said(|job| {
            job["tasks"][0]["segmentation"] = json!({});
            job["tasks"][1] = scene(&["ground", "sky"]);
            job["tasks"][1]["metric"] = json!("macro_f1");
            job["tasks"][1]["data"]["augment"] = json!({"time_mask": 2});
            job["tasks"][1]["data"]["columns"] = json!({"pair": "other"});
            job["tasks"][1]["loss"] = json!({"label_smoothing": 0.1});
            job["backbone"]["pooling"] = json!("pooler");
            job["balancer"] = json!("mgda_ub");
        });
        let said = |field: &str| found.iter().filter(|(f, _)| f == field).count();
        for field in [
            "tasks[0].segmentation",
            "tasks[1].metric",
            "tasks[1].data.augment",
            "tasks[1].data.columns.pair",
            "tasks[1].loss.label_smoothing",
            "backbone.pooling",
            "tasks[1].head",
        ] {
            assert_eq!(said(field), 1, "{field}: {found:?}");
        }
    }
}
