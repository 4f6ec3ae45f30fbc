//! Rules of the optimizer's methods and of the schedule's kinds.

use super::{broken_alone, check, with};
use crate::job::{OptimizerMethod, ScheduleKind};
use serde_json::json;

// Promise: what belongs to the other method, or is out of range, is refused at its own field.
#[test]
fn methods_take_their_own_fields() {
    let (optimizer, sgd) = ("/training/optimizer", "sgd");
    broken_alone(vec![
        (
            optimizer,
            json!({"momentum": 0.9}),
            "training.optimizer.momentum",
            "set `method: sgd`",
        ),
        (
            optimizer,
            json!({"nesterov": true}),
            "training.optimizer.nesterov",
            "set `method: sgd`",
        ),
        (
            optimizer,
            json!({"method": sgd, "betas": [0.8, 0.99]}),
            "training.optimizer.betas",
            "remove it",
        ),
        (
            optimizer,
            json!({"method": sgd, "eps": 1e-6}),
            "training.optimizer.eps",
            "remove it",
        ),
        (
            optimizer,
            json!({"method": sgd, "momentum": 1.0}),
            "training.optimizer.momentum",
            "below 1",
        ),
        (
            optimizer,
            json!({"method": sgd, "momentum": 0.0, "nesterov": true}),
            "training.optimizer.nesterov",
            "remove one of the two",
        ),
    ]);
}

// Promise: what is of `inverse` is refused with other kinds, and what `inverse` does not have with it.
#[test]
fn kinds_take_their_own_fields() {
    let schedule = "/training/schedule";
    broken_alone(vec![
        (
            schedule,
            json!({"gamma": 10.0}),
            "training.schedule.gamma",
            "set `kind: inverse`",
        ),
        (
            schedule,
            json!({"kind": "constant", "power": 0.75}),
            "training.schedule.power",
            "set `kind: inverse`",
        ),
        (
            schedule,
            json!({"kind": "inverse", "gamma": -1.0}),
            "training.schedule.gamma",
            "at least 0",
        ),
        (
            schedule,
            json!({"kind": "inverse", "power": -0.5}),
            "training.schedule.power",
            "at least 0",
        ),
        (
            schedule,
            json!({"kind": "inverse", "final_ratio": 0.1}),
            "training.schedule.final_ratio",
            "gamma and power",
        ),
    ]);
}

// Promise: the settings of the papers are valid, and what is left out has its default.
#[test]
fn settings_of_papers_are_valid() {
    let spec = with(
        "/training",
        json!({
            "optimizer": {"method": "sgd", "nesterov": true, "weight_decay": 1e-3},
            "schedule": {"kind": "inverse", "warmup_steps": 0}
        }),
    );
    assert_eq!(check(&spec), Ok(()));
    let (optimizer, schedule) = (&spec.training.optimizer, &spec.training.schedule);
    assert_eq!(optimizer.method, OptimizerMethod::Sgd);
    assert_eq!(optimizer.momentum(), 0.9);
    assert_eq!(schedule.kind, ScheduleKind::Inverse);
    assert_eq!((schedule.gamma(), schedule.power()), (10.0, 0.75));
    let plain = with("/seed", json!(1));
    assert_eq!(plain.training.optimizer.method, OptimizerMethod::Adamw);
}
