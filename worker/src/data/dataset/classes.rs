//! Classes that are known by what they are: their descriptions as inputs.

mod hypotheses;

use crate::data::error::nearest;
use crate::data::source::{self, Row, Wanted};
use crate::data::{Cell, Error, Input, LabelSet, Problem, Tokenizer, vectors};
use crate::metrics::Values;
use espalier_spec::job::{Descriptions, ZeroShotSpec};
use espalier_spec::zero_shot::PLACE;
pub(super) use hypotheses::read as hypotheses;
use std::collections::BTreeMap;
use std::path::Path;

/// Columns of a file of descriptions.
const COLUMNS: Wanted<'_> = Wanted {
    input: "description",
    pair: None,
    label: "label",
};

/// The classes of a zero-shot task: a constant beside its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Classes {
    /// Description of each class, in order of the label set; none where they are known by vectors.
    pub texts: Vec<String>,
    /// Vector of each class at length 1, all of one width; none where they are known by descriptions.
    pub vectors: Vec<Vec<f32>>,
    /// Sentences around a description; at least one, or none where they are known by vectors.
    pub templates: Vec<String>,
    /// Whether each class is trained on.
    pub seen: Vec<bool>,
    /// Each class's description in each template, class by class, where it is read together with a text; else
    /// none.
    pub hypotheses: Vec<String>,
    /// Of how many other classes a training sample is paired with the hypothesis.
    pub negatives: usize,
    /// Each class's description in each template, class by class.
    inputs: Vec<Input>,
    /// Place of each class among those trained on.
    columns: Vec<Option<u32>>,
}

impl Classes {
    /// The inputs of all classes, or of those trained on: as many as there are templates of each.
    #[must_use]
    pub fn inputs(&self, all: bool) -> Vec<&Input> {
        let each = self.inputs.chunks(self.templates.len().max(1));
        let chosen = each.zip(&self.seen).filter(|(_, seen)| all || **seen);
        chosen.flat_map(|(inputs, _)| inputs).collect()
    }

    /// Places of the classes trained on, in order.
    #[must_use]
    pub fn places(&self) -> Vec<i64> {
        let seen = (0..).zip(&self.seen).filter(|(_, seen)| **seen);
        seen.map(|(place, _)| place).collect()
    }

    /// Targets among the classes trained on; other classes are out of range.
    #[must_use]
    pub fn trained(&self, targets: Values) -> Values {
        let Values::Single { values, .. } = targets else {
            return targets;
        };
        let column = |class: &u32| self.columns.get(*class as usize).copied().flatten();
        Values::Single {
            classes: self.columns.iter().flatten().count(),
            values: values
                .iter()
                .map(|class| column(class).unwrap_or(u32::MAX))
                .collect(),
        }
    }
}

/// The label set with the classes that are not trained on, and what all of them are.
///
/// # Errors
/// A class without a description, or one that the tokenizer refuses.
pub(super) fn read(
    spec: &ZeroShotSpec,
    trained: &LabelSet,
    tokenizer: &Tokenizer,
) -> Result<(LabelSet, Classes), Error> {
    let (labels, seen) = with_unseen(trained, &spec.unseen);
    let described = descriptions(&spec.descriptions)?;
    let mut texts = Vec::with_capacity(labels.len());
    for name in labels.names() {
        let text = described.get(name).ok_or_else(|| Error::Undescribed {
            place: "descriptions",
            class: name.clone(),
            suggestion: nearest(name, described.keys().map(String::as_str)),
        })?;
        texts.push(text.clone());
    }
    let templates = match spec.templates.is_empty() {
        true => vec![PLACE.to_owned()],
        false => spec.templates.clone(),
    };
    let mut inputs = Vec::with_capacity(texts.len() * templates.len());
    for (text, name) in texts.iter().zip(labels.names()) {
        for template in &templates {
            let encoded = tokenizer.encode(&template.replace(PLACE, text));
            let encoded = encoded.map_err(|problem| Error::Description {
                class: name.clone(),
                problem: Box::new(problem),
            })?;
            inputs.push(encoded.into());
        }
    }
    let classes = Classes {
        texts,
        vectors: Vec::new(),
        templates,
        columns: columns(&seen),
        seen,
        hypotheses: Vec::new(),
        negatives: 0,
        inputs,
    };
    Ok((labels, classes))
}

/// The label set with the classes that are not trained on, and the vectors of all of them from a file.
///
/// # Errors
/// A class without a vector; what is wrong with the file.
pub(super) fn by_vectors(
    unseen: &[String],
    file: &str,
    trained: &LabelSet,
) -> Result<(LabelSet, Classes), Error> {
    let (labels, seen) = with_unseen(trained, unseen);
    let known = vectors::read(Path::new(file))?;
    let mut own = Vec::with_capacity(labels.len());
    for name in labels.names() {
        let vector = known.get(name).ok_or_else(|| Error::Undescribed {
            place: "vectors",
            class: name.clone(),
            suggestion: nearest(name, known.keys().map(String::as_str)),
        })?;
        own.push(vector.clone());
    }
    let classes = Classes {
        texts: Vec::new(),
        vectors: own,
        templates: Vec::new(),
        columns: columns(&seen),
        seen,
        hypotheses: Vec::new(),
        negatives: 0,
        inputs: Vec::new(),
    };
    Ok((labels, classes))
}

/// All classes, and whether each is trained on.
fn with_unseen(trained: &LabelSet, unseen: &[String]) -> (LabelSet, Vec<bool>) {
    let labels = trained.with(unseen);
    let seen = labels.names().iter().map(|name| !unseen.contains(name));
    let seen = seen.collect();
    (labels, seen)
}

/// Place of each class among those trained on.
fn columns(seen: &[bool]) -> Vec<Option<u32>> {
    let mut next = 0;
    let mut column = |seen: &bool| {
        seen.then(|| {
            next += 1;
            next - 1
        })
    };
    seen.iter().map(&mut column).collect()
}

fn descriptions(given: &Descriptions) -> Result<BTreeMap<String, String>, Error> {
    let file = match given {
        Descriptions::Given(given) => return Ok(given.clone()),
        Descriptions::File(file) => file,
    };
    let mut found = BTreeMap::new();
    source::read(Path::new(file), COLUMNS, &mut |row: Row| {
        let text = |cell: Cell, column: &str| match cell {
            Cell::Text(text) | Cell::Raw(text) if !text.trim().is_empty() => Ok(text),
            Cell::Int(number) => Ok(number.to_string()),
            other => Err(row.place.error(Problem::Type {
                column: column.to_owned(),
                expected: "a text".to_owned(),
                found: other.describe(),
            })),
        };
        let (label, description) = (
            text(row.label, COLUMNS.label)?,
            text(row.input, COLUMNS.input)?,
        );
        found.insert(label, description);
        Ok(true)
    })?;
    Ok(found)
}
