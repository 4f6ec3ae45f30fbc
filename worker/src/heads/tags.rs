//! One of several classes for every word: token classification.

use super::{Error, Head, Level, SingleLabel, label_fields, means, samples, targets_error};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::Tensor;

/// Tags of words. A word is read at its first token, as is usual for BERT (Devlin et al. 2019, section
/// 5.3).
#[derive(Debug)]
pub struct Tags {
    /// The same for words: softmax over the tags.
    words: SingleLabel,
    names: Vec<String>,
}

impl Tags {
    /// A head for the tags `names`.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self {
            words: SingleLabel::new(names.clone(), None, 0.0),
            names,
        }
    }
}

impl Head for Tags {
    fn kind(&self) -> HeadKind {
        HeadKind::Tags
    }

    fn level(&self) -> Level {
        Level::Word
    }

    fn outputs(&self) -> usize {
        self.names.len()
    }

    /// Mean over a sample's words of -log p of the right tag, so that a sample weighs the same however
    /// many words it has; 0 for one that has none.
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        let rows = samples(outputs, self.outputs())?;
        let (ends, values) = match targets {
            Values::Tags { set, ends, values }
                if set.len() == self.outputs() && values.len() == rows =>
            {
                (ends, values)
            }
            other => {
                let expected = format!("tags of {rows} words, each one in {}", self.outputs());
                return Err(targets_error(expected, other));
            }
        };
        let words = Values::Single {
            classes: self.outputs(),
            values: values.clone(),
        };
        means(&self.words.loss(outputs, &words)?, ends)
    }

    /// The tag with the largest output, word by word.
    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        self.words.decide(outputs)
    }

    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        self.words.scores(outputs)
    }

    fn config(&self) -> Map<String, Value> {
        let mut fields = label_fields("", &self.names);
        // transformers knows kinds of problems for whole texts only.
        fields.remove("problem_type");
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::TagSet;
    use std::sync::Arc;
    use tch::{Device, Kind};

    fn targets(names: &[String], ends: &[u32], values: &[u32]) -> Values {
        Values::Tags {
            set: Arc::new(TagSet::of(names)),
            ends: ends.to_vec(),
            values: values.to_vec(),
        }
    }

    // Promise: a sample's loss is the mean of its words' cross-entropies, and one without words costs
    // nothing.
    #[test]
    fn losses_are_means_over_words() {
        let names = ["B-x", "I-x", "O"].map(str::to_owned).to_vec();
        let head = Tags::new(names.clone());
        let outputs =
            Tensor::from_slice(&[1f32, 0.0, 0.0, 0.0, 2.0, 0.0, 0.5, 0.0, 0.0]).view([3, 3]);
        let losses = head.loss(&outputs, &targets(&names, &[2, 2, 3], &[0, 1, 2]));
        let losses = Vec::<f32>::try_from(&losses.unwrap()).unwrap();
        let each = outputs.cross_entropy_loss::<Tensor>(
            &Tensor::from_slice(&[0i64, 1, 2]),
            None,
            tch::Reduction::None,
            -100,
            0.0,
        );
        let each = Vec::<f32>::try_from(&each).unwrap();
        for (found, expected) in losses.iter().zip([(each[0] + each[1]) / 2.0, 0.0, each[2]]) {
            assert!((found - expected).abs() < 1e-6, "{losses:?}, {each:?}");
        }
    }

    // Promise: targets for another number of words are refused, not read beyond.
    #[test]
    fn other_counts_are_refused() {
        let names = ["B-x", "O"].map(str::to_owned).to_vec();
        let outputs = Tensor::zeros([3, 2], (Kind::Float, Device::Cpu));
        let error = Tags::new(names.clone()).loss(&outputs, &targets(&names, &[2], &[0, 1]));
        assert!(error.unwrap_err().to_string().contains("3 words"));
    }
}
