//! One of several classes that have an order: whether it is above each of them but the last.

use super::{Error, Head, Shape, label_fields, numbers, samples, targets_error};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

/// Ordinal regression by rank-consistent thresholds (CORAL; Cao, Mirjalili and Raschka 2020, arXiv
/// 1901.07884): one direction of the features for all thresholds, and a bias for each of the
/// K - 1, so that sigmoid(output k) is the probability that the class is above k.
#[derive(Debug)]
pub struct Ordinal {
    names: Vec<String>,
}

impl Ordinal {
    /// A head for the classes `names`, lowest first.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self { names }
    }
}

impl Head for Ordinal {
    fn kind(&self) -> HeadKind {
        HeadKind::Ordinal
    }

    fn outputs(&self) -> usize {
        self.names.len().saturating_sub(1)
    }

    /// One direction; the biases begin apart and in order, from 1 down, as in the authors' code.
    fn shape(&self) -> Shape {
        let count = self.outputs();
        #[expect(clippy::cast_precision_loss, reason = "classes")]
        let bias = |k: usize| (count - k) as f32 / count as f32;
        Shape::Linear {
            directions: 1,
            biases: (0..count).map(bias).collect(),
        }
    }

    /// Σ_k -log p of "above k" or its opposite: the sum over thresholds of binary cross-entropies
    /// (the paper's equation 4, with all importances 1).
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        let rows = samples(outputs, self.outputs())?;
        let classes = match targets {
            Values::Ordered { classes, values }
                if *classes == self.names.len()
                    && values.len() == rows
                    && values.iter().all(|class| (*class as usize) < *classes) =>
            {
                values
            }
            other => {
                let expected = format!("{rows} of one in {} ordered classes", self.names.len());
                return Err(targets_error(expected, other));
            }
        };
        let above = |class: &u32| {
            let class = *class as usize;
            (0..self.outputs()).map(move |k| f32::from(u8::from(class > k)))
        };
        let above: Vec<f32> = classes.iter().flat_map(above).collect();
        let above_bk = Tensor::f_from_slice(&above)?
            .f_view_as(outputs)?
            .f_to_device(outputs.device())?;
        // -log sigmoid(z) where above, else -log sigmoid(-z) = z - log sigmoid(z).
        let losses_bk = outputs
            .f_mul(&above_bk.f_neg()?.f_add_scalar(1.0)?)?
            .f_sub(&outputs.f_log_sigmoid()?)?;
        Ok(losses_bk.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?)
    }

    /// As many classes up as thresholds are passed with a probability above one half: the median.
    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        let width = self.outputs();
        samples(outputs, width)?;
        let all = numbers(outputs)?;
        let passed = |row: &[f32]| row.iter().map(|z| u32::from(*z > 0.0)).sum::<u32>();
        Ok(Values::Ordered {
            classes: self.names.len(),
            values: all.chunks_exact(width.max(1)).map(passed).collect(),
        })
    }

    /// Probabilities of the classes, `[B, K]`.
    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        samples(outputs, self.outputs())?;
        numbers(&probabilities(outputs)?)
    }

    fn config(&self) -> Map<String, Value> {
        let mut fields = label_fields("", &self.names);
        // transformers knows no such kind of problem.
        fields.remove("problem_type");
        fields
    }
}

/// Probabilities of K classes, f32 `[B, K]`, from outputs `[B, K - 1]`: the differences of the
/// probabilities of being above. Biases that are out of order would make some negative; those are 0,
/// and the rest adds up to 1 again.
///
/// # Errors
/// If libtorch refuses.
fn probabilities(outputs: &Tensor) -> Result<Tensor, Error> {
    let above_bk = outputs.f_sigmoid()?;
    let side = |value: f64| above_bk.f_narrow(1, 0, 1)?.f_full_like(value);
    let from_bc = Tensor::f_cat(&[&side(1.0)?, &above_bk], 1)?;
    let to_bc = Tensor::f_cat(&[&above_bk, &side(0.0)?], 1)?;
    let all_bc = from_bc.f_sub(&to_bc)?.f_clamp_min(0.0)?;
    let sums_b1 = all_bc.f_sum_dim_intlist(&[1i64][..], true, Kind::Float)?;
    Ok(all_bc.f_div(&sums_b1.f_clamp_min(1e-12)?)?)
}
