//! Rules of classes that are known by what they are: words, vectors or hypotheses.

use super::Findings;
use crate::job::{Descriptions, HeadKind, TaskSpec, ZeroShotSpec};
use crate::zero_shot::PLACE;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn rules(task: &TaskSpec, path: &str, found: &mut Findings) {
    let field = format!("{path}.zero_shot");
    let is_zero_shot = task.head == HeadKind::LabelEmbedding;
    if task.head == HeadKind::Entailment {
        return entailment(task, path, found);
    }
    let spec = match &task.zero_shot {
        Some(_) if !is_zero_shot => {
            let head = task.head.as_str();
            let message = format!(
                "is for `label_embedding` only, or `entailment`, and this head is `{head}`; remove it"
            );
            return found.add(field, message);
        }
        None if is_zero_shot => {
            return found.add(
                field,
                "is missing: the head `label_embedding` knows classes by what they are; give \
                 `descriptions`, a mapping of class to text or a file, or `vectors`, a file",
            );
        }
        None => return,
        Some(spec) => spec,
    };
    match spec.vectors.is_some() {
        true => vectors(spec, &field, found),
        false => descriptions(task, spec, &field, found),
    }
    found.require(
        spec.negatives.is_none(),
        &format!("{field}.negatives"),
        || "is for the head `entailment`; remove it".to_owned(),
    );
    if let Some(calibration) = spec.calibration {
        let is_cosine = calibration.is_finite() && calibration.abs() <= 2.0;
        found.require(is_cosine, &format!("{field}.calibration"), || {
            format!("is {calibration}; expected a difference of cosines, -2 to 2, or leave it out")
        });
    }
    templates(spec, &field, found);
    unseen(task, spec, &field, found);
    found.require(
        task.data.columns.pair.is_none() || spec.vectors.is_some(),
        &format!("{path}.data.columns.pair"),
        || {
            "names a second text, but the head `label_embedding` compares one text with its class; \
             remove it"
                .to_owned()
        },
    );
}

/// A text is read together with what each class says of it.
fn entailment(task: &TaskSpec, path: &str, found: &mut Findings) {
    let head = "the head `entailment` reads a text together with what its class says of it";
    found.require(
        task.data.columns.pair.is_none(),
        &format!("{path}.data.columns.pair"),
        || format!("names a second text, but {head}; remove it"),
    );
    found.require(
        task.input_group.is_none(),
        &format!("{path}.input_group"),
        || format!("shares inputs with other tasks, but {head}; remove it"),
    );
    let Some(spec) = &task.zero_shot else { return };
    let field = format!("{path}.zero_shot");
    match &spec.descriptions {
        Descriptions::File(file) => {
            let field = format!("{field}.descriptions");
            super::task::files(std::slice::from_ref(file), &field, found);
        }
        Descriptions::Given(given) => words(given, &format!("{field}.descriptions"), found),
    }
    found.require(spec.vectors.is_none(), &format!("{field}.vectors"), || {
        "is for the head `label_embedding`; remove it".to_owned()
    });
    if let Some(calibration) = spec.calibration {
        let is_output = calibration.is_finite() && calibration.abs() <= 100.0;
        found.require(is_output, &format!("{field}.calibration"), || {
            format!(
                "is {calibration}; expected a difference of outputs, -100 to 100, or leave it out"
            )
        });
    }
    found.require(
        spec.negatives != Some(0),
        &format!("{field}.negatives"),
        || "is 0: every pair would be true, and nothing learned; expected 1 or more".to_owned(),
    );
    templates(spec, &field, found);
    unseen(task, spec, &field, found);
}

fn templates(spec: &ZeroShotSpec, field: &str, found: &mut Findings) {
    for (index, template) in spec.templates.iter().enumerate() {
        found.require(
            template.contains(PLACE),
            &format!("{field}.templates[{index}]"),
            || format!("{template:?} has no {PLACE}, where the description is to stand"),
        );
    }
}

fn unseen(task: &TaskSpec, spec: &ZeroShotSpec, field: &str, found: &mut Findings) {
    let mut names = BTreeSet::new();
    for (index, name) in spec.unseen.iter().enumerate() {
        let field = format!("{field}.unseen[{index}]");
        found.require(names.insert(name), &field, || {
            format!("{name:?} is there twice; name it once")
        });
        let is_seen = |labels: &Vec<String>| labels.contains(name);
        found.require(!task.data.labels.as_ref().is_some_and(is_seen), &field, || {
            format!("{name:?} is among data.labels, which are trained on; remove it from one of both")
        });
    }
}

/// Numbers take the place of words.
fn vectors(spec: &ZeroShotSpec, field: &str, found: &mut Findings) {
    super::task::files(spec.vectors.as_slice(), &format!("{field}.vectors"), found);
    found.require(
        spec.descriptions.is_empty(),
        &format!("{field}.descriptions"),
        || "and `vectors` both say what the classes are; remove one of both".to_owned(),
    );
    found.require(
        spec.templates.is_empty(),
        &format!("{field}.templates"),
        || "are sentences around descriptions, and `vectors` have none; remove them".to_owned(),
    );
}

fn descriptions(task: &TaskSpec, spec: &ZeroShotSpec, field: &str, found: &mut Findings) {
    let field = format!("{field}.descriptions");
    if spec.descriptions.is_empty() {
        return found.add(
            field,
            "is missing: give a mapping of class to text or a file, or `vectors` in its place",
        );
    }
    let given = match &spec.descriptions {
        Descriptions::File(path) => {
            return super::task::files(std::slice::from_ref(path), &field, found);
        }
        Descriptions::Given(given) => given,
    };
    words(given, &field, found);
    let seen = task.data.labels.iter().flatten();
    for class in seen.chain(&spec.unseen) {
        found.require(given.contains_key(class), &field, || {
            format!("has no description of the class {class:?}; add one")
        });
    }
}

fn words(given: &BTreeMap<String, String>, field: &str, found: &mut Findings) {
    for (class, text) in given {
        found.require(!text.trim().is_empty(), &format!("{field}.{class}"), || {
            "is empty; say in words what the class is".to_owned()
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::JobSpec;
    use crate::check::check;
    use crate::check::tests::valid;
    use serde_json::{Value, json};

    fn said(change: impl FnOnce(&mut Value)) -> Vec<(String, String)> {
        let mut value = valid();
        let task = &mut value["tasks"][0];
        task["head"] = json!("label_embedding");
        task["loss"] = json!({});
        task["metric"] = json!("harmonic_mean");
        task["data"]["labels"] = json!(["web", "games"]);
        task["zero_shot"] = json!({
            "descriptions": {"web": "things of the web", "games": "games", "mail": "letters"},
            "templates": ["about {}"], "unseen": ["mail"], "calibration": 0.1,
        });
        change(task);
        let spec: JobSpec = serde_json::from_value(value).expect("right types");
        let found = check(&spec).err().unwrap_or_default();
        found.into_iter().map(|v| (v.field, v.message)).collect()
    }

    #[test]
    fn hypotheses_are_about_one_text() {
        // Promise: with `entailment` names may stand for themselves; what belongs to cosines, shared inputs and
        // pairs without a false one are refused.
        let entailed = |change: fn(&mut Value)| {
            said(|task| {
                task["head"] = json!("entailment");
                task["metric"] = json!("accuracy");
                task["zero_shot"] = json!({"unseen": ["mail"], "negatives": 2});
                change(task);
            })
        };
        assert_eq!(entailed(|_| {}), []);
        assert_eq!(entailed(|task| task["zero_shot"] = Value::Null), []);
        let one = |change: fn(&mut Value), field: &str| {
            let found = entailed(change);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, format!("tasks[0].{field}"), "{found:?}");
        };
        one(
            |task| task["zero_shot"]["negatives"] = json!(0),
            "zero_shot.negatives",
        );
        assert_eq!(
            entailed(|task| task["zero_shot"]["calibration"] = json!(2.5)),
            []
        );
        one(
            |task| task["zero_shot"]["calibration"] = json!(101.0),
            "zero_shot.calibration",
        );
        one(
            |task| task["zero_shot"]["vectors"] = json!("a.csv"),
            "zero_shot.vectors",
        );
        one(
            |task| task["data"]["columns"] = json!({"pair": "b"}),
            "data.columns.pair",
        );
        one(
            |task| task["loss"] = json!({"label_smoothing": 0.1}),
            "loss.label_smoothing",
        );
    }

    #[test]
    fn classes_are_described_once_and_whole() {
        // Promise: a class without words, one that is seen and unseen, and what no cosine can be are refused
        // at their field.
        assert_eq!(said(|_| {}), []);
        let one = |change: fn(&mut Value), field: &str, part: &str| {
            let found = said(change);
            assert_eq!(found.len(), 1, "{found:?}");
            let (at, message) = &found[0];
            assert_eq!(at, &format!("tasks[0].{field}"));
            assert!(message.contains(part), "{message}");
        };
        one(
            |task| task["zero_shot"] = Value::Null,
            "zero_shot",
            "descriptions",
        );
        one(
            |task| task["zero_shot"]["unseen"] = json!(["mail", "sound"]),
            "zero_shot.descriptions",
            "\"sound\"",
        );
        one(
            |task| task["zero_shot"]["unseen"] = json!(["web"]),
            "zero_shot.unseen[0]",
            "among data.labels",
        );
        one(
            |task| task["zero_shot"]["unseen"] = json!(["mail", "mail"]),
            "zero_shot.unseen[1]",
            "twice",
        );
        one(
            |task| task["zero_shot"]["templates"] = json!(["about"]),
            "zero_shot.templates[0]",
            "has no {}",
        );
        one(
            |task| task["zero_shot"]["descriptions"]["web"] = json!(" "),
            "zero_shot.descriptions.web",
            "is empty",
        );
        one(
            |task| task["zero_shot"]["descriptions"] = json!("labels.txt"),
            "zero_shot.descriptions",
            ".parquet",
        );
        one(
            |task| task["zero_shot"]["descriptions"] = json!({}),
            "zero_shot.descriptions",
            "or `vectors`",
        );
        one(
            |task| {
                let spec = &mut task["zero_shot"];
                spec["vectors"] = json!("attributes.csv");
                spec["templates"] = json!([]);
            },
            "zero_shot.descriptions",
            "remove one of both",
        );
        one(
            |task| {
                task["zero_shot"]["vectors"] = json!("attributes.csv");
                task["zero_shot"]["descriptions"] = json!({});
            },
            "zero_shot.templates",
            "sentences around descriptions",
        );
        one(
            |task| {
                task["zero_shot"] = json!({"vectors": "attributes.txt", "unseen": ["mail"]});
            },
            "zero_shot.vectors",
            ".parquet",
        );
        one(
            |task| task["zero_shot"]["calibration"] = json!(3.0),
            "zero_shot.calibration",
            "-2 to 2",
        );
        one(
            |task| {
                task["head"] = json!("single_label");
                task["metric"] = json!("accuracy");
            },
            "zero_shot",
            "`label_embedding` only",
        );
    }
}
