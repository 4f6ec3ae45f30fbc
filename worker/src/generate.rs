//! Text from a decoder, token by token: greedy or by chance, the same for the same seed.

use crate::model::{self, Decoder, mix};
use tch::{Device, Kind, Tensor};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Most tokens that are made of one prompt.
    pub max_new_tokens: usize,
    /// Logits are divided by it; 0 takes the most probable token.
    pub temperature: f64,
    /// Only so many of the most probable tokens are drawn from; all if none.
    pub top_k: Option<usize>,
    /// Only the most probable tokens that have this share of probability together are drawn from, the one
    /// that reaches it included (Holtzman et al. 2020, arXiv 1904.09751); above 0, at most 1.
    pub top_p: f64,
    /// What is drawn is a function of the seed, the number of the prompt and the place in the text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            seed: 0,
        }
    }
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number out of its range.
    #[error("{field} is {found}; expected {expected}")]
    Range {
        /// The number.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A prompt that leaves no room.
    #[error("the prompt has {tokens} tokens, but this model sees {limit} at most; shorten it")]
    Long {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the model.
        limit: usize,
    },
    /// Only tokens of a kind may follow, and there is none of that kind.
    #[error(
        "no token of this model begins with {prefix:?}: see the vocabulary in its tokenizer.json"
    )]
    NoneBegins {
        /// What they were to begin with.
        prefix: String,
    },
    /// A prompt without tokens.
    #[error("the prompt has no tokens; give it some text")]
    Empty,
    /// The model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// libtorch.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl Sampling {
    /// Checks the ranges of the numbers.
    ///
    /// # Errors
    /// [`Error::Range`] for the first one that is out of it.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |field, found: String, expected| {
            Err(Error::Range {
                field,
                found,
                expected,
            })
        };
        let (temperature, top_p) = (self.temperature, self.top_p);
        if !(temperature.is_finite() && temperature >= 0.0) {
            let expected = "a finite number of at least 0 (0 takes the most probable token)";
            return wrong("temperature", temperature.to_string(), expected);
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return wrong("top-p", top_p.to_string(), "above 0, at most 1");
        }
        if self.top_k == Some(0) {
            return wrong("top-k", "0".to_owned(), "at least 1");
        }
        if temperature == 0.0 && (top_p < 1.0 || self.top_k.is_some_and(|k| k > 1)) {
            let expected = "above 0 where top-k or top-p are given: there is no chance at 0";
            return wrong("temperature", "0".to_owned(), expected);
        }
        if self.max_new_tokens == 0 {
            return wrong("max-new-tokens", "0".to_owned(), "at least 1");
        }
        Ok(())
    }

    /// The token that follows, by its logits; `key` decides what is drawn. Of equal logits the token of
    /// the lower number comes first.
    #[must_use]
    pub fn choose(&self, logits: &[f32], key: u64) -> u32 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |id: &u32| logits[*id as usize];
        let by_logit = |a: &u32, b: &u32| logit(b).total_cmp(&logit(a)).then(a.cmp(b));
        if self.temperature == 0.0 {
            return order.into_iter().min_by(by_logit).unwrap_or(0);
        }
        order.sort_unstable_by(by_logit);
        order.truncate(self.top_k.unwrap_or(usize::MAX));
        let most = order.first().map_or(0.0, |id| f64::from(logit(id)));
        let weight = |id: &u32| ((f64::from(logit(id)) - most) / self.temperature).exp();
        let mut weights: Vec<f64> = order.iter().map(weight).collect();
        let all: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let reaches = |weight: &f64| {
            sum += weight;
            sum >= self.top_p * all
        };
        if let Some(last) = weights.iter().position(reaches) {
            weights.truncate(last + 1);
        }
        let unit = (mix(key) >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = unit * weights.iter().sum::<f64>();
        let drawn = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        // By rounding something may be left behind the last one.
        let drawn = drawn.unwrap_or(weights.len().saturating_sub(1));
        order.get(drawn).copied().unwrap_or(0)
    }
}

/// Why a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// A token that ends a text; it is not part of it.
    EndToken,
    /// As many tokens as were asked for.
    Length,
    /// The model sees no more.
    Context,
}

/// Tokens that were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The tokens behind the prompt.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub stop: Stop,
}

/// A decoder with the matrix that names its next token.
#[derive(Clone, Copy)]
pub struct Generator<'a> {
    decoder: &'a dyn Decoder,
    /// Vocabulary matrix [V, h].
    matrix: &'a Tensor,
    ends: &'a [u32],
    /// The only tokens that may follow; all if none.
    only: Option<&'a [u32]>,
}

impl<'a> Generator<'a> {
    /// Text by `decoder` with a vocabulary `matrix` [V, h]; one of `ends` ends it.
    #[must_use]
    pub fn new(decoder: &'a dyn Decoder, matrix: &'a Tensor, ends: &'a [u32]) -> Self {
        Self {
            decoder,
            matrix,
            ends,
            only: None,
        }
    }

    /// The same, but only these tokens may follow; what ends a text is one of them or does not come.
    #[must_use]
    pub fn only(self, tokens: Option<&'a [u32]>) -> Self {
        Self {
            only: tokens,
            ..self
        }
    }

    /// Goes on with a prompt; `number` tells prompts of one seed apart.
    ///
    /// # Errors
    /// A prompt that is empty, too long or not of this vocabulary, numbers out of range.
    pub fn generate(
        &self,
        prompt: &[u32],
        sampling: &Sampling,
        number: u64,
    ) -> Result<Generated, Error> {
        sampling.check()?;
        let limit = self.decoder.positions();
        if prompt.is_empty() {
            return Err(Error::Empty);
        }
        if prompt.len() > limit {
            let tokens = prompt.len();
            return Err(Error::Long { tokens, limit });
        }
        let room = prompt.len().saturating_add(sampling.max_new_tokens);
        let mut cache = self.decoder.cache(room.min(limit))?;
        let key = mix(mix(sampling.seed) ^ number);
        let mut generated = Vec::new();
        let mut new = prompt.to_vec();
        let stop = loop {
            let logits = self.next(&new, &mut cache)?;
            let place = (prompt.len() + generated.len()) as u64;
            let id = sampling.choose(&logits, key ^ mix(place));
            if self.ends.contains(&id) {
                break Stop::EndToken;
            }
            generated.push(id);
            if generated.len() >= sampling.max_new_tokens {
                break Stop::Length;
            }
            if prompt.len() + generated.len() > limit {
                break Stop::Context;
            }
            new = vec![id];
        };
        let ids = generated;
        Ok(Generated { ids, stop })
    }

    /// Logits of the token that follows `new` ones, [V].
    fn next(&self, new: &[u32], cache: &mut model::Cache) -> Result<Vec<f32>, Error> {
        tch::no_grad(|| {
            let rows = self.decoder.extend(new, cache)?;
            let last = rows.f_narrow(0, new.len() as i64 - 1, 1)?;
            let no_bias: Option<&Tensor> = None;
            let logits = last.f_linear(self.matrix, no_bias)?;
            let logits = logits.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?;
            let logits = Vec::<f32>::try_from(&logits.f_flatten(0, -1)?)?;
            Ok(match self.only {
                Some(only) => keep(&logits, only),
                None => logits,
            })
        })
    }
}

/// Logits of some tokens; those of all others are -∞, so that they are never chosen.
fn keep(logits: &[f32], only: &[u32]) -> Vec<f32> {
    let mut kept = vec![f32::NEG_INFINITY; logits.len()];
    let places = only.iter().map(|&id| id as usize);
    for place in places.filter(|&place| place < logits.len()) {
        kept[place] = logits[place];
    }
    kept
}

impl std::fmt::Debug for Generator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generator(vocabulary {:?})", self.matrix.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chance(top_k: Option<usize>, top_p: f64) -> Sampling {
        Sampling {
            temperature: 0.7,
            top_k,
            top_p,
            ..Sampling::default()
        }
    }

    // Promise: what is drawn follows the probabilities, is a function of the key, and stays among those
    // that top-k and top-p leave.
    #[test]
    fn draws_follow_probabilities() {
        let logits = [1.0f32, 3.0, 2.0, -1.0, 3.0];
        let greedy = Sampling::default();
        assert_eq!(greedy.choose(&logits, 7), 1, "the first of equal ones");
        let shares = |sampling: &Sampling| {
            let mut counts = [0u32; 5];
            for key in 0..20_000 {
                let id = sampling.choose(&logits, key);
                assert_eq!(id, sampling.choose(&logits, key));
                counts[id as usize] += 1;
            }
            counts.map(|count| f64::from(count) / 20_000.0)
        };
        let weights = logits.map(|x| (f64::from(x) / 0.7).exp());
        let sum: f64 = weights.iter().sum();
        for (share, weight) in shares(&chance(None, 1.0)).iter().zip(weights) {
            assert!((share - weight / sum).abs() < 0.01);
        }
        let two = shares(&chance(Some(2), 1.0));
        assert!(
            (two[1] - 0.5).abs() < 0.02 && two[1] + two[4] == 1.0,
            "{two:?}"
        );
        // The first two have 0.86 of the probability; 0.9 needs a third.
        let three = shares(&chance(None, 0.9));
        assert!(three[2] > 0.0 && three[0] + three[3] == 0.0, "{three:?}");
        assert_eq!(shares(&chance(None, 1e-9))[1], 1.0);
    }

    // Promise: where only some tokens may follow no other is chosen, however probable it is and whatever is
    // asked of the choice; among them the probabilities are as before.
    #[test]
    fn only_tokens_that_may_follow_are_chosen() {
        let logits = [1.0f32, 3.0, 2.0, -1.0, 3.0];
        let kept = keep(&logits, &[0, 3, 9]);
        assert_eq!(Sampling::default().choose(&kept, 7), 0);
        for sampling in [chance(None, 1.0), chance(Some(4), 0.99)] {
            let mut counts = [0u32; 5];
            for key in 0..20_000 {
                counts[sampling.choose(&kept, key) as usize] += 1;
            }
            assert_eq!(counts[0] + counts[3], 20_000, "{sampling:?}");
            let share = f64::from(counts[3]) / 20_000.0;
            let expected = 1.0 / (1.0 + (2.0f64 / 0.7).exp());
            assert!((share - expected).abs() < 0.01, "{sampling:?}: {share}");
        }
    }

    // Promise: numbers out of range are named with what they may be.
    #[test]
    fn ranges_are_checked() {
        let said = |sampling: Sampling| sampling.check().unwrap_err().to_string();
        assert!(said(chance(None, 1.5)).contains("top-p is 1.5"));
        assert!(said(chance(None, 0.0)).contains("above 0, at most 1"));
        assert!(said(chance(Some(0), 1.0)).contains("top-k is 0"));
        let cold = Sampling {
            temperature: -1.0,
            ..Sampling::default()
        };
        assert!(said(cold).contains("temperature is -1"));
        let still = Sampling {
            top_p: 0.9,
            ..Sampling::default()
        };
        assert!(said(still).contains("no chance at 0"));
        let none = Sampling {
            max_new_tokens: 0,
            ..Sampling::default()
        };
        assert!(said(none).contains("at least 1"));
        assert!(chance(Some(3), 0.9).check().is_ok());
    }
}
