//! Zero-shot classification: classes that no head was trained on, by the similarity of a sample to what
//! the classes are: words, or vectors in the space of those that a task was trained with.

use crate::data::Input;
use crate::predict::{Answer, Described, Error, Hypotheses, Predictor};
use espalier_spec::zero_shot::PLACE;
use std::collections::BTreeMap;
use tch::Tensor;

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
    how: How,
}

/// How classes are told apart.
#[derive(Debug)]
enum How {
    /// By cosines of features.
    Near(Described),
    /// By reading a text together with what each class says of it.
    Entailed(Hypotheses),
}

impl Classes {
    /// What the model makes of classes, in `templates`, where `{}` stands for the class. Where the model
    /// was trained on descriptions, its first such task gives what cosines are multiplied by, the calibration
    /// of classes that it was trained on, and, if there are no others, the templates. A model with a task of the
    /// head `entailment` reads texts together with each class's words in that task's manner.
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
        let entails = predictor.entailing();
        let trained = entails.or(predictor.described());
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
            how: match entails {
                Some(task) => How::Entailed(Hypotheses::new(task, &pairs, templates)),
                None => How::Near(Described::read(predictor, &pairs, templates, trained)?),
            },
        })
    }

    /// Classes by their vectors, each at length 1 and all of one width: those named, in their order, or all
    /// where none is. The first task of the model that was trained with vectors gives the map of features
    /// into their space, what cosines are multiplied by, and the calibration of classes that it was trained on.
    ///
    /// # Errors
    /// A name without a vector or named twice; fewer than two classes; no such task; vectors of another width
    /// than it has.
    pub fn by_vectors(
        predictor: &Predictor,
        vectors: &BTreeMap<String, Vec<f32>>,
        wanted: &[String],
    ) -> Result<Self, Error> {
        let Some(task) = predictor.with_vectors() else {
            return Err(Error::ZeroShot(
                "no task of this model knows its classes by vectors (zero_shot.vectors); name classes by \
                 words, with --labels"
                    .to_owned(),
            ));
        };
        let names: Vec<String> = match wanted.is_empty() {
            true => vectors.keys().cloned().collect(),
            false => wanted.to_vec(),
        };
        if names.len() < 2 {
            return Err(Error::ZeroShot(
                "one class is no choice; name two or more".to_owned(),
            ));
        }
        let mut numbers: Vec<f32> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for name in &names {
            let Some(vector) = vectors.get(name) else {
                return Err(Error::ZeroShot(format!(
                    "there is no vector of the class {name:?}; add one to the file, or leave the class out"
                )));
            };
            if !seen.insert(name) {
                return Err(Error::ZeroShot(format!(
                    "the class {name:?} is named twice"
                )));
            }
            numbers.extend(vector);
        }
        let shape = [i64::try_from(names.len()).unwrap_or(i64::MAX), -1];
        let vectors_cd = Tensor::f_from_slice(&numbers)?.f_view(&shape[..])?;
        let called: Vec<&str> = names.iter().map(String::as_str).collect();
        let described = Described::mapped(predictor, task, &called, vectors_cd)?;
        let how = How::Near(described);
        Ok(Self { names, how })
    }

    /// Whether classes are read together with a text, so that [`Classes::of_texts`] is to be asked.
    #[must_use]
    pub fn reads_texts(&self) -> bool {
        matches!(self.how, How::Entailed(_))
    }

    /// The nearest class of each input.
    ///
    /// # Errors
    /// If an input does not fit the model, or classes are read together with texts.
    pub fn nearest(&self, predictor: &Predictor, inputs: &[Input]) -> Result<Vec<Answer>, Error> {
        match &self.how {
            How::Near(described) => described.answers(&self.names, &predictor.features(inputs)?),
            How::Entailed(_) => Err(Error::ZeroShot(
                "this model reads classes together with a text, not features of it".to_owned(),
            )),
        }
    }

    /// The class of each text whose hypothesis goes with it best.
    ///
    /// # Errors
    /// If a text does not fit the model, or classes are not read together with texts.
    pub fn of_texts(&self, predictor: &Predictor, texts: &[&str]) -> Result<Vec<Answer>, Error> {
        match &self.how {
            How::Entailed(hypotheses) => texts
                .iter()
                .map(|text| hypotheses.answer(predictor, text))
                .collect(),
            How::Near(_) => Err(Error::ZeroShot(
                "this model compares features with classes, and reads no pairs of them".to_owned(),
            )),
        }
    }
}
