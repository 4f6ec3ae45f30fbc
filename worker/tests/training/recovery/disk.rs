//! Disks that do not take what is written: training goes on.

use super::{EVENT, Job, Origin, STEPS, Went, Worker};
use espalier_spec::exchange::Sharding;
use espalier_worker::agent::report::Content;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A job of two ranks without snapshots in memory.
fn job(folder: &Path, change: impl FnOnce(&mut Value)) -> Job {
    Job::changed(folder, 2, Sharding::Optimizer, |job| {
        job["recovery"] = json!({"snapshot_every": 0});
        change(job);
    })
}

impl Went {
    /// Steps of the evaluations that choose a model, and whether it was the best so far.
    fn evaluations(&self) -> Vec<(u64, bool)> {
        let told = self.told.iter();
        let evaluations = told.filter_map(|content| match content {
            Content::Evaluation(evaluation) if evaluation.split == "validation" => {
                Some((evaluation.step.0, evaluation.best))
            }
            _ => None,
        });
        evaluations.collect()
    }
}

// Promise: where the best model cannot be written no rank fails, it does not count as the best, and the next one that
// can be written does.
#[test]
fn a_best_model_that_cannot_be_kept_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), |_| {});
    let (a, b) = (Worker::new("a"), Worker::new("b"));
    let checkpoints = job.dir.path().join("checkpoints");
    fs::create_dir_all(&checkpoints).unwrap();
    // A file in place of the directory that it is written into.
    let in_the_way = checkpoints.join(format!(".best-{EVENT:08}.g1.tmp"));
    fs::write(in_the_way, "").unwrap();
    let went = job.run(1, &[&a, &b], Origin::default(), &|_, _| {});
    went.assert_exported();
    assert_eq!(went.evaluations(), [(EVENT, false), (STEPS, true)]);
    assert!(!checkpoints.join(format!("best-{EVENT:08}")).exists());
}
