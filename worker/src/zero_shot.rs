//! Zero-shot classification: classes that no head was trained on, by the similarity of a text to what
//! the classes are called.

use crate::data::Input;
use crate::predict::{Answer, Described, Error, Predictor};
use espalier_spec::zero_shot::PLACE;

/// A class by its name and the words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// What answers call it.
    pub name: String,
    /// What is put into the templates: the name, or a description.
    pub text: String,
}

/// Classes as a model sees them.
#[derive(Debug)]
pub struct Classes {
    names: Vec<String>,
    described: Described,
}

impl Classes {
    /// What the model makes of classes, in `templates`, where `{}` stands for the class. Where the model
    /// was trained on descriptions, its first such task gives what cosines are multiplied by, the calibration
    /// of classes that it was trained on, and, if there are no others, the templates.
    ///
    /// # Errors
    /// No class, or one twice; a template without `{}`; a model that reads no texts.
    pub fn new(
        predictor: &Predictor,
        classes: &[Class],
        templates: &[String],
    ) -> Result<Self, Error> {
        if let Some(bad) = templates.iter().find(|template| !template.contains(PLACE)) {
            return Err(Error::ZeroShot(format!(
                "the template {bad:?} has no {PLACE}, where the class is to stand"
            )));
        }
        if classes.len() < 2 {
            return Err(Error::ZeroShot(
                "one class is no choice; name two or more".to_owned(),
            ));
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = classes.iter().find(|class| !seen.insert(&class.name)) {
            return Err(Error::ZeroShot(format!(
                "the class {:?} is named twice",
                twice.name
            )));
        }
        let trained = predictor.described();
        let own = [PLACE.to_owned()];
        let templates = match trained.and_then(|task| task.classes.as_ref()) {
            _ if !templates.is_empty() => templates,
            Some(known) => &known.templates,
            None => &own,
        };
        let pairs: Vec<(&str, &str)> = classes
            .iter()
            .map(|class| (class.name.as_str(), class.text.as_str()))
            .collect();
        Ok(Self {
            names: classes.iter().map(|class| class.name.clone()).collect(),
            described: Described::read(predictor, &pairs, templates, trained)?,
        })
    }

    /// The nearest class of each input.
    ///
    /// # Errors
    /// If an input does not fit the model.
    pub fn nearest(&self, predictor: &Predictor, inputs: &[Input]) -> Result<Vec<Answer>, Error> {
        self.described
            .answers(&self.names, &predictor.features(inputs)?)
    }
}
