//! Which tasks share their inputs.

use crate::job::TaskSpec;

/// The input groups of a job's tasks. A group's first task *leads* it: samples are drawn under its
/// name. A task without a group is a group of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputGroups {
    /// For each task, the one that leads its group.
    leaders: Vec<usize>,
}

impl InputGroups {
    /// The groups of these tasks.
    #[must_use]
    pub fn of(tasks: &[TaskSpec]) -> Self {
        let leader = |(index, task): (usize, &TaskSpec)| match &task.input_group {
            None => index,
            // The task itself is in its group: there is a first one.
            Some(group) => tasks
                .iter()
                .position(|other| other.input_group.as_ref() == Some(group))
                .unwrap_or(index),
        };
        Self {
            leaders: tasks.iter().enumerate().map(leader).collect(),
        }
    }

    /// Every one of so many tasks with inputs of its own.
    #[must_use]
    pub fn apart(tasks: usize) -> Self {
        Self {
            leaders: (0..tasks).collect(),
        }
    }

    /// The task that leads a task's group.
    #[must_use]
    pub fn leader(&self, task: usize) -> usize {
        self.leaders.get(task).copied().unwrap_or(task)
    }

    /// Whether a task leads its group, and samples are drawn under its name.
    #[must_use]
    pub fn leads(&self, task: usize) -> bool {
        self.leader(task) == task
    }

    /// Tasks that label the inputs drawn for `leader`, ascending; none if it leads no group.
    pub fn members(&self, leader: usize) -> impl Iterator<Item = usize> {
        let all = self.leaders.iter().enumerate();
        all.filter(move |(_, its)| **its == leader)
            .map(|(task, _)| task)
    }

    /// Whether some tasks share inputs.
    #[must_use]
    pub fn any_shared(&self) -> bool {
        self.leaders.iter().enumerate().any(|(i, l)| i != *l)
    }

    /// Whether all tasks share the same inputs, and there are at least two.
    #[must_use]
    pub fn all_shared(&self) -> bool {
        self.leaders.len() > 1 && self.leaders.iter().all(|leader| *leader == 0)
    }

    /// Values of leaders, such as counts of samples, given to all members.
    pub fn spread<T: Clone>(&self, values: &mut [T]) {
        for (task, leader) in self.leaders.iter().enumerate() {
            if task != *leader && task < values.len() && *leader < values.len() {
                values[task] = values[*leader].clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_of_a_group_leads_it() {
        // Promise: every task has one leader, and every sample drawn is one for all its members.
        let task = |name: &str, group: Option<&str>| -> TaskSpec {
            serde_json::from_value(json!({
                "name": name, "head": "regression", "data": {"train": "a.csv"}, "input_group": group,
            }))
            .expect("a task")
        };
        let tasks = [
            task("a", None),
            task("b", Some("x")),
            task("c", Some("y")),
            task("d", Some("x")),
        ];
        let groups = InputGroups::of(&tasks);
        let members = |leader| groups.members(leader).collect::<Vec<_>>();
        assert_eq!(
            [members(0), members(1), members(2), members(3)],
            [vec![0], vec![1, 3], vec![2], vec![]]
        );
        assert_eq!(
            (0..4).map(|t| groups.leads(t)).collect::<Vec<_>>(),
            [true, true, true, false]
        );
        assert!(groups.any_shared() && !groups.all_shared());
        let mut counts = [5, 7, 9, 0];
        groups.spread(&mut counts);
        assert_eq!(counts, [5, 7, 9, 7]);
        assert!(!InputGroups::of(&tasks[1..2]).all_shared());
        assert!(!InputGroups::apart(3).any_shared());
    }
}
