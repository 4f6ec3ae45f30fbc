use super::*;
use crate::data::order::OrderTask;
use crate::data::{MediaReader, Modality, load};
use espalier_spec::job::{HeadKind, Sampler, TaskSpec};
use espalier_spec::{InputGroups, Shard};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

/// Images of 2 x 2; those of task `a` are changed at random.
fn task(dir: &Path, name: &str, rows: usize) -> Arc<TaskData> {
    let file = dir.join(format!("{name}.jsonl"));
    let mut out = std::fs::File::create(&file).unwrap();
    for row in 0..rows {
        writeln!(
            out,
            "{{\"image\": [{row}, 1, 2, 3], \"label\": \"{}\"}}",
            row % 2
        )
        .unwrap();
    }
    let spec = serde_json::json!({
        "name": name, "head": "single_label", "data": {
            "train": file.to_str().unwrap(),
            "augment": { "crop": u8::from(name == "a"), "flip": name == "a" },
        },
    });
    let spec: TaskSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.head, HeadKind::SingleLabel);
    Arc::new(
        load(
            &spec,
            &Modality::Media(Arc::new(MediaReader::plain([1, 2, 2]))),
        )
        .unwrap(),
    )
}

struct Setting {
    tasks: Arc<Vec<Arc<TaskData>>>,
    order: Arc<Order>,
    _dir: tempfile::TempDir,
}

fn setting() -> Setting {
    let dir = tempfile::tempdir().unwrap();
    let tasks = vec![task(dir.path(), "a", 40), task(dir.path(), "b", 15)];
    let sizes: Vec<OrderTask<'_>> = tasks
        .iter()
        .map(|task| OrderTask {
            name: &task.name,
            samples: task.train.len() as u64,
            target: None,
        })
        .collect();
    let order = Order::new(3, (11, 100), &sizes, &Sampler::Proportional);
    Setting {
        tasks: Arc::new(tasks),
        order: Arc::new(order),
        _dir: dir,
    }
}

fn placement(shards: u32) -> Placement {
    let all: Vec<Shard> = (0..shards).map(Shard).collect();
    Placement::new(shards as usize, [all.as_slice(), all.as_slice()]).unwrap()
}

fn collect(setting: &Setting, options: LoaderOptions) -> Vec<RankStep> {
    let loader = Loader::start(setting.tasks.clone(), setting.order.clone(), options).unwrap();
    loader.map(Result::unwrap).collect()
}

/// What is delivered doesn't depend on threads, depth, the first step, or which rank hosts a shard.
#[test]
fn delivery_is_a_function_of_the_step() {
    let setting = setting();
    let all = LoaderOptions::new(0..30, vec![0, 1, 2], placement(3));
    let whole = collect(&setting, all.clone());
    assert_eq!(whole.len(), 30);
    assert!(
        whole
            .iter()
            .zip(0..)
            .all(|(batch, step)| batch.step == step)
    );
    let threads = LoaderOptions {
        threads: 3,
        depth: 5,
        ..all.clone()
    };
    assert_eq!(collect(&setting, threads), whole);
    let resumed = LoaderOptions {
        steps: 17..30,
        ..all.clone()
    };
    assert_eq!(collect(&setting, resumed), whole[17..]);
    let one_rank = collect(
        &setting,
        LoaderOptions {
            shards: vec![2],
            ..all
        },
    );
    for (mine, all) in one_rank.iter().zip(&whole) {
        assert_eq!(
            (&mine.counts, &mine.shards[..]),
            (&all.counts, &all.shards[2..])
        );
    }
}

/// Random changes come with the draw: a sample of the task that asks for them is another one in every
/// epoch, one of the other task never.
#[test]
fn changes_are_drawn_anew_in_every_epoch() {
    let setting = setting();
    let options = LoaderOptions::new(0..100, vec![0], placement(1));
    let mut seen: [BTreeSet<String>; 2] = Default::default();
    for batch in collect(&setting, options) {
        let micro = batch.shards.iter().flat_map(|shard| &shard.micro);
        for sample in micro.flatten().filter(|sample| sample.at.sample == 3) {
            seen[usize::from(sample.at.task)].insert(format!("{:?}", sample.input));
        }
    }
    assert!(seen[0].len() > 5, "{seen:?}");
    assert_eq!(seen[1].len(), 1, "{seen:?}");
}

/// Over all shards and micro-batches, a step computes each of its samples exactly once.
#[test]
fn a_step_is_computed_once() {
    let setting = setting();
    let options = LoaderOptions::new(0..10, vec![0, 1, 2], placement(3));
    let steps = collect(
        &setting,
        LoaderOptions {
            accumulation: 2,
            ..options
        },
    );
    for batch in steps {
        let micro = batch.shards.iter().flat_map(|shard| &shard.micro);
        assert!(batch.shards.iter().all(|shard| shard.micro.len() == 2));
        let samples: Vec<SampleRef> = micro.flatten().map(|sample| sample.at).collect();
        assert_eq!(samples.len(), 11);
        assert_eq!(batch.counts.iter().sum::<u32>(), 11);
        let unique: BTreeSet<SampleRef> = samples.into_iter().collect();
        assert_eq!(
            unique,
            setting
                .order
                .batch(batch.step)
                .samples
                .into_iter()
                .collect()
        );
    }
}

/// A reader that stops early isn't held up by threads that wait to hand over a step.
#[test]
fn drop_stops_the_threads() {
    let setting = setting();
    for taken in [0, 1, 5] {
        let options = LoaderOptions::new(0..u64::MAX / 2, vec![0], placement(1));
        let options = LoaderOptions {
            threads: 2,
            ..options
        };
        let mut loader =
            Loader::start(setting.tasks.clone(), setting.order.clone(), options).unwrap();
        assert!((0..taken).all(|_| loader.next().unwrap().is_ok()));
        drop(loader);
        // All clones of the data are gone: no thread is left.
        assert_eq!(Arc::strong_count(&setting.tasks), 1);
    }
}

/// An error arrives in its place in the order, after all good steps, and ends the iteration.
#[test]
fn errors_arrive_in_order() {
    let setting = setting();
    let names = ["a", "b", "missing"];
    let tasks: Vec<OrderTask<'_>> = names
        .iter()
        .zip([40, 15, 1])
        .map(|(name, samples)| OrderTask {
            name,
            samples,
            target: None,
        })
        .collect();
    let order = Arc::new(Order::new(3, (11, 100), &tasks, &Sampler::Proportional));
    let good = (0..)
        .take_while(|step| order.cursors(step + 1)[2] == 0)
        .count();
    assert!(good > 0);
    let options = LoaderOptions::new(0..30, vec![0], placement(1));
    let loader = Loader::start(
        setting.tasks.clone(),
        order,
        LoaderOptions {
            threads: 2,
            ..options
        },
    );
    let results: Vec<bool> = loader.unwrap().map(|result| result.is_ok()).collect();
    assert_eq!(results, [vec![true; good], vec![false]].concat());
}

// Promise: what losses of a task are divided by counts only samples with a label of use, also where a row
// has one that was left out for the sake of another task.
#[test]
fn labels_of_no_use_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    let rows = ["ab", "aaa", "b", "ba"].map(|text| {
        let row = serde_json::json!({"image": [0.5], "label": text, "text": text});
        format!("{row}\n")
    });
    std::fs::write(&file, rows.concat()).unwrap();
    let spec = |name: &str, head: &str, label: &str| -> TaskSpec {
        let spec = serde_json::json!({
            "name": name, "head": head, "input_group": "images", "data": {
                "train": file, "columns": {"label": label}, "on_bad_sample": "skip",
            },
        });
        serde_json::from_value(spec).unwrap()
    };
    let specs = [spec("a", "single_label", "label"), spec("b", "ctc", "text")];
    // `aaa` needs five frames.
    let reader = MediaReader::plain([1, 1, 1]).with_frames(Some(4));
    let modality = Modality::Media(Arc::new(reader));
    let tasks: Vec<Arc<TaskData>> = specs
        .iter()
        .map(|spec| Arc::new(load(spec, &modality).unwrap()))
        .collect();
    let sizes: Vec<OrderTask<'_>> = tasks
        .iter()
        .map(|task| OrderTask {
            name: &task.name,
            samples: task.train.len() as u64,
            target: None,
        })
        .collect();
    let groups = InputGroups::of(&specs);
    let order = Order::of_groups(3, (4, 1), &sizes, groups, &Sampler::Proportional);
    assert_eq!(
        (tasks[1].train.unlabelled(), tasks[1].train.skipped()),
        (0, 1)
    );
    let setting = Setting {
        tasks: Arc::new(tasks),
        order: Arc::new(order),
        _dir: dir,
    };
    let steps = collect(&setting, LoaderOptions::new(0..1, vec![0], placement(1)));
    assert_eq!((steps[0].drawn, &steps[0].counts[..]), (4, &[4, 3][..]));
}
