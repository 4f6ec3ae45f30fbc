//! Classes that are named at prediction, with the pretrained MiniLM.

use espalier_spec::job::Pooling;
use espalier_worker::data::Input;
use espalier_worker::predict::{Answer, Predictor};
use espalier_worker::zero_shot::{Class, Classes};
use std::path::PathBuf;

fn predictor() -> Predictor {
    let dir = std::env::var_os("ESPALIER_MINILM").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.espalier/models/all-MiniLM-L6-v2"),
        PathBuf::from,
    );
    Predictor::load_plain(&dir, Pooling::Mean, 64).unwrap()
}

fn class(name: &str, text: &str) -> Class {
    Class {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

fn plain(names: &[&str]) -> Vec<Class> {
    names.iter().map(|name| class(name, name)).collect()
}

// Promise: a model that was trained on none of the classes names the one that a text is about, by name,
// by description and with templates; probabilities are those of all classes.
#[test]
fn texts_find_classes_that_no_head_knows() {
    let predictor = predictor();
    let texts = [
        (
            "The striker scored twice in the final minutes of the match.",
            "sport",
        ),
        (
            "Stir the onions in butter until they are golden.",
            "cooking",
        ),
        ("The central bank raised interest rates again.", "economy"),
    ];
    let inputs: Vec<Input> = texts
        .iter()
        .map(|(text, _)| predictor.text(text).unwrap())
        .collect();
    let names = ["sport", "cooking", "economy"];
    let described = [
        class("sport", "a report of a game or match"),
        class("cooking", "instructions for preparing food"),
        class("economy", "news of banks, prices and markets"),
    ];
    let templates = ["a text about {}", "{}"].map(str::to_owned);
    for (classes, templates) in [
        (plain(&names), &[][..]),
        (plain(&names), &templates[..]),
        (described.to_vec(), &[][..]),
    ] {
        let classes = Classes::new(&predictor, &classes, templates).unwrap();
        let answers = classes.nearest(&predictor, &inputs).unwrap();
        for (answer, (text, expected)) in answers.iter().zip(texts) {
            let Answer::Single { label, scores, .. } = answer else {
                panic!("one class, not {answer:?}");
            };
            assert_eq!(label, expected, "{text}");
            assert_eq!(scores.len(), 3);
            assert!((scores.values().sum::<f64>() - 1.0).abs() < 1e-5);
        }
    }
}

// Promise: classes that make no choice are refused, with what to do.
#[test]
fn classes_that_are_no_choice_are_refused() {
    let predictor = predictor();
    let refused = |classes: &[Class], templates: &[&str]| {
        let templates: Vec<String> = templates.iter().map(|&t| t.to_owned()).collect();
        let error = Classes::new(&predictor, classes, &templates).unwrap_err();
        error.to_string()
    };
    assert!(refused(&plain(&["a"]), &[]).contains("two or more"));
    assert!(refused(&plain(&["a", "b", "a"]), &[]).contains("\"a\" is named twice"));
    assert!(refused(&plain(&["a", "b"]), &["about"]).contains("has no {}"));
}
