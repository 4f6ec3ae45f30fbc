//! Disks that do not take what is written, or damage it: training goes on.

use super::{EVENT, Job, Origin, STEPS, Went, Worker};
use crate::kit::flip;
use espalier_spec::Step;
use espalier_spec::exchange::Sharding;
use espalier_spec::recovery::Milestone;
use espalier_spec::report::Checkpoint;
use espalier_worker::agent::control::Control;
use espalier_worker::agent::report::Content;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A job of two ranks without snapshots in memory.
fn job(folder: &Path, change: impl FnOnce(&mut Value)) -> Job {
    Job::changed(folder, (2, Sharding::Optimizer), None, |job| {
        job["recovery"] = json!({"snapshot_every": 0});
        change(job);
    })
}

impl Job {
    fn checkpoints(&self) -> PathBuf {
        self.dir.path().join("checkpoints")
    }

    /// The directory of a checkpoint or a best model.
    fn kept(&self, kind: &str, step: u64) -> PathBuf {
        self.checkpoints().join(format!("{kind}-{step:08}"))
    }

    /// Runs a generation that stops with a checkpoint one step after [`EVENT`].
    fn stopped(&self, hosts: &[&Worker]) -> Origin {
        let stopped = self.generation(1, hosts, None, &|controls| {
            controls
                .iter()
                .for_each(|control| control.stop_at_boundary());
        });
        stopped.assert_stopped();
        let step = EVENT + 1;
        assert_eq!(stopped.checkpoints().last(), Some(&step));
        Origin {
            resume: Some(Checkpoint {
                step: Step(step),
                path: self.kept("step", step).display().to_string(),
                best: false,
            }),
            restore: None,
        }
    }

    /// Makes the best evaluation that a checkpoint knows one that no later one beats.
    fn make_unbeatable(&self, step: u64) {
        let dir = self.kept("step", step);
        let path = dir.join("manifest.json");
        let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        manifest["state"]["best"][0] = json!(1e9);
        let text = manifest.to_string();
        let seal = blake3::hash(text.as_bytes()).to_hex();
        fs::write(path, text).unwrap();
        fs::write(dir.join("manifest.blake3"), seal.as_bytes()).unwrap();
    }
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
    fs::create_dir_all(job.checkpoints()).unwrap();
    // A file in place of the directory that it is written into.
    let in_the_way = job.checkpoints().join(format!(".best-{EVENT:08}.g1.tmp"));
    fs::write(in_the_way, "").unwrap();
    let went = job.run(1, &[&a, &b], Origin::default(), &|_, _| {});
    went.assert_exported();
    assert_eq!(went.evaluations(), [(EVENT, false), (STEPS, true)]);
    assert!(!job.kept("best", EVENT).exists());
}

// Promise: a best model that is damaged while the job goes on is taken from its copy; where there is none all ranks
// take the last model, and the job ends well.
#[test]
fn a_damaged_best_model_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for copied in [false, true] {
        let copies = tempfile::tempdir().unwrap();
        let job = job(folder.path(), |job| {
            if copied {
                let url = format!("file://{}", copies.path().display());
                job["checkpoint"]["upload"] = json!(url);
            }
        });
        let (a, b) = (Worker::new("a"), Worker::new("b"));
        let from = job.stopped(&[&a, &b]);
        job.make_unbeatable(EVENT + 1);
        let best = job.kept("best", EVENT).join("model.safetensors");
        let damage = |content: &Content, _: &[Arc<Control>]| {
            if matches!(content, Content::Reached(Milestone::FirstStep, _)) {
                flip(&best);
            }
        };
        let went = job.run(2, &[&a, &b], from, &damage);
        went.assert_exported();
        assert_eq!(went.evaluations(), [(STEPS, false)]);
        let taken = went.test().unwrap().step.0;
        assert_eq!(taken, if copied { EVENT } else { STEPS });
    }
}

// Promise: a job that goes on from a checkpoint whose best model is damaged chooses one anew.
#[test]
fn a_best_model_that_is_damaged_already_is_chosen_anew() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), |_| {});
    let (a, b) = (Worker::new("a"), Worker::new("b"));
    let from = job.stopped(&[&a, &b]);
    job.make_unbeatable(EVENT + 1);
    flip(&job.kept("best", EVENT).join("heads.safetensors"));
    let went = job.run(2, &[&a, &b], from, &|_, _| {});
    went.assert_exported();
    assert_eq!(went.evaluations(), [(STEPS, true)]);
    assert_eq!(went.test().unwrap().step.0, STEPS);
}

// Promise: a job whose newest checkpoint is damaged in one bit goes on from the one before, on all ranks, and ends with
// the same bits as if nothing had happened.
#[test]
fn a_damaged_checkpoint_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["part-00000.safetensors", "own-00001.safetensors"] {
        let job = job(folder.path(), |job| {
            job["checkpoint"] = json!({"every_steps": 3, "keep": 2});
        });
        let (a, b) = (Worker::new("a"), Worker::new("b"));
        let from = job.stopped(&[&a, &b]);
        flip(&job.kept("step", EVENT + 1).join(file));
        let went = job.run(2, &[&a, &b], from, &|_, _| {});
        let before = 6;
        let reached = [
            (Milestone::Connected, EVENT + 1),
            (Milestone::Restored, before),
            (Milestone::FirstStep, before + 1),
        ];
        assert_eq!(went.milestones(), reached, "{file}");
        job.assert_undisturbed(&went, folder.path());
    }
}
