//! Text to token ids, after the `tokenizer.json` of a Hugging Face directory.

use super::{Error, Input, NO_TOKEN, Passage, Problem};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::{
    EncodeInput, Encoding, InputSequence, TruncationDirection, TruncationParams, TruncationStrategy,
};

/// A backbone's tokenizer with the job's token limit. Threads may share it.
///
/// Padding and truncation settings inside `tokenizer.json` don't apply: samples are never padded,
/// and the limit is the job's.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    max_tokens: usize,
    vocabulary: u32,
    end: Vec<u32>,
}

/// A tokenised text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids with the special tokens around them; at least one, at most the limit.
    pub ids: Vec<u32>,
    /// Of words: the place of each word's first token, [`NO_TOKEN`] where there is none.
    pub first: Option<Vec<u32>>,
    /// Of a pair: the place of the second text's first token, where the model tells them apart.
    pub second: Option<u32>,
    /// Of a question with its context: where answers may stand.
    pub passage: Option<Passage>,
    /// Whether the text was longer than the limit and was cut.
    pub cut: bool,
}

impl From<Encoded> for Input {
    fn from(encoded: Encoded) -> Self {
        let ids = encoded.ids.into();
        if let Some(passage) = encoded.passage {
            let passage = Arc::new(passage);
            return Input::Passage { ids, passage };
        }
        match (encoded.first, encoded.second) {
            (Some(first), _) => Input::Words {
                ids,
                first: first.into(),
            },
            (None, Some(second)) => Input::Pair { ids, second },
            (None, None) => Input::Tokens(ids),
        }
    }
}

impl Tokenizer {
    /// Loads `tokenizer.json` of the directory `dir`. Longer texts are cut at the end to
    /// `max_tokens`, special tokens included.
    ///
    /// # Errors
    /// The file is missing, unreadable or no tokenizer; the limit leaves no room for a token
    /// besides the special ones.
    pub fn load(dir: &Path, max_tokens: u32) -> Result<Self, Error> {
        let file = dir.join("tokenizer.json");
        let bytes = fs::read(&file).map_err(|cause| match cause.kind() {
            ErrorKind::NotFound => Error::TokenizerMissing { file: file.clone() },
            _ => Error::Read {
                file: file.clone(),
                cause,
            },
        })?;
        let unusable = |message: String| Error::Tokenizer {
            file: file.clone(),
            message,
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| unusable(error.to_string()))?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| unusable(error.to_string()))?;

        let specials = inner
            .encode_fast("", true)
            .map_err(|error| unusable(format!("it cannot encode an empty text: {error}")))?
            .len();
        let max_tokens = max_tokens as usize;
        if max_tokens <= specials {
            let message = format!(
                "max_tokens is {max_tokens}, but {specials} special tokens are added to every text; \
                 expected a limit of at least {}",
                specials + 1
            );
            return Err(unusable(message));
        }
        let truncation = TruncationParams {
            direction: TruncationDirection::Right,
            max_length: max_tokens,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        inner
            .with_truncation(Some(truncation))
            .map_err(|error| unusable(error.to_string()))?;
        let vocabulary = inner
            .get_vocab(true)
            .values()
            .max()
            .map_or(0, |id| id.saturating_add(1));
        Ok(Self {
            inner,
            file,
            max_tokens,
            vocabulary,
            end: Vec::new(),
        })
    }

    /// The same for a model whose texts end with one of these tokens.
    #[must_use]
    pub fn ending_with(mut self, end: Vec<u32>) -> Self {
        self.end = end;
        self
    }

    /// The tokens that end a text; empty if the model names none.
    #[must_use]
    pub fn end_tokens(&self) -> &[u32] {
        &self.end
    }

    /// Token ids of `text`.
    ///
    /// # Errors
    /// [`Problem::NoTokens`] if nothing is left of the text, [`Problem::Tokenise`] if the
    /// tokenizer rejects it.
    pub fn encode(&self, text: &str) -> Result<Encoded, Problem> {
        self.encode_input(text.into())
    }

    /// Token ids of two texts, the longer of which is cut first.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<Encoded, Problem> {
        self.encode_input((first, second).into())
    }

    fn encode_input(&self, input: EncodeInput<'_>) -> Result<Encoded, Problem> {
        let encoding = self
            .inner
            .encode_fast(input, true)
            .map_err(|error| Problem::Tokenise {
                message: error.to_string(),
            })?;
        encoded(&encoding)
    }

    /// Token ids of a question and its context, as those of any pair, with the context's characters. The
    /// answer to learn stands at characters `answer` of the context; what is cut off becomes none.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_passage(
        &self,
        question: &str,
        context: &str,
        answer: Option<[u32; 2]>,
    ) -> Result<Encoded, Problem> {
        let encoding = self
            .inner
            .encode_char_offsets((question, context), true)
            .map_err(|error| Problem::Tokenise {
                message: error.to_string(),
            })?;
        let mut encoded = encoded(&encoding)?;
        let (mut tokens, mut characters) = (vec![0], vec![[0, 0]]);
        let places = (0..)
            .zip(encoding.get_sequence_ids())
            .zip(encoding.get_offsets());
        for ((token, sequence), &(start, end)) in places {
            if sequence == Some(1) {
                let number = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
                tokens.push(token);
                characters.push([number(start), number(end)]);
            }
        }
        let mut passage = Passage {
            tokens,
            characters,
            second: encoded.second,
            target: [0, 0],
            context: None,
        };
        passage.target = answer
            .and_then(|answer| passage.places(answer))
            .unwrap_or_default();
        encoded.passage = Some(passage);
        Ok(encoded)
    }

    /// All token ids of a text without special tokens, whatever the limit; none for an empty one.
    ///
    /// # Errors
    /// [`Problem::Tokenise`] if the tokenizer rejects it.
    pub fn encode_all(&self, text: &str) -> Result<Vec<u32>, Problem> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| Problem::Tokenise {
                message: error.to_string(),
            })?;
        let mut ids = encoding.get_ids().to_vec();
        // What is beyond the limit comes in further parts.
        for part in encoding.get_overflowing() {
            ids.extend_from_slice(part.get_ids());
        }
        Ok(ids)
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// [`Problem::Tokenise`] if the tokenizer rejects them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Problem> {
        let decoded = self.inner.decode(ids, true);
        decoded.map_err(|error| Problem::Tokenise {
            message: error.to_string(),
        })
    }

    /// Token ids of a text that comes as words, and where each word begins.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_words(&self, words: &[&str]) -> Result<Encoded, Problem> {
        let encoding = self
            .inner
            .encode(InputSequence::from(words), true)
            .map_err(|error| Problem::Tokenise {
                message: error.to_string(),
            })?;
        if encoding.is_empty() {
            return Err(Problem::NoTokens);
        }
        let mut first = vec![NO_TOKEN; words.len()];
        for (token, word) in (0..).zip(encoding.get_word_ids()) {
            let place = word.and_then(|word| first.get_mut(word as usize));
            if let Some(place) = place.filter(|place| **place == NO_TOKEN) {
                *place = token;
            }
        }
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            first: Some(first),
            second: None,
            passage: None,
            cut: !encoding.get_overflowing().is_empty(),
        })
    }

    /// The tokens whose text, as `tokenizer.json` has it, begins with `prefix`; ascending.
    #[must_use]
    pub fn beginning_with(&self, prefix: &str) -> Vec<u32> {
        let all = self.inner.get_vocab(true).into_iter();
        let found = all.filter(|(token, _)| token.starts_with(prefix));
        let mut ids: Vec<u32> = found.map(|(_, id)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// One more than the largest token id: a model with fewer embedding rows can't be used with
    /// this tokenizer.
    #[must_use]
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The limit in tokens, special tokens included.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The `tokenizer.json` that this was loaded from.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// What a tokenizer made of a text or two.
fn encoded(encoding: &Encoding) -> Result<Encoded, Problem> {
    if encoding.is_empty() {
        return Err(Problem::NoTokens);
    }
    let mut types = (0..).zip(encoding.get_type_ids());
    let second = types.find(|(_, kind)| **kind == 1);
    Ok(Encoded {
        ids: encoding.get_ids().to_vec(),
        first: None,
        second: second.map(|(place, _)| place),
        passage: None,
        cut: !encoding.get_overflowing().is_empty(),
    })
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("file", &self.file)
            .field("max_tokens", &self.max_tokens)
            .field("vocabulary", &self.vocabulary)
            .finish_non_exhaustive()
    }
}
