//! A task whose gradient is not a number, in real training.

use crate::kit::{Layout, spec, train};
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::ExchangePlan;
use serde_json::json;

const STEPS: u64 = 5;
/// Rank 0 serves two tasks, rank 1 two, one is shared.
const MIXED: [&[u32]; 3] = [&[0], &[0, 1], &[1]];

// Promise: with `skip_task_step` a task that is not finite is left out, step for step: the others
// learn, and no number of the backbone, of their heads or of what balancers remember is lost; what
// ranks keep changes no bit of that.
#[test]
fn a_task_that_is_not_finite_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    for balancer in [
        "equal",
        "upgrad",
        "moco",
        "excess_mtl",
        "grad_drop",
        "sdmgrad",
    ] {
        let job = spec(folder.path(), STEPS, |job| {
            // Its square is beyond f32: loss and gradient are infinite.
            let far = folder.path().join("far.csv");
            let rows: String = (0..40).map(|row| format!("one of {row},3e38\n")).collect();
            std::fs::write(&far, format!("text,label\n{rows}")).unwrap();
            job["tasks"][2]["data"] = json!({"train": far});
            job["balancer"] = json!({"method": balancer, "on_non_finite": "skip_task_step"});
        });
        let run = |sharding| {
            let how = ExchangePlan {
                sharding,
                apart: true,
                ..ExchangePlan::default()
            };
            train(&job, &Layout::new(2, &MIXED, how), STEPS)
        };
        let outcome = run(Sharding::Optimizer);
        for report in &outcome.reports {
            assert!(report.gradient_norm.is_finite(), "{balancer}");
            assert!(report.weights.iter().all(|w| w.is_finite()), "{balancer}");
            assert_eq!(report.weights[2], 0.0, "{balancer}");
            assert!(report.losses[0].sum.is_finite() && report.losses[1].sum.is_finite());
            assert!(!report.losses[2].sum.is_finite(), "{balancer}");
        }
        assert!(
            outcome.numbers().iter().all(|n| n.is_finite()),
            "{balancer}"
        );
        let (first, last) = (&outcome.reports[0], &outcome.reports[STEPS as usize - 1]);
        let loss = |report: &espalier_worker::engine::StepReport| report.losses[0].mean().unwrap();
        assert!(loss(last) < loss(first), "{balancer}: topic did not learn");
        outcome.assert_same(&run(Sharding::Full), balancer);
    }
}
