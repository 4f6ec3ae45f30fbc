//! Any number of several classes: sigmoid and binary cross-entropy.

use super::{Error, Head, beside, label_fields, numbers, samples, targets_error};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::{Kind, Reduction, Tensor};

/// Multi-label classification.
#[derive(Debug)]
pub struct MultiLabel {
    names: Vec<String>,
    weights: Option<Vec<f32>>,
}

impl MultiLabel {
    /// A head for the classes `names`, with a weight of each class's positive samples or none.
    #[must_use]
    pub fn new(names: Vec<String>, weights: Option<Vec<f32>>) -> Self {
        Self { names, weights }
    }
}

impl Head for MultiLabel {
    fn kind(&self) -> HeadKind {
        HeadKind::MultiLabel
    }

    fn outputs(&self) -> usize {
        self.names.len()
    }

    /// `torch.nn.BCEWithLogitsLoss(pos_weight)`, averaged over the classes of each sample: with p =
    /// sigmoid, 1 / C · Σ_c (-w_c · y_c · log p_c - (1 - y_c) · log(1 - p_c)). Weights apply to
    /// positives only: a rare class's many absences don't get heavier.
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        let rows = samples(outputs, self.outputs())?;
        let present = match targets {
            Values::Multi { classes, values }
                if *classes == self.outputs() && values.len() == rows * classes =>
            {
                values
            }
            other => {
                let expected = format!("{rows} of any of {} classes", self.outputs());
                return Err(targets_error(expected, other));
            }
        };
        let flags: Vec<f32> = present
            .iter()
            .map(|flag| f32::from(u8::from(*flag)))
            .collect();
        let target_bc = beside(outputs, &flags)?.f_view_as(outputs)?;
        let weights = self
            .weights
            .as_ref()
            .map(|w| beside(outputs, w))
            .transpose()?;
        let no_weight = None::<&Tensor>;
        let loss_bc = outputs.f_binary_cross_entropy_with_logits(
            &target_bc,
            no_weight,
            weights.as_ref(),
            Reduction::None,
        )?;
        Ok(loss_bc.f_mean_dim(Some([1_i64].as_slice()), false, Kind::Float)?)
    }

    /// Every class whose probability is above one half.
    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        let classes = self.outputs();
        samples(outputs, classes)?;
        let values = numbers(outputs)?
            .into_iter()
            .map(|output| output > 0.0)
            .collect();
        Ok(Values::Multi { classes, values })
    }

    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        samples(outputs, self.outputs())?;
        numbers(&outputs.f_sigmoid()?)
    }

    fn config(&self) -> Map<String, Value> {
        label_fields("multi_label_classification", &self.names)
    }
}
