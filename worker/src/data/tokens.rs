//! Text to token ids, after the `tokenizer.json` of a Hugging Face directory.

use super::{Error, Input, NO_TOKEN, Passage, Problem};
use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
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
    /// Whether the space before a word is a part of its tokens, and not made where it is missing.
    spaced: bool,
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
        let spaced = inner.get_pre_tokenizer().is_some_and(keeps_spaces);
        Ok(Self {
            inner,
            file,
            max_tokens,
            vocabulary,
            end: Vec::new(),
            spaced,
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

    /// Token ids of a text that comes as words, and where each word begins. Byte-level tokenizers read each
    /// with a space before it, as it stands in a text, or all would be one word.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_words(&self, words: &[&str]) -> Result<Encoded, Problem> {
        let spaced: Vec<Cow<'_, str>> = words.iter().map(|word| self.spaced(word)).collect();
        let encoding = self
            .inner
            .encode(InputSequence::from(spaced), true)
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

    /// A word as it stands in a text. Not by `add_prefix_space` of the byte-level step: where another step
    /// has cut a word into pieces before (Llama 3), each piece would get a space.
    fn spaced<'w>(&self, word: &'w str) -> Cow<'w, str> {
        let is_bare = word.is_empty() || word.starts_with(' ');
        let added = self.inner.get_added_vocabulary().get_vocab();
        if !self.spaced || is_bare || added.contains_key(word) {
            return Cow::Borrowed(word);
        }
        Cow::Owned(format!(" {word}"))
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

/// Whether spaces are bytes like others, and none is put before a text.
fn keeps_spaces(step: &PreTokenizerWrapper) -> bool {
    match step {
        PreTokenizerWrapper::ByteLevel(bytes) => !bytes.add_prefix_space,
        PreTokenizerWrapper::Sequence(steps) => steps.as_ref().iter().any(keeps_spaces),
        _ => false,
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A byte-level tokenizer of a few tokens.
    fn byte_level(step: Value) -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        let content = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{"id": 6, "content": "<m>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": step, "post_processor": null, "decoder": null,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": {"Ġ": 0, "a": 1, "b": 2, "Ġa": 3, "ab": 4, "Ġb": 5},
                "merges": ["Ġ a", "Ġ b", "a b"],
            },
        });
        fs::write(dir.path().join("tokenizer.json"), content.to_string()).unwrap();
        Tokenizer::load(dir.path(), 16).unwrap()
    }

    fn step(add_prefix_space: bool, use_regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true,
               "use_regex": use_regex})
    }

    // Promise: a byte-level tokenizer reads words as they stand in a text, each with its space, once; empty
    // words and special tokens get none.
    #[test]
    fn words_have_their_spaces() {
        let bare = byte_level(step(false, true));
        assert_eq!(bare.encode("ab a b").unwrap().ids, [4, 3, 5]);
        let found = bare.encode_words(&["ab", "a", "b", "", "<m>"]).unwrap();
        assert_eq!(found.ids, [3, 2, 3, 5, 6]);
        assert_eq!(found.first.unwrap(), [0, 2, 3, NO_TOKEN, 4]);
        let spacing = byte_level(step(true, true));
        let found = spacing.encode_words(&["ab", "a", "b"]).unwrap();
        assert_eq!(found.ids, [3, 2, 3, 5]);
    }

    // Promise: pieces of a word that another step cuts get no space of their own.
    #[test]
    fn pieces_of_words_have_no_spaces() {
        let cut = json!({"type": "Split", "pattern": {"Regex": " ?[a-z]"}, "behavior": "Isolated",
                         "invert": false});
        let steps = json!({"type": "Sequence", "pretokenizers": [cut, step(false, false)]});
        let found = byte_level(steps).encode_words(&["ab", "b"]).unwrap();
        assert_eq!(found.ids, [3, 2, 5]);
        assert_eq!(found.first.unwrap(), [0, 2]);
    }
}
