//! Classes that are known by their description: trained by all ranks together, told though never seen.

use crate::kit::{Layout, Outcome, spec, train, train_by_parts};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::job::Metric;
use espalier_spec::plan::ExchangePlan;
use espalier_worker::data::vectors;
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

/// Topics by their descriptions, of which `music` is never trained on, beside a plain task.
fn described(dir: &Path, steps: u64, change: impl FnOnce(&mut Value)) -> JobSpec {
    spec(dir, steps, |job| {
        let train = std::fs::read_to_string(dir.join("topic.train.jsonl")).unwrap();
        let seen = train.lines().filter(|line| !line.contains("music"));
        let seen: String = seen.map(|line| line.to_owned() + "\n").collect();
        std::fs::write(dir.join("seen.train.jsonl"), seen).unwrap();
        let task = &mut job["tasks"][0];
        task["head"] = json!("label_embedding");
        task["data"]["train"] = json!(dir.join("seen.train.jsonl"));
        task["zero_shot"] = json!({
            "descriptions": {"fruit": "apple pear plum cherry", "traffic": "train ship bicycle lorry",
                             "music": "violin drum flute piano"},
            "templates": ["the {}", "a {}"], "unseen": ["music"],
        });
        job["tasks"].as_array_mut().unwrap().truncate(2);
        change(job);
    })
}

// Promise: a metric of classes that the validation data has no row of is refused before training, with what is
// missing; one that it can tell is not.
#[test]
fn a_metric_needs_samples_of_its_classes() {
    let folder = tempfile::tempdir().unwrap();
    let load = |metric: &str, validation: &str| {
        let job = described(folder.path(), 1, |job| {
            let task = &mut job["tasks"][0];
            task["metric"] = json!(metric);
            task["data"]["validation"] = json!(folder.path().join(validation));
        });
        Sources::load(&job).map_err(|error| error.to_string())
    };
    for metric in ["harmonic_mean", "unseen_accuracy", "zero_shot_accuracy"] {
        let error = load(metric, "seen.train.jsonl").unwrap_err();
        assert!(error.contains(&format!("metric is {metric}")), "{error}");
        assert!(error.contains("class in zero_shot.unseen"), "{error}");
        assert!(load(metric, "topic.test.jsonl").is_ok());
    }
    for metric in ["seen_accuracy", "accuracy"] {
        assert!(load(metric, "seen.train.jsonl").is_ok());
    }
}

// Promise: the calibration that an evaluation found is part of a run, though no step changes it.
#[test]
fn a_calibration_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let job = described(folder.path(), STEPS, |_| {});
    let layout = Layout::new(2, &ALL, how(Sharding::Optimizer, false));
    let whole = train(&job, &layout, STEPS);
    // Trainers compare calibrations when they take parts up.
    let by_parts = train_by_parts(&job, &layout, STEPS);
    assert!(whole.model == by_parts.model);
}

// Promise: what ranks learn of class texts adds up to what one rank learns, in any number of
// micro-batches; sharding changes no bit.
#[test]
fn ranks_learn_classes_together() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, apart) in [("mean", false), ("uw", false), ("upgrad", true)] {
        let job = described(folder.path(), STEPS, |job| {
            job["balancer"] = json!(balancer);
        });
        let run = |ranks, tasks: &[&[u32]], sharding| {
            train(
                &job,
                &Layout::new(ranks, tasks, how(sharding, apart)),
                STEPS,
            )
        };
        let one = run(1, &ONE, Sharding::Optimizer);
        let two = run(2, &ALL, Sharding::Optimizer);
        two.assert_same(&run(2, &ALL, Sharding::Full), balancer);
        two.assert_same(&run(2, &ALL, Sharding::None), balancer);
        let distance = one.distance(&two);
        assert!(distance < 2e-4, "{balancer}: {distance:e}");
        let tokens = |outcome: &Outcome| -> Vec<u64> {
            outcome.reports.iter().map(|report| report.tokens).collect()
        };
        assert_eq!(tokens(&one), tokens(&two), "{balancer}");
        let parts = described(folder.path(), STEPS, |job| {
            job["balancer"] = json!(balancer);
            job["training"]["accumulation"] = json!(3);
        });
        // Losses of the whole step are known only where tasks travel apart: so a plan has it.
        let layout = Layout::new(1, &ONE, how(Sharding::Optimizer, balancer != "mean"));
        let distance = one.distance(&train(&parts, &layout, STEPS));
        assert!(distance < 2e-4, "{balancer}, accumulation: {distance:e}");
    }
}

// Promise: trained classes are learned, all figures of generalised zero-shot learning are told, and the
// export answers with classes that it was trained on and with any others.
#[test]
fn an_export_knows_its_classes_and_others() {
    let folder = tempfile::tempdir().unwrap();
    let job = described(folder.path(), 60, |_| {});
    let layout = Layout::new(2, &ALL, how(Sharding::Optimizer, false));
    let outcome = train(&job, &layout, 60);
    let evaluation = outcome.evaluation.as_ref().unwrap();
    let metrics = &evaluation.tasks["topic"].metrics;
    for metric in [
        Metric::Accuracy,
        Metric::SeenAccuracy,
        Metric::UnseenAccuracy,
        Metric::HarmonicMean,
        Metric::ZeroShotAccuracy,
    ] {
        assert!((0.0..=1.0).contains(&metrics[&metric]), "{metrics:?}");
    }
    assert!(metrics[&Metric::SeenAccuracy] > 0.8, "{metrics:?}");
    // It is the only unseen one.
    assert_eq!(metrics[&Metric::ZeroShotAccuracy], 1.0);

    let predictor = Predictor::load(&outcome.folder.path().join("export")).unwrap();
    let inputs = [predictor.text("apple plum the pear cherry").unwrap()];
    let answers = predictor.predict(&inputs, &["topic".to_owned()]).unwrap();
    let Answer::Single { label, scores, .. } = &answers[0]["topic"] else {
        panic!("one class, not {answers:?}");
    };
    assert_eq!((label.as_str(), scores.len()), ("fruit", 3));
    let class = |name: &str, text: &str| Class {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let others = [class("food", "apple cherry"), class("ways", "ship lorry")];
    let others = Classes::new(&predictor, &others, &[]).unwrap();
    let found = others.nearest(&predictor, &inputs).unwrap();
    assert!(
        matches!(&found[0], Answer::Single { label, .. } if label == "food"),
        "{found:?}"
    );
}

/// The same topics by vectors: what they have in common, and what each has alone.
fn by_vectors(dir: &Path, steps: u64, change: impl FnOnce(&mut Value)) -> JobSpec {
    let file = dir.join("topics.csv");
    let rows = "topic,living,moves,heard\nfruit,2,0,0\ntraffic,0,1,1\nmusic,0,0,3\nbird,1,1,1\n";
    std::fs::write(&file, rows).unwrap();
    described(dir, steps, |job| {
        job["tasks"][0]["zero_shot"] = json!({"vectors": file, "unseen": ["music"]});
        change(job);
    })
}

// Promise: classes known by vectors are learned by all ranks alike, whatever the sharding; unseen ones are
// told; the export answers among its own classes, and among those of any file of vectors.
#[test]
fn classes_may_be_vectors() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, apart) in [("mean", false), ("upgrad", true)] {
        let job = by_vectors(folder.path(), STEPS, |job| {
            job["balancer"] = json!(balancer);
        });
        let run = |ranks, tasks: &[&[u32]], sharding| {
            train(
                &job,
                &Layout::new(ranks, tasks, how(sharding, apart)),
                STEPS,
            )
        };
        let two = run(2, &ALL, Sharding::Optimizer);
        two.assert_same(&run(2, &ALL, Sharding::Full), balancer);
        let distance = run(1, &ONE, Sharding::Optimizer).distance(&two);
        assert!(distance < 2e-4, "{balancer}: {distance:e}");
    }
    let job = by_vectors(folder.path(), 60, |_| {});
    let layout = Layout::new(2, &ALL, how(Sharding::Optimizer, false));
    let outcome = train(&job, &layout, 60);
    let metrics = &outcome.evaluation.as_ref().unwrap().tasks["topic"].metrics;
    assert!(metrics[&Metric::SeenAccuracy] > 0.8, "{metrics:?}");
    assert_eq!(metrics[&Metric::ZeroShotAccuracy], 1.0);
    assert!(metrics.contains_key(&Metric::HarmonicMean), "{metrics:?}");

    let predictor = Predictor::load(&outcome.folder.path().join("export")).unwrap();
    let inputs = [predictor.text("apple plum the pear cherry").unwrap()];
    let answers = predictor.predict(&inputs, &["topic".to_owned()]).unwrap();
    let Answer::Single { label, scores, .. } = &answers[0]["topic"] else {
        panic!("one class, not {answers:?}");
    };
    assert_eq!((label.as_str(), scores.len()), ("fruit", 3));
    let file = folder.path().join("others.jsonl");
    let lines = r#"{"label": "lamp", "vector": [0, 0, 1]}
{"label": "tree", "vector": [1, 0, 0]}
"#;
    std::fs::write(&file, lines).unwrap();
    let vectors = vectors::read(&file).unwrap();
    let others = Classes::by_vectors(&predictor, &vectors, &[]).unwrap();
    let found = others.nearest(&predictor, &inputs).unwrap();
    assert!(
        matches!(&found[0], Answer::Single { label, .. } if label == "tree"),
        "{found:?}"
    );
    let refused = |wanted: &[&str], text: &str| {
        std::fs::write(&file, text).unwrap();
        let vectors = vectors::read(&file).unwrap();
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        let error = Classes::by_vectors(&predictor, &vectors, &wanted).unwrap_err();
        error.to_string()
    };
    let missing = refused(&["lamp", "sea"], lines);
    assert!(
        missing.contains("no vector of the class \"sea\""),
        "{missing}"
    );
    let short = refused(&[], &lines.replace("0, 0", "0"));
    assert!(short.contains("was trained with 3"), "{short}");
}

// Promise: a class without a description and a row that would train on an unseen class are refused with
// their names.
#[test]
fn classes_that_are_wrong_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |change: fn(&mut Value)| {
        let job = described(folder.path(), 1, |job| change(&mut job["tasks"][0]));
        Sources::load(&job).unwrap_err().to_string()
    };
    let missing = refused(|task| {
        task["zero_shot"]["descriptions"] =
            json!({"fruits": "apple", "traffic": "train", "music": "drum"});
    });
    assert!(
        missing.contains("no description of the class `fruit` (did you mean `fruits`?)"),
        "{missing}"
    );
    let trained = refused(|task| {
        let all = task["data"]["train"]
            .as_str()
            .unwrap()
            .replace("seen.", "topic.");
        task["data"]["train"] = json!(all);
    });
    assert!(
        trained.contains("label `music` is in zero_shot.unseen"),
        "{trained}"
    );
}
