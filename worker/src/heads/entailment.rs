//! One of several classes, by whether a text and a hypothesis on the class belong to each other.
//!
//! The backbone reads both as a pair, and a linear layer of one output says how well they go together (Yin et
//! al. 2019, arXiv 1909.00161). Shapes: b samples, C pairs of each, of classes or of some of them.

use super::{Error, Head, SingleLabel, beside, label_fields, targets_error};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::{Kind, Reduction, Tensor};

/// Classification by the hypothesis that goes with a text best.
#[derive(Debug)]
pub struct Entailment {
    names: Vec<String>,
}

impl Entailment {
    /// A head for the classes `names`.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self { names }
    }

    /// The same decisions over the pairs that `outputs` has.
    fn over(outputs: &Tensor) -> SingleLabel {
        let width = outputs.size().get(1).copied().unwrap_or(0);
        let names = vec![String::new(); width.unsigned_abs() as usize];
        SingleLabel::new(names, None, 0.0)
    }
}

impl Head for Entailment {
    fn kind(&self) -> HeadKind {
        HeadKind::Entailment
    }

    /// Of a pair.
    fn outputs(&self) -> usize {
        1
    }

    /// With y = 1 for the pair of a sample's own class, which targets name, and 0 for others, and p = sigmoid:
    /// 1 / C · Σ_c (-y_c · log p_c - (1 - y_c) · log(1 - p_c)).
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        let (rows, width) = match outputs.size().as_slice() {
            [rows, width] => (rows.unsigned_abs() as usize, width.unsigned_abs() as usize),
            shape => {
                return Err(Error::Outputs {
                    expected: self.names.len(),
                    found: shape.to_vec(),
                });
            }
        };
        let own = match targets {
            Values::Single { values, .. }
                if values.len() == rows && values.iter().all(|own| (*own as usize) < width) =>
            {
                values
            }
            other => {
                let expected = format!("{rows} of {width} classes");
                return Err(targets_error(expected, other));
            }
        };
        let mut flags = vec![0.0; rows * width];
        for (row, own) in flags.chunks_exact_mut(width.max(1)).zip(own) {
            row[*own as usize] = 1.0;
        }
        let target_bc = beside(outputs, &flags)?.f_view_as(outputs)?;
        let no_weight = None::<&Tensor>;
        let loss_bc = outputs.f_binary_cross_entropy_with_logits(
            &target_bc,
            no_weight,
            no_weight,
            Reduction::None,
        )?;
        Ok(loss_bc.f_mean_dim(Some([1_i64].as_slice()), false, Kind::Float)?)
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

/// Outputs f32 `[b, C]` from those of each pair, text by text, class by class and template by template: the
/// mean over templates.
///
/// # Errors
/// If they are not b · C · T numbers.
pub fn over_templates(
    pairs: &[f32],
    (classes, templates): (usize, usize),
) -> Result<Tensor, Error> {
    let size = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let all_bct = Tensor::f_from_slice(pairs)?.f_view([-1, size(classes), size(templates)])?;
    Ok(all_bct.f_mean_dim(&[2i64][..], false, Kind::Float)?)
}
