//! One number: squared error.

use super::{Error, Head, beside, label_fields, numbers, samples, targets_error};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::Tensor;

/// Regression of one number.
#[derive(Clone, Copy, Debug)]
pub struct Regression;

impl Head for Regression {
    fn kind(&self) -> HeadKind {
        HeadKind::Regression
    }

    fn outputs(&self) -> usize {
        1
    }

    /// `torch.nn.MSELoss(reduction="none")`.
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        let rows = samples(outputs, 1)?;
        let wanted: Vec<f32> = match targets {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "targets are 32-bit in the data"
            )]
            Values::Numbers(values) if values.len() == rows => {
                values.iter().map(|value| *value as f32).collect()
            }
            other => return Err(targets_error(format!("{rows} numbers"), other)),
        };
        let off_b = outputs
            .f_squeeze_dim(1)?
            .f_sub(&beside(outputs, &wanted)?)?;
        Ok(off_b.f_square()?)
    }

    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        samples(outputs, 1)?;
        Ok(Values::Numbers(
            numbers(outputs)?.into_iter().map(f64::from).collect(),
        ))
    }

    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        samples(outputs, 1)?;
        numbers(outputs)
    }

    /// Hugging Face knows a regression by its single label, which it calls `LABEL_0`.
    fn config(&self) -> Map<String, Value> {
        label_fields("regression", &["LABEL_0".to_owned()])
    }
}
