//! Classes that are read together with a text: trained by all ranks alike, told though never seen.

use crate::kit::{Layout, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::job::Metric;
use espalier_spec::plan::ExchangePlan;
use espalier_worker::engine::Sources;
use espalier_worker::predict::{Answer, Predictor};
use espalier_worker::zero_shot::{Class, Classes};
use serde_json::{Value, json};
use std::path::Path;

const STEPS: u64 = 6;
/// Both ranks serve both tasks.
const ALL: [&[u32]; 2] = [&[0, 1], &[0, 1]];
const ONE: [&[u32]; 2] = [&[0], &[0]];

fn how(sharding: Sharding, apart: bool) -> ExchangePlan {
    ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    }
}

/// Topics by hypotheses, of which `music` is never trained on, beside a plain task.
fn entailed(dir: &Path, steps: u64, change: impl FnOnce(&mut Value)) -> JobSpec {
    spec(dir, steps, |job| {
        let train = std::fs::read_to_string(dir.join("topic.train.jsonl")).unwrap();
        let seen = train.lines().filter(|line| !line.contains("music"));
        let seen: String = seen.map(|line| line.to_owned() + "\n").collect();
        std::fs::write(dir.join("seen.train.jsonl"), seen).unwrap();
        let task = &mut job["tasks"][0];
        task["head"] = json!("entailment");
        task["data"]["train"] = json!(dir.join("seen.train.jsonl"));
        task["zero_shot"] = json!({
            "descriptions": {"fruit": "apple pear plum cherry", "traffic": "train ship bicycle lorry",
                             "music": "violin drum flute piano"},
            "templates": ["the {}", "a {}"], "unseen": ["music"], "negatives": 2,
        });
        job["tasks"].as_array_mut().unwrap().truncate(2);
        change(job);
    })
}

// Promise: pairs are drawn alike by one rank and by two, in any number of micro-batches; neither sharding nor a
// resume changes a bit.
#[test]
fn ranks_draw_the_same_pairs() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, apart) in [("mean", false), ("upgrad", true)] {
        let job = entailed(folder.path(), STEPS, |job| {
            job["balancer"] = json!(balancer);
        });
        let two = Layout::new(2, &ALL, how(Sharding::Optimizer, apart));
        let run = train(&job, &two, STEPS);
        let full = Layout::new(2, &ALL, how(Sharding::Full, apart));
        run.assert_same(&train(&job, &full, STEPS), balancer);
        let halves = train_in_halves(&job, &two, STEPS);
        assert!(run.model == halves.model, "{balancer}: models differ");
        let one = Layout::new(1, &ONE, how(Sharding::Optimizer, apart));
        let distance = train(&job, &one, STEPS).distance(&run);
        assert!(distance < 2e-4, "{balancer}: {distance:e}");
    }
    let parts = |accumulation: u32| {
        let job = entailed(folder.path(), STEPS, |job| {
            job["training"]["accumulation"] = json!(accumulation);
        });
        let one = Layout::new(1, &ONE, how(Sharding::Optimizer, false));
        train(&job, &one, STEPS)
    };
    let distance = parts(1).distance(&parts(3));
    assert!(distance < 2e-4, "accumulation: {distance:e}");
}

// Promise: figures of trained and unseen classes are told; the export answers with classes that it was trained
// on and with any others, by probabilities over all of them.
#[test]
fn an_export_judges_its_classes_and_others() {
    let folder = tempfile::tempdir().unwrap();
    let job = entailed(folder.path(), 20, |_| {});
    let layout = Layout::new(2, &ALL, how(Sharding::Optimizer, false));
    let outcome = train(&job, &layout, 20);
    let metrics = &outcome.evaluation.as_ref().unwrap().tasks["topic"].metrics;
    for metric in [
        Metric::Accuracy,
        Metric::SeenAccuracy,
        Metric::UnseenAccuracy,
        Metric::HarmonicMean,
        Metric::ZeroShotAccuracy,
    ] {
        assert!((0.0..=1.0).contains(&metrics[&metric]), "{metrics:?}");
    }
    let predictor = Predictor::load(&outcome.folder.path().join("export")).unwrap();
    assert!(predictor.entails(&[]) && !predictor.entails(&["mentions".to_owned()]));
    let text = "apple plum the pear cherry";
    let answers = predictor.entailed(text, &["topic".to_owned()]).unwrap();
    let total = |answer: &Answer| match answer {
        Answer::Single { label, scores, .. } => {
            assert!(scores.contains_key(label));
            let total: f64 = scores.values().sum();
            assert!((total - 1.0).abs() < 1e-5, "{scores:?}");
            scores.len()
        }
        other => panic!("one class, not {other:?}"),
    };
    assert_eq!(total(&answers["topic"]), 3);
    let inputs = [predictor.text(text).unwrap()];
    let beside = predictor.predict(&inputs, &[]).unwrap();
    assert!(!beside[0].contains_key("topic"), "{beside:?}");

    let class = |name: &str| Class {
        name: name.to_owned(),
        text: name.to_owned(),
    };
    let others = ["food", "ways", "weather", "law"].map(class);
    let others = Classes::new(&predictor, &others, &[]).unwrap();
    assert!(others.reads_texts());
    let found = others.of_texts(&predictor, &[text, "ship"]).unwrap();
    assert_eq!(found.iter().map(total).collect::<Vec<_>>(), [4, 4]);
    assert!(others.nearest(&predictor, &inputs).is_err());
}

// Promise: what a job takes from the outputs of trained classes is taken in evaluations and by the export, and
// from no other class.
#[test]
fn trained_classes_stand_back() {
    let folder = tempfile::tempdir().unwrap();
    let job = entailed(folder.path(), 1, |job| {
        job["tasks"][0]["zero_shot"]["calibration"] = json!(50.0);
    });
    let layout = Layout::new(2, &ALL, how(Sharding::Optimizer, false));
    let outcome = train(&job, &layout, 1);
    let metrics = &outcome.evaluation.as_ref().unwrap().tasks["topic"].metrics;
    assert_eq!(metrics[&Metric::SeenAccuracy], 0.0);
    let predictor = Predictor::load(&outcome.folder.path().join("export")).unwrap();
    let text = "apple plum the pear cherry";
    let answers = predictor.entailed(text, &["topic".to_owned()]).unwrap();
    let is = |answer: &Answer, name: &str| matches!(answer, Answer::Single { label, .. } if label == name);
    assert!(is(&answers["topic"], "music"), "{answers:?}");
    let class = |name: &str| Class {
        name: name.to_owned(),
        text: name.to_owned(),
    };
    let classes = Classes::new(&predictor, &["fruit", "food"].map(class), &[]).unwrap();
    let found = classes.of_texts(&predictor, &[text]).unwrap();
    assert!(is(&found[0], "food"), "{found:?}");
}

// Promise: a row that would train on an unseen class is refused with its name.
#[test]
fn unseen_classes_are_not_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let job = entailed(folder.path(), 1, |job| {
        job["tasks"][0]["data"]["train"] = json!(folder.path().join("topic.train.jsonl"));
    });
    let said = Sources::load(&job).unwrap_err().to_string();
    assert!(
        said.contains("label `music` is in zero_shot.unseen"),
        "{said}"
    );
}
