//! Validation that needs no IO: every violation with its field path.
//!
//! Types are checked by serde while a job file is read; here are the rules that a type cannot
//! hold: ranges, names and what one field demands of another. `job` has the rules of the job as a
//! whole, `task` those of one task, `training` those of length, optimizer and evaluation,
//! `language` what predicting the next token demands, `tuning` what is trained of the backbone,
//! `adaptation`, `balancer` and `exchange` those of the fields of these names, `group` what tasks with
//! shared inputs must have in common, `zero_shot` how classes are described, `ctc` what reading texts out of
//! sounds demands, `segmentation` what masks demand, `span` how answers are found, `ranking` which texts are told
//! apart.

mod adaptation;
mod balancer;
mod ctc;
mod exchange;
mod group;
mod job;
mod language;
mod nearest;
mod ranking;
mod segmentation;
mod span;
mod task;
mod training;
mod tuning;
mod zero_shot;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use balancer::balancer;
pub use nearest::nearest;

use crate::JobSpec;
use serde::{Deserialize, Serialize};

/// One broken rule of a job spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Violation {
    /// Path of the field, such as `tasks[2].data.train`.
    pub field: String,
    /// What is wrong, what was expected, what to do.
    pub message: String,
}

/// Checks the rules that connect fields.
///
/// # Errors
/// All violations, in the order of the fields in [`JobSpec`]; never an empty list.
pub fn check(spec: &JobSpec) -> Result<(), Vec<Violation>> {
    let mut found = Findings::default();
    job::name("name", &spec.name, &mut found);
    job::name("namespace", &spec.namespace, &mut found);
    job::backbone(&spec.backbone, &mut found);
    tuning::rules(spec, &mut found);
    job::tasks(&spec.tasks, &mut found);
    for (index, task) in spec.tasks.iter().enumerate() {
        task::task(task, &format!("tasks[{index}]"), &mut found);
        task::pooling(task, spec.backbone.pooling, index, &mut found);
    }
    job::sampler(spec, &mut found);
    language::beside(&spec.tasks, &mut found);
    group::rules(&spec.tasks, &mut found);
    adaptation::rules(spec, &mut found);
    training::task_evaluations(spec, &mut found);
    ranking::beside(spec, &mut found);
    balancer::rules(spec, &mut found);
    training::training(&spec.training, &mut found);
    tuning::rates(spec, &mut found);
    exchange::rules(spec, &mut found);
    training::evaluation(spec, &mut found);
    training::checkpoint(&spec.checkpoint, &mut found);
    job::resources(&spec.resources, spec.training.batch_size, &mut found);
    job::output(spec.output.as_deref(), &mut found);
    if found.violations.is_empty() {
        Ok(())
    } else {
        Err(found.violations)
    }
}

/// Collects violations.
#[derive(Default)]
struct Findings {
    violations: Vec<Violation>,
}

impl Findings {
    /// Adds a violation of `field`.
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.violations.push(Violation {
            field: field.into(),
            message: message.into(),
        });
    }

    /// Adds a violation unless `holds`.
    fn require(&mut self, holds: bool, field: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.add(field, message());
        }
    }
}
