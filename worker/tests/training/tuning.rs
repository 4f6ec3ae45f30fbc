//! What is trained of a backbone, and what is left as it was.

use crate::kit::{Layout, Outcome, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::ExchangePlan;
use espalier_worker::engine::Sources;
use espalier_worker::predict::Predictor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const STEPS: u64 = 6;
/// Rank 0 serves two tasks, rank 1 two, one is shared.
const MIXED: [&[u32]; 3] = [&[0], &[0, 1], &[1]];

fn layout(sharding: Sharding, apart: bool) -> Layout {
    let how = ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    };
    Layout::new(2, &MIXED, how)
}

fn tuned(dir: &Path, tuning: Value, balancer: &str) -> JobSpec {
    spec(dir, STEPS, |job| {
        job["tuning"] = tuning;
        job["balancer"] = json!(balancer);
    })
}

/// Tensors of a safetensors file.
fn tensors(bytes: &[u8]) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let (words, _) = view.data().as_chunks::<4>();
        let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        (name, (view.shape().to_vec(), values))
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// Names of the backbone's tensors that differ from those of the model that both began with.
fn changed(outcome: &Outcome, start: &Outcome) -> Vec<String> {
    let (after, before) = (tensors(&outcome.model), tensors(&start.model));
    assert!(after.keys().eq(before.keys()), "tensors came or went");
    let differs = |(name, value): (&String, &(Vec<usize>, Vec<f32>))| {
        (*value != before[name]).then(|| name.clone())
    };
    after.iter().filter_map(differs).collect()
}

// Promise: with low-rank updates the backbone stays as it was; the export is the backbone with the
// updates merged in, W + alpha/rank * B * A, and has them by themselves beside it.
#[test]
fn updates_are_merged_and_nothing_else_moves() {
    let folder = tempfile::tempdir().unwrap();
    let run = |tuning| {
        let mut job = tuned(folder.path(), tuning, "mean");
        // Else what is frozen would see dropout in one run and none in the other.
        job.backbone.dropout = Some(0.0);
        train(&job, &layout(Sharding::Optimizer, false), STEPS)
    };
    let start = run(json!("heads"));
    let targets = ["query", "value", "intermediate.dense"];
    let outcome = run(json!({"lora": {"rank": 3, "alpha": 6, "dropout": 0.1, "targets": targets}}));
    let moved = changed(&outcome, &start);
    assert_eq!(moved.len(), 2 * targets.len());
    let (after, before) = (tensors(&outcome.model), tensors(&start.model));
    let updates = tensors(&outcome.adapter);
    assert_eq!(updates.len(), 2 * moved.len());
    for name in moved {
        let layer = name
            .strip_prefix("bert.")
            .unwrap()
            .strip_suffix(".weight")
            .unwrap();
        let part = |end: &str| &updates[&format!("base_model.model.{layer}.lora_{end}.weight")];
        let ((a_shape, a), (b_shape, b)) = (part("A"), part("B"));
        let (out, rank, inner) = (b_shape[0], b_shape[1], a_shape[1]);
        assert_eq!((rank, a_shape[0]), (3, 3));
        assert!(
            b.iter().any(|value| *value != 0.0),
            "{name}: B did not move"
        );
        for row in 0..out {
            for column in 0..inner {
                let product = |r: usize| b[row * rank + r] * a[r * inner + column];
                let update: f32 = (0..rank).map(product).sum();
                let place = row * inner + column;
                let off = after[&name].1[place] - (before[&name].1[place] + 2.0 * update);
                assert!(off.abs() < 1e-5, "{name} [{row}, {column}]: {off}");
            }
        }
    }
    let first = outcome.reports[0].losses[0].sum;
    let frozen = start.reports[0].losses[0].sum;
    assert!(
        (first - frozen).abs() < 1e-3,
        "updates start at nothing: {first}, {frozen}"
    );
}

// Promise: only biases move when only biases are to.
#[test]
fn biases_alone_move() {
    let folder = tempfile::tempdir().unwrap();
    let run = |tuning| {
        let job = tuned(folder.path(), tuning, "mean");
        train(&job, &layout(Sharding::Optimizer, false), STEPS)
    };
    let moved = changed(&run(json!("biases")), &run(json!("heads")));
    assert!(moved.len() > 10, "{moved:?}");
    assert!(
        moved.iter().all(|name| name.ends_with(".bias")),
        "{moved:?}"
    );
}

// Promise: what is trained in part obeys all that holds for what is trained whole: sharding, being
// stopped and taken up, and task gradients apart change no bit; and little of it travels.
#[test]
fn parts_of_a_backbone_train_like_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let whole = tuned(folder.path(), json!("all"), "upgrad");
    let whole = train(&whole, &layout(Sharding::Optimizer, true), STEPS);
    for tuning in [
        json!("biases"),
        json!({"lora": {"rank": 2, "dropout": 0.2}}),
        json!({"adapter": {"size": 4, "kind": "houlsby"}}),
        json!({"prompt": {"tokens": 3}}),
        json!({"prefix": {"tokens": 3}}),
    ] {
        let job = tuned(folder.path(), tuning.clone(), "upgrad");
        let run = |sharding| train(&job, &layout(sharding, true), STEPS);
        let outcome = run(Sharding::Optimizer);
        outcome.assert_same(&run(Sharding::None), "none");
        outcome.assert_same(&run(Sharding::Full), "full");
        let halves = train_in_halves(&job, &layout(Sharding::Full, true), STEPS);
        assert!(
            outcome.model == halves.model && outcome.heads == halves.heads,
            "{tuning}: resumed"
        );
        assert!(outcome.adapter == halves.adapter, "{tuning}: resumed");
        assert!(
            outcome.sent * 2 < whole.sent,
            "{tuning}: {} of {}",
            outcome.sent,
            whole.sent
        );
    }
}

// Promise: with gradual unfreezing heads learn alone at first, then one block more from the top every so
// many steps, the word table with the embeddings; a block's first step is AdamW's first step, which moves
// numbers by the learning rate (its known closed form).
#[test]
fn blocks_join_from_the_top() {
    let folder = tempfile::tempdir().unwrap();
    let steps_of = |tuning: Value, steps| {
        let job = spec(folder.path(), 8, |job| {
            job["tuning"] = tuning;
            job["training"]["schedule"] = json!({"kind": "constant", "warmup_steps": 0});
            job["training"]["optimizer"] = json!({"learning_rate": 1e-3, "weight_decay": 0.0});
        });
        train(&job, &layout(Sharding::Optimizer, false), steps)
    };
    let start = steps_of(json!("heads"), 1);
    let gradual = json!({"gradual": {"every_steps": 2}});
    let parts = ["encoder.layer.1.", "encoder.layer.0.", "embeddings."];
    for (steps, trained) in [(2, 0), (3, 1), (4, 1), (6, 2), (8, 3)] {
        let outcome = steps_of(gradual.clone(), steps);
        let moved = changed(&outcome, &start);
        for (place, part) in parts.iter().enumerate() {
            let found = moved.iter().any(|name| name.contains(part));
            assert_eq!(found, place < trained, "after {steps} steps: {part}");
        }
        assert!(outcome.heads != start.heads);
        if steps == 3 {
            let distance = outcome.distance(&start);
            assert!((distance - 1e-3).abs() < 1e-5, "{distance}");
        }
    }
    let from_the_start = steps_of(json!({"gradual": {"every_steps": 9, "start": 1}}), 2);
    let moved = changed(&from_the_start, &start);
    let top = |name: &String| name.contains(parts[0]);
    assert!(!moved.is_empty() && moved.iter().all(top), "{moved:?}");
}

// Promise: gradual unfreezing obeys what holds for all training: sharding, being stopped and taken up, and
// what balancers need change no bit; and what is frozen does not travel.
#[test]
fn unfreezing_changes_no_bit_by_the_way() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, apart) in [
        ("mean", false),
        ("upgrad", true),
        ("grad_drop", true),
        ("moco", true),
        ("uw", false),
    ] {
        let of = |tuning| tuned(folder.path(), tuning, balancer);
        let job = of(json!({"gradual": {"every_steps": 1}}));
        let run = |sharding| train(&job, &layout(sharding, apart), STEPS);
        let outcome = run(Sharding::Optimizer);
        outcome.assert_same(&run(Sharding::None), &format!("{balancer}, none"));
        outcome.assert_same(&run(Sharding::Full), &format!("{balancer}, full"));
        for sharding in [Sharding::Optimizer, Sharding::Full] {
            let halves = train_in_halves(&job, &layout(sharding, apart), STEPS);
            assert!(
                outcome.model == halves.model && outcome.heads == halves.heads,
                "{balancer}, {sharding:?}: resumed"
            );
        }
        let all = train(
            &of(json!("all")),
            &layout(Sharding::Optimizer, apart),
            STEPS,
        );
        assert!(outcome.sent < all.sent, "{balancer}");
        let still = of(json!({"gradual": {"every_steps": 99}}));
        let still = train(&still, &layout(Sharding::Optimizer, apart), STEPS);
        assert!(20 * still.sent < all.sent, "{balancer}: {}", still.sent);
        assert!(still.reports.iter().all(|r| r.gradient_norm.is_finite()));
    }
}

// Promise: with adapters the backbone stays as it was and adapters alone move; they change nothing at first.
// The export has them beside the backbone, and whoever loads it has them: predictions, and a later job,
// whose export hands them on.
#[test]
fn adapters_stand_beside_the_backbone() {
    let folder = tempfile::tempdir().unwrap();
    let of = |tuning: Value, backbone: Option<&Path>| {
        spec(folder.path(), STEPS, |job| {
            job["tuning"] = tuning;
            // Else what is frozen would see dropout in one run and none in the other.
            job["backbone"]["dropout"] = json!(0.0);
            if let Some(dir) = backbone {
                job["backbone"]["path"] = json!(dir);
                job["backbone"]["init"] = json!("pretrained");
            }
        })
    };
    let run = |job: &JobSpec| train(job, &layout(Sharding::Optimizer, false), STEPS);
    let start = run(&of(json!("heads"), None));
    let adapter = json!({"adapter": {"size": 4, "kind": "houlsby"}});
    let outcome = run(&of(adapter.clone(), None));
    assert!(outcome.model == start.model, "the backbone moved");
    let (first, frozen) = (&outcome.reports[0].losses[0], &start.reports[0].losses[0]);
    assert!((first.sum - frozen.sum).abs() < 1e-3);
    let adapters = tensors(&outcome.adapter);
    assert_eq!(
        adapters.len(),
        2 * 2 * 4,
        "two layers, two places, four tensors"
    );
    let up = &adapters["encoder.layer.1.output.dense.adapter_up.weight"];
    assert_eq!(up.0, [32, 4]);
    assert!(
        up.1.iter().any(|value| *value != 0.0),
        "adapters did not move"
    );

    let export = outcome.folder.path().join("export");
    assert!(!export.join("tasks").exists(), "it would lack the adapters");
    let features = |dir: &Path| -> Vec<f32> {
        let model = Predictor::load(dir).unwrap();
        let input = model.text("the old train and a violin").unwrap();
        let features = model.features(&[input]).unwrap().contiguous();
        Vec::try_from(features.view([-1])).unwrap()
    };
    let own = features(&export);
    assert_ne!(own, features(&start.folder.path().join("export")));
    let later = run(&of(json!("heads"), Some(&export)));
    assert_eq!(own, features(&later.folder.path().join("export")));
    let further = run(&of(adapter, Some(&export)));
    assert_ne!(own, features(&further.folder.path().join("export")));
    assert!(further.model == outcome.model, "the backbone moved");

    let other = of(json!({"adapter": {"size": 8}}), Some(&export));
    let error = Sources::load(&other).unwrap().profile(&other).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("houlsby of size 4"), "{error}");
}

// Promise: with a prompt or a prefix the backbone stays as it was and they alone move. The export has them
// beside the backbone as PEFT has them, and whoever loads it has them: predictions, and a later job, whose
// export hands them on; with another number of them it is refused.
#[test]
fn virtual_tokens_stand_before_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let of = |tuning: Value, backbone: Option<&Path>| {
        spec(folder.path(), STEPS, |job| {
            job["tuning"] = tuning;
            job["backbone"]["dropout"] = json!(0.0);
            if let Some(dir) = backbone {
                job["backbone"]["path"] = json!(dir);
                job["backbone"]["init"] = json!("pretrained");
            }
        })
    };
    let run = |job: &JobSpec| train(job, &layout(Sharding::Optimizer, false), STEPS);
    let start = run(&of(json!("heads"), None));
    let features = |dir: &Path| -> Vec<f32> {
        let model = Predictor::load(dir).unwrap();
        let input = model.text("the old train and a violin").unwrap();
        let features = model.features(&[input]).unwrap().contiguous();
        Vec::try_from(features.view([-1])).unwrap()
    };
    // Two layers of keys and values.
    for (kind, width) in [("prompt", 32), ("prefix", 2 * 2 * 32)] {
        let tuning = json!({kind: {"tokens": 3}});
        let outcome = run(&of(tuning.clone(), None));
        assert!(outcome.model == start.model, "{kind}: the backbone moved");
        let export = outcome.folder.path().join("export");
        let learned = tensors(&outcome.adapter);
        assert_eq!(learned["prompt_embeddings"].0, [3, width], "{kind}");
        let meta = std::fs::read(export.join(kind).join("adapter_config.json")).unwrap();
        let meta: Value = serde_json::from_slice(&meta).unwrap();
        let name = format!("{}_TUNING", kind.to_uppercase());
        assert_eq!(meta["peft_type"], json!(name));
        assert_eq!(meta["num_virtual_tokens"], json!(3));
        assert!(!export.join("tasks").exists(), "{kind}: it would lack them");

        let own = features(&export);
        assert_ne!(own, features(&start.folder.path().join("export")), "{kind}");
        let later = run(&of(json!("heads"), Some(&export)));
        assert_eq!(own, features(&later.folder.path().join("export")), "{kind}");
        let further = run(&of(tuning, Some(&export)));
        assert_ne!(
            own,
            features(&further.folder.path().join("export")),
            "{kind}"
        );
        assert!(further.model == outcome.model, "{kind}: the backbone moved");

        let other = of(json!({kind: {"tokens": 4}}), Some(&export));
        let error = Sources::load(&other).unwrap().profile(&other).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("of 3 tokens already"), "{kind}: {error}");
    }
}

// Promise: a target that matches nothing is refused, with the layers that there are.
#[test]
fn a_target_must_match() {
    let folder = tempfile::tempdir().unwrap();
    let job = tuned(
        folder.path(),
        json!({"lora": {"targets": ["querry"]}}),
        "mean",
    );
    let sources = Sources::load(&job).unwrap();
    let error = sources.profile(&job).unwrap_err().to_string();
    assert!(
        error.contains("`querry` matches no linear layer"),
        "{error}"
    );
    assert!(
        error.contains("attention.self.query, attention.self.key"),
        "{error}"
    );
}
