use super::*;
use crate::checkpoint::RunState;
use espalier_spec::JobId;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutPayload};
use std::path::PathBuf;
use std::sync::Arc;

const GO_ON: fn() -> bool = || false;

/// A job's checkpoints here, and the place of their copies.
struct Setting {
    dir: tempfile::TempDir,
    memory: Arc<InMemory>,
}

impl Setting {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            memory: Arc::default(),
        }
    }

    fn store(&self) -> Store {
        Store::new(self.dir.path().join("checkpoints"))
    }

    fn copies(&self) -> Copies<'static> {
        let memory = Arc::<InMemory>::clone(&self.memory);
        Copies::of(Depot::of(memory, "place", &GO_ON), Path::new("jobs/job-1"))
    }

    fn commit(&self, kind: &str, step: u64, best: Option<u64>) -> PathBuf {
        let writer = self.store().begin(kind, Step(step)).unwrap();
        let files = writer.write_part(0, &[step as u8; 9], b"own").unwrap();
        let state = RunState {
            step: Step(step),
            best: best.map(|best| (0.5, Step(best))),
            ..RunState::default()
        };
        writer.commit(&JobId::from("job"), state, files).unwrap()
    }

    fn add(&self, step: u64, best: Option<u64>, keep: usize) {
        let path = self.commit("step", step, best);
        let best = best.map(|best| Opened::new(&self.commit("best", best, None)).unwrap());
        let opened = Opened::new(&path).unwrap();
        let copies = self.copies();
        let added = copies.add(opened, best, keep);
        runtime().unwrap().block_on(added).unwrap();
    }

    /// Names of the directories of all copies, whole or not.
    fn folders(&self) -> Vec<String> {
        let copies = self.copies();
        let listing = runtime().unwrap().block_on(copies.list()).unwrap();
        listing.into_keys().collect()
    }

    fn forget(&self) {
        fs::remove_dir_all(self.dir.path().join("checkpoints")).unwrap();
    }

    fn bring_back(&self, limit: u64) -> Vec<Step> {
        let (copies, store) = (self.copies(), self.store());
        let brought = copies.bring_back(&store, Step(limit));
        runtime().unwrap().block_on(brought).unwrap();
        store.steps("step")
    }

    fn put(&self, name: &str, body: &'static str) {
        let key = Key::from(format!("place/job-1/{name}"));
        let put = self
            .memory
            .put(&key, PutPayload::from_static(body.as_bytes()));
        runtime().unwrap().block_on(put).unwrap();
    }
}

// Promise: the newest copies stay, each with the best model that goes with it, and no others.
#[test]
fn old_copies_go() {
    let setting = Setting::new();
    for (step, best) in [(10, 5), (20, 5), (30, 25), (40, 25)] {
        setting.add(step, Some(best), 2);
        if step == 30 {
            let kept = ["best-00000005", "best-00000025"];
            let steps = ["step-00000020", "step-00000030"];
            assert_eq!(setting.folders(), [kept, steps].concat());
        }
    }
    let kept = ["best-00000025", "step-00000030", "step-00000040"];
    assert_eq!(setting.folders(), kept);
}

// Promise: where the run went back the copy that was just made stays, and those of later steps don't take its place.
#[test]
fn a_copy_of_an_older_step_stays() {
    let setting = Setting::new();
    for step in [10, 20, 30] {
        setting.add(step, None, 1);
    }
    setting.add(15, Some(12), 1);
    let kept = ["best-00000012", "step-00000015", "step-00000030"];
    assert_eq!(setting.folders(), kept);
    setting.add(25, Some(12), 1);
    let kept = ["best-00000012", "step-00000025", "step-00000030"];
    assert_eq!(setting.folders(), kept);
    // Once it has overtaken them only the newest is left.
    setting.add(35, None, 1);
    assert!(setting.folders().contains(&"step-00000035".to_owned()));
    assert!(!setting.folders().contains(&"step-00000030".to_owned()));
}

// Promise: what is gone here comes back whole, with its best model, and no later one than was asked for.
#[test]
fn a_copy_comes_back() {
    let setting = Setting::new();
    setting.add(10, Some(10), 9);
    setting.add(20, Some(15), 9);
    setting.add(30, None, 9);
    setting.forget();
    assert_eq!(setting.bring_back(25), [Step(20)]);
    let store = setting.store();
    assert_eq!(store.steps("best"), [Step(15)]);
    let checkpoint = store.newest("step", Step(25)).unwrap();
    assert_eq!(checkpoint.manifest.state.best, Some((0.5, Step(15))));
    // What is newer here is not asked for again.
    setting.commit("step", 24, None);
    fs::remove_dir_all(store.path("step", Step(20))).unwrap();
    assert_eq!(setting.bring_back(25), [Step(24)]);
}

// Promise: a best model that is damaged here comes back from its copy; one without a copy is said to have none.
#[test]
fn a_best_model_comes_back() {
    let setting = Setting::new();
    setting.add(20, Some(15), 9);
    let store = setting.store();
    let best = store.path("best", Step(15));
    fs::write(best.join("part-00000.safetensors"), "other").unwrap();
    let bring = |step| {
        let copies = setting.copies();
        let brought = copies.bring_best(&store, Step(step));
        runtime().unwrap().block_on(brought)
    };
    bring(15).unwrap();
    Checkpoint::open(&best).unwrap();
    let error = bring(16).unwrap_err().to_string();
    assert!(error.contains("job-1/best-00000016"), "{error}");
}

// Promise: a copy without a manifest is none, whatever else of it is there, and the next copy removes it; one with
// other bytes than its manifest says is noticed, and the one before is used.
#[test]
fn torn_and_damaged_copies_are_passed_over() {
    let setting = Setting::new();
    setting.add(10, None, 2);
    setting.add(20, None, 2);
    setting.put("step-00000030/part-00000.safetensors", "half");
    setting.put("step-00000030/manifest.blake3", "half");
    setting.put("step-00000020/part-00000.safetensors", "other");
    setting.forget();
    assert_eq!(setting.bring_back(99), [Step(10)]);
    let found = fs::read_dir(setting.dir.path().join("checkpoints")).unwrap();
    assert_eq!(found.count(), 1, "what could not be used is left over");
    setting.add(40, None, 2);
    assert_eq!(setting.folders(), ["step-00000020", "step-00000040"]);
}

// Promise: a copy of a step that is copied again is the new one, and a large file arrives in parts.
#[test]
fn a_step_is_copied_again() {
    let setting = Setting::new();
    setting.add(10, None, 1);
    let writer = setting.store().begin("step", Step(10)).unwrap();
    let large: Vec<u8> = (0..(9_u32 << 20)).map(|i| i as u8).collect();
    let files = writer.write_part(0, &large, b"new").unwrap();
    let state = RunState {
        step: Step(10),
        ..RunState::default()
    };
    let path = writer.commit(&JobId::from("job"), state, files).unwrap();
    let opened = Opened::new(&path).unwrap();
    let copies = setting.copies();
    let added = copies.add(opened, None, 1);
    runtime().unwrap().block_on(added).unwrap();
    setting.forget();
    assert_eq!(setting.bring_back(10), [Step(10)]);
    let part = setting.store().path("step", Step(10));
    assert!(fs::read(part.join("part-00000.safetensors")).unwrap() == large);
}

// Promise: who is told to stop stops, and leaves nothing that would be taken for whole.
#[test]
fn who_is_told_to_stop_stops() {
    let setting = Setting::new();
    let path = setting.commit("step", 10, None);
    let memory = Arc::<InMemory>::clone(&setting.memory);
    let stop = || true;
    let copies = Copies::of(Depot::of(memory, "place", &stop), Path::new("job-1"));
    let added = copies.add(Opened::new(&path).unwrap(), None, 1);
    let error = runtime().unwrap().block_on(added).unwrap_err();
    assert!(
        matches!(error, Error::Copy(fetch::Error::Stopped)),
        "{error}"
    );
    assert!(setting.folders().is_empty());
}
