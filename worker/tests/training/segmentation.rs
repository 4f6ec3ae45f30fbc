//! Classes of pixels, alone and beside a class of the whole image, over backbones of images.

use crate::kit::{Layout, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::job::{Metric, TaskSpec};
use espalier_spec::plan::ExchangePlan;
use espalier_worker::data::{Input, Labels, MediaReader, Modality, load};
use espalier_worker::engine::Sources;
use espalier_worker::predict::{Answer, Predictor, write_masks};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

const STEPS: u64 = 6;
const SIDE: usize = 8;
/// Both ranks serve both tasks.
const ALL: [&[u32]; 2] = [&[0, 1], &[0, 1]];
const CLASSES: [&str; 3] = ["ground", "grey", "light"];

/// An image in the dark with a square of one of two kinds, its mask, and the kind.
fn picture(seed: usize) -> (Vec<f32>, Vec<u8>, &'static str) {
    let mut state = seed as u64 * 7919 + 17;
    let mut below = |limit: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % limit
    };
    let (top, left) = (2 * below(3) as usize, 2 * below(3) as usize);
    let class = 1 + below(2) as u8;
    let (mut image, mut mask) = (Vec::new(), Vec::new());
    for y in 0..SIDE {
        for x in 0..SIDE {
            let is_in = (top..top + 4).contains(&y) && (left..left + 4).contains(&x);
            let own = if is_in { class } else { 0 };
            image.push(f32::from(own) * 0.5 + below(20) as f32 / 200.0);
            mask.push(own);
        }
    }
    (image, mask, CLASSES[usize::from(class)])
}

/// Rows of a split; every seventh of training has no mask.
fn rows(split: &str) -> String {
    let (first, count) = if split == "train" {
        (0, 96)
    } else {
        (1000, 24)
    };
    let mut rows = String::new();
    for index in first..first + count {
        let (image, mask, kind) = picture(index);
        let mask = (split != "train" || index % 7 != 3).then_some(mask);
        writeln!(
            rows,
            "{}",
            json!({"image": image, "mask": mask, "kind": kind})
        )
        .unwrap();
    }
    rows
}

/// `config.json` of a small backbone of each kind.
fn network(kind: &str) -> Value {
    match kind {
        "vit" => json!({
            "model_type": "vit", "image_size": SIDE, "patch_size": 2, "num_channels": 1,
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "initializer_range": 0.1
        }),
        "resnet" => json!({
            "model_type": "resnet", "image_size": SIDE, "num_channels": 1, "embedding_size": 8,
            "hidden_sizes": [8], "depths": [1], "layer_type": "basic"
        }),
        _ => json!({
            "model_type": "espalier-convnet", "image_size": SIDE, "num_channels": 1,
            "hidden_sizes": [8, 16]
        }),
    }
}

/// Classes of pixels and of whole images, of the same images, which move.
fn joint(dir: &Path, kind: &str, steps: u64, change: impl FnOnce(&mut Value)) -> JobSpec {
    spec(dir, steps, |job| {
        for split in ["train", "test"] {
            std::fs::write(dir.join(format!("images.{split}.jsonl")), rows(split)).unwrap();
        }
        let model = dir.join(kind);
        std::fs::create_dir_all(&model).unwrap();
        std::fs::write(model.join("config.json"), network(kind).to_string()).unwrap();
        job["backbone"] = json!({"path": model, "init": "random", "dropout": 0.0});
        let task = |name: &str, head: &str, labels: &[&str], label: &str| {
            json!({
                "name": name, "head": head, "input_group": "images",
                "data": {"train": dir.join("images.train.jsonl"), "test": dir.join("images.test.jsonl"),
                         "columns": {"label": label}, "labels": labels, "on_missing_label": "skip",
                         "augment": {"crop": 1, "flip": true}},
            })
        };
        job["tasks"] = json!([
            task("scene", "segmentation", &CLASSES, "mask"),
            task("kind", "single_label", &CLASSES[1..], "kind")
        ]);
        job["balancer"] = json!("equal");
        // Gradients that are 0 but for rounding, such as those of keys' biases, must not become steps.
        job["training"]["optimizer"]["eps"] = json!(1e-6);
        change(job);
    })
}

fn how(sharding: Sharding, apart: bool) -> ExchangePlan {
    ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    }
}

fn two(sharding: Sharding, apart: bool) -> Layout {
    Layout::new(2, &ALL, how(sharding, apart))
}

// Promise: with maps of features too, sharding and computing activations again change no bit, whether
// gradients travel apart or not.
#[test]
fn sharding_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, apart) in [("upgrad", true), ("equal", false)] {
        let job = joint(folder.path(), "convnet", STEPS, |job| {
            job["balancer"] = json!(balancer);
        });
        let run = |sharding| train(&job, &two(sharding, apart), STEPS);
        let once = run(Sharding::Optimizer);
        once.assert_same(&run(Sharding::None), &format!("{balancer}, none"));
        once.assert_same(&run(Sharding::Full), &format!("{balancer}, full"));
    }
}

// Promise: a run that is saved half-way and taken up again ends with the same bits.
#[test]
fn a_resume_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "vit", STEPS, |_| {});
    let layout = two(Sharding::Optimizer, false);
    let whole = train(&job, &layout, STEPS);
    whole.assert_same(&train_in_halves(&job, &layout, STEPS), "halves");
}

// Promise: a balancer of losses weighs gradients of maps as it weighs those of pooled features, whether they
// are combined before backward or at the owners.
#[test]
fn weights_reach_the_map() {
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "convnet", STEPS, |job| {
        job["balancer"] = json!("dwa");
    });
    let run = |apart| train(&job, &two(Sharding::Optimizer, apart), STEPS);
    let distance = run(false).distance(&run(true));
    assert!(distance < 2e-4, "{distance}");
}

// Promise: two ranks train like one, on every backbone that leaves a map.
#[test]
fn two_ranks_train_like_one() {
    let folder = tempfile::tempdir().unwrap();
    let one: [&[u32]; 2] = [&[0], &[0]];
    for kind in ["convnet", "vit", "resnet"] {
        let job = joint(folder.path(), kind, STEPS, |_| {});
        let two = train(&job, &two(Sharding::Optimizer, false), STEPS);
        let one = Layout::new(1, &one, how(Sharding::Optimizer, false));
        let distance = two.distance(&train(&job, &one, STEPS));
        assert!(distance < 2e-4, "{kind}: {distance}");
        let scores = &two.evaluation.unwrap().tasks["scene"];
        assert_eq!(scores.samples, 24, "{kind}");
    }
}

// Promise: masks are learned from images that move, far above always saying ground; what is exported finds
// them again, and what is written are its classes.
#[test]
fn masks_are_learned_and_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "convnet", 80, |job| {
        job["tasks"][0]["loss"] = json!({"class_weights": "balanced"});
        job["training"]["optimizer"]["learning_rate"] = json!(1e-2);
    });
    let done = train(&job, &two(Sharding::Optimizer, false), 80);
    let scores = &done.evaluation.as_ref().unwrap().tasks["scene"];
    let gain = |metric: Metric| scores.metrics[&metric] - scores.baseline[&metric];
    assert!(gain(Metric::MeanIou) > 0.15, "{scores:?}");
    let names: Vec<&str> = scores.class_iou.keys().map(String::as_str).collect();
    assert_eq!(names, ["grey", "ground", "light"]);

    let predictor = Predictor::load(&done.folder.path().join("export")).unwrap();
    assert!(predictor.makes_masks(&[]) && !predictor.makes_masks(&["kind".to_owned()]));
    let pictures: Vec<_> = (1000..1024).map(picture).collect();
    let inputs: Vec<Input> = pictures
        .iter()
        .map(|(image, ..)| Input::Numbers(image.as_slice().into()))
        .collect();
    let mut answers = predictor.predict(&inputs, &[]).unwrap();
    let dir = folder.path();
    write_masks(&mut answers, dir, 5).unwrap();
    let (mut right, mut rows) = (0_u32, String::new());
    for (answer, (image, truth, _)) in answers.iter().zip(&pictures) {
        let Answer::Mask {
            shares,
            mask,
            pixels,
        } = &answer["scene"]
        else {
            panic!("a mask, not {answer:?}");
        };
        assert!(
            (shares.values().sum::<f64>() - 1.0).abs() < 1e-9,
            "{shares:?}"
        );
        let pairs = pixels.values.iter().zip(truth);
        right += pairs.filter(|(a, b)| a == b).count() as u32;
        writeln!(rows, "{}", json!({"image": image, "mask": mask})).unwrap();
    }
    // The evaluation said the same of the same pictures, but for rounding in batches of another size.
    let all = (pictures.len() * SIDE * SIDE) as f64;
    let distance = (f64::from(right) / all - scores.metrics[&Metric::Accuracy]).abs();
    assert!(distance < 2e-3, "{distance}");
    assert!(dir.join("5.scene.png").is_file() && dir.join("28.scene.png").is_file());
    std::fs::write(dir.join("images.train.jsonl"), rows).unwrap();
    let reader = MediaReader::plain([1, SIDE, SIDE]);
    let mut task = job.tasks[0].clone();
    task.data.test = None;
    let read = load(&task, &Modality::Media(Arc::new(reader))).unwrap();
    let Labels::Masks(masks) = &read.train.labels else {
        panic!("masks are masks");
    };
    let found = answers.iter().map(|answer| match &answer["scene"] {
        Answer::Mask { shares, .. } => shares["light"],
        other => panic!("a mask, not {other:?}"),
    });
    let light = (found.sum::<f64>() * (SIDE * SIDE) as f64).round();
    assert_eq!(masks.counts(3)[2] as f64, light);
}

// Promise: rows whose mask cannot be decoded are left out where the job says so, and stay without a label where
// other tasks have the same images; a value that is no class is an error that names its place.
#[test]
fn bad_masks_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "convnet", STEPS, |job| {
        job["tasks"][0]["data"]["on_bad_sample"] = json!("skip");
    });
    let mut task = job.tasks[0].clone();
    task.data.test = None;
    let shared = task.clone();
    task.input_group = None;
    let (image, mask, _) = picture(1);
    let file = folder.path().join("images.train.jsonl");
    let read = |task: &TaskSpec, second: Value| {
        let rows = [
            json!({"image": image, "mask": mask}),
            json!({"image": image, "mask": second}),
        ];
        std::fs::write(&file, rows.map(|row| row.to_string()).join("\n")).unwrap();
        let reader = MediaReader::plain([1, SIDE, SIDE]);
        load(task, &Modality::Media(Arc::new(reader)))
    };
    let data = read(&task, json!("nowhere.png")).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (1, 1));
    let data = read(&shared, json!("nowhere.png")).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 1));
    assert!(data.train.has_label(0) && !data.train.has_label(1));
    let data = read(&task, json!(vec![255; SIDE * SIDE])).unwrap();
    // Of the first mask alone: 255 is no class.
    let of = |class: u8| mask.iter().filter(|own| **own == class).count() as u64;
    assert_eq!(data.train.labels.counts(3), [of(0), of(1), of(2)]);
    let mut wrong = vec![0; SIDE * SIDE];
    wrong[9] = 3;
    let error = read(&task, json!(wrong)).unwrap_err().to_string();
    for part in ["row 2", "values of 0 to 2", "found 3 in row 2, column 2"] {
        assert!(error.contains(part), "{error}");
    }
}

// Promise: a backbone that leaves no map, or reads no images, is refused before anything is computed.
#[test]
fn backbones_without_a_map_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "convnet", STEPS, |_| {});
    let mut config = network("convnet");
    config["dense_size"] = json!(4);
    let file = folder.path().join("convnet/config.json");
    std::fs::write(file, config.to_string()).unwrap();
    let error = Sources::load(&job).unwrap().profile(&job).unwrap_err();
    assert!(
        error.to_string().contains("leaves a map of features"),
        "{error}"
    );
    let job = joint(folder.path(), "convnet", STEPS, |job| {
        job["backbone"] = json!({"path": folder.path().join("model"), "init": "random"});
    });
    let error = Sources::load(&job).unwrap_err().to_string();
    assert!(error.contains("is for images"), "{error}");
}
