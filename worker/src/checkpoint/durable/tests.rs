use super::*;
use crate::checkpoint::write_tensors;

fn commit(store: &Store, step: u64) -> PathBuf {
    let writer = store.begin("step", Step(step)).unwrap();
    let tensor = Tensor::from_slice(&[step as f32; 64]);
    let file = writer.file("model.safetensors");
    let entry = write_tensors(&file, &[("w".to_owned(), tensor)], None).unwrap();
    let state = RunState {
        step: Step(step),
        ..RunState::default()
    };
    writer
        .commit(&JobId::from("job"), state, vec![entry])
        .unwrap()
}

// Promise: a damaged checkpoint is noticed and the one before it is used.
#[test]
fn a_flipped_bit_is_noticed_and_the_checkpoint_before_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    commit(&store, 100);
    let newest = commit(&store, 200);
    let file = newest.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(matches!(
        Checkpoint::open(&newest),
        Err(Error::Damaged { .. })
    ));
    let used = store.newest("step", Step(u64::MAX)).unwrap();
    assert_eq!(used.manifest.state.step, Step(100));
}

// Promise: a manifest that came from elsewhere leads to no file outside of its directory, though everything
// else is right.
#[test]
fn a_manifest_names_files_of_its_own_directory() {
    let dir = tempfile::tempdir().unwrap();
    let newest = commit(&Store::new(dir.path()), 100);
    fs::copy(newest.join("model.safetensors"), dir.path().join("secret")).unwrap();
    let text = fs::read_to_string(newest.join(MANIFEST)).unwrap();
    let forged = text.replace("\"model.safetensors\"", "\"../secret\"");
    assert_ne!(forged, text);
    let seal = blake3::hash(forged.as_bytes()).to_hex();
    fs::write(newest.join(MANIFEST), forged).unwrap();
    fs::write(newest.join(SEAL), seal.as_bytes()).unwrap();
    let error = Checkpoint::open(&newest).unwrap_err().to_string();
    assert!(error.contains("../secret"), "{error}");
}

// Promise: what was not committed is no checkpoint.
#[test]
fn an_unfinished_checkpoint_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let writer = store.begin("step", Step(5)).unwrap();
    fs::write(writer.file("model.safetensors"), b"half").unwrap();
    assert!(store.newest("step", Step(u64::MAX)).is_none());
    assert!(store.steps("step").is_empty());
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

// Promise: wherever a writer is killed that puts a checkpoint in the place of another one, one of them is found whole,
// and the next writer leaves one, and nothing else.
#[test]
fn a_kill_leaves_one_of_two() {
    for point in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let target = commit(&store, 500);
        fs::write(target.join("old"), "").unwrap();
        let writer = store.join("step", Step(500));
        // What it does, up to where it is killed: before, between and after the two renames, and while it removes.
        fs::create_dir(&writer.temporary).unwrap();
        for file in [MANIFEST, SEAL, "model.safetensors"] {
            fs::copy(target.join(file), writer.file(file)).unwrap();
        }
        if point > 0 {
            fs::rename(&target, &writer.aside).unwrap();
        }
        if point > 1 {
            fs::rename(&writer.temporary, &target).unwrap();
        }
        if point > 2 {
            fs::remove_file(writer.aside.join(MANIFEST)).unwrap();
        }
        assert_eq!(store.steps("step"), [Step(500)], "{point}");
        let found = store.newest("step", Step(500)).unwrap();
        assert_eq!(found.path.join("old").exists(), point < 2, "{point}");
        assert_eq!(found.tensors("model").unwrap().len(), 1);
        // No checkpoint that is written meanwhile takes the only one along.
        commit(&store, 400);
        assert!(store.open("step", Step(500)).is_ok(), "{point}");
        let target = commit(&store, 500);
        assert!(!target.join("old").exists(), "{point}");
        Checkpoint::open(&target).unwrap();
        assert_eq!(names(dir.path()), ["step-00000400", "step-00000500"]);
    }
}

// Promise: what a killed writer had set aside counts among those that are kept, and goes with them.
#[test]
fn one_that_was_set_aside_is_kept_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let target = commit(&store, 1);
    fs::rename(target, store.aside("step", Step(1))).unwrap();
    commit(&store, 2);
    store.retain("step", 2, Step(2));
    assert_eq!(store.steps("step"), [Step(1), Step(2)]);
    store.retain("step", 1, Step(2));
    assert_eq!(names(dir.path()), ["step-00000002"]);
}

// Promise: what was left unfinished is removed by a later checkpoint, but nothing of a generation that came after.
#[test]
fn what_was_left_unfinished_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    for name in [
        ".step-00000009.tmp",
        ".step-00000009.g1.tmp",
        ".step-00000004.g2.tmp",
        ".step-00000006.g2.tmp",
        ".step-00000001.g3.tmp",
        ".best-00000001.g1.tmp",
    ] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    store.of(Generation(2)).sweep("step", Step(5));
    assert_eq!(
        names(dir.path()),
        [
            ".best-00000001.g1.tmp",
            ".step-00000001.g3.tmp",
            ".step-00000006.g2.tmp"
        ]
    );
}

#[test]
fn only_the_newest_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    for step in [1, 2, 3, 4] {
        commit(&store, step);
    }
    store.retain("step", 2, Step(4));
    assert_eq!(store.steps("step"), [Step(3), Step(4)]);
    // The best models of checkpoints that are there stay, the newest one anyway.
    let best = |step| {
        let writer = store.begin("best", Step(step)).unwrap();
        let state = RunState {
            step: Step(step),
            ..RunState::default()
        };
        writer
            .commit(&JobId::from("job"), state, Vec::new())
            .unwrap();
        store.retain_best(Step(step));
        store.steps("best")
    };
    assert_eq!(best(1), [Step(1)]);
    assert_eq!(best(2), [Step(2)], "1 goes with no checkpoint");
    assert_eq!(
        best(4),
        [Step(2), Step(4)],
        "2 goes with the checkpoint of 3"
    );
    // The run went back and has just written step 2.
    commit(&store, 2);
    store.retain("step", 1, Step(2));
    assert_eq!(store.steps("step"), [Step(2), Step(3), Step(4)]);
}
