//! Metrics: how good predictions are, as plain numbers, with the conventions of scikit-learn and
//! SciPy.
//!
//! [`scores`] computes every metric that fits the kind of prediction; [`Baseline`] is what the same
//! metrics are worth for a predictor that ignores its input. [`AffinityMeter`] keeps how tasks' gradients
//! relate.

mod affinity;
mod answers;
mod baseline;
mod classes;
mod joint;
mod masks;
mod numbers;
mod ordered;
mod ranks;
mod spans;
mod texts;
mod zero_shot;

pub use affinity::AffinityMeter;
pub use answers::{answer_f1, exact_match};
pub use baseline::Baseline;
pub use classes::{accuracy, macro_f1, multi_accuracy, multi_macro_f1};
pub use joint::Joint;
pub use masks::Confusion;
pub use numbers::{mse, pearson, spearman};
pub use ordered::{class_mae, quadratic_kappa};
pub use ranks::{mean_reciprocal_rank, random_rank_scores, rank_scores, recall_at_1};
pub use spans::{NO_TAG, Tag, TagSet, span_f1};
pub use texts::{cer, part, wer};
pub use zero_shot::{Nearest, calibrate, zero_shot};

use espalier_spec::job::Metric;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Targets or predictions of some samples.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// One class a sample.
    Single {
        /// Number of classes.
        classes: usize,
        /// Class of each sample, below `classes`.
        values: Vec<u32>,
    },
    /// One class a sample, where classes have an order.
    Ordered {
        /// Number of classes.
        classes: usize,
        /// Class of each sample, below `classes`.
        values: Vec<u32>,
    },
    /// Any number of classes a sample.
    Multi {
        /// Number of classes.
        classes: usize,
        /// Whether sample i has class c: `values[i * classes + c]`.
        values: Vec<bool>,
    },
    /// One number a sample.
    Numbers(Vec<f64>),
    /// One tag for every word of a sample.
    Tags {
        /// What the tags mean.
        set: Arc<TagSet>,
        /// End of each sample's words in `values`.
        ends: Vec<u32>,
        /// Tags of all words; [`NO_TAG`] where there is none.
        values: Vec<u32>,
    },
    /// A text for each sample.
    Text {
        /// Number of characters there are.
        classes: usize,
        /// Which of them is a space, if any is.
        space: Option<u32>,
        /// End of each sample's characters in `values`.
        ends: Vec<u32>,
        /// Characters of all samples, each below `classes`.
        values: Vec<u32>,
    },
    /// The token that follows at each place of a sample.
    Next {
        /// End of each sample's places in `values`.
        ends: Vec<u32>,
        /// Tokens of all places.
        values: Vec<u32>,
    },
    /// One class for every pixel of a sample.
    Masks {
        /// Number of classes.
        classes: usize,
        /// Height and width.
        size: [usize; 2],
        /// What stands for no class.
        ignore: u8,
        /// Classes of each sample's pixels, row by row.
        values: Vec<Arc<[u8]>>,
    },
    /// Where in each sample's places an answer begins and ends; both at its first place for no answer.
    Spans {
        /// End of each sample's places among those of all.
        ends: Vec<u32>,
        /// Begin and end (the last place of the answer) of each sample, counted from its first place.
        values: Vec<[u32; 2]>,
    },
    /// Right answers of each sample, or the one found; none for a question that has no answer.
    Answers(Vec<Arc<[String]>>),
}

impl Values {
    /// Samples held.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Values::Single { values, .. } | Values::Ordered { values, .. } => values.len(),
            Values::Multi { classes, values } => values.len() / (*classes).max(1),
            Values::Numbers(values) => values.len(),
            Values::Tags { ends, .. }
            | Values::Text { ends, .. }
            | Values::Next { ends, .. }
            | Values::Spans { ends, .. } => ends.len(),
            Values::Masks { values, .. } => values.len(),
            Values::Answers(answers) => answers.len(),
        }
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What these are, in words for an error message.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Values::Single { classes, .. } => format!("{} of one in {classes} classes", self.len()),
            Values::Ordered { classes, .. } => {
                format!("{} of one in {classes} ordered classes", self.len())
            }
            Values::Multi { classes, .. } => format!("{} of any of {classes} classes", self.len()),
            Values::Numbers(_) => format!("{} numbers", self.len()),
            Values::Masks {
                classes,
                size: [height, width],
                values,
                ..
            } => format!(
                "{} masks of {height} x {width} pixels of one in {classes} classes",
                values.len()
            ),
            Values::Answers(_) => format!("{} answers", self.len()),
            Values::Spans { ends, .. } => format!(
                "{} answers in {} places",
                self.len(),
                ends.last().copied().unwrap_or(0)
            ),
            Values::Next { values, .. } => {
                let most = values.iter().max().copied().unwrap_or(0);
                format!("{} tokens, the largest {most}", values.len())
            }
            Values::Text {
                classes, values, ..
            } => format!(
                "{} texts of {} characters in all, each one in {classes}",
                self.len(),
                values.len()
            ),
            Values::Tags { set, values, .. } => format!(
                "{} texts of {} words with one in {} tags each",
                self.len(),
                values.len(),
                set.len()
            ),
        }
    }
}

/// Errors of comparing predictions with targets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Two sides that can't be compared.
    #[error("predictions don't fit the targets: expected {expected}, found {found}")]
    Mismatch {
        /// What the targets are.
        expected: String,
        /// What the predictions are.
        found: String,
    },
    /// Nothing to compare.
    #[error("no samples to score")]
    NoSamples,
}

/// Every metric that fits: accuracy and macro F1 for classes; mean squared error, Pearson and
/// Spearman for numbers; accuracy, mean distance and quadratic kappa for ordered classes; error rates of
/// characters and words for texts; exact match and F1 for answers.
///
/// # Errors
/// The two sides differ in kind, number of classes or number of samples, or there are no samples.
pub fn scores(truth: &Values, predicted: &Values) -> Result<BTreeMap<Metric, f64>, Error> {
    let mismatch = || {
        Err(Error::Mismatch {
            expected: truth.describe(),
            found: predicted.describe(),
        })
    };
    if truth.len() != predicted.len() {
        return mismatch();
    }
    if truth.is_empty() {
        return Err(Error::NoSamples);
    }
    match (truth, predicted) {
        (
            Values::Single {
                classes: c,
                values: t,
            },
            Values::Single {
                classes: d,
                values: p,
            },
        ) if c == d => Ok(BTreeMap::from([
            (Metric::Accuracy, accuracy(t, p)),
            (Metric::MacroF1, macro_f1(*c, t, p)),
        ])),
        (
            Values::Ordered {
                classes: c,
                values: t,
            },
            Values::Ordered {
                classes: d,
                values: p,
            },
        ) if c == d => Ok(BTreeMap::from([
            (Metric::Accuracy, accuracy(t, p)),
            (Metric::Mae, class_mae(t, p)),
            (Metric::QuadraticKappa, quadratic_kappa(*c, t, p)),
        ])),
        (
            Values::Multi {
                classes: c,
                values: t,
            },
            Values::Multi {
                classes: d,
                values: p,
            },
        ) if c == d => Ok(BTreeMap::from([
            (Metric::Accuracy, multi_accuracy(*c, t, p)),
            (Metric::MacroF1, multi_macro_f1(*c, t, p)),
        ])),
        (Values::Numbers(t), Values::Numbers(p)) => Ok(BTreeMap::from([
            (Metric::Mse, mse(t, p)),
            (Metric::Pearson, pearson(t, p)),
            (Metric::Spearman, spearman(t, p)),
        ])),
        (
            Values::Tags {
                set,
                ends,
                values: t,
            },
            Values::Tags {
                set: other,
                ends: found,
                values: p,
            },
        ) if set == other && ends == found => Ok(BTreeMap::from([
            (Metric::Accuracy, accuracy(t, p)),
            (Metric::Exact, spans::exact(ends, t, p)),
            (Metric::SpanF1, span_f1(set, ends, t, p)),
        ])),
        (
            Values::Text {
                classes: c,
                space,
                ends: t_ends,
                values: t,
            },
            Values::Text {
                classes: d,
                ends: p_ends,
                values: p,
                ..
            },
        ) if c == d => {
            let (truth, found) = ((&t_ends[..], &t[..]), (&p_ends[..], &p[..]));
            Ok(BTreeMap::from([
                (Metric::Cer, cer(truth, found)),
                (Metric::Wer, wer(*space, truth, found)),
            ]))
        }
        (Values::Answers(t), Values::Answers(p)) => Ok(BTreeMap::from([
            (Metric::Exact, exact_match(t, p)),
            (Metric::F1, answer_f1(t, p)),
        ])),
        _ => mismatch(),
    }
}

#[cfg(test)]
mod tests;
