//! Texts out of images, column by column: the head `ctc` in real training.

use crate::kit::{Layout, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::job::Metric;
use espalier_spec::plan::ExchangePlan;
use espalier_worker::data::Input;
use espalier_worker::engine::Sources;
use espalier_worker::predict::{Answer, Predictor};
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

const STEPS: u64 = 6;
/// Both ranks serve both tasks.
const ALL: [&[u32]; 2] = [&[0, 1], &[0, 1]];
/// Each character lights its row in two columns; one column is dark behind it.
const CHARACTERS: [char; 4] = ['a', 'b', 'c', ' '];
const COLUMNS: usize = 16;

/// A text of two to five characters, a function of its number.
fn text(number: u64) -> String {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % limit) as usize
    };
    (0..2 + below(4)).map(|_| CHARACTERS[below(4)]).collect()
}

/// Its image: 4 rows of 16 columns.
fn image(text: &str) -> Vec<f32> {
    let mut pixels = vec![0.0; CHARACTERS.len() * COLUMNS];
    for (place, character) in text.chars().enumerate() {
        let row = CHARACTERS.iter().position(|c| *c == character).unwrap();
        let start = row * COLUMNS + 3 * place;
        pixels[start..start + 2].fill(1.0);
    }
    pixels
}

/// A task that reads the text, and one that tells its first character, over the same images.
fn joint(dir: &Path, balancer: &str, steps: u64) -> JobSpec {
    spec(dir, steps, |job| {
        for (split, numbers) in [("train", 0..192), ("test", 1000..1048)] {
            let mut rows = String::new();
            for text in numbers.map(text) {
                let first = text.chars().next().unwrap().to_string();
                let row = json!({"image": image(&text), "text": text, "first": first});
                writeln!(rows, "{row}").unwrap();
            }
            std::fs::write(dir.join(format!("images.{split}.jsonl")), rows).unwrap();
        }
        let config = json!({"model_type": "espalier-convnet", "num_channels": 1,
                            "image_size": [CHARACTERS.len(), COLUMNS], "hidden_sizes": [12]});
        let model = dir.join("network");
        std::fs::create_dir_all(&model).unwrap();
        std::fs::write(model.join("config.json"), config.to_string()).unwrap();
        let task = |name: &str, head: &str| {
            json!({
                "name": name, "head": head, "input_group": "images",
                "data": {"train": dir.join("images.train.jsonl"), "test": dir.join("images.test.jsonl"),
                         "columns": {"label": name}},
            })
        };
        job["backbone"]["path"] = json!(model);
        job["tasks"] = json!([task("text", "ctc"), task("first", "single_label")]);
        job["balancer"] = json!(balancer);
        if steps > STEPS {
            job["training"]["optimizer"]["learning_rate"] = json!(1e-2);
        }
    })
}

fn how(sharding: Sharding, apart: bool) -> ExchangePlan {
    ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    }
}

// Promise: with a task that reads texts, too, neither sharding nor a resume changes a bit, whether gradients
// travel apart or not.
#[test]
fn sharding_and_resume_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, apart) in [("upgrad", true), ("equal", false)] {
        let job = joint(folder.path(), balancer, STEPS);
        let layout = |sharding| Layout::new(2, &ALL, how(sharding, apart));
        let once = train(&job, &layout(Sharding::Optimizer), STEPS);
        for sharding in [Sharding::None, Sharding::Full] {
            once.assert_same(&train(&job, &layout(sharding), STEPS), balancer);
        }
        let halves = train_in_halves(&job, &layout(Sharding::Optimizer), STEPS);
        once.assert_same(&halves, "in halves");
    }
}

// Promise: two ranks train like one, and a balancer of losses weighs frames' gradients as it weighs others,
// whether they are combined before backward or at the owners.
#[test]
fn ranks_and_weights_agree() {
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "dwa", STEPS);
    let run = |ranks: u32, apart| {
        let serving: [&[u32]; 2] = if ranks == 1 { [&[0], &[0]] } else { ALL };
        let layout = Layout::new(ranks, &serving, how(Sharding::Optimizer, apart));
        train(&job, &layout, STEPS)
    };
    let two = run(2, false);
    assert!(two.distance(&run(1, false)) < 2e-5);
    assert!(two.distance(&run(2, true)) < 2e-5);
}

// Promise: texts are learned, far below the error of always saying the most frequent one, and the export
// reads them out of images.
#[test]
fn texts_are_learned_and_predicted() {
    const LONG: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let job = joint(folder.path(), "equal", LONG);
    let layout = Layout::new(2, &ALL, how(Sharding::Optimizer, false));
    let done = train(&job, &layout, LONG);
    let scores = &done.evaluation.as_ref().unwrap().tasks["text"];
    let found = scores.metrics[&Metric::Cer];
    assert!(found < 0.2, "{scores:?}");
    assert!(scores.baseline[&Metric::Cer] > 0.5, "{scores:?}");
    assert!(scores.metrics.contains_key(&Metric::Wer), "{scores:?}");

    let model = Predictor::load(&done.folder.path().join("export")).unwrap();
    let texts: Vec<String> = (1000..1048).map(text).collect();
    let inputs = texts.iter().map(|text| Input::Numbers(image(text).into()));
    let inputs: Vec<Input> = inputs.collect();
    let answers = model.predict(&inputs, &["text".to_owned()]).unwrap();
    let right = texts.iter().zip(&answers).filter(|(text, answer)| {
        assert_eq!(answer.len(), 1);
        matches!(&answer["text"], Answer::Read { text: found } if found == *text)
    });
    assert!(right.count() > 24, "{answers:?}");
}

// Promise: a task's own adapter fits its frames, which are wider than a sample's features, and the export has it.
#[test]
fn adapters_fit_frames() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = joint(folder.path(), "equal", STEPS);
    for task in &mut job.tasks {
        task.adapter = serde_json::from_value(json!({"size": 3})).unwrap();
    }
    let done = train(
        &job,
        &Layout::new(2, &ALL, how(Sharding::Full, false)),
        STEPS,
    );
    let model = Predictor::load(&done.folder.path().join("export")).unwrap();
    let answers = model
        .predict(&[Input::Numbers(image("ab").into())], &[])
        .unwrap();
    assert!(
        matches!(answers[0]["text"], Answer::Read { .. }),
        "{answers:?}"
    );
}

// Promise: an audio spectrogram transformer from its configuration alone has frames, too, and sharding
// changes no bit of it.
#[test]
fn spectrogram_transformers_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = joint(folder.path(), "equal", STEPS);
    for task in &mut job.tasks {
        task.data.columns.input = Some("image".to_owned());
    }
    let config = json!({
        "model_type": "audio-spectrogram-transformer", "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 4, "frequency_stride": 1,
        "time_stride": 1, "num_mel_bins": CHARACTERS.len(), "max_length": COLUMNS,
    });
    let features = json!({
        "feature_extractor_type": "EspalierLogMel", "sampling_rate": 8000,
        "num_mel_bins": CHARACTERS.len(), "n_fft": 128, "hop_length": 100,
    });
    for (name, content) in [
        ("config.json", config),
        ("preprocessor_config.json", features),
    ] {
        let file = folder.path().join("network").join(name);
        std::fs::write(file, content.to_string()).unwrap();
    }
    let run = |sharding| {
        let layout = Layout::new(2, &ALL, how(sharding, false));
        train(&job, &layout, STEPS)
    };
    let once = run(Sharding::Optimizer);
    once.assert_same(&run(Sharding::Full), "full");
    let scores = &once.evaluation.as_ref().unwrap().tasks["text"];
    assert!(scores.loss.is_finite() && scores.loss > 0.0, "{scores:?}");
}

// Promise: a backbone that keeps no order is refused before the task's data is read, with what to use.
#[test]
fn backbones_without_frames_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let job = spec(folder.path(), STEPS, |job| {
        job["tasks"][1] = json!({"name": "words", "head": "ctc", "data": {"train": "none.jsonl"}});
    });
    let said = Sources::load(&job).unwrap_err().to_string();
    let expected = "task words: the head `ctc` needs a backbone that keeps the order";
    assert!(said.contains(expected), "{said}");
}
