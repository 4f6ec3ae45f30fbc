//! Texts that come in order with frames, nobody says where: connectionist temporal classification.

use super::{Error, Head, Level, label_fields, numbers, targets_error};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use tch::{Kind, Reduction, Tensor};

/// The output that says nothing.
const BLANK: i64 = 0;

/// Connectionist temporal classification (Graves, Fernandez, Gomez and Schmidhuber 2006, ICML): every frame
/// says one of the characters or the blank; a text is what is left when equal neighbours are made one and
/// blanks are taken out. Output 0 is the blank, output 1 + c character c.
#[derive(Debug)]
pub struct Ctc {
    names: Vec<String>,
}

impl Ctc {
    /// A head for texts of the characters `names`.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self { names }
    }

    /// Checks that `outputs` is `[B, T, C]` and returns B and T.
    fn shape_of(&self, outputs: &Tensor) -> Result<(usize, usize), Error> {
        let size = |size: i64| usize::try_from(size).unwrap_or(0);
        match outputs.size().as_slice() {
            [samples, frames, width] if size(*width) == self.outputs() && *frames > 0 => {
                Ok((size(*samples), size(*frames)))
            }
            shape => Err(Error::Outputs {
                expected: self.outputs(),
                found: shape.to_vec(),
            }),
        }
    }

    /// The characters of each sample by the largest output of every frame, from `outputs` `[B, T, C]`.
    ///
    /// # Errors
    /// Outputs of another shape; errors of torch.
    pub fn characters(&self, outputs: &Tensor) -> Result<Vec<Vec<u32>>, Error> {
        let (_, frames) = self.shape_of(outputs)?;
        let best = outputs.f_argmax(-1, false)?.f_contiguous()?;
        let best = Vec::<i64>::try_from(&best.f_flatten(0, -1)?)?;
        Ok(best.chunks_exact(frames).map(collapsed).collect())
    }

    /// The same as texts.
    ///
    /// # Errors
    /// As [`Ctc::characters`].
    pub fn texts(&self, outputs: &Tensor) -> Result<Vec<String>, Error> {
        let name = |character: &u32| self.names.get(*character as usize).map(String::as_str);
        let texts = self.characters(outputs)?;
        Ok(texts
            .iter()
            .map(|text| text.iter().filter_map(name).collect())
            .collect())
    }
}

/// The characters of a path: equal neighbours are one, blanks are none.
fn collapsed(path: &[i64]) -> Vec<u32> {
    let mut before = BLANK;
    let mut text = Vec::new();
    for &output in path {
        if output != before && output != BLANK {
            text.push(u32::try_from(output - 1).unwrap_or(0));
        }
        before = output;
    }
    text
}

impl Head for Ctc {
    fn kind(&self) -> HeadKind {
        HeadKind::Ctc
    }

    fn level(&self) -> Level {
        Level::Frame
    }

    fn outputs(&self) -> usize {
        self.names.len() + 1
    }

    /// -log of the probability of a sample's text, over all paths that give it, by the number of its
    /// characters, so that a sample weighs the same however long it is (as `torch.nn.CTCLoss` takes the
    /// mean). `outputs` are `[B, T, C]`. A text that does not fit into the frames costs 0, and nothing is
    /// learned from it.
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        let (samples, frames) = self.shape_of(outputs)?;
        let (ends, values) = match targets {
            Values::Text {
                classes,
                ends,
                values,
                ..
            } if *classes == self.names.len()
                && ends.len() == samples
                && ends.last().is_none_or(|end| *end as usize == values.len())
                && values.iter().all(|class| (*class as usize) < *classes) =>
            {
                (ends, values)
            }
            other => {
                let expected = format!("{samples} texts of {} characters", self.names.len());
                return Err(targets_error(expected, other));
            }
        };
        let ids: Vec<i64> = values.iter().map(|class| i64::from(*class) + 1).collect();
        let ids = Tensor::f_from_slice(&ids)?.f_to_device(outputs.device())?;
        let mut start = 0;
        let lengths = ends.iter().map(|end| {
            let length = i64::from(end.saturating_sub(start));
            start = *end;
            length
        });
        let lengths: Vec<i64> = lengths.collect();
        let frames = vec![i64::try_from(frames).unwrap_or(i64::MAX); samples];
        let log_tbc = outputs.f_log_softmax(-1, Kind::Float)?.f_transpose(0, 1)?;
        let losses_b = Tensor::f_ctc_loss(
            &log_tbc,
            &ids,
            &frames[..],
            &lengths[..],
            BLANK,
            Reduction::None,
            true,
        )?;
        let shares: Vec<f32> = lengths
            .iter()
            .map(|length| (*length).max(1) as f32)
            .collect();
        let shares = Tensor::f_from_slice(&shares)?.f_to_device(outputs.device())?;
        Ok(losses_b.f_div(&shares)?)
    }

    /// The text of the path that takes the largest output of every frame.
    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        let texts = self.characters(outputs)?;
        let mut end = 0;
        let ends = texts.iter().map(|text| {
            end += u32::try_from(text.len()).unwrap_or(u32::MAX);
            end
        });
        let space = self.names.iter().position(|name| name == " ");
        Ok(Values::Text {
            classes: self.names.len(),
            space: space.and_then(|class| u32::try_from(class).ok()),
            ends: ends.collect(),
            values: texts.concat(),
        })
    }

    /// Probabilities of the blank and the characters, frame by frame.
    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        self.shape_of(outputs)?;
        numbers(&outputs.f_softmax(-1, Kind::Float)?)
    }

    fn config(&self) -> Map<String, Value> {
        let mut fields = label_fields("", &self.names);
        // transformers knows kinds of problems for classes only.
        fields.remove("problem_type");
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Ctc {
        Ctc::new(["a", "b"].map(str::to_owned).to_vec())
    }

    fn targets(ends: &[u32], values: &[u32]) -> Values {
        Values::Text {
            classes: 2,
            space: None,
            ends: ends.to_vec(),
            values: values.to_vec(),
        }
    }

    /// Outputs [2, 4, 3] by a formula.
    fn outputs() -> Tensor {
        let values: Vec<f32> = (0..24).map(|j| (0.9 * j as f32).sin() * 2.0).collect();
        Tensor::from_slice(&values).view([2, 4, 3])
    }

    /// -log p of a text by the definition: the sum over all paths of four frames that give it.
    fn by_paths(rows: &[f64], text: &[u32]) -> f64 {
        let mut sum = 0.0;
        for path in 0..3_usize.pow(4) {
            let path: Vec<i64> = (0..4).map(|t| (path / 3_usize.pow(t) % 3) as i64).collect();
            if collapsed(&path) == text {
                let frames = path.iter().zip(rows.chunks(3)).map(|(&output, row)| {
                    let all: f64 = row.iter().map(|x| x.exp()).sum();
                    row[output as usize].exp() / all
                });
                sum += frames.product::<f64>();
            }
        }
        -f64::ln(sum)
    }

    // Promise: a loss is -log of the sum over all paths that give the text, by the text's length; equal
    // neighbours need a blank between them; and the gradient is that of this loss.
    #[test]
    fn losses_are_sums_over_paths() {
        for (ends, values) in [([2, 3], vec![0, 1, 0]), ([3, 5], vec![1, 1, 0, 0, 0])] {
            let outputs = outputs().set_requires_grad(true);
            let losses = head().loss(&outputs, &targets(&ends, &values)).unwrap();
            losses.sum(Kind::Float).backward();
            let gradient = numbers(&outputs.grad()).unwrap();
            let losses = numbers(&losses).unwrap();
            let numbers = numbers(&outputs).unwrap();
            let rows: Vec<f64> = numbers.iter().map(|x| f64::from(*x)).collect();
            let mut start = 0;
            for (sample, end) in ends.into_iter().enumerate() {
                let text = &values[start..end as usize];
                start = end as usize;
                let loss = |rows: &[f64]| by_paths(rows, text) / text.len() as f64;
                let own = &rows[sample * 12..(sample + 1) * 12];
                let (found, expected) = (f64::from(losses[sample]), loss(own));
                assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
                for place in 0..12 {
                    let moved = |by: f64| {
                        let mut rows = own.to_vec();
                        rows[place] += by;
                        loss(&rows)
                    };
                    let expected = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                    let found = f64::from(gradient[sample * 12 + place]);
                    assert!((found - expected).abs() < 1e-4, "{found}, not {expected}");
                }
            }
        }
    }

    // Promise: a text that does not fit costs nothing and teaches nothing, whatever stands beside it.
    #[test]
    fn texts_that_do_not_fit_cost_nothing() {
        let outputs = outputs().set_requires_grad(true);
        let both = targets(&[3, 4], &[0, 0, 0, 1]);
        let losses = head().loss(&outputs, &both).unwrap();
        losses.sum(Kind::Float).backward();
        let losses = numbers(&losses).unwrap();
        assert!(losses[0] == 0.0 && losses[1] > 0.0, "{losses:?}");
        let gradient = numbers(&outputs.grad()).unwrap();
        assert!(gradient[..12].iter().all(|g| *g == 0.0), "{gradient:?}");
        assert!(gradient[12..].iter().any(|g| *g != 0.0));
        for wrong in [targets(&[1], &[0]), targets(&[1, 2], &[0, 2])] {
            assert!(head().loss(&outputs, &wrong).is_err(), "{wrong:?}");
        }
    }

    // Promise: of a path equal neighbours are one character, unless a blank stands between them.
    #[test]
    fn paths_become_texts() {
        let path = [0, 1, 1, 0, 1, 2, 2, 0];
        assert_eq!(collapsed(&path), [0, 0, 1]);
        let one_hot = Tensor::from_slice(&path).one_hot(3).view([1, 8, 3]);
        let outputs = one_hot.to_kind(Kind::Float);
        assert_eq!(head().texts(&outputs).unwrap(), ["aab"]);
        assert_eq!(head().decide(&outputs).unwrap(), targets(&[3], &[0, 0, 1]));
    }
}
