//! Exactly one of several classes: softmax and cross-entropy.

use super::{Error, Head, beside, label_fields, numbers, samples, targets_error};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

/// Single-label classification.
#[derive(Debug)]
pub struct SingleLabel {
    names: Vec<String>,
    weights: Option<Vec<f32>>,
    smoothing: f64,
}

impl SingleLabel {
    /// A head for the classes `names`, with a weight for each class or none, and a share `smoothing`
    /// of the target spread over all classes.
    #[must_use]
    pub fn new(names: Vec<String>, weights: Option<Vec<f32>>, smoothing: f64) -> Self {
        Self {
            names,
            weights,
            smoothing,
        }
    }
}

impl Head for SingleLabel {
    fn kind(&self) -> HeadKind {
        HeadKind::SingleLabel
    }

    fn outputs(&self) -> usize {
        self.names.len()
    }

    /// `torch.nn.CrossEntropyLoss(weight, label_smoothing, reduction="none")`: with p = softmax,
    /// (1 - e) · w_y · -log p_y + e / C · Σ_c w_c · -log p_c.
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        let rows = samples(outputs, self.outputs())?;
        let classes = match targets {
            Values::Single { classes, values }
                if *classes == self.outputs()
                    && values.len() == rows
                    && values.iter().all(|class| (*class as usize) < *classes) =>
            {
                values
            }
            other => {
                let expected = format!("{rows} of one in {} classes", self.outputs());
                return Err(targets_error(expected, other));
            }
        };
        let index: Vec<i64> = classes.iter().copied().map(i64::from).collect();
        let target_b1 = Tensor::f_from_slice(&index)?
            .f_to_device(outputs.device())?
            .f_unsqueeze(1)?;
        let surprise_bc = outputs.f_log_softmax(-1, Kind::Float)?.f_neg()?;
        let surprise_bc = match &self.weights {
            Some(weights) => surprise_bc.f_mul(&beside(outputs, weights)?)?,
            None => surprise_bc,
        };
        let own_b = surprise_bc
            .f_gather(1, &target_b1, false)?
            .f_squeeze_dim(1)?;
        if self.smoothing == 0.0 {
            return Ok(own_b);
        }
        let all_b = surprise_bc.f_mean_dim(Some([1_i64].as_slice()), false, Kind::Float)?;
        let own_b = own_b.f_mul_scalar(1.0 - self.smoothing)?;
        Ok(own_b.f_add(&all_b.f_mul_scalar(self.smoothing)?)?)
    }

    /// The class with the largest output; of equal ones the first.
    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        let classes = self.outputs();
        samples(outputs, classes)?;
        let all = numbers(outputs)?;
        let values = all.chunks_exact(classes.max(1)).map(|row| {
            let best = (0_u32..)
                .zip(row)
                .reduce(|best, next| if next.1 > best.1 { next } else { best });
            best.map_or(0, |(class, _)| class)
        });
        Ok(Values::Single {
            classes,
            values: values.collect(),
        })
    }

    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        samples(outputs, self.outputs())?;
        numbers(&outputs.f_softmax(-1, Kind::Float)?)
    }

    fn config(&self) -> Map<String, Value> {
        label_fields("single_label_classification", &self.names)
    }
}
