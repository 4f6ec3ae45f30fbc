//! Inputs of a split, stored compactly, and their tokens, made once when first wanted.

use super::media::Images;
use super::{Cell, Error, Features, Passage, Place, Problem, Stream, Tokenizer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Stands for the first token of a word that has none.
pub const NO_TOKEN: u32 = u32::MAX;

/// One sample as a backbone takes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Token ids, special tokens included; never empty.
    Tokens(Arc<[u32]>),
    /// A text that came as words: its token ids, and the first token of every word, [`NO_TOKEN`] for
    /// a word that has none or lies beyond the token limit.
    Words {
        /// Token ids, special tokens included.
        ids: Arc<[u32]>,
        /// Place in `ids` of each word's first token.
        first: Arc<[u32]>,
    },
    /// Two texts, one after the other with the model's separators.
    Pair {
        /// Token ids, special tokens included.
        ids: Arc<[u32]>,
        /// Place in `ids` of the second text's first token.
        second: u32,
    },
    /// A question with the context that its answer is searched in.
    Passage {
        /// Token ids, those of the pair of both.
        ids: Arc<[u32]>,
        /// Where an answer may stand.
        passage: Arc<Passage>,
    },
    /// A window of a stream of tokens, and the token behind it.
    Window {
        /// Token ids; never empty.
        ids: Arc<[u32]>,
        /// The token behind the last one; [`NO_TOKEN`] if there is none.
        next: u32,
    },
    /// The numbers of an image or a spectrogram, row-major (channels, height, width), as the backbone
    /// takes them; or the features that it made of a sample before.
    Numbers(Arc<[f32]>),
    /// One of the others, and what the frozen lowest blocks of the backbone made of it before.
    Begun {
        /// What the backbone would read.
        input: Arc<Input>,
        /// What its lowest blocks made of it.
        begun: Begun,
    },
}

/// Where to find what blocks made of a sample: a row of the features of all.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Rows of all samples of a split.
    pub rows: Arc<Features>,
    /// This sample's.
    pub index: usize,
}

impl PartialEq for Begun {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rows, &other.rows) && self.index == other.index
    }
}

impl Input {
    /// Predicted cost of computing this sample: tokens for text, 1 for images.
    #[must_use]
    pub fn cost(&self) -> u64 {
        self.ids().map_or(1, |ids| ids.len() as u64)
    }

    /// What the backbone reads.
    #[must_use]
    pub fn read(&self) -> &Input {
        match self {
            Input::Begun { input, .. } => input.read(),
            other => other,
        }
    }

    /// What blocks made of it before, if they did.
    #[must_use]
    pub fn begun(&self) -> Option<&Begun> {
        match self {
            Input::Begun { begun, .. } => Some(begun),
            _ => None,
        }
    }

    /// Its token ids; none for images.
    #[must_use]
    pub fn ids(&self) -> Option<&Arc<[u32]>> {
        match self {
            Input::Tokens(ids)
            | Input::Words { ids, .. }
            | Input::Pair { ids, .. }
            | Input::Passage { ids, .. }
            | Input::Window { ids, .. } => Some(ids),
            Input::Numbers(_) => None,
            Input::Begun { input, .. } => input.ids(),
        }
    }

    /// The token that follows each of its tokens; none after the last one, unless it is a window with a
    /// token behind it.
    pub fn following(&self) -> impl Iterator<Item = u32> + '_ {
        let ids = self.ids().map_or(&[][..], |ids| &ids[1.min(ids.len())..]);
        let behind = match self.read() {
            Input::Window { next, .. } if *next != NO_TOKEN => Some(*next),
            _ => None,
        };
        ids.iter().copied().chain(behind)
    }

    /// Whether it is a text in words.
    #[must_use]
    pub fn is_words(&self) -> bool {
        matches!(self.read(), Input::Words { .. })
    }

    /// Where the second text of a pair begins.
    #[must_use]
    pub fn second(&self) -> Option<u32> {
        match self.read() {
            Input::Pair { second, .. } => Some(*second),
            Input::Passage { passage, .. } => passage.second,
            _ => None,
        }
    }

    /// Where an answer may stand; none for what is no question with a context.
    #[must_use]
    pub fn passage(&self) -> Option<&Passage> {
        match self.read() {
            Input::Passage { passage, .. } => Some(passage),
            _ => None,
        }
    }

    /// The first token of every word; of a question with a context, the tokens between which the answer is
    /// searched; empty for what is neither.
    #[must_use]
    pub fn first(&self) -> &[u32] {
        match self.read() {
            Input::Words { first, .. } => first,
            Input::Passage { passage, .. } => &passage.tokens,
            _ => &[],
        }
    }
}

/// The inputs of a split.
#[derive(Debug)]
pub enum Inputs {
    /// Texts.
    Text(Texts),
    /// Images or spectrograms, each of the same number of numbers.
    Image(Images),
    /// What a frozen backbone made of them.
    Features(Arc<Features>),
    /// Texts in one stream.
    Stream(Stream),
}

impl Inputs {
    /// Samples held.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Inputs::Text(texts) => texts.ends.len(),
            Inputs::Image(images) => images.len(),
            Inputs::Features(features) => features.len(),
            Inputs::Stream(stream) => stream.len(),
        }
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Texts in one buffer, and the tokens of those that were wanted so far. A million short texts take
/// one allocation, plus one for each text's tokens.
#[derive(Debug)]
pub struct Texts {
    arena: String,
    ends: Vec<usize>,
    /// Where texts are lists of words: the end of each word in `arena`, and of each text's words.
    words: Option<Words>,
    /// The second texts of pairs, one after another; empty if there are none.
    second: String,
    second_ends: Vec<usize>,
    /// Where second texts are searched for answers: the characters of each one's first answer.
    answers: Option<Vec<Option<[u32; 2]>>>,
    tokenizer: Arc<Tokenizer>,
    tokens: Vec<OnceLock<Input>>,
    cut: AtomicU64,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Words {
    ends: Vec<usize>,
    texts: Vec<usize>,
}

impl Texts {
    /// No texts yet; with `words` every one must be a list of words, else the first one decides.
    pub(super) fn new(tokenizer: Arc<Tokenizer>, words: bool) -> Self {
        Self {
            arena: String::new(),
            ends: Vec::new(),
            words: words.then(Words::default),
            second: String::new(),
            second_ends: Vec::new(),
            answers: None,
            tokenizer,
            tokens: Vec::new(),
            cut: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// The same for questions and contexts that are searched for their answers.
    pub(super) fn searched(self) -> Self {
        let answers = Some(Vec::new());
        Self { answers, ..self }
    }

    pub(super) fn push(&mut self, cell: Cell, column: &str, place: &Place) -> Result<(), Error> {
        let cell = match &self.words {
            Some(_) => cell.unpacked(),
            None => cell,
        };
        if self.ends.is_empty() && matches!(cell, Cell::List(_)) {
            self.words.get_or_insert_default();
        }
        match (&mut self.words, cell) {
            (None, Cell::Text(text) | Cell::Raw(text)) => self.arena.push_str(&text),
            (None, other) => return Err(place.error(mismatch(column, "a text", &other))),
            (Some(words), Cell::List(cells)) if !cells.is_empty() => {
                for (index, cell) in cells.into_iter().enumerate() {
                    let (Cell::Text(word) | Cell::Raw(word)) = cell else {
                        return Err(place.error(mismatch(column, "a list of words", &cell)));
                    };
                    if index > 0 {
                        self.arena.push(' ');
                    }
                    self.arena.push_str(&word);
                    words.ends.push(self.arena.len());
                }
                words.texts.push(words.ends.len());
            }
            (Some(_), other) => {
                let expected = "a list of one word or more, such as [\"a\", \"b\"]";
                return Err(place.error(mismatch(column, expected, &other)));
            }
        }
        self.ends.push(self.arena.len());
        Ok(())
    }

    /// Whether a text becomes no tokens, alone or with a second one: an empty one, where the tokenizer adds none
    /// of its own. Only what shows nothing is tokenised for that, so that reading stays quick.
    pub(super) fn lacks_tokens(&self, cell: &Cell, second: Option<&Cell>) -> bool {
        let encoded = match (cell, second) {
            (Cell::List(words), None) if !words.is_empty() => {
                let words: Option<Vec<&str>> = words.iter().map(blank).collect();
                words.map(|words| self.tokenizer.encode_words(&words))
            }
            (text, None) if self.words.is_none() => {
                blank(text).map(|text| self.tokenizer.encode(text))
            }
            (_, None) => None,
            (first, Some(second)) => {
                let both = blank(first).zip(blank(second));
                both.map(|(first, second)| self.tokenizer.encode_pair(first, second))
            }
        };
        matches!(encoded, Some(Err(Problem::NoTokens)))
    }

    /// Adds the second text of the last one.
    pub(super) fn push_second(
        &mut self,
        cell: Cell,
        column: &str,
        place: &Place,
    ) -> Result<(), Error> {
        if self.words.is_some() {
            let found = Cell::Other("a list of words in the first one".to_owned());
            return Err(place.error(mismatch(column, "two texts", &found)));
        }
        match cell {
            Cell::Text(text) | Cell::Raw(text) => self.second.push_str(&text),
            other => return Err(place.error(mismatch(column, "a text", &other))),
        }
        self.second_ends.push(self.second.len());
        Ok(())
    }

    /// Says at which characters of its second text the answer to learn of the last pair stands.
    pub(super) fn push_answer(&mut self, characters: Option<[u32; 2]>) {
        self.answers.get_or_insert_default().push(characters);
    }

    /// Whether texts came as words.
    pub(super) fn has_words(&self) -> bool {
        self.words.is_some()
    }

    /// Words of text `index`, as they came; none if texts did not come as words.
    #[must_use]
    pub fn words(&self, index: usize) -> Option<Vec<&str>> {
        let words = self.words.as_ref()?;
        let end = *words.texts.get(index)?;
        let (first, mut start) = match index.checked_sub(1) {
            Some(before) => (words.texts[before], self.ends[before]),
            None => (0, 0),
        };
        let mut all = Vec::with_capacity(end - first);
        for &end in &words.ends[first..end] {
            all.push(&self.arena[start..end]);
            // A space stands between words.
            start = end + 1;
        }
        Some(all)
    }

    /// Frees what reading reserved too much, and makes room for tokens.
    pub(super) fn finish(&mut self) {
        self.arena.shrink_to_fit();
        self.second.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.tokens = (0..self.ends.len()).map(|_| OnceLock::new()).collect();
    }

    /// The text of sample `index`; empty beyond the last.
    #[must_use]
    pub fn text(&self, index: usize) -> &str {
        part(&self.arena, &self.ends, index).unwrap_or_default()
    }

    /// The second text of pair `index`; none if texts are no pairs.
    #[must_use]
    pub fn second(&self, index: usize) -> Option<&str> {
        part(&self.second, &self.second_ends, index)
    }

    /// Tokens of sample `index`, tokenised when first wanted. Threads may call this at once.
    ///
    /// # Errors
    /// The problem of a text that has no tokens or that the tokenizer rejects.
    pub fn tokens(&self, index: usize) -> Result<Input, Problem> {
        if let Some(input) = self.tokens.get(index).and_then(OnceLock::get) {
            return Ok(input.clone());
        }
        let answers = self.answers.as_ref();
        let answer = answers.map(|all| all.get(index).copied().flatten());
        let encoded = match (self.words(index), self.second(index)) {
            (Some(words), _) => self.tokenizer.encode_words(&words)?,
            (None, Some(second)) => match answer {
                Some(answer) => {
                    let question = self.text(index);
                    self.tokenizer.encode_passage(question, second, answer)?
                }
                None => self.tokenizer.encode_pair(self.text(index), second)?,
            },
            (None, None) => self.tokenizer.encode(self.text(index))?,
        };
        let cut = encoded.cut;
        let has_answer = answer.flatten().is_some();
        let passage = encoded.passage.as_ref();
        let lost = has_answer && passage.is_some_and(|passage| passage.target == [0, 0]);
        let mut is_first = false;
        let input = match self.tokens.get(index) {
            Some(slot) => slot
                .get_or_init(|| {
                    is_first = true;
                    encoded.into()
                })
                .clone(),
            None => encoded.into(),
        };
        if is_first && cut {
            self.cut.fetch_add(1, Ordering::Relaxed);
        }
        if is_first && lost {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(input)
    }

    /// Tokens of sample `index` together with a second text; they are not kept.
    ///
    /// # Errors
    /// As [`Texts::tokens`].
    pub fn paired(&self, index: usize, second: &str) -> Result<Input, Problem> {
        Ok(self.tokenizer.encode_pair(self.text(index), second)?.into())
    }

    /// How many of the samples tokenised so far were longer than the token limit and were cut.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// How many answers of the samples tokenised so far are beyond the token limit: they are learned as if
    /// there were none.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// A text of nothing but white space; none if there is more, or it is no text.
fn blank(cell: &Cell) -> Option<&str> {
    match cell {
        Cell::Text(text) | Cell::Raw(text) => Some(text.as_str()).filter(|t| t.trim().is_empty()),
        _ => None,
    }
}

/// The part of `arena` between the end before and its own.
fn part<'a>(arena: &'a str, ends: &[usize], index: usize) -> Option<&'a str> {
    let start = match index.checked_sub(1) {
        Some(before) => *ends.get(before)?,
        None => 0,
    };
    arena.get(start..*ends.get(index)?)
}

/// Appends the numbers of a list, or of lists in lists, in order.
pub(super) fn flatten(cell: &Cell, column: &str, values: &mut Vec<f32>) -> Result<(), Problem> {
    match cell {
        Cell::List(cells) => cells
            .iter()
            .try_for_each(|cell| flatten(cell, column, values)),
        other => {
            values.push(number(other, column)?);
            Ok(())
        }
    }
}

/// A cell as a finite number.
pub(super) fn number(cell: &Cell, column: &str) -> Result<f32, Problem> {
    let wide = match cell {
        #[expect(
            clippy::cast_precision_loss,
            reason = "targets and pixels are 32-bit anyway"
        )]
        Cell::Int(number) => *number as f64,
        Cell::Float(number) => *number,
        Cell::Bool(value) => f64::from(u8::from(*value)),
        Cell::Raw(text) => match text.trim().parse::<f64>() {
            Ok(number) => number,
            Err(_) => return Err(mismatch(column, "a number", cell)),
        },
        _ => return Err(mismatch(column, "a number", cell)),
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "overflow becomes infinite: caught below"
    )]
    let narrow = wide as f32;
    if narrow.is_finite() {
        Ok(narrow)
    } else {
        Err(Problem::NotFinite {
            column: column.to_owned(),
            found: wide,
        })
    }
}

/// The problem that `found` isn't `expected`.
pub(super) fn mismatch(column: &str, expected: &str, found: &Cell) -> Problem {
    let column = column.to_owned();
    match found {
        Cell::Null => Problem::Null { column },
        Cell::Raw(text) if text.is_empty() => Problem::Null { column },
        other => Problem::Type {
            column,
            expected: expected.to_owned(),
            found: other.describe(),
        },
    }
}
