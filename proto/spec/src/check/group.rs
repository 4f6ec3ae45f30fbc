//! Rules of input groups: what their tasks must have in common.

use super::Findings;
use crate::group::InputGroups;
use crate::job::TaskSpec;

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
        let data = (&first.data, &task.data);
        let same = [
            ("train", data.0.train.paths() == data.1.train.paths()),
            (
                "columns.input",
                data.0.columns.input == data.1.columns.input,
            ),
            ("columns.pair", data.0.columns.pair == data.1.columns.pair),
            (
                "max_train_samples",
                data.0.max_train_samples == data.1.max_train_samples,
            ),
            (
                "on_bad_sample",
                data.0.on_bad_sample == data.1.on_bad_sample,
            ),
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

#[cfg(test)]
mod tests {
    use crate::check::{check, tests::valid};
    use crate::{JobSpec, job::Files};

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
}
