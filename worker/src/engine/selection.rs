//! Which evaluation is the best: what each task gave last, and which tasks are due.

use super::evaluate::Which;
use super::trainer::Trainer;
use espalier_spec::JobSpec;
use espalier_spec::job::{SelectBy, TaskSpec};
use espalier_spec::report::TaskScores;
use std::collections::BTreeMap;

/// What each task gave to the selection when it was last evaluated, by name; larger is better, none stands for
/// what is no finite number. It is part of a run's state: evaluations at which a task is not due count it.
pub(super) type Figures = BTreeMap<String, Option<f64>>;

/// Whether each task is evaluated after `done` of `total` steps, at which the job has an evaluation: where its own
/// `evaluation.every_steps` says so, at the end, and where it has no figure yet. So all figures that are compared
/// are means over the same tasks.
pub(super) fn due(spec: &JobSpec, last: &Figures, (done, total): (u64, u64)) -> Vec<bool> {
    let tasks = spec.tasks.iter();
    tasks
        .map(|task| {
            let every = task.evaluation.map_or(1, |own| own.every_steps);
            done == total || done.is_multiple_of(every) || !last.contains_key(&task.name)
        })
        .collect()
}

/// The mean over tasks of what each gave last; no number if one gave none.
pub(super) fn mean(spec: &JobSpec, last: &Figures) -> f64 {
    // In the order of the job file, so that the sum has the same bits everywhere.
    let figures = spec.tasks.iter().filter_map(|task| last.get(&task.name));
    let figures: Vec<f64> = figures.map(|value| value.unwrap_or(f64::NAN)).collect();
    figures.iter().sum::<f64>() / figures.len().max(1) as f64
}

impl Trainer {
    /// What scores are worth by each task's own metric: none where scores have no such metric.
    pub(super) fn by_metric(&self, scores: &BTreeMap<String, TaskScores>) -> Vec<(usize, f64)> {
        let of_task = |(index, task): (usize, &TaskSpec)| {
            let metric = task.metric.unwrap_or(task.head.default_metric());
            let value = *scores.get(&task.name)?.metrics.get(&metric)?;
            let sign = if metric.higher_is_better() { 1.0 } else { -1.0 };
            Some((index, sign * value))
        };
        let tasks = self.spec.tasks.iter().enumerate();
        tasks.filter_map(of_task).collect()
    }

    /// Whether predictions without labels choose among evaluations of such files.
    pub(super) fn selects_without_labels(&self, which: Which) -> bool {
        which == Which::Validation && self.spec.evaluation.select_by != SelectBy::Metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec() -> JobSpec {
        let task =
            |name: &str| json!({"name": name, "head": "regression", "data": {"train": "a.csv"}});
        let mut slow = task("slow");
        slow["evaluation"] = json!({"every_steps": 6});
        serde_json::from_value(json!({
            "name": "a", "backbone": {"path": "b"}, "tasks": [task("quick"), slow],
            "evaluation": {"every_steps": 2},
        }))
        .unwrap()
    }

    // Promise: a task is evaluated at the first evaluation, at its own steps and at the end, one without steps of
    // its own at every evaluation.
    #[test]
    fn a_task_keeps_its_own_time() {
        let (spec, mut last) = (spec(), Figures::new());
        assert_eq!(due(&spec, &last, (2, 16)), [true, true]);
        for name in ["quick", "slow"] {
            last.insert(name.to_owned(), Some(0.5));
        }
        let slow = (1..=8).map(|at| due(&spec, &last, (2 * at, 16)));
        let slow: Vec<[bool; 2]> = slow.map(|due| [due[0], due[1]]).collect();
        let expected = [false, false, true, false, false, true, false, true];
        assert_eq!(slow, expected.map(|slow| [true, slow]));
    }

    // Promise: the last figure of a task that is not due counts as much as the others; one that was no number
    // makes no mean, and outlasts being written down.
    #[test]
    fn last_figures_count() {
        let spec = spec();
        let mut last = Figures::from([
            ("quick".to_owned(), Some(0.25)),
            ("slow".to_owned(), Some(0.75)),
        ]);
        assert_eq!(mean(&spec, &last), 0.5);
        last.insert("slow".to_owned(), None);
        let text = serde_json::to_string(&last).unwrap();
        let back: Figures = serde_json::from_str(&text).unwrap();
        assert_eq!(back, last);
        assert!(mean(&spec, &back).is_nan());
        assert_eq!(mean(&spec, &Figures::new()), 0.0);
    }
}
