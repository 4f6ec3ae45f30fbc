//! What a predictor that ignores its input would reach: the floor that a model must rise above.

use super::{Error, Values, part, scores};
use espalier_spec::job::Metric;
use std::collections::BTreeMap;

/// A constant prediction, learned from training targets.
#[derive(Clone, Debug, PartialEq)]
pub enum Baseline {
    /// The most frequent class; of equally frequent ones the lowest.
    Class {
        /// Number of classes.
        classes: usize,
        /// The class.
        class: u32,
    },
    /// The median class, which is the best constant for the mean distance; of two the lower.
    Ordered {
        /// Number of classes.
        classes: usize,
        /// The class.
        class: u32,
    },
    /// The most frequent set of classes (maybe the empty one); of equally frequent ones the one
    /// whose indicators come first in order, absent before present. It is the best constant for
    /// accuracy, which asks for every label of a sample.
    Set(Vec<bool>),
    /// The most frequent tag, for every word.
    Tag(u32),
    /// The most frequent text; of equally frequent ones the first by its characters.
    Text(Vec<u32>),
    /// That no question has an answer.
    NoAnswer,
    /// The mean, which is the best constant for the squared error.
    Mean(f64),
}

impl Baseline {
    /// The best constant for `train`.
    #[must_use]
    pub fn fit(train: &Values) -> Self {
        match train {
            Values::Single { classes, values } => {
                let class = most_frequent(values.iter().copied()).unwrap_or(0);
                Baseline::Class {
                    classes: *classes,
                    class,
                }
            }
            Values::Ordered { classes, values } => {
                let mut sorted = values.clone();
                sorted.sort_unstable();
                let middle = sorted.get(sorted.len().saturating_sub(1) / 2);
                Baseline::Ordered {
                    classes: *classes,
                    class: middle.copied().unwrap_or(0),
                }
            }
            Values::Multi { classes, values } => {
                let rows = values.chunks_exact((*classes).max(1));
                let set = most_frequent(rows).map(<[bool]>::to_vec);
                Baseline::Set(set.unwrap_or_else(|| vec![false; *classes]))
            }
            Values::Tags { values, .. } => {
                Baseline::Tag(most_frequent(values.iter().copied()).unwrap_or(0))
            }
            Values::Text { ends, values, .. } => {
                let texts = (0..ends.len()).map(|sample| part(ends, values, sample));
                Baseline::Text(most_frequent(texts).unwrap_or_default().to_vec())
            }
            // Next tokens have a baseline of their own, see `perplexity`, and so have masks.
            Values::Next { .. } | Values::Masks { .. } => Baseline::Mean(0.0),
            Values::Answers(_) | Values::Spans { .. } => Baseline::NoAnswer,
            #[expect(clippy::cast_precision_loss, reason = "counts of samples")]
            Values::Numbers(values) => {
                Baseline::Mean(values.iter().sum::<f64>() / values.len().max(1) as f64)
            }
        }
    }

    /// This prediction for the samples of `truth`.
    #[must_use]
    pub fn predict(&self, truth: &Values) -> Values {
        let samples = truth.len();
        match self {
            Baseline::Tag(tag) => match truth {
                Values::Tags { set, ends, values } => Values::Tags {
                    set: set.clone(),
                    ends: ends.clone(),
                    values: vec![*tag; values.len()],
                },
                // Compared with it, this says what is wrong.
                _ => Values::Numbers(Vec::new()),
            },
            Baseline::Text(text) => match truth {
                Values::Text { classes, space, .. } => Values::Text {
                    classes: *classes,
                    space: *space,
                    ends: (1..=samples)
                        .map(|count| u32::try_from(count * text.len()).unwrap_or(u32::MAX))
                        .collect(),
                    values: text.repeat(samples),
                },
                // Compared with it, this says what is wrong.
                _ => Values::Numbers(Vec::new()),
            },
            Baseline::Class { classes, class } => Values::Single {
                classes: *classes,
                values: vec![*class; samples],
            },
            Baseline::Ordered { classes, class } => Values::Ordered {
                classes: *classes,
                values: vec![*class; samples],
            },
            Baseline::Set(set) => Values::Multi {
                classes: set.len(),
                values: set.repeat(samples),
            },
            Baseline::Mean(mean) => Values::Numbers(vec![*mean; samples]),
            Baseline::NoAnswer => Values::Answers(vec![Default::default(); samples]),
        }
    }

    /// Every metric of this prediction on `truth`; correlations are 0.
    ///
    /// # Errors
    /// `truth` is of another kind than the training targets, or holds no samples.
    pub fn scores(&self, truth: &Values) -> Result<BTreeMap<Metric, f64>, Error> {
        scores(truth, &self.predict(truth))
    }
}

/// The most frequent value; of equally frequent ones the least.
fn most_frequent<T: Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_insert(0_u64) += 1;
    }
    let best = counts
        .into_iter()
        .reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|(value, _)| value)
}
