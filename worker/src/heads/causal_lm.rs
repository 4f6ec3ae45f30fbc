//! The next token at every place of a text: softmax over the vocabulary and cross-entropy.

use super::{Error, Head, Level, means, numbers, samples, targets_error};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::{Kind, Reduction, Tensor};

/// Causal language modelling (Radford et al. 2018). No bias, and no dropout before it, as in GPT-2.
#[derive(Clone, Copy, Debug)]
pub struct CausalLm {
    vocabulary: usize,
}

impl CausalLm {
    /// A head for so many tokens.
    #[must_use]
    pub fn new(vocabulary: usize) -> Self {
        Self { vocabulary }
    }
}

impl Head for CausalLm {
    fn kind(&self) -> HeadKind {
        HeadKind::CausalLm
    }

    fn level(&self) -> Level {
        Level::Token
    }

    fn outputs(&self) -> usize {
        self.vocabulary
    }

    /// Mean over a sample's places of -log p of the token that follows, in nats; 0 for a sample that has
    /// none. `outputs` are `[W, C]` for all places of all samples.
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        let rows = samples(outputs, self.vocabulary)?;
        let (ends, values) = match targets {
            Values::Next { ends, values }
                if values.len() == rows
                    && values.iter().all(|id| (*id as usize) < self.vocabulary) =>
            {
                (ends, values)
            }
            other => {
                let expected = format!("{rows} tokens of a vocabulary of {}", self.vocabulary);
                return Err(targets_error(expected, other));
            }
        };
        let ids: Vec<i64> = values.iter().copied().map(i64::from).collect();
        let ids = Tensor::f_from_slice(&ids)?.f_to_device(outputs.device())?;
        let weights: Option<&Tensor> = None;
        let losses_w = outputs.f_cross_entropy_loss(&ids, weights, Reduction::None, -100, 0.0)?;
        means(&losses_w, ends)
    }

    /// The token with the largest output, place by place.
    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        samples(outputs, self.vocabulary)?;
        let best = Vec::<i64>::try_from(&outputs.f_argmax(-1, false)?)?;
        let id = |id: i64| u32::try_from(id).unwrap_or(0);
        Ok(Values::Single {
            classes: self.vocabulary,
            values: best.into_iter().map(id).collect(),
        })
    }

    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        samples(outputs, self.vocabulary)?;
        numbers(&outputs.f_softmax(-1, Kind::Float)?)
    }

    /// The backbone's own fields say all there is.
    fn config(&self) -> Map<String, Value> {
        Map::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a sample's loss is the mean of its places' cross-entropies; one without any costs nothing;
    // a token outside the vocabulary is refused.
    #[test]
    fn losses_are_means_over_places() {
        let head = CausalLm::new(3);
        let outputs =
            Tensor::from_slice(&[1f32, 0.0, 0.0, 0.0, 2.0, 0.0, 0.5, 0.0, 0.0]).view([3, 3]);
        let targets = |values: &[u32]| Values::Next {
            ends: vec![2, 2, 3],
            values: values.to_vec(),
        };
        let losses = head.loss(&outputs, &targets(&[0, 1, 2])).unwrap();
        let losses = Vec::<f32>::try_from(&losses).unwrap();
        let log =
            |row: [f32; 3], id: usize| row.iter().map(|x| x.exp()).sum::<f32>().ln() - row[id];
        let each = [
            log([1.0, 0.0, 0.0], 0),
            log([0.0, 2.0, 0.0], 1),
            log([0.5, 0.0, 0.0], 2),
        ];
        for (found, expected) in losses.iter().zip([(each[0] + each[1]) / 2.0, 0.0, each[2]]) {
            assert!((found - expected).abs() < 1e-6, "{losses:?}, {each:?}");
        }
        let error = head.loss(&outputs, &targets(&[0, 3, 2])).unwrap_err();
        assert!(error.to_string().contains("vocabulary of 3"), "{error}");
    }
}
