//! Where the answer to a question begins and ends in a context: two softmaxes over the context's tokens.

use super::{Error, Head, Level, numbers, samples, targets_error};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

/// Extractive question answering (Devlin et al. 2019, arXiv 1810.04805, sections 4.2 and 4.3): outputs
/// `[W, 2]` say how well an answer begins and how well it ends at each place. The places of a sample are its
/// first token, which stands for no answer, and the tokens of its context; those of the question are none, so
/// the softmaxes leave them out.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Most tokens of an answer that is given.
    most: usize,
}

/// The best answer in one context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestSpan {
    /// Places of its first and its last token; both 0 for no answer.
    pub places: [u32; 2],
    /// Probability that it begins at the one, times that it ends at the other.
    pub score: f64,
}

impl Span {
    /// A head that gives answers of at most so many tokens.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most }
    }

    /// The answer with the largest sum of both outputs, from those of one sample's places `[n, 2]`: of all
    /// that do not end before they begin and are not too long, and none if that has a larger sum or the same.
    ///
    /// # Errors
    /// Outputs of another shape; errors of torch.
    pub fn best(&self, outputs: &Tensor) -> Result<BestSpan, Error> {
        let count = samples(outputs, 2)?;
        let sums = numbers(outputs)?;
        let (both, _) = sums.as_chunks::<2>();
        let none = both.first().map_or(f32::NEG_INFINITY, |o| o[0] + o[1]);
        let (mut places, mut best) = ([0, 0], none);
        for first in 1..count {
            let end = count.min(first + self.most);
            for last in first..end {
                let sum = both[first][0] + both[last][1];
                if sum > best {
                    (places, best) = ([first, last], sum);
                }
            }
        }
        let scores = self.scores(outputs)?;
        let (scores, _) = scores.as_chunks::<2>();
        let score =
            |place: usize, side: usize| scores.get(place).map_or(0.0, |s| f64::from(s[side]));
        Ok(BestSpan {
            places: places.map(|place| u32::try_from(place).unwrap_or(u32::MAX)),
            score: score(places[0], 0) * score(places[1], 1),
        })
    }
}

impl Head for Span {
    fn kind(&self) -> HeadKind {
        HeadKind::Span
    }

    fn level(&self) -> Level {
        Level::Word
    }

    fn outputs(&self) -> usize {
        2
    }

    /// Mean of the two cross-entropies, of begin and of end, over each sample's places.
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        let rows = samples(outputs, 2)?;
        let wrong = |expected: String| Err(targets_error(expected, targets));
        let Values::Spans { ends, values } = targets else {
            return wrong(format!("answers in {rows} places"));
        };
        if ends.len() != values.len() || ends.last().map_or(0, |end| *end as usize) != rows {
            return wrong(format!("answers in {rows} places"));
        }
        // Each sample by itself, so that its loss does not depend on its neighbours in any bit.
        let mut losses = Vec::with_capacity(ends.len());
        let mut start = 0;
        for (sample, (end, places)) in ends.iter().zip(values).enumerate() {
            let length = i64::from(*end) - start;
            let [first, last] = places.map(i64::from);
            if first >= length || last >= length {
                return wrong(format!("sample {sample} within its {length} places"));
            }
            let logs_n2 = outputs
                .f_narrow(0, start, length)?
                .f_log_softmax(0, Kind::Float)?;
            let begins = logs_n2.f_select(0, first)?.f_select(0, 0)?;
            let ends = logs_n2.f_select(0, last)?.f_select(0, 1)?;
            losses.push(begins.f_add(&ends)?.f_mul_scalar(-0.5)?);
            start = i64::from(*end);
        }
        match losses.is_empty() {
            true => Ok(outputs.f_select(1, 0)?),
            false => Ok(Tensor::f_stack(&losses, 0)?),
        }
    }

    /// The answer of one sample, from the outputs of its places.
    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        let best = self.best(outputs)?;
        let places = u32::try_from(samples(outputs, 2)?).unwrap_or(u32::MAX);
        Ok(Values::Spans {
            ends: vec![places],
            values: vec![best.places],
        })
    }

    /// Probability that an answer begins and that it ends at each place of one sample.
    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        samples(outputs, 2)?;
        numbers(&outputs.f_softmax(0, Kind::Float)?)
    }

    /// transformers knows begin and end by their places.
    fn config(&self) -> Map<String, Value> {
        Map::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::Linear;

    /// transformers' numbers; `tests/golden/span.py` made them.
    fn golden() -> Value {
        serde_json::from_str(include_str!("span.json")).unwrap()
    }

    fn tensor(value: &Value) -> Tensor {
        let rows: Vec<Vec<f32>> = serde_json::from_value(value.clone()).unwrap();
        Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1])
    }

    fn close(found: &Tensor, expected: &Value) {
        let expected = tensor(expected);
        assert_eq!(found.size(), expected.size());
        let off = (found - &expected).abs().max().double_value(&[]);
        assert!(off < 2e-6, "off by {off}: {found}, not {expected}");
    }

    // Promise: outputs, loss, gradient and best answer are those of transformers' class and pipeline.
    #[test]
    fn answers_agree_with_transformers() {
        let golden = golden();
        let weight = tensor(&golden["weight"]);
        let bias: Vec<f32> = serde_json::from_value(golden["bias"].clone()).unwrap();
        let bias = Tensor::from_slice(&bias);
        let linear = Linear {
            weight: &weight,
            bias: Some(&bias),
        };
        let head = Span::new(golden["most"].as_u64().unwrap() as usize);
        for pair in golden["pairs"].as_array().unwrap() {
            let outputs = linear.forward(&tensor(&pair["rows"]), None).unwrap();
            close(&outputs, &pair["outputs"]);
            let outputs = tensor(&pair["outputs"]).set_requires_grad(true);
            let target: [u32; 2] = serde_json::from_value(pair["target"].clone()).unwrap();
            let targets = Values::Spans {
                ends: vec![outputs.size()[0] as u32],
                values: vec![target],
            };
            let loss = head.loss(&outputs, &targets).unwrap();
            let expected = pair["loss"].as_f64().unwrap();
            assert!((loss.double_value(&[0]) - expected).abs() < 2e-6, "{loss}");
            loss.sum(Kind::Float).backward();
            close(&outputs.grad(), &pair["gradient"]);
            let best = head.best(&outputs).unwrap();
            let expected: [u32; 2] = serde_json::from_value(pair["best"].clone()).unwrap();
            assert_eq!(best.places, expected);
            assert!((best.score - pair["score"].as_f64().unwrap()).abs() < 2e-6);
        }
    }

    fn outputs(rows: &[[f32; 2]]) -> Tensor {
        Tensor::from_slice(&rows.concat()).view([rows.len() as i64, 2])
    }

    // Promise: the best answer neither ends before it begins nor is too long, and stands back behind no
    // answer; its score is the product of both probabilities.
    #[test]
    fn the_best_answer_is_a_span() {
        // The largest end, at place 1, is before the largest begin, at place 3.
        let rows = [[0.0, 0.0], [1.0, 5.0], [2.0, 0.0], [4.0, 1.0], [0.0, 4.0]];
        let best = |most: usize| Span::new(most).best(&outputs(&rows)).unwrap();
        assert_eq!(best(30).places, [3, 4]);
        assert_eq!(best(1).places, [1, 1]);
        let share = |side: usize, place: usize| {
            let all: f64 = rows.iter().map(|row| f64::from(row[side]).exp()).sum();
            f64::from(rows[place][side]).exp() / all
        };
        assert!((best(30).score - share(0, 3) * share(1, 4)).abs() < 1e-6);
        let mut none = rows;
        none[0] = [4.0, 4.0];
        let best = Span::new(30).best(&outputs(&none)).unwrap();
        assert_eq!(best.places, [0, 0]);
        let best = Span::new(30).best(&outputs(&rows[..1])).unwrap();
        assert_eq!((best.places, best.score), ([0, 0], 1.0));
    }

    // Promise: a sample's loss is the mean of two cross-entropies over its own places; targets beyond them
    // are refused.
    #[test]
    fn losses_are_means_of_begin_and_end() {
        let rows = [[0.0, 1.0], [2.0, 0.5], [1.0, 1.0], [0.3, 0.0], [0.0, 3.0]];
        let head = Span::new(30);
        let targets = |ends: &[u32], values: &[[u32; 2]]| Values::Spans {
            ends: ends.to_vec(),
            values: values.to_vec(),
        };
        let found = head
            .loss(&outputs(&rows), &targets(&[3, 5], &[[1, 2], [0, 0]]))
            .unwrap();
        let found = Vec::<f32>::try_from(&found).unwrap();
        let cost = |rows: &[[f32; 2]], side: usize, place: usize| {
            let all: f32 = rows.iter().map(|row| row[side].exp()).sum();
            all.ln() - rows[place][side]
        };
        let expected = [
            (cost(&rows[..3], 0, 1) + cost(&rows[..3], 1, 2)) / 2.0,
            (cost(&rows[3..], 0, 0) + cost(&rows[3..], 1, 0)) / 2.0,
        ];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
        }
        let said = |ends: &[u32], values: &[[u32; 2]]| {
            let error = head.loss(&outputs(&rows), &targets(ends, values));
            error.unwrap_err().to_string()
        };
        assert!(said(&[3, 5], &[[1, 2], [0, 2]]).contains("sample 1 within its 2 places"));
        assert!(said(&[3], &[[1, 2]]).contains("answers in 5 places"));
    }
}
