//! One of several classes, by the cosine between a sample and what the class is.
//!
//! With descriptions, that is the cosine of the features of both. With vectors `[C, d]`, such as attributes, it
//! is the cosine between `W x` and the class's vector, where the map W `[d, h]` is learned from the classes
//! trained on (Frome et al. 2013, `DeViSE`; Akata et al. 2016, `ALE`, arXiv 1503.08677, whose compatibility is
//! the bilinear form x' W' v; here both sides are at length 1, and the loss is the cross-entropy of scaled
//! cosines in place of a ranking loss).
//!
//! Shapes: b samples, C classes, T templates, h hidden width, d width of given vectors.

use super::{Error, Head, Shape, SingleLabel, label_fields};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

/// What cosines are multiplied by at first; learned as its logarithm.
const FIRST_SCALE: f32 = 20.0;
/// It never grows beyond this (Radford et al. 2021, arXiv 2103.00020, section 2.5).
pub const LARGEST_SCALE: f64 = 100.0;

/// Classification by the nearest class; texts and descriptions are read by the same backbone. Its
/// only parameters are the logarithm of the scale, and a calibration that is not trained.
#[derive(Debug)]
pub struct LabelEmbedding {
    names: Vec<String>,
    calibration: f32,
}

impl LabelEmbedding {
    /// A head for the classes `names`; `calibration` is taken from cosines of classes that were trained
    /// on.
    #[must_use]
    pub fn new(names: Vec<String>, calibration: f32) -> Self {
        Self { names, calibration }
    }

    /// The same decisions and losses over the classes that `outputs` has.
    fn over(outputs: &Tensor) -> SingleLabel {
        let width = outputs.size().get(1).copied().unwrap_or(0);
        let names = vec![String::new(); width.unsigned_abs() as usize];
        SingleLabel::new(names, None, 0.0)
    }
}

impl Head for LabelEmbedding {
    fn kind(&self) -> HeadKind {
        HeadKind::LabelEmbedding
    }

    fn outputs(&self) -> usize {
        self.names.len()
    }

    fn shape(&self) -> Shape {
        Shape::Cosine {
            scale: FIRST_SCALE.ln(),
            calibration: self.calibration,
        }
    }

    /// Cross-entropy over the classes that there are outputs of: those trained on in steps, all in
    /// evaluations.
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        Self::over(outputs).loss(outputs, targets)
    }

    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        Self::over(outputs).decide(outputs)
    }

    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        Self::over(outputs).scores(outputs)
    }

    fn config(&self) -> Map<String, Value> {
        label_fields("single_label_classification", &self.names)
    }
}

/// Vectors of classes f32 `[C, h]` from features of their texts `[C · T, h]`, class by class: each text's
/// at length 1, their mean over `templates`, and that at length 1 again (Radford et al. 2021, section
/// 3.1.4).
///
/// # Errors
/// If libtorch refuses.
pub fn class_vectors(features: &Tensor, templates: usize) -> Result<Tensor, Error> {
    let each = i64::try_from(templates.max(1)).unwrap_or(1);
    let width = features.size().last().copied().unwrap_or(0);
    let all_cth = unit(features)?.f_view([-1, each, width])?;
    unit(&all_cth.f_mean_dim(&[1i64][..], false, Kind::Float)?)
}

/// Cosines f32 `[b, C]` between `features` `[b, h]` and vectors of classes at length 1 `[C, h]`.
///
/// # Errors
/// If libtorch refuses.
pub fn cosines(features: &Tensor, classes: &Tensor) -> Result<Tensor, Error> {
    Ok(unit(features)?.f_matmul(&classes.f_transpose(0, 1)?)?)
}

/// Outputs from cosines: times exp(`log_scale` `[1]`), at most 100. Beyond that the gradient is the one at 100 (a
/// straight-through estimate, Bengio et al. 2013, arXiv 1308.3432): with none, as a clamp has, the scale could never
/// come down again.
///
/// # Errors
/// If libtorch refuses.
pub fn scaled(cosines: &Tensor, log_scale: &Tensor) -> Result<Tensor, Error> {
    let within = log_scale.f_clamp_max(LARGEST_SCALE.ln())?.f_detach()?;
    // 0 with the derivative 1, so that the value is that of the clamp to the bit.
    let through = log_scale.f_sub(&log_scale.f_detach()?)?;
    let scale = within.f_add(&through)?.f_exp()?;
    Ok(cosines.f_mul(&scale)?)
}

/// Rows at length 1.
///
/// # Errors
/// If libtorch refuses.
pub fn unit(rows: &Tensor) -> Result<Tensor, Error> {
    let length = rows.f_norm_scalaropt_dim(2.0, [-1i64], true)?;
    Ok(rows.f_div(&length.f_clamp_min(1e-12)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: the scale is exp of its logarithm, 100 at most to the bit, and is pulled down from beyond as from 100.
    #[test]
    fn scales_beyond_the_largest_come_down() {
        let cosines = Tensor::from_slice(&[0.5f32, -0.25]).view([1, 2]);
        for (log_scale, clamped) in [(2.0f32, 2.0f32), (6.0, LARGEST_SCALE.ln() as f32)] {
            let leaf = Tensor::from_slice(&[log_scale]).set_requires_grad(true);
            let outputs = scaled(&cosines, &leaf).unwrap();
            let expected = &cosines * Tensor::from_slice(&[clamped]).exp();
            assert!(outputs.equal(&expected), "{log_scale}");
            outputs.sum(Kind::Float).backward();
            // The derivative of (0.5 - 0.25) exp(s).
            let expected = 0.25 * f64::from(clamped).exp();
            let found = leaf.grad().double_value(&[0]);
            assert!((found - expected).abs() < 1e-4 * expected, "{found}");
        }
    }
}
