//! Tags of words, alone and beside a task that labels the whole text.

use crate::kit::{Layout, spec, train};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::job::{Files, Metric};
use espalier_spec::plan::ExchangePlan;
use espalier_worker::data::Input;
use espalier_worker::engine::Sources;
use espalier_worker::predict::Predictor;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

const STEPS: u64 = 6;
/// Both ranks serve both tasks.
const ALL: [&[u32]; 2] = [&[0, 1], &[0, 1]];

/// The toy's texts as words: what they are about, and which of the words are long ones, in a row.
fn rows(dir: &Path, split: &str) -> String {
    let texts = std::fs::read_to_string(dir.join(format!("topic.{split}.jsonl"))).unwrap();
    let mut rows = String::new();
    for line in texts.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let words: Vec<&str> = row["text"].as_str().unwrap().split(' ').collect();
        let mut tags: Vec<&str> = Vec::new();
        for word in &words {
            tags.push(match (word.len() > 4, tags.last()) {
                (false, _) => "O",
                (true, Some(&"B-long" | &"I-long")) => "I-long",
                (true, _) => "B-long",
            });
        }
        let row = json!({"tokens": words, "tags": tags, "topic": row["label"]});
        writeln!(rows, "{row}").unwrap();
    }
    rows
}

fn joint(dir: &Path, balancer: &str, steps: u64) -> JobSpec {
    spec(dir, steps, |job| {
        for split in ["train", "test"] {
            std::fs::write(dir.join(format!("words.{split}.jsonl")), rows(dir, split)).unwrap();
        }
        let task = |name: &str, head: &str, label: &str| {
            json!({
                "name": name, "head": head, "input_group": "texts",
                "data": {"train": dir.join("words.train.jsonl"), "test": dir.join("words.test.jsonl"),
                         "columns": {"input": "tokens", "label": label}},
            })
        };
        job["tasks"] = json!([
            task("topic", "single_label", "topic"),
            task("long", "tags", "tags")
        ]);
        job["balancer"] = json!(balancer);
    })
}

fn how(sharding: Sharding, apart: bool) -> ExchangePlan {
    ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    }
}

// Promise: with tags of words too, sharding changes no bit, whether gradients travel apart or not.
#[test]
fn sharding_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, apart) in [("upgrad", true), ("equal", false)] {
        let job = joint(folder.path(), balancer, STEPS);
        let run = |sharding| train(&job, &Layout::new(2, &ALL, how(sharding, apart)), STEPS);
        let once = run(Sharding::Optimizer);
        once.assert_same(&run(Sharding::None), &format!("{balancer}, none"));
        once.assert_same(&run(Sharding::Full), &format!("{balancer}, full"));
    }
}

// Promise: tasks of a group are evaluated in one pass, with the figures that each has in a pass of its own; how many
// samples all of them are right about is said where they are evaluated on the same files, and only there.
#[test]
fn a_group_is_evaluated_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = |job: &JobSpec| {
        let layout = Layout::new(2, &ALL, how(Sharding::Optimizer, false));
        train(job, &layout, 40).evaluation.unwrap().tasks
    };
    let mut job = joint(folder.path(), "equal", 40);
    let together = run(&job);
    let (tags, other) = ("words.test.jsonl", "other.test.jsonl");
    std::fs::copy(folder.path().join(tags), folder.path().join(other)).unwrap();
    let file = folder.path().join(other).display().to_string();
    job.tasks[1].data.test = Some(Files::One(file));
    let apart = run(&job);
    let share = together["topic"].metrics[&Metric::JointAccuracy];
    let most =
        together["topic"].metrics[&Metric::Accuracy].min(together["long"].metrics[&Metric::Exact]);
    assert!(share > 0.0 && share <= most, "{share} of {most}");
    for (name, own) in &apart {
        let mut same = together[name].clone();
        assert_eq!(same.metrics.remove(&Metric::JointAccuracy), Some(share));
        assert_eq!(own, &same, "{name}");
    }
}

// Promise: a balancer of losses weighs words' gradients as it weighs those of whole texts, whether they
// are combined before backward or at the owners.
#[test]
fn weights_reach_the_vectors_of_words() {
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "dwa", STEPS);
    let run = |apart| {
        train(
            &job,
            &Layout::new(2, &ALL, how(Sharding::Optimizer, apart)),
            STEPS,
        )
    };
    let distance = run(false).distance(&run(true));
    assert!(distance < 2e-4, "{distance}");
}

// Promise: two ranks train like one.
#[test]
fn two_ranks_train_like_one() {
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "equal", STEPS);
    let two = train(
        &job,
        &Layout::new(2, &ALL, how(Sharding::Optimizer, false)),
        STEPS,
    );
    let one: [&[u32]; 2] = [&[0], &[0]];
    let one = train(
        &job,
        &Layout::new(1, &one, how(Sharding::Optimizer, false)),
        STEPS,
    );
    let distance = two.distance(&one);
    assert!(distance < 2e-4, "{distance}");
}

// Promise: tags are learned: long words are told from short ones, far above always saying the same.
#[test]
fn tags_are_learned() {
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "equal", 60);
    let done = train(
        &job,
        &Layout::new(2, &ALL, how(Sharding::Optimizer, false)),
        60,
    );
    let scores = &done.evaluation.unwrap().tasks["long"];
    let found = |metric: Metric| scores.metrics[&metric];
    assert!(found(Metric::SpanF1) > 0.8, "{scores:?}");
    assert!(
        found(Metric::Accuracy) > scores.baseline[&Metric::Accuracy] + 0.1,
        "{scores:?}"
    );
}

// Promise: a group whose inputs are words to one task and whole texts to another, as lists in CSV are, is
// refused before training, whichever task leads it.
#[test]
fn words_are_not_shared_with_whole_texts() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = joint(folder.path(), "equal", 1);
    let file = folder.path().join("words.csv");
    let list = |words: &str| format!("\"[{}]\"", words.replace('"', "\"\""));
    let row =
        |words: &str, tags: &str, topic: &str| format!("{},{},{topic}\n", list(words), list(tags));
    let rows = [
        "tokens,tags,topic\n".to_owned(),
        row(r#""the","apple""#, r#""O","B-long""#, "fruit"),
        row(r#""old""#, r#""O""#, "age"),
    ];
    std::fs::write(&file, rows.concat()).unwrap();
    for task in &mut job.tasks {
        task.data.train = Files::One(file.display().to_string());
        task.data.test = None;
    }
    for _ in 0..2 {
        let error = Sources::load(&job).unwrap_err().to_string();
        assert!(error.contains("lists of words to long"), "{error}");
        assert!(error.contains("whole texts to topic"), "{error}");
        job.tasks.swap(0, 1);
    }
}

// Promise: an export reads a text as its tasks were trained to: as words where all were, and else whole, but as
// words for the tasks that were; each answer is of the input that is its task's.
#[test]
fn exports_read_as_they_were_trained() {
    let folder = tempfile::tempdir().unwrap();
    let together = joint(folder.path(), "mean", 2);
    let mut apart = together.clone();
    for task in &mut apart.tasks {
        task.input_group = None;
    }
    let file = |split: &str| {
        let file = folder.path().join(format!("topic.{split}.jsonl"));
        Files::One(file.display().to_string())
    };
    let topic = &mut apart.tasks[0].data;
    (topic.train, topic.test) = (file("train"), Some(file("test")));
    (topic.columns.input, topic.columns.label) = (None, None);

    let ranks: [&[u32]; 2] = [&[0], &[0]];
    let text = "the old train";
    for (job, of_text, both) in [
        (&together, &["long", "topic"][..], false),
        (&apart, &["topic"][..], true),
    ] {
        let layout = Layout::new(1, &ranks, how(Sharding::Optimizer, false));
        let done = train(job, &layout, 2);
        let model = Predictor::load(&done.folder.path().join("export")).unwrap();
        assert_eq!(model.reads_both(&[]), both);
        assert!(!model.reads_both(&["topic".to_owned()]));
        let found = |input: Input| {
            let answers = model.predict(&[input], &[]).unwrap();
            answers[0].keys().cloned().collect::<Vec<String>>()
        };
        let input = model.text(text).unwrap();
        assert_eq!(input.is_words(), !both);
        assert_eq!(found(input), of_text);
        let words = model.words(text).unwrap();
        assert_eq!(words.first().len(), 3);
        assert!(found(words).contains(&"long".to_owned()));
        assert_eq!(model.pair(text, text).is_ok(), both);
    }
}
