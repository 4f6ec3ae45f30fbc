//! Zero-shot classification: classes that no head was trained on, by the similarity of a text to what
//! the classes are called.

use crate::data::Input;
use crate::predict::{Answer, Error, Predictor};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Where the name of a class goes in a template.
const PLACE: &str = "{}";
/// Cosines are divided by it before the softmax. Only how sure an answer sounds depends on it.
const TEMPERATURE: f64 = 0.05;
/// Texts of classes that are computed at once.
const BATCH: usize = 64;

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
    /// f32 [C, h], each row of length 1.
    vectors_ch: Tensor,
}

impl Classes {
    /// What the model makes of classes: of every class the mean over `templates` of its features,
    /// each at length 1, and then at length 1 again (Radford et al. 2021, arXiv 2103.00020, section
    /// 3.1.4). In a template, `{}` stands for the class.
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
        let own = [PLACE.to_owned()];
        let templates = if templates.is_empty() {
            &own
        } else {
            templates
        };
        let mut inputs = Vec::with_capacity(classes.len() * templates.len());
        for class in classes {
            for template in templates {
                inputs.push(predictor.text(&template.replace(PLACE, &class.text))?);
            }
        }
        let mut parts = Vec::new();
        for part in inputs.chunks(BATCH) {
            parts.push(unit(&predictor.features(part)?)?);
        }
        let (count, each) = (classes.len() as i64, templates.len() as i64);
        let all = Tensor::f_cat(&parts, 0)?.f_view([count, each, -1])?;
        let mean_ch = all.f_mean_dim(&[1i64][..], false, Kind::Float)?;
        Ok(Self {
            names: classes.iter().map(|class| class.name.clone()).collect(),
            vectors_ch: unit(&mean_ch)?,
        })
    }

    /// The nearest class of each input.
    ///
    /// # Errors
    /// If an input does not fit the model.
    pub fn nearest(&self, predictor: &Predictor, inputs: &[Input]) -> Result<Vec<Answer>, Error> {
        let features_bh = unit(&predictor.features(inputs)?)?;
        let cosines_bc = features_bh.f_matmul(&self.vectors_ch.f_transpose(0, 1)?)?;
        let scores_bc = cosines_bc
            .f_div_scalar(TEMPERATURE)?
            .f_softmax(-1, Kind::Float)?;
        let flat = Vec::<f32>::try_from(&scores_bc.f_contiguous()?.f_flatten(0, -1)?)?;
        let answer = |row: &[f32]| {
            let pairs = self.names.iter().zip(row);
            let scores: BTreeMap<String, f64> = pairs
                .map(|(name, &score)| (name.clone(), f64::from(score)))
                .collect();
            Answer::single(scores)
        };
        Ok(flat.chunks_exact(self.names.len()).map(answer).collect())
    }
}

/// Rows at length 1.
fn unit(rows: &Tensor) -> Result<Tensor, Error> {
    let length = rows.f_norm_scalaropt_dim(2.0, [1i64], true)?;
    Ok(rows.f_div(&length.f_clamp_min(1e-12)?)?)
}
