//! Features of a frozen backbone, computed once.

use crate::kit::{Layout, Outcome, spec, train, train_from_files, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::ExchangePlan;
use serde_json::{Value, json};
use std::path::Path;

/// Enough for every sample of the toy to be drawn.
const STEPS: u64 = 40;
const ALL: [&[u32]; 3] = [&[0, 1], &[0, 1], &[0, 1]];

fn job(dir: &Path, cache: bool) -> JobSpec {
    tuned(dir, &json!("heads"), cache)
}

fn tuned(dir: &Path, tuning: &Value, cache: bool) -> JobSpec {
    spec(dir, STEPS, |job| {
        job["tuning"] = tuning.clone();
        job["training"]["batch_size"] = json!(24);
        job["backbone"]["cache_features"] = json!(cache);
    })
}

fn run(job: &JobSpec, ranks: u32) -> Outcome {
    let mut layout = Layout::new(ranks, &ALL, how(Sharding::Optimizer));
    if ranks == 1 {
        // Heads see the same parts of a batch: products of other sizes may have other bits.
        layout.shards = vec![vec![0, 1]];
    }
    train(job, &layout, STEPS)
}

fn how(sharding: Sharding) -> ExchangePlan {
    ExchangePlan {
        sharding,
        ..ExchangePlan::default()
    }
}

/// Largest difference between the losses of two runs' steps.
fn distance(one: &Outcome, other: &Outcome) -> f64 {
    let losses = |outcome: &Outcome| -> Vec<f64> {
        let reports = outcome.reports.iter();
        reports
            .flat_map(|r| r.losses.iter().map(|l| l.sum))
            .collect()
    };
    let pairs = losses(one).into_iter().zip(losses(other));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

// Promise: training on features that were computed before is training on the inputs: no token goes
// through the backbone, and losses agree to rounding.
#[test]
fn features_stand_for_their_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let cached = run(&job(folder.path(), true), 2);
    let plain = run(&job(folder.path(), false), 2);
    let tokens = |outcome: &Outcome| outcome.reports.iter().map(|r| r.tokens).sum::<u64>();
    assert_eq!(tokens(&cached), 0);
    assert!(tokens(&plain) > 0);
    let distance = distance(&cached, &plain);
    assert!(distance < 1e-4, "{distance}");
    assert!(cached.model == plain.model, "the frozen backbone changed");
}

// Promise: sharding changes no bit, and a run that is taken up again has the bits of one that was not
// interrupted.
#[test]
fn neither_sharding_nor_a_resume_changes_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), true);
    let once = run(&job, 2);
    for sharding in [Sharding::None, Sharding::Full] {
        let other = train(&job, &Layout::new(2, &ALL, how(sharding)), STEPS);
        once.assert_same(&other, &format!("{sharding:?}"));
    }
    let layout = Layout::new(2, &ALL, how(Sharding::Optimizer));
    let halves = train_in_halves(&job, &layout, STEPS);
    once.assert_same(&halves, "in halves");
}

// Promise: what goes to files because memory would not hold it comes back with the same bits, of a backbone that is
// frozen whole and of one whose lowest blocks are.
#[test]
fn files_give_the_bits_of_memory() {
    for tuning in [json!("heads"), json!({"last_blocks": 1})] {
        let folder = tempfile::tempdir().unwrap();
        let job = tuned(folder.path(), &tuning, true);
        let layout = Layout::new(2, &ALL, how(Sharding::Optimizer));
        let files = train_from_files(&job, &layout, STEPS);
        train(&job, &layout, STEPS).assert_same(&files, &format!("{tuning}"));
    }
}

// Promise: the features are the same on any number of ranks: the first step's losses are those of one
// rank, bit by bit.
#[test]
fn ranks_share_the_work_and_not_the_bits() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), true);
    let (one, two) = (run(&job, 1), run(&job, 2));
    let first = |outcome: &Outcome| -> Vec<u64> {
        let losses = outcome.reports[0].losses.iter();
        losses.map(|loss| loss.sum.to_bits()).collect()
    };
    assert_eq!(first(&one), first(&two));
}

// Promise: beginning above the frozen blocks, on what they made of the samples before, is running them:
// losses agree to rounding, and what is frozen stays. A text model's tokens are counted as before.
#[test]
fn steps_begin_above_the_frozen_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let top = json!({"last_blocks": 1});
    let of = |cache| run(&tuned(folder.path(), &top, cache), 2);
    let (begun, plain) = (of(true), of(false));
    let distance = distance(&begun, &plain);
    assert!(distance < 1e-3, "{distance}");
    // Ranks told each other what the blocks made.
    assert!(begun.sent > plain.sent, "nothing was kept");
    let tokens = |outcome: &Outcome| outcome.reports.iter().map(|r| r.tokens).sum::<u64>();
    assert_eq!(tokens(&begun), tokens(&plain));
}

// Promise: with what frozen blocks made of the samples neither sharding nor a resume changes a bit, and
// the first step's losses are those of one rank, bit by bit.
#[test]
fn frozen_blocks_give_the_same_bits_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let job = tuned(folder.path(), &json!({"last_blocks": 1}), true);
    let once = run(&job, 2);
    for sharding in [Sharding::None, Sharding::Full] {
        let other = train(&job, &Layout::new(2, &ALL, how(sharding)), STEPS);
        once.assert_same(&other, &format!("{sharding:?}"));
    }
    for sharding in [Sharding::Optimizer, Sharding::Full] {
        let halves = train_in_halves(&job, &Layout::new(2, &ALL, how(sharding)), STEPS);
        let what = format!("{sharding:?}, in halves");
        assert!(once.model == halves.model, "{what}: models differ");
        assert!(once.heads == halves.heads, "{what}: heads differ");
    }
    let one = run(&job, 1);
    let first = |outcome: &Outcome| -> Vec<u64> {
        let losses = outcome.reports[0].losses.iter();
        losses.map(|loss| loss.sum.to_bits()).collect()
    };
    assert_eq!(first(&one), first(&once));
}
