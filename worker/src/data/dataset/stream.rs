//! Texts as one stream of tokens, cut into windows: samples of language modelling.
//!
//! A window of W tokens is a sample with W predictions: of each token from those before it in the window,
//! and of the token behind it from all of them. In training windows stand side by side from a place that
//! is drawn anew in every pass, so that over the passes every token is seen after contexts of every
//! length; about W tokens at the ends are left out of a pass. In evaluations they begin at the first
//! token and the last one is shorter: every token but the first is predicted exactly once.

use super::super::mix::mix;
use super::super::{Error, Input, Inputs, Labels, NO_TOKEN, Tokenizer};
use super::Split;
use espalier_spec::job::Join;
use std::sync::Arc;

/// One stream of tokens, and where its windows are.
#[derive(Debug)]
pub struct Stream {
    ids: Vec<u32>,
    /// Tokens of a window.
    window: usize,
    /// Windows.
    count: usize,
    /// Furthest place that windows may begin at.
    slack: usize,
}

impl Stream {
    /// Cuts tokens into windows for training, or for evaluations.
    ///
    /// # Errors
    /// [`Error::ShortStream`] if there are fewer tokens than a window and the one behind it need; in
    /// evaluations two are enough.
    pub fn new(ids: Vec<u32>, window: usize, is_training: bool) -> Result<Self, Error> {
        let window = window.max(1);
        let needed = if is_training { window + 1 } else { 2 };
        if ids.len() < needed {
            return Err(Error::ShortStream {
                tokens: ids.len(),
                needed,
            });
        }
        let predicted = ids.len() - 1;
        let (count, slack) = match is_training {
            true => {
                let count = ((ids.len() - window) / window).max(1);
                (count, (window - 1).min(predicted - count * window))
            }
            false => (predicted.div_ceil(window), 0),
        };
        Ok(Self {
            ids,
            window,
            count,
            slack,
        })
    }

    /// Windows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no window; never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All tokens.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Window `index` of a pass over the data whose key is `pass`; none: the one that begins at the
    /// stream's start.
    #[must_use]
    pub fn window(&self, index: usize, pass: Option<u64>) -> Input {
        let offset = pass.map_or(0, |key| mix(key) % (self.slack as u64 + 1)) as usize;
        let start = (offset + index * self.window).min(self.ids.len());
        let end = (start + self.window).min(self.ids.len() - 1).max(start);
        Input::Window {
            ids: self.ids[start..end].into(),
            next: self.ids.get(end).copied().unwrap_or(NO_TOKEN),
        }
    }

    /// Tokens that window `index` predicts.
    #[must_use]
    pub fn cost(&self, index: usize) -> u64 {
        let rest = (self.ids.len() - 1).saturating_sub(index * self.window);
        rest.min(self.window) as u64
    }
}

impl Split {
    /// This split's texts as one stream.
    ///
    /// # Errors
    /// File and row of a text that cannot be tokenised; a stream that is too short; a model without an
    /// end token where one is wanted.
    pub(super) fn joined(
        self,
        tokenizer: &Tokenizer,
        join: Join,
        is_training: bool,
    ) -> Result<Self, Error> {
        let Inputs::Text(texts) = self.inputs.as_ref() else {
            return Ok(self);
        };
        let end = match (join, tokenizer.end_tokens().first()) {
            (Join::EndToken, None) => return Err(Error::NoEndToken),
            (Join::EndToken, end) => end.copied(),
            (Join::Nothing | Join::Apart, _) => None,
        };
        let mut ids = Vec::new();
        for index in 0..self.len() {
            let found = tokenizer.encode_all(texts.text(index));
            ids.extend(found.map_err(|problem| self.problem(index, problem))?);
            ids.extend(end);
        }
        ids.shrink_to_fit();
        let stream = Stream::new(ids, tokenizer.max_tokens(), is_training)?;
        Ok(Self {
            labels: Labels::Next(stream.len()),
            inputs: Arc::new(Inputs::Stream(stream)),
            origins: Vec::new(),
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(stream: &Stream, index: usize, pass: Option<u64>) -> (Vec<u32>, u32) {
        match stream.window(index, pass) {
            Input::Window { ids, next } => (ids.to_vec(), next),
            other => panic!("{other:?}"),
        }
    }

    // Promise: in evaluations every token but the first is predicted once, whatever the length.
    #[test]
    fn evaluations_predict_every_token_once() {
        for length in 2..40u32 {
            let stream = Stream::new((0..length).collect(), 8, false).unwrap();
            let mut predicted = Vec::new();
            for index in 0..stream.len() {
                let (ids, next) = window(&stream, index, None);
                assert_eq!(ids.len() as u64, stream.cost(index));
                predicted.extend_from_slice(&ids[1..]);
                predicted.push(next);
            }
            assert_eq!(predicted, (1..length).collect::<Vec<u32>>());
        }
    }

    // Promise: in training all windows are whole and apart, in every pass; and passes differ.
    #[test]
    fn training_windows_are_whole_in_every_pass() {
        for length in 9..60u32 {
            let stream = Stream::new((0..length).collect(), 8, true).unwrap();
            let mut starts = std::collections::BTreeSet::new();
            for pass in 0..200 {
                let mut end = 0;
                for index in 0..stream.len() {
                    let (ids, next) = window(&stream, index, Some(pass));
                    assert_eq!(ids.len(), 8);
                    assert_eq!(next, ids[7] + 1);
                    assert!(next < length && ids[0] >= end);
                    end = ids[7] + 1;
                }
                starts.insert(window(&stream, 0, Some(pass)).0[0]);
            }
            assert!(stream.len() >= (length as usize / 8).saturating_sub(1));
            assert_eq!(starts.len(), stream.slack + 1, "{length}");
        }
    }

    // Promise: a text shorter than a window is refused with both lengths.
    #[test]
    fn a_short_stream_is_refused() {
        let said = Stream::new(vec![1; 8], 8, true).unwrap_err().to_string();
        assert!(
            said.contains("8 tokens") && said.contains("needs 9"),
            "{said}"
        );
        assert!(Stream::new(vec![1], 8, false).is_err());
    }
}
