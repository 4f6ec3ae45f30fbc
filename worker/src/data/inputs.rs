//! Inputs of a split, stored compactly, and their tokens, made once when first wanted.

use super::{Cell, Error, Place, Problem, Tokenizer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// One sample as a backbone takes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Token ids, special tokens included; never empty.
    Tokens(Arc<[u32]>),
    /// The numbers of an image, row-major (channels, height, width); as in the file.
    Numbers(Arc<[f32]>),
}

impl Input {
    /// Predicted cost of computing this sample: tokens for text, 1 for images.
    #[must_use]
    pub fn cost(&self) -> u64 {
        match self {
            Input::Tokens(ids) => ids.len() as u64,
            Input::Numbers(_) => 1,
        }
    }
}

/// The inputs of a split.
#[derive(Debug)]
pub enum Inputs {
    /// Texts.
    Text(Texts),
    /// Images, each of the same number of numbers.
    Image(Images),
}

impl Inputs {
    /// Samples held.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Inputs::Text(texts) => texts.ends.len(),
            Inputs::Image(images) => images.rows,
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
    tokenizer: Arc<Tokenizer>,
    tokens: Vec<OnceLock<Arc<[u32]>>>,
    cut: AtomicU64,
}

impl Texts {
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            arena: String::new(),
            ends: Vec::new(),
            tokenizer,
            tokens: Vec::new(),
            cut: AtomicU64::new(0),
        }
    }

    pub(super) fn push(&mut self, cell: Cell, column: &str, place: &Place) -> Result<(), Error> {
        let text = match cell {
            Cell::Text(text) | Cell::Raw(text) => text,
            other => return Err(place.error(mismatch(column, "a text", &other))),
        };
        self.arena.push_str(&text);
        self.ends.push(self.arena.len());
        Ok(())
    }

    /// Frees what reading reserved too much, and makes room for tokens.
    pub(super) fn finish(&mut self) {
        self.arena.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.tokens = (0..self.ends.len()).map(|_| OnceLock::new()).collect();
    }

    /// The text of sample `index`; empty beyond the last.
    #[must_use]
    pub fn text(&self, index: usize) -> &str {
        let start = match index.checked_sub(1) {
            Some(before) => self.ends.get(before).copied(),
            None => Some(0),
        };
        match (start, self.ends.get(index)) {
            (Some(start), Some(end)) => &self.arena[start..*end],
            _ => "",
        }
    }

    /// Token ids of sample `index`, tokenised when first wanted. Threads may call this at once.
    ///
    /// # Errors
    /// The problem of a text that has no tokens or that the tokenizer rejects.
    pub fn tokens(&self, index: usize) -> Result<Arc<[u32]>, Problem> {
        if let Some(ids) = self.tokens.get(index).and_then(OnceLock::get) {
            return Ok(ids.clone());
        }
        let encoded = self.tokenizer.encode(self.text(index))?;
        let mut first = false;
        let ids = match self.tokens.get(index) {
            Some(slot) => slot
                .get_or_init(|| {
                    first = true;
                    encoded.ids.into()
                })
                .clone(),
            None => encoded.ids.into(),
        };
        if first && encoded.cut {
            self.cut.fetch_add(1, Ordering::Relaxed);
        }
        Ok(ids)
    }

    /// How many of the samples tokenised so far were longer than the token limit and were cut.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }
}

/// Images in one buffer.
#[derive(Debug)]
pub struct Images {
    values: Vec<f32>,
    numbers: usize,
    rows: usize,
}

impl Images {
    pub(super) fn new(numbers: usize) -> Self {
        Self {
            values: Vec::new(),
            numbers,
            rows: 0,
        }
    }

    pub(super) fn push(&mut self, cell: Cell, column: &str, place: &Place) -> Result<(), Error> {
        let before = self.values.len();
        let cell = cell.unpacked();
        if !matches!(cell, Cell::List(_)) {
            return Err(place.error(mismatch(column, "a list of numbers", &cell)));
        }
        flatten(&cell, column, &mut self.values).map_err(|problem| place.error(problem))?;
        let found = self.values.len() - before;
        if found != self.numbers {
            let (column, expected) = (column.to_owned(), self.numbers);
            return Err(place.error(Problem::ImageSize {
                column,
                expected,
                found,
            }));
        }
        self.rows += 1;
        Ok(())
    }

    /// The numbers of image `index`; empty beyond the last.
    #[must_use]
    pub fn numbers(&self, index: usize) -> &[f32] {
        let start = index.saturating_mul(self.numbers);
        self.values
            .get(start..start.saturating_add(self.numbers))
            .unwrap_or_default()
    }
}

/// Appends the numbers of a list, or of lists in lists, in order.
fn flatten(cell: &Cell, column: &str, values: &mut Vec<f32>) -> Result<(), Problem> {
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
