//! Rules of tasks that read a text out of a sound or an image.

use super::Findings;
use crate::job::{HeadKind, TaskSpec};

/// What such a task cannot have.
pub(super) fn rules(task: &TaskSpec, path: &str, found: &mut Findings) {
    if task.head != HeadKind::Ctc {
        return;
    }
    let labels = task.data.labels.iter().flatten().enumerate();
    for (index, label) in labels.filter(|(_, label)| label.chars().count() > 1) {
        found.add(
            format!("{path}.data.labels"),
            format!(
                "entry {index} is {label:?}, but the classes of the head `ctc` are single characters; \
                 list those that its texts are made of, or leave `labels` out"
            ),
        );
    }
    let columns = &task.data.columns;
    found.require(
        columns.pair.is_none(),
        &format!("{path}.data.columns.pair"),
        || "names a second text, but the head `ctc` reads sounds or images; remove it".to_owned(),
    );
    found.require(
        !task.data.augment.flip,
        &format!("{path}.data.augment.flip"),
        || "turns the order of characters round; remove it for the head `ctc`".to_owned(),
    );
}

#[cfg(test)]
mod tests {
    use crate::JobSpec;
    use crate::check::{check, tests::valid};
    use serde_json::json;

    #[test]
    fn ctc_reads_characters_in_their_order() {
        // What would be no character, no sound or another order is refused at its field, each once.
        let mut value = valid();
        value["backbone"]["pooling"] = json!("pooler");
        value["tasks"][1] = json!({
            "name": "words", "head": "ctc", "metric": "accuracy",
            "data": {"train": "a.jsonl", "labels": ["a", "bc"], "columns": {"pair": "p"},
                     "augment": {"flip": true}},
            "loss": {"class_weights": "balanced", "label_smoothing": 0.1},
            "adaptation": {"method": "coral", "target": {"train": "t.jsonl"}},
        });
        let spec: JobSpec = serde_json::from_value(value).expect("right types");
        let found = check(&spec).expect_err("a head for texts");
        for (field, part) in [
            ("backbone.pooling", "expected mean, cls, max or last"),
            ("tasks[1].data.labels", "entry 1 is \"bc\""),
            ("tasks[1].data.columns.pair", "reads sounds or images"),
            ("tasks[1].data.augment.flip", "order of characters"),
            ("tasks[1].loss.class_weights", "does not weigh its classes"),
            ("tasks[1].loss.label_smoothing", "this head is `ctc`"),
            ("tasks[1].metric", "expected cer or wer"),
            ("tasks[1].adaptation", "is not for the head `ctc`"),
        ] {
            let fits = |v: &&crate::check::Violation| v.field == field && v.message.contains(part);
            assert_eq!(found.iter().filter(fits).count(), 1, "{field}: {found:?}");
        }
    }
}
