//! Classes that are known by what they are, as a model sees them.

use super::{Answer, Error, Predictor};
use crate::checkpoint::ExportedTask;
use crate::heads::{self, LARGEST_SCALE, class_vectors, cosines};
use espalier_spec::job::HeadKind;
use espalier_spec::zero_shot::PLACE;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Cosines are divided by it before the softmax, where no task has learned by what. Only how sure an
/// answer sounds depends on it.
const TEMPERATURE: f64 = 0.05;
/// Texts of classes that are computed at once.
const BATCH: usize = 64;

/// What a model makes of classes.
#[derive(Debug)]
pub struct Described {
    /// f32 [C, h], or [C, d] where there is a map; each row of length 1.
    vectors_ch: Tensor,
    /// The map [d, h] of features into the space of given vectors.
    map_dh: Option<Tensor>,
    /// What is taken from the cosine of each class: f32 `[C]`.
    calibration_c: Tensor,
    /// What cosines are multiplied by before the softmax.
    scale: f64,
}

impl Described {
    /// The classes of an exported task, with the scale and calibration that it learned; none if it does
    /// not know them by their description.
    ///
    /// # Errors
    /// What is missing in the export.
    pub(super) fn of_task(
        predictor: &Predictor,
        task: &ExportedTask,
    ) -> Result<Option<Self>, Error> {
        let Some(known) = &task.classes else {
            return Ok(None);
        };
        if task.head == HeadKind::Entailment {
            return Ok(None);
        }
        if known.texts.is_empty() {
            let names: Vec<&str> = task.labels.iter().map(String::as_str).collect();
            let vectors = predictor.part(&task.name, "vectors")?.shallow_clone();
            return Self::mapped(predictor, task, &names, vectors).map(Some);
        }
        let classes = task.labels.iter().zip(&known.texts);
        let classes: Vec<(&str, &str)> = classes.map(|(n, t)| (n.as_str(), t.as_str())).collect();
        Self::read(predictor, &classes, &known.templates, Some(task)).map(Some)
    }

    /// Names and texts of classes: of each the mean over `templates` of its features, each at length 1,
    /// and then at length 1 again (Radford et al. 2021, arXiv 2103.00020, section 3.1.4). A task that was
    /// `trained` on descriptions gives the scale, and the calibration of classes that it was trained on.
    ///
    /// # Errors
    /// If a text does not fit the model, or the export lacks a number.
    pub fn read(
        predictor: &Predictor,
        classes: &[(&str, &str)],
        templates: &[String],
        trained: Option<&ExportedTask>,
    ) -> Result<Self, Error> {
        let mut inputs = Vec::with_capacity(classes.len() * templates.len());
        for (_, text) in classes {
            for template in templates {
                inputs.push(predictor.class_text(&template.replace(PLACE, text))?);
            }
        }
        let mut parts = Vec::new();
        for part in inputs.chunks(BATCH) {
            parts.push(predictor.features(part)?);
        }
        let vectors_ch = class_vectors(&Tensor::f_cat(&parts, 0)?, templates.len())?;
        let names: Vec<&str> = classes.iter().map(|(name, _)| *name).collect();
        Self::of_vectors(predictor, &names, (vectors_ch, None), trained)
    }

    /// Classes by their vectors f32 [C, d] at length 1, in the space that a task has learned to map features
    /// into.
    ///
    /// # Errors
    /// If the vectors are of another width, or the export lacks a tensor.
    pub fn mapped(
        predictor: &Predictor,
        task: &ExportedTask,
        names: &[&str],
        vectors_cd: Tensor,
    ) -> Result<Self, Error> {
        let map = predictor.part(&task.name, "weight")?.shallow_clone();
        let (expected, found) = (
            map.size().first().copied(),
            vectors_cd.size().get(1).copied(),
        );
        if expected != found {
            let numbers = |width: Option<i64>| width.unwrap_or(0);
            return Err(Error::ZeroShot(format!(
                "the vectors of classes have {} numbers, but task {:?} was trained with {}; give as many, in \
                 the same order",
                numbers(found),
                task.name,
                numbers(expected)
            )));
        }
        Self::of_vectors(predictor, names, (vectors_cd, Some(map)), Some(task))
    }

    /// Classes with their vectors, and what a task has learned of scale and calibration.
    fn of_vectors(
        predictor: &Predictor,
        names: &[&str],
        (vectors_ch, map_dh): (Tensor, Option<Tensor>),
        trained: Option<&ExportedTask>,
    ) -> Result<Self, Error> {
        let (scale, calibration) = match trained {
            Some(task) => (
                predictor
                    .number(&task.name, "scale")?
                    .exp()
                    .min(LARGEST_SCALE),
                predictor.number(&task.name, "calibration")?,
            ),
            None => (1.0 / TEMPERATURE, 0.0),
        };
        let is_seen = |name: &str| {
            let known = trained.and_then(|task| Some((task, task.classes.as_ref()?)));
            known.is_some_and(|(task, known)| {
                let mut pairs = task.labels.iter().zip(&known.seen);
                pairs.any(|(label, seen)| *seen && label == name)
            })
        };
        #[expect(clippy::cast_possible_truncation, reason = "cosines are 32-bit")]
        let off = |name: &str| {
            if is_seen(name) {
                calibration as f32
            } else {
                0.0
            }
        };
        let off: Vec<f32> = names.iter().map(|name| off(name)).collect();
        Ok(Self {
            vectors_ch,
            map_dh,
            calibration_c: Tensor::f_from_slice(&off)?,
            scale,
        })
    }

    /// The nearest class of each row of `features` f32 [b, h]; `names` are those of the classes.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn answers(&self, names: &[String], features: &Tensor) -> Result<Vec<Answer>, Error> {
        let scores_bc = tch::no_grad(|| {
            let cosines_bc = match &self.map_dh {
                Some(map) => {
                    let mapped = features.f_linear::<&Tensor>(map, None)?;
                    cosines(&mapped, &self.vectors_ch)?
                }
                None => cosines(features, &self.vectors_ch)?,
            };
            let scores = cosines_bc
                .f_sub(&self.calibration_c)?
                .f_mul_scalar(self.scale)?;
            Ok::<_, heads::Error>(scores.f_softmax(-1, Kind::Float)?)
        })?;
        let flat = Vec::<f32>::try_from(&scores_bc.f_contiguous()?.f_flatten(0, -1)?)?;
        let answer = |row: &[f32]| {
            let pairs = names.iter().zip(row);
            let scores: BTreeMap<String, f64> = pairs
                .map(|(name, &score)| (name.clone(), f64::from(score)))
                .collect();
            Answer::single(scores)
        };
        Ok(flat.chunks_exact(names.len().max(1)).map(answer).collect())
    }
}
