//! One of several classes for every word: token classification.

use super::{
    Error, Head, Level, SingleLabel, label_fields, means, numbers, samples, targets_error,
};
use crate::metrics::{TagSet, Values};
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

/// Tags of words. A word is read at its first token, as is usual for BERT (Devlin et al. 2019, section
/// 5.3).
#[derive(Debug)]
pub struct Tags {
    /// The same for words: softmax over the tags.
    words: SingleLabel,
    names: Vec<String>,
    /// Which tags each may follow; `None`: any.
    befores: Vec<Option<Vec<u32>>>,
    /// Whether a text may begin with each.
    begins: Vec<bool>,
}

impl Tags {
    /// A head for the tags `names`.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        let set = TagSet::of(&names);
        let all = || (0_u32..).take(names.len());
        let befores = all().map(|tag| {
            let some: Vec<u32> = all()
                .filter(|&before| set.may_follow(Some(before), tag))
                .collect();
            (some.len() < names.len()).then_some(some)
        });
        Self {
            befores: befores.collect(),
            begins: all().map(|tag| set.may_follow(None, tag)).collect(),
            words: SingleLabel::new(names.clone(), None, 0.0),
            names,
        }
    }

    /// The likeliest tags of a text's words out of their log p, row by row: those with the largest sum in which no tag
    /// goes on with a span that has not begun (Viterbi 1967); of equal ones the first.
    fn likeliest(&self, log_p: &[f32]) -> Vec<u32> {
        let mut rows = log_p.chunks_exact(self.names.len().max(1));
        let Some(first) = rows.next() else {
            return Vec::new();
        };
        let begins = self.begins.iter().zip(first);
        let mut sums: Vec<f64> = begins
            .map(|(&may, &log_p)| {
                if may {
                    f64::from(log_p)
                } else {
                    f64::NEG_INFINITY
                }
            })
            .collect();
        // The best tag before each, word by word.
        let mut ways: Vec<Vec<u32>> = Vec::new();
        for row in rows {
            let anywhere = largest(&sums, 0_u32..);
            let mut way = Vec::with_capacity(row.len());
            let next = self.befores.iter().zip(row).map(|(befores, &log_p)| {
                let (before, sum) = match befores {
                    Some(some) => largest(&sums, some.iter().copied()),
                    None => anywhere,
                };
                way.push(before);
                sum + f64::from(log_p)
            });
            sums = next.collect();
            ways.push(way);
        }
        let mut tags = vec![largest(&sums, 0_u32..).0];
        for way in ways.iter().rev() {
            let after = tags.last().map_or(0, |&tag| tag as usize);
            tags.push(way.get(after).copied().unwrap_or(0));
        }
        tags.reverse();
        tags
    }
}

/// Which of some tags has the largest sum, and that; of equal ones the first.
fn largest(sums: &[f64], among: impl Iterator<Item = u32>) -> (u32, f64) {
    let own = among.map_while(|tag| Some((tag, *sums.get(tag as usize)?)));
    own.reduce(|best, next| if next.1 > best.1 { next } else { best })
        .unwrap_or((0, f64::NEG_INFINITY))
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

    /// The likeliest tags of each text among those that its file could have: none is `I-x` behind another type.
    fn decide_texts(&self, outputs: &Tensor, ends: &[u32]) -> Result<Values, Error> {
        let rows = samples(outputs, self.outputs())?;
        if ends.last().map_or(0, |&end| end as usize) != rows {
            let expected = format!("texts of {rows} words in all");
            return Err(Error::Targets {
                expected,
                found: format!("texts that end at {ends:?}"),
            });
        }
        let log_p = numbers(&outputs.f_log_softmax(-1, Kind::Float)?)?;
        let mut start = 0;
        let texts = ends.iter().flat_map(|&end| {
            let own = start..end as usize * self.outputs();
            start = own.end;
            self.likeliest(log_p.get(own).unwrap_or_default())
        });
        Ok(Values::Single {
            classes: self.outputs(),
            values: texts.collect(),
        })
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

    /// All ways to tag `words` words with `tags` tags, the first word slowest.
    fn every(words: u32, tags: u32) -> Vec<Vec<u32>> {
        let all = 0..tags.pow(words);
        all.map(|number| {
            let digits = (0..words).rev().map(|word| number / tags.pow(word) % tags);
            digits.collect()
        })
        .collect()
    }

    // Promise: of all ways to tag a text that a file could hold, the one with the largest product of probabilities
    // is decided for, text by text; compared with each of them.
    #[test]
    fn texts_get_their_likeliest_tags() {
        let names = ["B-x", "B-y", "I-x", "I-y", "O"]
            .map(str::to_owned)
            .to_vec();
        let (set, head) = (TagSet::of(&names), Tags::new(names));
        tch::manual_seed(7);
        let mut differ = 0;
        for _ in 0..40 {
            let outputs = Tensor::randn([7, 5], (Kind::Float, Device::Cpu)) * 2.0;
            let Values::Single { values, .. } = head.decide_texts(&outputs, &[4, 4, 7]).unwrap()
            else {
                panic!("tags are one class a word");
            };
            let Values::Single { values: each, .. } = head.decide(&outputs).unwrap() else {
                panic!("tags are one class a word");
            };
            differ += u32::from(each != values);
            let log_p = outputs.log_softmax(-1, Kind::Double);
            for (start, words) in [(0, 4), (4, 3)] {
                let sum = |tags: &Vec<u32>| -> f64 {
                    let words = (start..).zip(tags);
                    words
                        .map(|(word, &tag)| log_p.double_value(&[word, i64::from(tag)]))
                        .sum()
                };
                let fits = |tags: &&Vec<u32>| {
                    let mut before = None;
                    tags.iter()
                        .all(|&tag| set.may_follow(before.replace(tag), tag))
                };
                let all = every(words, 5);
                let best = all
                    .iter()
                    .filter(fits)
                    .max_by(|a, b| sum(a).total_cmp(&sum(b)));
                let own = &values[start as usize..(start as usize + words as usize)];
                assert_eq!(own, best.unwrap());
            }
        }
        assert!(
            differ > 10,
            "only {differ} of 40 differ from deciding word by word"
        );
    }

    // Promise: names that are no spans may stand anywhere; texts that do not add up to the words are refused.
    #[test]
    fn kinds_of_words_stand_anywhere() {
        let head = Tags::new(["NOUN", "VERB"].map(str::to_owned).to_vec());
        let outputs = Tensor::from_slice(&[0f32, 1.0, 1.0, 0.0]).view([2, 2]);
        let Values::Single { values, .. } = head.decide_texts(&outputs, &[2]).unwrap() else {
            panic!("tags are one class a word");
        };
        assert_eq!(values, [1, 0]);
        let error = head.decide_texts(&outputs, &[1]).unwrap_err();
        assert!(error.to_string().contains("2 words"), "{error}");
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
