//! Rules of input groups: what their tasks must have in common.

use super::Findings;
use crate::group::InputGroups;
use crate::job::{HeadKind, TaskSpec};

pub(super) fn rules(tasks: &[TaskSpec], found: &mut Findings) {
    let groups = InputGroups::of(tasks);
    for (index, task) in tasks.iter().enumerate() {
        let Some(group) = &task.input_group else {
            continue;
        };
        let path = format!("tasks[{index}]");
        let leader = groups.leader(index);
        found.require(
            !group.trim().is_empty(),
            &format!("{path}.input_group"),
            || {
                "is empty; expected a name that at least two tasks share, or leave it out"
                    .to_owned()
            },
        );
        if leader == index {
            found.require(
                groups.members(index).count() > 1,
                &format!("{path}.input_group"),
                || format!("no other task is in {group:?}; name it in another task too, or leave it out"),
            );
            continue;
        }
        let first = &tasks[leader];
        let (theirs, ours) = (input(first), input(task));
        found.require(theirs == ours, &format!("{path}.data.columns.input"), || {
            format!(
                "is {}, but tasks[{leader}].data.columns.input of task `{}` is {}, and both are in input \
                 group {group:?}, whose tasks label the same inputs; name the same column in both, or \
                 leave `input_group` out",
                named(ours),
                first.name,
                named(theirs)
            )
        });
        let data = (&first.data, &task.data);
        let same = [
            ("train", data.0.train.paths() == data.1.train.paths()),
            ("columns.pair", data.0.columns.pair == data.1.columns.pair),
            (
                "max_train_samples",
                data.0.max_train_samples == data.1.max_train_samples,
            ),
            (
                "on_bad_sample",
                data.0.on_bad_sample == data.1.on_bad_sample,
            ),
            ("too_long", data.0.too_long == data.1.too_long),
            ("augment", data.0.augment == data.1.augment),
        ];
        for (field, same) in same {
            found.require(same, &format!("{path}.data.{field}"), || {
                format!(
                    "is not that of task `{}` (tasks[{leader}]), but both are in input group {group:?}, \
                     whose tasks label the same inputs; make them the same, or leave `input_group` out",
                    first.name
                )
            });
        }
    }
}

/// The column that a task reads its inputs from, as far as the job tells: none for that of the backbone. What
/// is left out is not the same for all heads (`span`, whose pairs are two columns, must name them).
fn input(task: &TaskSpec) -> Option<&str> {
    let words = (task.head == HeadKind::Tags).then_some("tokens");
    task.data.columns.input.as_deref().or(words)
}

/// A column in words.
fn named(column: Option<&str>) -> String {
    match column {
        Some(name) => format!("`{name}`"),
        None => "left out, and so the backbone's own".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::check::{check, tests::valid};
    use crate::{JobSpec, job::Files};
    use serde_json::json;

    #[test]
    fn a_group_has_one_source_of_inputs() {
        // Promise: tasks that would label different inputs are refused, with the field that differs.
        let mut spec: JobSpec = serde_json::from_value(valid()).expect("right types");
        spec.tasks.truncate(2);
        spec.tasks[1].data = spec.tasks[0].data.clone();
        for task in &mut spec.tasks {
            task.data.labels = None;
            task.input_group = Some("texts".to_owned());
        }
        spec.tasks[1].data.columns.label = Some("other".to_owned());
        assert_eq!(check(&spec), Ok(()));
        spec.tasks[1].data.train = Files::One("other.csv".to_owned());
        spec.tasks[1].data.max_train_samples = Some(3);
        spec.tasks[1].data.augment.flip = true;
        let violations = check(&spec).expect_err("two sources");
        let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "tasks[1].data.train",
                "tasks[1].data.max_train_samples",
                "tasks[1].data.augment"
            ]
        );
        assert!(violations[0].message.contains("(tasks[0])"));
        spec.tasks[1].input_group = None;
        let violations = check(&spec).expect_err("a group of one");
        assert_eq!(violations[0].field, "tasks[0].input_group");
    }

    // Promise: columns that are left out are those that the heads read then, so a task of words does not
    // share its inputs with one of whole texts unnoticed.
    #[test]
    fn columns_that_are_left_out_differ_by_head() {
        let group = |inputs: [Option<&str>; 2]| -> Vec<String> {
            let mut value = valid();
            let task = |name: &str, head: &str, input: Option<&str>| {
                json!({
                    "name": name, "head": head, "input_group": "texts",
                    "data": {"train": "a.jsonl", "columns": {"input": input}},
                })
            };
            value["tasks"] = json!([
                task("topic", "single_label", inputs[0]),
                task("slots", "tags", inputs[1])
            ]);
            let spec: JobSpec = serde_json::from_value(value).expect("right types");
            let found = check(&spec).err().unwrap_or_default();
            let said = found
                .into_iter()
                .map(|v| format!("{}: {}", v.field, v.message));
            said.collect()
        };
        let found = group([None, None]);
        assert_eq!(found.len(), 1, "{found:?}");
        let said = &found[0];
        assert!(
            said.starts_with("tasks[1].data.columns.input: is `tokens`"),
            "{said}"
        );
        assert!(said.contains("tasks[0].data.columns.input"), "{said}");
        assert_eq!(group([Some("text"), None]).len(), 1);
        assert_eq!(group([Some("tokens"), None]), Vec::<String>::new());
        assert_eq!(
            group([Some("tokens"), Some("tokens")]),
            Vec::<String>::new()
        );
    }
}
