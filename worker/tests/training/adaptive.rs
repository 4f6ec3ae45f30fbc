//! A sampler that follows how tasks learn.

use crate::kit::{Layout, Outcome, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::ExchangePlan;
use espalier_worker::engine::StepReport;
use serde_json::{Value, json};
use std::path::Path;

/// Five stages of eight steps; a resume is in the middle of the third.
const STEPS: u64 = 40;
const ALL: [&[u32]; 3] = [&[0, 1], &[0, 1], &[0, 1]];

fn job(dir: &Path, sampler: Value) -> JobSpec {
    spec(dir, STEPS, |job| job["sampler"] = sampler)
}

fn layout(sharding: Sharding) -> Layout {
    let how = ExchangePlan {
        sharding,
        ..ExchangePlan::default()
    };
    Layout::new(2, &ALL, how)
}

/// Samples of each task in the steps of a stage.
fn drawn(outcome: &Outcome, stage: usize) -> Vec<u64> {
    let reports = &outcome.reports[8 * stage..8 * (stage + 1)];
    let of = |task: usize| reports.iter().map(|r| r.losses[task].count).sum();
    (0..3).map(of).collect()
}

// Promise: the first two stages have the shares of the numbers of samples; later ones draw a task the more,
// the slower its loss falls, and all batches stay full.
#[test]
fn what_learns_slowly_is_drawn_more() {
    let folder = tempfile::tempdir().unwrap();
    let sampler = json!({"adaptive": {"every_steps": 8, "alpha": 2.0, "smoothing": 0.0}});
    let outcome = train(
        &job(folder.path(), sampler),
        &layout(Sharding::Optimizer),
        STEPS,
    );
    let even = train(
        &job(folder.path(), json!("proportional")),
        &layout(Sharding::Optimizer),
        STEPS,
    );
    for stage in [0, 1] {
        assert_eq!(drawn(&outcome, stage), drawn(&even, stage));
    }
    let mean = |stage: usize, task: usize| {
        let reports = &outcome.reports[8 * stage..8 * (stage + 1)];
        let losses = reports.iter().map(|r| r.losses[task]);
        let (sum, count) = losses.fold((0.0, 0), |all, l| (all.0 + l.sum, all.1 + l.count));
        sum / count as f64
    };
    for stage in [2, 3, 4] {
        // Of equally many samples each: shares follow the rates of two stages before.
        let rate = |task: usize| (mean(stage - 2, task) / mean(0, task)).powi(2).max(0.1);
        let all: f64 = (0..3).map(rate).sum();
        let found = drawn(&outcome, stage);
        assert_eq!(found.iter().sum::<u64>(), 8 * 24);
        for (task, found) in found.into_iter().enumerate() {
            let expected = 8.0 * 24.0 * rate(task) / all;
            let off = (found as f64 - expected).abs();
            assert!(off < 4.0, "stage {stage}, task {task}: {found}, {expected}");
        }
    }
}

/// Shares of the reports' scalar products: 1 + the mean cosine of each task with the others.
fn agreement(outcome: &Outcome, stage: usize, task: usize) -> f64 {
    let reports = &outcome.reports[8 * stage..8 * (stage + 1)];
    let of = |report: &StepReport| {
        let gram = report.gram.as_ref().unwrap();
        let product = |a: usize, b: usize| gram[3 * a + b].unwrap();
        let others = (0..3).filter(|other| *other != task);
        let cosine =
            |other| product(task, other) / (product(task, task) * product(other, other)).sqrt();
        others.map(cosine).sum::<f64>() / 2.0
    };
    1.0 + reports.iter().map(of).sum::<f64>() / 8.0
}

// Promise: by affinity, a task is drawn the more its gradient agrees with the others', two stages later; neither
// sharding nor a resume changes a bit; where gradients do not travel apart there is nothing to follow.
#[test]
fn what_agrees_is_drawn_more() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(
        folder.path(),
        json!({"adaptive": {"every_steps": 8, "by": "affinity", "smoothing": 0.0, "alpha": 2.0}}),
    );
    let apart = |sharding| {
        let mut layout = layout(sharding);
        layout.how.apart = true;
        layout
    };
    let once = train(&job, &apart(Sharding::Optimizer), STEPS);
    for stage in [2, 3, 4] {
        let rate = |task: usize| agreement(&once, stage - 2, task).powi(2).clamp(0.1, 10.0);
        let all: f64 = (0..3).map(rate).sum();
        for (task, found) in drawn(&once, stage).into_iter().enumerate() {
            let expected = 8.0 * 24.0 * rate(task) / all;
            let off = (found as f64 - expected).abs();
            assert!(off < 4.0, "stage {stage}, task {task}: {found}, {expected}");
        }
    }
    once.assert_same(&train(&job, &apart(Sharding::Full), STEPS), "full");
    let halves = train_in_halves(&job, &apart(Sharding::Optimizer), STEPS);
    assert!(once.model == halves.model, "models differ");
    assert!(once.heads == halves.heads, "heads differ");
}

// Promise: neither sharding nor a resume in the middle of a stage changes a bit.
#[test]
fn neither_sharding_nor_a_resume_changes_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), json!({"adaptive": {"every_steps": 8}}));
    let once = train(&job, &layout(Sharding::Optimizer), STEPS);
    once.assert_same(&train(&job, &layout(Sharding::Full), STEPS), "full");
    let halves = train_in_halves(&job, &layout(Sharding::Optimizer), STEPS);
    assert!(once.model == halves.model, "models differ");
    assert!(once.heads == halves.heads, "heads differ");
}
