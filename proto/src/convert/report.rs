//! What ranks report while a job runs.

use super::task::{metric, unknown_metric};
use super::{Bad, Wire, at, item, text};
use crate::{time, v1};
use espalier_spec::job::Metric;
use espalier_spec::report::{
    Affinity, Checkpoint, Evaluation, ExchangeStats, Failure, MemoryStats, Progress, TaskGradient,
    TaskPair, TaskScores,
};
use espalier_spec::{Rank, Step};
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
            affinity: self.affinity.as_ref().map(Wire::to_wire),
            exchange: self.exchange.as_ref().map(Wire::to_wire),
            memory: self.memory.as_ref().map(Wire::to_wire),
            task_milliseconds: self.task_milliseconds.clone(),
        }
    }

    fn read(m: v1::Progress, bad: &mut Bad, path: &str) -> Self {
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
            task_milliseconds: m.task_milliseconds,
            affinity: m
                .affinity
                .map(|part| Affinity::read(part, bad, &at(path, "affinity"))),
            exchange: m
                .exchange
                .map(|part| ExchangeStats::read(part, bad, &at(path, "exchange"))),
            memory: m
                .memory
                .map(|part| MemoryStats::read(part, bad, &at(path, "memory"))),
        }
    }
}

impl Wire for Affinity {
    type Message = v1::Affinity;

    fn to_wire(&self) -> v1::Affinity {
        v1::Affinity {
            tasks: self.tasks.iter().map(Wire::to_wire).collect(),
            pairs: self.pairs.iter().map(Wire::to_wire).collect(),
        }
    }

    fn read(m: v1::Affinity, bad: &mut Bad, path: &str) -> Self {
        let tasks = (0..).zip(m.tasks);
        let pairs = (0..).zip(m.pairs);
        Affinity {
            tasks: tasks
                .map(|(index, task)| Wire::read(task, bad, &item(path, "tasks", index)))
                .collect(),
            pairs: pairs
                .map(|(index, pair)| Wire::read(pair, bad, &item(path, "pairs", index)))
                .collect(),
        }
    }
}

impl Wire for TaskGradient {
    type Message = v1::affinity::TaskGradient;

    fn to_wire(&self) -> v1::affinity::TaskGradient {
        v1::affinity::TaskGradient {
            task: self.task.clone(),
            norm: self.norm,
            weight: self.weight,
            steps: self.steps,
        }
    }

    fn read(m: v1::affinity::TaskGradient, _bad: &mut Bad, _path: &str) -> Self {
        TaskGradient {
            task: m.task,
            norm: m.norm,
            weight: m.weight,
            steps: m.steps,
        }
    }
}

impl Wire for TaskPair {
    type Message = v1::affinity::TaskPair;

    fn to_wire(&self) -> v1::affinity::TaskPair {
        v1::affinity::TaskPair {
            a: self.a.clone(),
            b: self.b.clone(),
            cosine: self.cosine,
            deviation: self.deviation,
            conflicts: self.conflicts,
            steps: self.steps,
        }
    }

    fn read(m: v1::affinity::TaskPair, bad: &mut Bad, path: &str) -> Self {
        if m.a == m.b {
            bad.add(
                at(path, "b"),
                format!("is {:?} like a, expected another task", m.b),
            );
        }
        TaskPair {
            a: m.a,
            b: m.b,
            cosine: m.cosine,
            deviation: m.deviation,
            conflicts: m.conflicts,
            steps: m.steps,
        }
    }
}

impl Wire for ExchangeStats {
    type Message = v1::ExchangeStats;

    fn to_wire(&self) -> v1::ExchangeStats {
        v1::ExchangeStats {
            bytes_sent_per_step: self.bytes_sent_per_step,
            seconds_per_step: self.seconds_per_step,
            exposed_seconds_per_step: self.exposed_seconds_per_step,
            balance_seconds_per_step: self.balance_seconds_per_step,
            fallbacks: self.fallbacks,
            skipped_tasks: self.skipped_tasks,
            last_fallback: self.last_fallback.clone().unwrap_or_default(),
        }
    }

    fn read(m: v1::ExchangeStats, _bad: &mut Bad, _path: &str) -> Self {
        ExchangeStats {
            bytes_sent_per_step: m.bytes_sent_per_step,
            seconds_per_step: m.seconds_per_step,
            exposed_seconds_per_step: m.exposed_seconds_per_step,
            balance_seconds_per_step: m.balance_seconds_per_step,
            fallbacks: m.fallbacks,
            skipped_tasks: m.skipped_tasks,
            last_fallback: text(m.last_fallback),
        }
    }
}

impl Wire for MemoryStats {
    type Message = v1::MemoryStats;

    fn to_wire(&self) -> v1::MemoryStats {
        v1::MemoryStats {
            parameter_bytes: self.parameter_bytes,
            gradient_bytes: self.gradient_bytes,
            optimizer_bytes: self.optimizer_bytes,
            buffer_bytes: self.buffer_bytes,
            peak_parameter_bytes: self.peak_parameter_bytes,
            peak_resident_bytes: self.peak_resident_bytes,
        }
    }

    fn read(m: v1::MemoryStats, _bad: &mut Bad, _path: &str) -> Self {
        MemoryStats {
            parameter_bytes: m.parameter_bytes,
            gradient_bytes: m.gradient_bytes,
            optimizer_bytes: m.optimizer_bytes,
            buffer_bytes: m.buffer_bytes,
            peak_parameter_bytes: m.peak_parameter_bytes,
            peak_resident_bytes: m.peak_resident_bytes,
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
            class_iou: self.class_iou.clone(),
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
            class_iou: m.class_iou,
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
            lost_rank: self.lost.map(|rank| rank.0),
        }
    }

    fn read(m: v1::Failure, _bad: &mut Bad, _path: &str) -> Self {
        Failure {
            code: m.code,
            message: m.message,
            retryable: m.retryable,
            lost: m.lost_rank.map(Rank),
        }
    }
}
