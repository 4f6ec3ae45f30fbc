//! What ranks report while a job runs.

use super::task::{metric, unknown_metric};
use super::{Bad, Wire, at};
use crate::{time, v1};
use espalier_spec::Step;
use espalier_spec::job::Metric;
use espalier_spec::report::{Checkpoint, Evaluation, Failure, Progress, TaskScores};
use std::collections::BTreeMap;

impl Wire for Progress {
    type Message = v1::Progress;

    fn to_wire(&self) -> v1::Progress {
        v1::Progress {
            step: self.step.0,
            total_steps: self.total_steps,
            samples: self.samples,
            tokens: self.tokens,
            samples_per_second: self.samples_per_second,
            tokens_per_second: self.tokens_per_second,
            eta: self.eta_seconds.map(time::duration),
            learning_rate: self.learning_rate,
            gradient_norm: self.gradient_norm,
            losses: self.losses.clone(),
        }
    }

    fn read(m: v1::Progress, _bad: &mut Bad, _path: &str) -> Self {
        Progress {
            step: Step(m.step),
            total_steps: m.total_steps,
            samples: m.samples,
            tokens: m.tokens,
            samples_per_second: m.samples_per_second,
            tokens_per_second: m.tokens_per_second,
            eta_seconds: m.eta.as_ref().map(time::seconds),
            learning_rate: m.learning_rate,
            gradient_norm: m.gradient_norm,
            losses: m.losses,
        }
    }
}

impl Wire for Evaluation {
    type Message = v1::Evaluation;

    fn to_wire(&self) -> v1::Evaluation {
        v1::Evaluation {
            step: self.step.0,
            split: self.split.clone(),
            tasks: self
                .tasks
                .iter()
                .map(|(name, t)| (name.clone(), t.to_wire()))
                .collect(),
            selection: self.selection,
            best: self.best,
        }
    }

    fn read(m: v1::Evaluation, bad: &mut Bad, path: &str) -> Self {
        let tasks = m.tasks.into_iter().map(|(name, scores)| {
            let path = format!("{}[{name}]", at(path, "tasks"));
            let scores = TaskScores::read(scores, bad, &path);
            (name, scores)
        });
        Evaluation {
            step: Step(m.step),
            tasks: tasks.collect(),
            split: m.split,
            selection: m.selection,
            best: m.best,
        }
    }
}

impl Wire for TaskScores {
    type Message = v1::TaskScores;

    fn to_wire(&self) -> v1::TaskScores {
        let named = |figures: &BTreeMap<Metric, f64>| {
            figures
                .iter()
                .map(|(metric, value)| (metric.as_str().to_owned(), *value))
                .collect()
        };
        v1::TaskScores {
            samples: self.samples,
            loss: self.loss,
            metrics: named(&self.metrics),
            baseline: named(&self.baseline),
        }
    }

    fn read(m: v1::TaskScores, bad: &mut Bad, path: &str) -> Self {
        let mut figures = |named: BTreeMap<String, f64>, field: &str| {
            let mut figures = BTreeMap::new();
            for (name, value) in named {
                match metric(&name) {
                    Some(metric) => {
                        figures.insert(metric, value);
                    }
                    None => bad.add(at(path, field), unknown_metric(&name)),
                }
            }
            figures
        };
        TaskScores {
            samples: m.samples,
            loss: m.loss,
            metrics: figures(m.metrics, "metrics"),
            baseline: figures(m.baseline, "baseline"),
        }
    }
}

impl Wire for Checkpoint {
    type Message = v1::Checkpoint;

    fn to_wire(&self) -> v1::Checkpoint {
        v1::Checkpoint {
            step: self.step.0,
            path: self.path.clone(),
            best: self.best,
        }
    }

    fn read(m: v1::Checkpoint, _bad: &mut Bad, _path: &str) -> Self {
        Checkpoint {
            step: Step(m.step),
            path: m.path,
            best: m.best,
        }
    }
}

impl Wire for Failure {
    type Message = v1::Failure;

    fn to_wire(&self) -> v1::Failure {
        v1::Failure {
            code: self.code.clone(),
            message: self.message.clone(),
            retryable: self.retryable,
        }
    }

    fn read(m: v1::Failure, _bad: &mut Bad, _path: &str) -> Self {
        Failure {
            code: m.code,
            message: m.message,
            retryable: m.retryable,
        }
    }
}
