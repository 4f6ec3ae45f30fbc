//! Runs that go on from parts: those that ranks hold in memory, and those of checkpoints.

use crate::kit::{Layout, Outcome, resume, spec, train, train_and_save, train_by_parts};
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::{ExchangePlan, SyncPath};
use espalier_spec::{JobSpec, Step};
use espalier_worker::checkpoint::{Checkpoint, FileEntry, Store};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const STEPS: u64 = 6;
/// Rank 0 serves two tasks, rank 1 two, one is shared.
const MIXED: [&[u32]; 3] = [&[0], &[0, 1], &[1]];

fn how(sharding: Sharding, apart: bool) -> ExchangePlan {
    ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    }
}

fn layout(sharding: Sharding, apart: bool) -> Layout {
    Layout::new(2, &MIXED, how(sharding, apart))
}

fn job(dir: &Path, change: &Value) -> JobSpec {
    spec(dir, STEPS, |job| {
        for (field, value) in change.as_object().unwrap() {
            job[field] = value.clone();
        }
        job["training"]["optimizer"]["learning_rate"] = json!(5e-4);
    })
}

#[track_caller]
fn assert_same(one: &Outcome, other: &Outcome, what: &str) {
    let losses = |outcome: &Outcome| -> Vec<u64> {
        let last = &outcome.reports[outcome.reports.len() - STEPS as usize / 2..];
        let losses = last.iter().flat_map(|report| &report.losses);
        losses.map(|loss| loss.sum.to_bits()).collect()
    };
    assert_eq!(losses(one), losses(other), "{what}: losses differ");
    assert!(one.model == other.model, "{what}: models differ");
    assert!(one.heads == other.heads, "{what}: heads differ");
}

// Promise: trainers that take up the parts of all ranks go on bit by bit, whatever is sharded and whatever is
// remembered: moments, what balancers keep, what a sampler has seen, low-rank updates, rows of the word table and
// where they are pulled to, blocks that are frozen as yet.
#[test]
fn parts_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let pulled =
        json!({"training": {"steps": STEPS, "batch_size": 24, "optimizer": {"l2_sp": 5.0}}});
    let sgd =
        json!({"training": {"steps": STEPS, "batch_size": 24, "optimizer": {"method": "sgd"}}});
    let adaptive = json!({"sampler": {"adaptive": {"every_steps": 2}}});
    for (sharding, balancer, change) in [
        (Sharding::None, "db_mtl", json!({})),
        (Sharding::None, "uw", adaptive.clone()),
        (Sharding::Optimizer, "moco", json!({})),
        (
            Sharding::Optimizer,
            "mean",
            json!({"tuning": {"lora": {"rank": 2, "dropout": 0.2}}}),
        ),
        (Sharding::Optimizer, "famo", pulled.clone()),
        (Sharding::Optimizer, "mean", sgd.clone()),
        (Sharding::Full, "mean", sgd),
        (Sharding::Full, "excess_mtl", adaptive),
        (Sharding::Full, "mean", pulled),
        (
            Sharding::Full,
            "moco",
            json!({"tuning": {"gradual": {"every_steps": 1}}}),
        ),
    ] {
        let mut change = change;
        change["balancer"] = json!(balancer);
        let job = job(folder.path(), &change);
        let apart = job.balancer.method.info().class.separate_gradients();
        let layout = layout(sharding, apart);
        let what = format!("{sharding:?}, {change}");
        let whole = train(&job, &layout, STEPS);
        assert_same(&whole, &train_by_parts(&job, &layout, STEPS), &what);
    }
}

// Promise: the same where all ranks step everything with the sum that an all-reduce gives, and on one rank.
#[test]
fn parts_change_no_bit_of_other_paths() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), &json!({}));
    let reduce = ExchangePlan {
        sync: SyncPath::AllReduce,
        sharding: Sharding::None,
        ..ExchangePlan::default()
    };
    let alone: [&[u32]; 3] = [&[0], &[0], &[0]];
    let both: [&[u32]; 3] = [&[0, 1], &[0, 1], &[0, 1]];
    for layout in [
        Layout::new(2, &both, reduce),
        Layout::new(1, &alone, how(Sharding::Optimizer, false)),
        Layout::new(1, &alone, how(Sharding::Full, false)),
    ] {
        let whole = train(&job, &layout, STEPS);
        let by_parts = train_by_parts(&job, &layout, STEPS);
        assert_same(&whole, &by_parts, &format!("{layout:?}"));
    }
}

// Promise: a checkpoint of two ranks is taken up by one and by three, with other slices and other sharding: what
// comes of it differs by rounding alone, as it does where sums are made in another order.
#[test]
fn a_checkpoint_is_for_any_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), &json!({"balancer": "moco"}));
    let two = layout(Sharding::Optimizer, true);
    let whole = train(&job, &two, STEPS);
    let saved = train_and_save(&job, &two, STEPS / 2);
    let checkpoints = saved.folder.path().join("checkpoints");
    let alone: [&[u32]; 3] = [&[0], &[0], &[0]];
    let three: [&[u32]; 3] = [&[0], &[1], &[2]];
    for (ranks, tasks, sharding) in [
        (1, alone, Sharding::Full),
        (3, three, Sharding::Full),
        (3, three, Sharding::None),
    ] {
        let layout = Layout::new(ranks, &tasks, how(sharding, true));
        let other = resume(&job, &layout, &checkpoints, STEPS);
        assert_eq!(other.reports.len() as u64, STEPS - STEPS / 2);
        let distance = whole.distance(&other);
        assert!(distance < 2e-4, "{ranks} ranks, {sharding:?}: {distance:e}");
    }
    let same = resume(&job, &layout(Sharding::Full, true), &checkpoints, STEPS);
    assert_same(&whole, &same, "two ranks, other sharding");
}

/// The checkpoint of an outcome as the layout before parts had it: whole tensors, and optimizers' state by rank.
fn old_layout(saved: &Outcome, step: u64, to: &Path) {
    let store = Store::new(saved.folder.path().join("checkpoints"));
    let new = Checkpoint::open(&store.path("step", Step(step))).unwrap();
    let best = store.path("best", Step(step));
    let dir = Store::new(to).path("step", Step(step));
    fs::create_dir_all(&dir).unwrap();
    let mut files = vec![
        (
            best.join("model.safetensors"),
            "model.safetensors".to_owned(),
        ),
        (
            best.join("heads.safetensors"),
            "heads.safetensors".to_owned(),
        ),
    ];
    for (rank, own) in new.own_parts().into_iter().enumerate() {
        files.push((own, format!("optimizer-{rank:05}.safetensors")));
    }
    let entry = |(from, name): (PathBuf, String)| {
        let bytes = fs::read(from).unwrap();
        fs::write(dir.join(&name), &bytes).unwrap();
        FileEntry {
            name,
            bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
        }
    };
    let files: Vec<FileEntry> = files.into_iter().map(entry).collect();
    let manifest = json!({
        "format": 1, "job": new.manifest.job, "state": new.manifest.state, "files": files,
    });
    fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
}

// Promise: a checkpoint in the layout before parts is taken up, bit by bit.
#[test]
fn a_checkpoint_of_the_old_layout_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), &json!({"balancer": "moco"}));
    let whole = train(&job, &layout(Sharding::Optimizer, true), STEPS);
    let saved = train_and_save(&job, &layout(Sharding::Optimizer, true), STEPS / 2);
    let old = tempfile::tempdir().unwrap();
    old_layout(&saved, STEPS / 2, old.path());
    for sharding in [Sharding::Optimizer, Sharding::Full] {
        let other = resume(&job, &layout(sharding, true), old.path(), STEPS);
        assert_same(&whole, &other, &format!("{sharding:?}"));
    }
}

// Promise: a checkpoint holds no numbers that never change.
#[test]
fn a_checkpoint_holds_what_changes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |change: Value| -> u64 {
        let job = job(folder.path(), &change);
        let layout = layout(Sharding::Optimizer, false);
        let saved = train_and_save(&job, &layout, 2);
        let store = Store::new(saved.folder.path().join("checkpoints"));
        let checkpoint = Checkpoint::open(&store.path("step", Step(2))).unwrap();
        assert_eq!(checkpoint.shared_parts().len(), 2);
        let shared = checkpoint.shared_parts();
        let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
        shared.iter().map(size).sum()
    };
    let (all, heads) = (bytes(json!({})), bytes(json!({"tuning": "heads"})));
    assert!(heads * 4 < all, "{heads} of {all} bytes");
}
