//! Domain adaptation in real training: a task with labelled samples and unlabelled ones of another domain.

use crate::kit::{Layout, Outcome, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::adaptation::METHODS;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::ExchangePlan;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

const STEPS: u64 = 4;
/// Enough for every sample of both domains to be drawn more than once.
const CACHED: u64 = 20;
/// Both ranks serve all tasks.
const ALL: [&[u32]; 3] = [&[0, 1], &[0, 1], &[0, 1]];

/// Texts of another domain: mentions of several topics or none; with labels, if any are given.
fn target(dir: &Path, label: Option<&str>) -> Value {
    let texts = std::fs::read_to_string(dir.join("mentions.train.jsonl")).unwrap();
    let mut rows = String::new();
    for line in texts.lines().take(50) {
        let row: Value = serde_json::from_str(line).unwrap();
        let row = match label {
            Some(label) => json!({"text": row["text"], "label": label}),
            None => json!({"text": row["text"]}),
        };
        writeln!(rows, "{row}").unwrap();
    }
    let file = dir.join("target.jsonl");
    std::fs::write(&file, rows).unwrap();
    json!({"train": file})
}

/// One task with an adaptation.
fn adapted(dir: &Path, method: &str, change: impl FnOnce(&mut Value)) -> JobSpec {
    spec(dir, STEPS, |job| {
        job["tasks"].as_array_mut().unwrap().truncate(1);
        let mut adaptation = json!({"method": method, "target": target(dir, None), "warm_up": 2});
        if method == "self_training" {
            // Predictions are not sure of anything yet.
            adaptation["params"] = json!({"threshold": 0.3});
        }
        job["tasks"][0]["adaptation"] = adaptation;
        job["training"]["batch_size"] = json!(12);
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

fn layout(tasks: usize, sharding: Sharding, apart: bool) -> Layout {
    Layout::new(2, &ALL[..tasks], how(sharding, apart))
}

fn on_one_rank(job: &JobSpec) -> Outcome {
    let one: [&[u32]; 3] = [&[0]; 3];
    let tasks = &one[..job.tasks.len()];
    train(
        job,
        &Layout::new(1, tasks, how(Sharding::Optimizer, false)),
        STEPS,
    )
}

// Promise: what frozen lowest blocks make of both domains' samples is computed once where steps see them more than
// once: losses are those of running the blocks, to rounding; sharding changes no bit of it; and more samples of the
// target are more that ranks tell each other.
#[test]
fn frozen_blocks_run_once_on_both_domains() {
    let folder = tempfile::tempdir().unwrap();
    let job = |cache: bool| {
        adapted(folder.path(), "dann", |job| {
            job["tuning"] = json!({"last_blocks": 1});
            job["training"]["batch_size"] = json!(24);
            job["training"]["steps"] = json!(CACHED);
            job["backbone"]["cache_features"] = json!(cache);
        })
    };
    let run = |job: &JobSpec, sharding| train(job, &layout(1, sharding, false), CACHED);
    let begun = run(&job(true), Sharding::Optimizer);
    let plain = run(&job(false), Sharding::Optimizer);
    let full = run(&job(true), Sharding::Full);
    assert!(begun.sent > plain.sent, "nothing was kept");
    begun.assert_same(&full, "full sharding");
    for (one, other) in begun.reports.iter().zip(&plain.reports) {
        for (one, other) in one.losses.iter().zip(&other.losses) {
            assert!((one.sum - other.sum).abs() < 1e-3, "{one:?}, {other:?}");
        }
    }
    let rows = std::fs::read_to_string(folder.path().join("target.jsonl")).unwrap();
    let few: Vec<&str> = rows.lines().take(20).collect();
    let file = folder.path().join("few.jsonl");
    std::fs::write(&file, few.join("\n")).unwrap();
    let of_few = |cache: bool| {
        let mut job = job(cache);
        let adaptation = job.tasks[0].adaptation.as_mut().unwrap();
        adaptation.target.train = serde_json::from_value(json!(file)).unwrap();
        run(&job, Sharding::Optimizer)
    };
    let more = begun.sent - plain.sent;
    let less = of_few(true).sent - of_few(false).sent;
    assert!(more > less, "{more} with 50 samples, {less} with 20");
}

// Promise: under a frozen backbone features of both domains are computed once, and a method acts on what the task's
// own adapter makes of them: losses are those of computing them in every step, to rounding; sharding changes no bit;
// and the source is learned otherwise than without the method.
#[test]
fn an_adapter_adapts_where_the_backbone_is_frozen() {
    let folder = tempfile::tempdir().unwrap();
    let job = |cache: bool, weight: f64| {
        adapted(folder.path(), "dann", |job| {
            job["tuning"] = json!("heads");
            job["tasks"][0]["adapter"] = json!({"size": 8});
            job["tasks"][0]["adaptation"]["weight"] = json!(weight);
            job["training"]["batch_size"] = json!(24);
            job["training"]["steps"] = json!(CACHED);
            job["backbone"]["cache_features"] = json!(cache);
        })
    };
    let run = |job: &JobSpec, sharding| train(job, &layout(1, sharding, false), CACHED);
    let kept = run(&job(true, 1.0), Sharding::Optimizer);
    let plain = run(&job(false, 1.0), Sharding::Optimizer);
    let tokens = |outcome: &Outcome| outcome.reports.iter().map(|r| r.tokens).sum::<u64>();
    assert_eq!(tokens(&kept), 0, "the backbone ran");
    assert!(tokens(&plain) > 0);
    kept.assert_same(&run(&job(true, 1.0), Sharding::Full), "full sharding");
    let source = |outcome: &Outcome| -> Vec<f64> {
        let reports = outcome.reports.iter();
        reports.map(|report| report.losses[0].sum).collect()
    };
    let domains = |outcome: &Outcome| -> Vec<f64> {
        let reports = outcome.reports.iter();
        reports.map(|report| report.adaptation[0].sum).collect()
    };
    let apart = |one: Vec<f64>, other: Vec<f64>| {
        let pairs = one.into_iter().zip(other);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    for (one, other) in [
        (source(&kept), source(&plain)),
        (domains(&kept), domains(&plain)),
    ] {
        let distance = apart(one, other);
        assert!(distance < 1e-3, "{distance}");
    }
    let weak = run(&job(true, 1e-6), Sharding::Optimizer);
    let distance = apart(source(&kept), source(&weak));
    assert!(
        distance > 1e-2,
        "the adapter does not feel the method: {distance}"
    );
}

// Promise: with every method, sharding changes no bit, layers of the method's own included; what is
// exported holds none of them; and the loss of every method is told.
#[test]
fn sharding_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for info in METHODS.iter().filter(|info| info.name != "adabn") {
        let job = adapted(folder.path(), info.name, |_| {});
        let run = |sharding| train(&job, &layout(1, sharding, false), STEPS);
        let once = run(Sharding::Optimizer);
        once.assert_same(&run(Sharding::Full), info.name);
        if info.params.iter().any(|param| param.name == "hidden") {
            once.assert_same(&run(Sharding::None), info.name);
        }
        let heads = safetensors::SafeTensors::deserialize(&once.heads).unwrap();
        let mut names = heads.names();
        names.sort_unstable();
        assert_eq!(
            names,
            ["heads.topic.bias", "heads.topic.weight"],
            "{}",
            info.name
        );
        for report in &once.reports {
            let told = &report.adaptation[0];
            assert!(told.count == 12 && told.sum.is_finite(), "{}", info.name);
            assert!(told.sum != 0.0, "{}: {told:?}", info.name);
            assert_eq!(report.samples, 12);
        }
    }
}

// Promise: methods that look at samples one by one train on two ranks as on one.
#[test]
fn two_ranks_train_like_one() {
    let folder = tempfile::tempdir().unwrap();
    for method in ["dann", "cdan", "mdd", "entropy", "self_training", "afn"] {
        let job = adapted(folder.path(), method, |job| {
            if ["dann", "cdan"].contains(&method) {
                job["tasks"][0]["adaptation"]["params"] = json!({"dropout": 0.5});
            }
        });
        let two = train(&job, &layout(1, Sharding::Optimizer, false), STEPS);
        let distance = two.distance(&on_one_rank(&job));
        assert!(distance < 2e-4, "{method}: {distance:e}");
    }
}

// Promise: a run that is taken up again has the bits of one that was not interrupted.
#[test]
fn a_resume_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for method in ["cdan", "mmd"] {
        let job = adapted(folder.path(), method, |_| {});
        let layout = layout(1, Sharding::Optimizer, false);
        let once = train(&job, &layout, STEPS);
        once.assert_same(&train_in_halves(&job, &layout, STEPS), method);
    }
}

// Promise: sources that are kept apart, and what is dropped between layers of a method, change no bit with sharding
// and after a resume; and they make a difference.
#[test]
fn sources_apart_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let files = |job: &mut Value| {
        let rows = std::fs::read_to_string(folder.path().join("topic.train.jsonl")).unwrap();
        let rows: Vec<&str> = rows.lines().collect();
        let (one, other) = rows.split_at(rows.len() / 2);
        let files = [("one.jsonl", one), ("other.jsonl", other)].map(|(name, rows)| {
            let path = folder.path().join(name);
            std::fs::write(&path, rows.join("\n")).unwrap();
            path
        });
        job["tasks"][0]["data"]["train"] = json!(files);
    };
    for (method, params) in [
        ("cdan", json!({"dropout": 0.5, "entropy": true})),
        ("mmd", json!({})),
    ] {
        let job = |sources: &str| {
            adapted(folder.path(), method, |job| {
                files(job);
                job["tasks"][0]["adaptation"]["params"] = params.clone();
                job["tasks"][0]["adaptation"]["sources"] = json!(sources);
            })
        };
        let apart = job("apart");
        let run = |job: &JobSpec, sharding| train(job, &layout(1, sharding, false), STEPS);
        let once = run(&apart, Sharding::Optimizer);
        once.assert_same(&run(&apart, Sharding::Full), method);
        let halves = layout(1, Sharding::Optimizer, false);
        once.assert_same(&train_in_halves(&apart, &halves, STEPS), method);
        let together = run(&job("together"), Sharding::Optimizer);
        assert!(once.distance(&together) > 0.0, "{method}");
    }
}

// Promise: labels of the target are not learned from: with others, or none, every bit is the same.
#[test]
fn labels_of_the_target_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let run = |label: Option<&str>| {
        let job = adapted(folder.path(), "dann", |job| {
            job["tasks"][0]["adaptation"]["target"] = target(folder.path(), label);
        });
        on_one_rank(&job)
    };
    let none = run(None);
    none.assert_same(&run(Some("fruit")), "fruit");
    none.assert_same(&run(Some("music")), "music");
}

// Promise: an adaptation is part of its task's gradient: beside other tasks it is weighed with it, before
// backward or at the owners, in parts of a batch, and where tasks share inputs.
#[test]
fn balancers_weigh_the_adaptation_with_its_task() {
    let folder = tempfile::tempdir().unwrap();
    let joint = |balancer: &str, grouped: bool| {
        spec(folder.path(), STEPS, |job| {
            let own =
                json!({"method": "dann", "target": target(folder.path(), None), "warm_up": 0});
            job["tasks"][0]["adaptation"] = own;
            job["balancer"] = json!(balancer);
            if grouped {
                for task in [1, 2] {
                    job["tasks"][task] = job["tasks"][0].clone();
                    job["tasks"][task]["name"] = json!(format!("copy-{task}"));
                    job["tasks"][task]["input_group"] = json!("g");
                    job["tasks"][task]
                        .as_object_mut()
                        .unwrap()
                        .remove("adaptation");
                }
            }
        })
    };
    for (balancer, grouped) in [("equal", false), ("equal", true), ("uw", true)] {
        let job = joint(balancer, grouped);
        let run = |apart| train(&job, &layout(3, Sharding::Optimizer, apart), STEPS);
        let distance = run(false).distance(&run(true));
        assert!(distance < 2e-4, "{balancer}, {grouped}: {distance:e}");
    }
    for balancer in ["upgrad", "sdmgrad"] {
        let job = joint(balancer, false);
        let run = |sharding| train(&job, &layout(3, sharding, true), STEPS);
        run(Sharding::Optimizer).assert_same(&run(Sharding::Full), balancer);
    }
}

/// Images in one light with labels, in another without, read by a residual network.
fn in_another_light(dir: &Path, change: impl FnOnce(&mut Value)) -> JobSpec {
    const SIDE: usize = 8;
    let kinds = ["top", "bottom"];
    let image = |index: usize, light: f64| -> Vec<f64> {
        let is_lit = |place: usize| (place / SIDE < SIDE / 2) == index.is_multiple_of(2);
        let noise = |place: usize| ((index * 31 + place * 17) % 13) as f64 / 26.0;
        let value =
            |place| light * (f64::from(u8::from(is_lit(place))) + noise(place)) + 1.0 - light;
        (0..SIDE * SIDE).map(value).collect()
    };
    let write = |name: &str, light: f64, labelled: bool| {
        let row = |index: usize| match labelled {
            true => json!({"image": image(index, light), "kind": kinds[index % 2]}),
            false => json!({"image": image(index, light)}),
        };
        let rows: String = (0..60).map(|index| format!("{}\n", row(index))).collect();
        std::fs::write(dir.join(name), rows).unwrap();
        dir.join(name)
    };
    spec(dir, STEPS, |job| {
        let model = dir.join("resnet");
        std::fs::create_dir_all(&model).unwrap();
        let network = json!({
            "model_type": "resnet", "image_size": SIDE, "num_channels": 1, "embedding_size": 8,
            "hidden_sizes": [8], "depths": [1], "layer_type": "basic"
        });
        std::fs::write(model.join("config.json"), network.to_string()).unwrap();
        job["backbone"] = json!({"path": model, "init": "random", "dropout": 0.0});
        job["tasks"] = json!([{
            "name": "kind", "head": "single_label",
            "data": {"train": write("light.jsonl", 1.0, true), "test": write("dim.test.jsonl", 0.2, true),
                     "columns": {"label": "kind"}, "labels": ["top", "bottom"]},
            "adaptation": {"method": "adabn", "target": {"train": write("dim.jsonl", 0.2, false)}},
        }]);
        job["balancer"] = json!("equal");
        change(job);
    })
}

// Promise: with `adabn` training is what it is without; then statistics, and nothing else, are the target's; and sharding changes no bit of it.
#[test]
fn norms_follow_the_target() {
    let folder = tempfile::tempdir().unwrap();
    let job = in_another_light(folder.path(), |_| {});
    let run = |job: &JobSpec, sharding| train(job, &layout(1, sharding, false), STEPS);
    let once = run(&job, Sharding::Optimizer);
    once.assert_same(&run(&job, Sharding::Full), "adabn, full");
    let plain = in_another_light(folder.path(), |job| {
        job["tasks"][0]
            .as_object_mut()
            .unwrap()
            .remove("adaptation");
    });
    let plain = run(&plain, Sharding::Optimizer);
    assert_eq!(once.heads, plain.heads, "training is the same");
    let tensors = |outcome: &Outcome| -> BTreeMap<String, Vec<u8>> {
        let file = safetensors::SafeTensors::deserialize(&outcome.model).unwrap();
        let tensors = file.iter();
        tensors
            .map(|(name, view)| (name.to_owned(), view.data().to_vec()))
            .collect()
    };
    for ((name, own), (_, other)) in tensors(&once).iter().zip(&tensors(&plain)) {
        assert_eq!(own != other, name.contains(".running_"), "{name}");
    }
}

/// Statistics of the network's first norm, as they are exported.
fn first_norm(outcome: &Outcome) -> Vec<f32> {
    let file = safetensors::SafeTensors::deserialize(&outcome.model).unwrap();
    let mut all = BTreeMap::new();
    for (name, view) in file.iter() {
        if name.contains("embedder") && name.contains(".running_") {
            let (words, _) = view.data().as_chunks::<4>();
            let numbers = words.iter().map(|word| f32::from_le_bytes(*word));
            all.insert(name.to_owned(), numbers.collect::<Vec<f32>>());
        }
    }
    assert_eq!(all.len(), 2, "mean and variance");
    all.into_values().flatten().collect()
}

// Promise: with `adabn` statistics are those of the whole target: rows that come sorted, a batch of dark ones and
// then one of light ones, give what the same rows give that take turns.
#[test]
fn norms_do_not_follow_the_order_of_rows() {
    let folder = tempfile::tempdir().unwrap();
    let job = in_another_light(folder.path(), |_| {});
    let row = |index: usize, light: f64| {
        let noise = |place: usize| ((index * 31 + place * 17) % 13) as f64 / 26.0;
        let image: Vec<f64> = (0..64).map(|place| light + noise(place)).collect();
        format!("{}\n", json!({"image": image}))
    };
    let [dark, light] = [0.0, 3.0].map(|light| (0..128).map(move |index| row(index, light)));
    let turns: Vec<String> = dark
        .clone()
        .zip(light.clone())
        .flat_map(|(dark, light)| [dark, light])
        .collect();
    let sorted: Vec<String> = dark.chain(light).collect();
    let statistics = |rows: &[String]| {
        std::fs::write(folder.path().join("dim.jsonl"), rows.concat()).unwrap();
        let outcome = train(&job, &layout(1, Sharding::Optimizer, false), STEPS);
        first_norm(&outcome)
    };
    let (sorted, turns) = (statistics(&sorted), statistics(&turns));
    for (one, other) in sorted.iter().zip(&turns) {
        let most = 0.005 * (one.abs() + other.abs()) + 1e-5;
        assert!((one - other).abs() < most, "{one}, {other}");
    }
}

// Promise: a backbone without batch norms is told before anything is trained.
#[test]
fn norms_are_needed() {
    let folder = tempfile::tempdir().unwrap();
    let job = adapted(folder.path(), "adabn", |_| {});
    let error = espalier_worker::engine::Sources::load(&job)
        .and_then(|sources| {
            let backbone = sources.backbone(&job, tch::Device::Cpu)?;
            espalier_worker::engine::HeadSet::new(
                &job,
                &sources.tasks,
                backbone.as_ref(),
                tch::Device::Cpu,
            )
        })
        .unwrap_err();
    assert!(
        error.to_string().contains("no batch normalisation"),
        "{error}"
    );
}
