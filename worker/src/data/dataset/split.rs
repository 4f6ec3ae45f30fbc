//! One split of a task: its samples in the order of the files.

use crate::data::inputs::Texts;
use crate::data::mix::mix;
use crate::data::{Begun, Error, Features, Input, Inputs, Labels, Place, Problem};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// One split: inputs and targets of the same length, never empty.
#[derive(Clone, Debug)]
pub struct Split {
    /// Inputs.
    pub inputs: Arc<Inputs>,
    /// Targets.
    pub labels: Labels,
    pub(super) name: &'static str,
    pub(super) task: String,
    pub(super) skipped: u64,
    pub(super) unlabelled: u64,
    pub(super) origins: Vec<Origin>,
    /// Which of the inputs the samples are, where not all were kept.
    pub(super) kept: Option<Arc<[u32]>>,
    /// What the lowest blocks of the backbone made of every sample, if they did.
    pub(super) begun: Option<Arc<Features>>,
    /// Samples without a label, ascending.
    pub(super) missing: Arc<[u32]>,
    /// Texts that samples are ranked with: a list for each kind.
    pub(super) partners: Arc<[Texts]>,
}

/// Where a run of samples comes from: a file's rows one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) file: Arc<PathBuf>,
    /// The file's number among those of the split.
    pub(super) number: usize,
    /// Number of the run's first sample in the split.
    pub(super) first: usize,
    /// Its row in the file.
    pub(super) row: u64,
}

impl Split {
    /// Samples held; at most 2^32 - 1.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no sample; never true for a split that was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The input of sample `index`; text is tokenised when first wanted.
    ///
    /// # Errors
    /// Task, split, file and row of a text that can't become tokens.
    pub fn input(&self, index: usize) -> Result<Input, Error> {
        let input = match self.inputs.as_ref() {
            Inputs::Text(texts) => texts
                .tokens(self.row(index))
                .map_err(|problem| self.problem(index, problem))?,
            Inputs::Image(images) => Input::Numbers(images.numbers(self.row(index))),
            Inputs::Stream(stream) => stream.window(index, None),
            Inputs::Features(features) => Input::Numbers(features.row(index)?),
        };
        Ok(match &self.begun {
            Some(rows) => Input::Begun {
                input: Arc::new(input),
                begun: Begun {
                    rows: Arc::clone(rows),
                    index,
                },
            },
            None => input,
        })
    }

    /// Whether the samples are those of `other`, in its order: all rows that were read of the same files, as words or
    /// not.
    #[must_use]
    pub fn is_same_inputs(&self, other: &Split) -> bool {
        let is_whole = |split: &Split| split.kept.is_none();
        let kind = |split: &Split| (split.len(), split.has_words(), split.begun.is_some());
        is_whole(self)
            && is_whole(other)
            && kind(self) == kind(other)
            && self.origins == other.origins
    }

    /// The text of sample `index` together with a second one.
    ///
    /// # Errors
    /// As [`Split::input`].
    pub fn paired(&self, index: usize, second: &str) -> Result<Input, Error> {
        match self.inputs.as_ref() {
            Inputs::Text(texts) => texts
                .paired(self.row(index), second)
                .map_err(|problem| self.problem(index, problem)),
            // What is no text was refused before.
            Inputs::Image(_) | Inputs::Stream(_) | Inputs::Features(_) => self.input(index),
        }
    }

    /// The input of sample `index` in a pass over the data: windows of a stream begin where the pass's
    /// key says.
    ///
    /// # Errors
    /// As [`Split::input`].
    pub fn drawn(&self, index: usize, pass: u64) -> Result<Input, Error> {
        match self.inputs.as_ref() {
            Inputs::Stream(stream) => Ok(stream.window(index, Some(pass))),
            _ => self.input(index),
        }
    }

    /// The number of sample `index` among the inputs that were read.
    pub(super) fn row(&self, index: usize) -> usize {
        let kept = self.kept.as_ref().and_then(|kept| kept.get(index));
        kept.map_or(index, |row| *row as usize)
    }

    /// Keeps `most` samples of each class, drawn by a key, in their order; all of a class that has
    /// fewer.
    pub(super) fn thin(&mut self, most: usize, key: u64) {
        let Labels::Single(classes) = &self.labels else {
            return;
        };
        let mut drawn: Vec<(u64, u32)> = (0..classes.len() as u32)
            .map(|row| (mix(key ^ mix(u64::from(row))), row))
            .collect();
        drawn.sort_unstable();
        let mut left: BTreeMap<u32, usize> = BTreeMap::new();
        drawn.retain(|(_, row)| {
            let count = left.entry(classes[*row as usize]).or_default();
            *count += 1;
            *count <= most
        });
        let mut rows: Vec<u32> = drawn.into_iter().map(|(_, row)| row).collect();
        rows.sort_unstable();
        self.labels = Labels::Single(rows.iter().map(|row| classes[*row as usize]).collect());
        self.kept = Some(rows.into());
    }

    /// Predicted cost of sample `index`: tokens for text, 1 for images and sounds.
    ///
    /// # Errors
    /// As [`Split::input`].
    pub fn cost(&self, index: usize) -> Result<u64, Error> {
        match self.inputs.as_ref() {
            Inputs::Text(_) => Ok(self.input(index)?.cost()),
            Inputs::Stream(stream) => Ok(stream.cost(index)),
            Inputs::Image(_) | Inputs::Features(_) => Ok(1),
        }
    }

    /// How many samples were longer than the backbone takes and were cut: of texts, those tokenised
    /// so far.
    #[must_use]
    pub fn cut(&self) -> u64 {
        let partners = self.partners.iter().map(Texts::cut).sum::<u64>();
        let own = match self.inputs.as_ref() {
            Inputs::Text(texts) => texts.cut(),
            Inputs::Image(images) => images.cut(),
            Inputs::Features(_) | Inputs::Stream(_) => 0,
        };
        own + partners
    }

    /// How many answers of the samples tokenised so far are beyond the token limit: they are learned as if
    /// there were none.
    #[must_use]
    pub fn lost(&self) -> u64 {
        match self.inputs.as_ref() {
            Inputs::Text(texts) => texts.lost(),
            Inputs::Image(_) | Inputs::Features(_) | Inputs::Stream(_) => 0,
        }
    }

    /// The second text of sample `index`, which an answer is searched in; none if texts are no pairs.
    #[must_use]
    pub fn context(&self, index: usize) -> Option<&str> {
        match self.inputs.as_ref() {
            Inputs::Text(texts) => texts.second(self.row(index)),
            Inputs::Image(_) | Inputs::Features(_) | Inputs::Stream(_) => None,
        }
    }

    /// Whether its texts came as lists of words.
    pub(super) fn has_words(&self) -> bool {
        match self.inputs.as_ref() {
            Inputs::Text(texts) => texts.has_words(),
            Inputs::Image(_) | Inputs::Features(_) | Inputs::Stream(_) => false,
        }
    }

    /// `train`, `validation`, `test` or `target`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many rows could not be decoded, or have a label of no use: they were left out, or, where tasks
    /// share their inputs, stayed for the others without it.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// How many rows had no label: they were left out, or, where tasks share their inputs, stayed for
    /// the others. Rows that stayed because their label is of no use are among those skipped.
    #[must_use]
    pub fn unlabelled(&self) -> u64 {
        self.unlabelled
    }

    /// Whether sample `index` has a label.
    #[must_use]
    pub fn has_label(&self, index: usize) -> bool {
        self.is_labelled() || self.missing.binary_search(&(index as u32)).is_err()
    }

    /// Whether every sample has a label.
    #[must_use]
    pub fn is_labelled(&self) -> bool {
        self.missing.is_empty()
    }

    /// The samples that have a label, ascending.
    pub fn labelled(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(|index| self.has_label(*index))
    }

    /// The file and data row of sample `index`.
    #[must_use]
    pub fn place(&self, index: usize) -> Option<Place> {
        let index = self.row(index);
        let origin = self
            .origins
            .iter()
            .rev()
            .find(|origin| origin.first <= index)?;
        let row = (index - origin.first) as u64 + origin.row;
        Some(Place {
            file: origin.file.clone(),
            row,
            line: None,
        })
    }

    /// The number, among the split's files, of the one that sample `index` is of.
    #[must_use]
    pub fn file(&self, index: usize) -> usize {
        let index = self.row(index);
        // Runs come in the order of their first samples; of a run without samples the next has the same first.
        let after = self.origins.partition_point(|origin| origin.first <= index);
        let origin = after.checked_sub(1).and_then(|last| self.origins.get(last));
        origin.map_or(0, |origin| origin.number)
    }

    /// The same samples, of another task.
    pub(super) fn of_task(&self, task: &str) -> Self {
        Self {
            task: task.to_owned(),
            ..self.clone()
        }
    }

    pub(super) fn problem(&self, index: usize, problem: Problem) -> Error {
        let unknown = || Place {
            file: Arc::new(PathBuf::new()),
            row: index as u64 + 1,
            line: None,
        };
        let cause = self.place(index).unwrap_or_else(unknown).error(problem);
        Error::Task {
            task: self.task.clone(),
            split: self.name,
            cause: Box::new(cause),
        }
    }
}
