//! What heads say, as it is shown.

use super::{Error, Mask};
use crate::generate::Stop;
use crate::heads::{Head, Ordinal, Tags};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde::Serialize;
use std::collections::BTreeMap;
use tch::Tensor;

/// Classes of a multi-label head are named from this probability on.
const THRESHOLD: f64 = 0.5;

/// What one head says of one input.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// One class.
    Single {
        /// The most probable class.
        label: String,
        /// Its probability.
        score: f64,
        /// Probability of every class.
        scores: BTreeMap<String, f64>,
    },
    /// Any number of classes.
    Multi {
        /// Classes with probability 0.5 or more, most probable first.
        labels: Vec<Scored>,
        /// Probability of every class.
        scores: BTreeMap<String, f64>,
    },
    /// A tag for every word; texts are cut into words at white space.
    Tags {
        /// The most probable tag of each word; none for words beyond the token limit.
        tags: Vec<Option<Scored>>,
    },
    /// What answers a question, as it stands in the context.
    Span {
        /// The answer; none if there is none.
        answer: Option<String>,
        /// Probability that it begins where it does, times that it ends where it does.
        score: f64,
        /// Number of its first character in the context.
        start: Option<u32>,
        /// Number of the character behind its last one.
        end: Option<u32>,
    },
    /// How a text goes on.
    Text {
        /// What follows the prompt.
        completion: String,
        /// Its tokens.
        tokens: usize,
        /// Why it ends.
        stop: Stop,
    },
    /// The text that is in a sound or an image.
    Read {
        /// The text.
        text: String,
    },
    /// A class for every pixel of an image.
    Mask {
        /// The share of the pixels that each class has.
        shares: BTreeMap<String, f64>,
        /// The file that the mask was written to, if it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        mask: Option<String>,
        /// The mask.
        #[serde(skip)]
        pixels: Mask,
    },
    /// What a text is near to others by.
    Vector {
        /// Its features, at length 1.
        vector: Vec<f32>,
    },
    /// A number.
    Number {
        /// The number.
        value: f64,
    },
}

impl Answer {
    /// One of several classes, by their probabilities.
    #[must_use]
    pub fn single(scores: BTreeMap<String, f64>) -> Self {
        let best = scores.iter().rev().max_by(|a, b| a.1.total_cmp(b.1));
        let (label, score) = best.map_or_else(Default::default, |(l, s)| (l.clone(), *s));
        Answer::Single {
            label,
            score,
            scores,
        }
    }
}

/// A class with its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// The class.
    pub label: String,
    /// Its probability.
    pub score: f64,
}

/// The tag that evaluations decide for of each row of `outputs` [w, C], words of texts that end at `ends`, with its
/// probability.
pub(super) fn tagged(
    outputs: &Tensor,
    ends: &[u32],
    labels: &[String],
) -> Result<Vec<Scored>, Error> {
    let head = Tags::new(labels.to_vec());
    let Values::Single { values, .. } = head.decide_texts(outputs, ends)? else {
        return Ok(Vec::new());
    };
    let scores = head.scores(outputs)?;
    let rows = values.iter().zip(scores.chunks_exact(labels.len().max(1)));
    let scored = |(&class, row): (&u32, &[f32])| Scored {
        label: labels.get(class as usize).cloned().unwrap_or_default(),
        score: row
            .get(class as usize)
            .map_or(0.0, |&score| f64::from(score)),
    };
    Ok(rows.map(scored).collect())
}

/// One of several ordered classes for each row of `outputs` [b, K - 1]: the one that evaluations decide for.
/// Where biases are out of order, probabilities alone would give another.
pub(super) fn ordered(outputs: &Tensor, labels: &[String]) -> Result<Vec<Answer>, Error> {
    let head = Ordinal::new(labels.to_vec());
    let Values::Ordered { values, .. } = head.decide(outputs)? else {
        return Ok(Vec::new());
    };
    let scores = head.scores(outputs)?;
    let rows = values.iter().zip(scores.chunks_exact(labels.len().max(1)));
    let answer = |(&class, row): (&u32, &[f32])| {
        let place = class as usize;
        Answer::Single {
            label: labels.get(place).cloned().unwrap_or_default(),
            score: row.get(place).map_or(0.0, |&score| f64::from(score)),
            scores: scored(labels, row),
        }
    };
    Ok(rows.map(answer).collect())
}

/// What each class has, by its name.
fn scored(labels: &[String], row: &[f32]) -> BTreeMap<String, f64> {
    let scored = |(label, &score): (&String, &f32)| (label.clone(), f64::from(score));
    labels.iter().zip(row).map(scored).collect()
}

pub(super) fn shape(head: HeadKind, labels: &[String], row: &[f32]) -> Answer {
    let scores = scored(labels, row);
    let mut ranked: Vec<Scored> = scores
        .iter()
        .map(|(label, &score)| Scored {
            label: label.clone(),
            score,
        })
        .collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    match head {
        HeadKind::Regression => Answer::Number {
            value: row.first().map_or(0.0, |&v| f64::from(v)),
        },
        HeadKind::MultiLabel => {
            ranked.retain(|class| class.score >= THRESHOLD);
            Answer::Multi {
                labels: ranked,
                scores,
            }
        }
        HeadKind::SingleLabel
        | HeadKind::Ordinal
        | HeadKind::Tags
        | HeadKind::LabelEmbedding
        | HeadKind::CausalLm
        | HeadKind::Ctc
        | HeadKind::Entailment
        | HeadKind::Segmentation
        | HeadKind::Span
        | HeadKind::Ranking => Answer::single(scores),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: an answer of ordered classes is the one that evaluations decide for, also where biases are
    // out of order and the probabilities of classes would give another.
    #[test]
    fn ordered_classes_are_decided_as_in_evaluations() {
        let labels = ["a", "b", "c", "d"].map(str::to_owned);
        let outputs = [-0.1_f32, 3.0, 3.0, 2.0, 1.0, -1.0];
        let outputs = Tensor::from_slice(&outputs).view([2, 3]);
        let decided = Ordinal::new(labels.to_vec()).decide(&outputs).unwrap();
        let expected = Values::Ordered {
            classes: 4,
            values: vec![2, 2],
        };
        assert_eq!(decided, expected);
        let answers = ordered(&outputs, &labels).unwrap();
        assert_eq!(answers.len(), 2);
        for answer in answers {
            let Answer::Single {
                label,
                score,
                scores,
            } = answer
            else {
                panic!("another answer");
            };
            assert_eq!((label.as_str(), score), ("c", scores["c"]));
            assert!((scores.values().sum::<f64>() - 1.0).abs() < 1e-6);
        }
    }
}
