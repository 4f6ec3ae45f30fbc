//! Rules of length, batch, optimizer, schedule, evaluation and checkpoints.

use super::Findings;
use crate::JobSpec;
use crate::job::{
    CheckpointSpec, OptimizerMethod, OptimizerSpec, ScheduleKind, ScheduleSpec, SelectBy, TaskSpec,
    TrainingSpec,
};
use crate::location::{Location, shown};

pub(super) fn training(training: &TrainingSpec, found: &mut Findings) {
    found.require(training.steps != Some(0), "training.steps", || {
        "is 0; expected at least 1".to_owned()
    });
    if let Some(epochs) = training.epochs {
        found.require(
            epochs.is_finite() && epochs > 0.0,
            "training.epochs",
            || format!("is {epochs}; expected a finite number above 0"),
        );
    }
    let (batch, accumulation) = (training.batch_size, training.accumulation);
    found.require(batch >= 1, "training.batch_size", || {
        "is 0; expected at least 1".to_owned()
    });
    found.require(accumulation >= 1, "training.accumulation", || {
        "is 0; expected at least 1 (1 computes the batch in one part)".to_owned()
    });
    found.require(
        accumulation <= batch || batch == 0,
        "training.accumulation",
        || {
            format!(
                "is {accumulation}: more parts than samples in a batch (training.batch_size is \
             {batch}); lower it to at most {batch}"
            )
        },
    );
    optimizer(&training.optimizer, found);
    schedule(&training.schedule, training.steps, found);
    not_negative(
        training.clip_norm,
        "training.clip_norm",
        " (0 turns clipping off)",
        found,
    );
}

fn optimizer(optimizer: &OptimizerSpec, found: &mut Findings) {
    let path = "training.optimizer";
    not_negative(
        optimizer.learning_rate,
        &format!("{path}.learning_rate"),
        "",
        found,
    );
    if let Some(rate) = optimizer.head_learning_rate {
        not_negative(rate, &format!("{path}.head_learning_rate"), "", found);
    }
    match optimizer.method {
        OptimizerMethod::Adamw => adamw(optimizer, path, found),
        OptimizerMethod::Sgd => sgd(optimizer, path, found),
    }
    not_negative(
        optimizer.weight_decay,
        &format!("{path}.weight_decay"),
        "",
        found,
    );
}

fn adamw(optimizer: &OptimizerSpec, path: &str, found: &mut Findings) {
    for (index, beta) in optimizer.betas.iter().enumerate() {
        found.require(
            (0.0..1.0).contains(beta),
            &format!("{path}.betas[{index}]"),
            || format!("is {beta}; expected at least 0 and below 1"),
        );
    }
    let eps = optimizer.eps;
    found.require(eps.is_finite() && eps > 0.0, &format!("{path}.eps"), || {
        format!("is {eps}; expected a finite number above 0, such as 1e-8")
    });
    let given = [
        ("momentum", optimizer.momentum.is_some()),
        ("nesterov", optimizer.nesterov),
    ];
    for (name, is_given) in given {
        found.require(!is_given, &format!("{path}.{name}"), || {
            "is of `method: sgd` alone, and `method` is adamw; remove it, or set `method: sgd`"
                .to_owned()
        });
    }
}

fn sgd(optimizer: &OptimizerSpec, path: &str, found: &mut Findings) {
    let usual = OptimizerSpec::default();
    let given = [
        ("betas", optimizer.betas != usual.betas),
        ("eps", optimizer.eps != usual.eps),
    ];
    for (name, is_given) in given {
        found.require(!is_given, &format!("{path}.{name}"), || {
            "is of `method: adamw` alone, and `method` is sgd, which has momentum and nesterov; \
             remove it"
                .to_owned()
        });
    }
    let momentum = optimizer.momentum();
    found.require(
        (0.0..1.0).contains(&momentum),
        &format!("{path}.momentum"),
        || format!("is {momentum}; expected at least 0 (without momentum) and below 1"),
    );
    found.require(
        !optimizer.nesterov || momentum != 0.0,
        &format!("{path}.nesterov"),
        || "looks ahead along a momentum, and momentum is 0; remove one of the two".to_owned(),
    );
}

fn schedule(schedule: &ScheduleSpec, steps: Option<u64>, found: &mut Findings) {
    let path = "training.schedule";
    let ratio = schedule.warmup_ratio;
    found.require(
        (0.0..=1.0).contains(&ratio),
        &format!("{path}.warmup_ratio"),
        || format!("is {ratio}; expected 0 to 1"),
    );
    let last = schedule.final_ratio;
    found.require(
        (0.0..=1.0).contains(&last),
        &format!("{path}.final_ratio"),
        || format!("is {last}; expected 0 to 1"),
    );
    inverse(schedule, path, found);
    if let (Some(warmup), Some(steps)) = (schedule.warmup_steps, steps) {
        found.require(warmup <= steps, &format!("{path}.warmup_steps"), || {
            format!(
                "is {warmup}, longer than the whole training (training.steps is {steps}); lower it"
            )
        });
    }
}

/// What is of `inverse` alone, and what it can't have.
fn inverse(schedule: &ScheduleSpec, path: &str, found: &mut Findings) {
    let is_inverse = schedule.kind == ScheduleKind::Inverse;
    for (name, value) in [("gamma", schedule.gamma), ("power", schedule.power)] {
        let Some(value) = value else { continue };
        let field = format!("{path}.{name}");
        found.require(is_inverse, &field, || {
            "is of `kind: inverse` alone; remove it, or set `kind: inverse`".to_owned()
        });
        let note = " (0 keeps the rate as it is)";
        not_negative(value, &field, note, found);
    }
    let last = schedule.final_ratio;
    let field = format!("{path}.final_ratio");
    found.require(!is_inverse || last == 0.0, &field, || {
        format!(
            "is {last}, but `kind: inverse` falls to (1 + gamma)^-power of the peak; remove it, or set \
             gamma and power"
        )
    });
}

pub(super) fn evaluation(spec: &JobSpec, found: &mut Findings) {
    let evaluation = &spec.evaluation;
    found.require(
        evaluation.every_steps != Some(0),
        "evaluation.every_steps",
        || "is 0; expected at least 1, or leave it out to evaluate at the end only".to_owned(),
    );
    found.require(evaluation.batch_size >= 1, "evaluation.batch_size", || {
        "is 0; expected at least 1".to_owned()
    });
    let Some(patience) = evaluation.early_stopping_patience else {
        return;
    };
    let field = "evaluation.early_stopping_patience";
    found.require(patience >= 1, field, || {
        "is 0; expected at least 1, or leave it out to train to the end".to_owned()
    });
    found.require(evaluation.every_steps.is_some(), field, || {
        "needs evaluations during training; set evaluation.every_steps".to_owned()
    });
    let validated = spec.tasks.iter().any(|task| is_evaluated(spec, task));
    found.require(validated, field, || {
        "needs something to evaluate on; give at least one task `data.validation` files".to_owned()
    });
}

/// Whether evaluations during training have anything to say of a task.
fn is_evaluated(spec: &JobSpec, task: &TaskSpec) -> bool {
    let files = task.data.validation.as_ref();
    let without_labels = spec.evaluation.select_by != SelectBy::Metric;
    files.is_some_and(|files| !files.paths().is_empty())
        || without_labels && task.adaptation.is_some()
}

/// A task that is evaluated less often than the others is evaluated together with them.
pub(super) fn task_evaluations(spec: &JobSpec, found: &mut Findings) {
    for (index, task) in spec.tasks.iter().enumerate() {
        let Some(own) = task.evaluation else {
            continue;
        };
        let path = format!("tasks[{index}].evaluation");
        let field = format!("{path}.every_steps");
        let steps = own.every_steps;
        match spec.evaluation.every_steps {
            _ if steps == 0 => found.add(
                field,
                "is 0; expected a multiple of evaluation.every_steps, or leave `evaluation` out to \
                 evaluate the task at every evaluation",
            ),
            None => found.add(
                field,
                "needs evaluations during training; set evaluation.every_steps, of which it must be a \
                 multiple",
            ),
            // What is wrong with 0 is said at its own field.
            Some(0) => {}
            Some(every) => found.require(steps.is_multiple_of(every), &field, || {
                format!(
                    "is {steps}, but evaluations are every {every} steps (evaluation.every_steps); expected \
                     a multiple of that, such as {}",
                    every.saturating_mul(steps.div_ceil(every))
                )
            }),
        }
        found.require(is_evaluated(spec, task), &path, || {
            "has nothing to evaluate the task on; give it `data.validation` files, or remove `evaluation`"
                .to_owned()
        });
    }
}

pub(super) fn checkpoint(checkpoint: &CheckpointSpec, found: &mut Findings) {
    found.require(checkpoint.keep >= 1, "checkpoint.keep", || {
        "is 0; expected at least 1: recovery needs the newest one".to_owned()
    });
    let Some(url) = &checkpoint.upload else {
        return;
    };
    let why = match Location::parse(url) {
        Err(message) => message,
        Ok(Location::Http(_)) => {
            "is one file to an HTTP server, and checkpoints are directories; expected \
             s3://BUCKET/PREFIX or file:///DIRECTORY"
                .to_owned()
        }
        Ok(Location::Path(_)) if !Location::is_url(url) => {
            "is no URL; expected s3://BUCKET/PREFIX or file:///DIRECTORY".to_owned()
        }
        Ok(Location::Path(_) | Location::S3 { .. }) => return,
    };
    found.add("checkpoint.upload", format!("{:?} {why}", shown(url)));
}

fn not_negative(value: f64, field: &str, note: &str, found: &mut Findings) {
    found.require(value.is_finite() && value >= 0.0, field, || {
        format!("is {value}; expected a finite number of at least 0{note}")
    });
}
