//! Rules of tasks that find the answer to a question in a context.

use super::Findings;
use crate::augment::OnBadSample;
use crate::job::{ClassWeights, HeadKind, TaskSpec};

/// What such a task cannot have, and what only such a task can have.
pub(super) fn rules(task: &TaskSpec, path: &str, found: &mut Findings) {
    let field = format!("{path}.span");
    if task.head != HeadKind::Span {
        found.require(task.span.is_none(), &field, || {
            let head = task.head.as_str();
            format!("is for `span` only, and this head is `{head}`; remove it")
        });
        return;
    }
    let most = task.span.unwrap_or_default().max_answer_tokens;
    found.require(most > 0, &format!("{field}.max_answer_tokens"), || {
        "is 0; expected at least 1, or leave it out for 30".to_owned()
    });
    let classes = [
        ("data.labels", task.data.labels.is_some()),
        (
            "loss.class_weights",
            task.loss.class_weights != ClassWeights::None,
        ),
    ];
    for (name, given) in classes {
        found.require(!given, &format!("{path}.{name}"), || {
            "is nothing to `span`, which has no classes: it finds where an answer begins and ends; \
             remove it"
                .to_owned()
        });
    }
    columns(task, path, found);
    if task.input_group.is_none() {
        return;
    }
    let given = &task.data.columns;
    for (name, given) in [("input", &given.input), ("pair", &given.pair)] {
        found.require(
            given.is_some(),
            &format!("{path}.data.columns.{name}"),
            || {
                "is left out, but other heads of an input group read other columns by default; name the \
                 column in all tasks of the group"
                    .to_owned()
            },
        );
    }
    let skips = task.data.on_bad_sample == OnBadSample::Skip;
    found.require(!skips, &format!("{path}.data.on_bad_sample"), || {
        "is `skip`, which would leave out rows whose answers are wrong, but the other tasks of the input \
         group would keep them; use fail, or leave `input_group` out"
            .to_owned()
    });
}

/// With their defaults, too, columns are three.
fn columns(task: &TaskSpec, path: &str, found: &mut Findings) {
    let of = |given: &Option<String>, default: &str| given.clone().unwrap_or(default.to_owned());
    let columns = &task.data.columns;
    let names = [
        ("input", of(&columns.input, "question")),
        ("pair", of(&columns.pair, "context")),
        ("label", of(&columns.label, "answers")),
    ];
    // Two that are both given are told apart with all heads.
    let given = [&columns.input, &columns.pair, &columns.label].map(Option::is_some);
    for (first, second) in [(0, 1), (0, 2), (1, 2)] {
        let same = names[first].1 == names[second].1 && !(given[first] && given[second]);
        found.require(!same, &format!("{path}.data.columns"), || {
            let (one, two) = (names[first].0, names[second].0);
            format!(
                "{one} and {two} are the same column {:?}, one of them by default; name both",
                names[first].1
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::JobSpec;
    use crate::check::{check, tests::valid};
    use serde_json::{Value, json};

    fn said(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut value = valid();
        change(&mut value);
        let spec: JobSpec = serde_json::from_value(value).expect("right types");
        let found = check(&spec).err().unwrap_or_default();
        found.into_iter().map(|v| v.field).collect()
    }

    // Promise: a task of questions needs nothing but files; what it has no use for is refused at its field.
    #[test]
    fn answers_are_no_classes() {
        let task = json!({"name": "qa", "head": "span", "data": {"train": "a.jsonl"}});
        assert_eq!(
            said(|job| job["tasks"][1] = task.clone()),
            Vec::<String>::new()
        );
        let found = said(|job| {
            job["tasks"][1] = task;
            job["tasks"][1]["data"]["labels"] = json!(["a", "b"]);
            job["tasks"][1]["data"]["columns"] = json!({"input": "context"});
            job["tasks"][1]["loss"] = json!({"class_weights": "balanced"});
            job["tasks"][1]["span"] = json!({"max_answer_tokens": 0});
            job["tasks"][1]["metric"] = json!("accuracy");
            job["tasks"][0]["span"] = json!({});
        });
        let expected = [
            "tasks[0].span",
            "tasks[1].span.max_answer_tokens",
            "tasks[1].data.labels",
            "tasks[1].loss.class_weights",
            "tasks[1].data.columns",
            "tasks[1].metric",
        ];
        assert_eq!(found, expected);
    }

    // Promise: in an input group nothing is left to defaults that differ by head, and no row to one task.
    #[test]
    fn a_group_reads_the_same_rows() {
        let task = |name: &str, head: &str| {
            json!({"name": name, "head": head, "input_group": "g",
                   "data": {"train": "a.jsonl", "on_bad_sample": "skip"}})
        };
        let found = said(|job| {
            job["tasks"][0] = task("topic", "single_label");
            job["tasks"][1] = task("qa", "span");
        });
        let expected = ["columns.input", "columns.pair", "on_bad_sample"]
            .map(|name| format!("tasks[1].data.{name}"));
        assert_eq!(found, expected);
    }
}
