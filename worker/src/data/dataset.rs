//! A task's data: its splits, label set and mean cost.

mod answers;
mod begun;
mod classes;
mod left_out;
mod length;
mod partners;
mod reader;
mod shelf;
mod split;
mod stream;
mod target;

use super::augment::Augmenter;
use super::media::MediaReader;
use super::mix::key;
use super::source::{self, Wanted};
use super::{Error, Features, Inputs, LabelSet, Tokenizer};
use crate::metrics::Values;
pub use classes::Classes;
use espalier_spec::job::{Files, HeadKind, TaskSpec, ZeroShotSpec};
use reader::SplitReader;
pub use shelf::Shelf;
pub use split::Split;
use std::path::Path;
use std::sync::Arc;
pub use stream::Stream;

/// Samples whose tokens are counted for a task's mean cost.
const COST_SAMPLES: usize = 256;

/// What the backbone takes.
#[derive(Clone, Debug)]
pub enum Modality {
    /// Text, in the column `text` unless the task says otherwise.
    Text(Arc<Tokenizer>),
    /// Images or sounds, in the column `image` or `audio` unless the task says otherwise.
    Media(Arc<MediaReader>),
}

impl Modality {
    /// Rows that the word table must have for the tokenizer's tokens; 0 for images and sounds.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        match self {
            Self::Text(tokenizer) => tokenizer.vocabulary(),
            Self::Media(_) => 0,
        }
    }
}

/// A task's data, read into memory.
#[derive(Debug)]
pub struct TaskData {
    /// Name of the task.
    pub name: String,
    /// What is predicted.
    pub head: HeadKind,
    /// The classes; empty for regression.
    pub labels: LabelSet,
    /// What they are, where they are known by that.
    pub classes: Option<Classes>,
    /// Samples for training.
    pub train: Split,
    /// Samples for evaluation during training.
    pub validation: Option<Split>,
    /// Samples for the final evaluation.
    pub test: Option<Split>,
    /// Samples of another domain, without labels, that the task learns from as well.
    pub target: Option<Split>,
    /// Whether the training texts came as lists of words.
    pub words: bool,
    /// Random changes of the training samples.
    pub augment: Option<Augmenter>,
    /// Mean cost of a training sample, with that of the target drawn beside it: tokens of the first 256
    /// for text, 1 for images and sounds.
    pub sample_cost: f64,
}

impl TaskData {
    /// All splits.
    pub fn splits(&self) -> impl Iterator<Item = &Split> {
        let others = [&self.validation, &self.test, &self.target].map(Option::as_ref);
        std::iter::once(&self.train).chain(others.into_iter().flatten())
    }

    /// Draws in which every training sample is seen once, and every one of the target, of which one is drawn beside
    /// each.
    #[must_use]
    pub fn one_pass(&self) -> u64 {
        let target = self.target.as_ref().map_or(0, Split::len);
        self.train.len().max(target) as u64
    }

    /// Whether samples bring inputs of their own besides the first: pairs with other classes, or texts that they
    /// are ranked with.
    #[must_use]
    pub fn brings_more(&self) -> bool {
        let pairs = self.classes.as_ref().map_or(1, Classes::pairs);
        self.head == HeadKind::Ranking || pairs > 1
    }

    /// The targets of the samples `which` of one of its splits, as its head takes them.
    pub fn values(&self, split: &Split, which: impl IntoIterator<Item = usize>) -> Values {
        match (split.labels.values(self.labels.len(), which), self.head) {
            (Values::Single { classes, values }, HeadKind::Ordinal) => {
                Values::Ordered { classes, values }
            }
            (values, _) => values,
        }
    }

    /// Keeps `most` training samples of each class, drawn by `seed`; only where every sample has one
    /// class.
    pub fn thin(&mut self, most: usize, seed: u64) {
        self.train.thin(most, key(seed, &self.name));
    }

    /// The same task, with features of its training, validation, test and target samples in place of their
    /// inputs; splits of which there are none stay as they are.
    #[must_use]
    pub fn with_features(
        &self,
        [train, validation, test, target]: [Option<Arc<Features>>; 4],
    ) -> Self {
        let with = |split: &Split, features: Option<Arc<Features>>| match features {
            Some(features) => Split {
                inputs: Arc::new(Inputs::Features(features)),
                ..split.clone()
            },
            None => split.clone(),
        };
        let other = |split: &Option<Split>, features| Some(with(split.as_ref()?, features));
        Self {
            name: self.name.clone(),
            head: self.head,
            labels: self.labels.clone(),
            classes: self.classes.clone(),
            train: with(&self.train, train),
            validation: other(&self.validation, validation),
            test: other(&self.test, test),
            target: other(&self.target, target),
            words: self.words,
            augment: None,
            sample_cost: if self.target.is_some() { 2.0 } else { 1.0 },
        }
    }
}

/// Reads all splits of a task, see [`load_beside`].
///
/// # Errors
/// As [`load_beside`].
pub fn load(task: &TaskSpec, modality: &Modality) -> Result<TaskData, Error> {
    load_beside(task, modality, &mut Shelf::default())
}

/// Reads all splits of a task, but for what was read for another task of the same job and is on its shelf.
///
/// The label set is `data.labels`; without it, the class names that a Parquet file declares (Hugging
/// Face's `ClassLabel`); without those, the labels of the training samples that are used, sorted: as
/// numbers if all are integers, else as text.
///
/// # Errors
/// Names the task and split, and the file, row and column of what is wrong.
pub fn load_beside(
    task: &TaskSpec,
    modality: &Modality,
    shelf: &mut Shelf,
) -> Result<TaskData, Error> {
    let data = &task.data;
    let (input, label) = match (modality, task.head) {
        (Modality::Text(_), HeadKind::Tags) => ("tokens", "tags"),
        (Modality::Text(_), HeadKind::Span) => ("question", "answers"),
        (Modality::Text(_), _) => ("text", "label"),
        (Modality::Media(reader), HeadKind::Segmentation) => (reader.default_column(), "mask"),
        (Modality::Media(reader), _) => (reader.default_column(), "label"),
    };
    let input = data.columns.input.as_deref().unwrap_or(input);
    let wanted = Wanted {
        input,
        pair: match (&data.columns.pair, task.head) {
            (None, HeadKind::Span) => Some("context"),
            (None, HeadKind::Ranking) => Some("positive"),
            (pair, _) => pair.as_deref(),
        },
        label: match task.head {
            // What is learned is in the text itself.
            HeadKind::CausalLm => input,
            // Texts that do not belong to the input take the label's place.
            HeadKind::Ranking => data.columns.negative.as_deref().unwrap_or(input),
            _ => data.columns.label.as_deref().unwrap_or(label),
        },
    };
    let context = |split: &'static str| {
        move |cause: Error| match cause {
            known @ Error::Task { .. } => known,
            cause => Error::Task {
                task: task.name.clone(),
                split,
                cause: Box::new(cause),
            },
        }
    };

    let compares = matches!(task.head, HeadKind::Entailment | HeadKind::Ranking);
    let reads_texts = task.head.reads_tokens() || compares;
    if reads_texts && matches!(modality, Modality::Media(_)) {
        let head = task.head.as_str();
        return Err(context("train")(Error::NoTexts { head }));
    }
    let reads_images = matches!(modality, Modality::Media(reader) if !reader.is_audio());
    if task.head.reads_map() && !reads_images {
        return Err(context("train")(Error::NoImages));
    }
    if wanted.pair.is_some() && matches!(modality, Modality::Media(_)) {
        return Err(context("train")(Error::NoPairs));
    }
    let known = given_labels(task, wanted.label).map_err(context("train"))?;
    let mut read =
        |name: &'static str, files: &Files, known: Option<&LabelSet>, limit: Option<u64>| {
            let reader = SplitReader {
                task,
                modality,
                wanted,
                known,
                limit,
                name,
                labelled: true,
            };
            shelf.read(reader, files.paths()).map_err(context(name))
        };
    let (train, labels) = read("train", &data.train, known.as_ref(), data.max_train_samples)?;
    in_order(task, &labels).map_err(context("train"))?;
    let (labels, classes) = described(task, modality, labels).map_err(context("train"))?;
    let mut other = |name: &'static str, files: Option<&Files>| match files {
        Some(files) => read(name, files, Some(&labels), None).map(|(split, _)| Some(split)),
        None => Ok(None),
    };
    let validation = other("validation", data.validation.as_ref())?;
    let test = other("test", data.test.as_ref())?;
    let target =
        target::read(task, modality, (wanted, shelf), &labels).map_err(context("target"))?;
    let reader = match modality {
        Modality::Media(reader) => Some(reader.as_ref()),
        Modality::Text(_) => None,
    };
    let augment = Augmenter::new(data.augment, reader, &train).map_err(context("train"))?;
    let pairs = classes.as_ref().map_or(1, Classes::pairs);
    let sample_cost =
        mean_cost(&train)? * pairs as f64 + target.as_ref().map_or(Ok(0.0), mean_cost)?;
    let (name, head) = (task.name.clone(), task.head);
    Ok(TaskData {
        name,
        head,
        labels,
        classes,
        words: train.has_words(),
        train,
        validation,
        test,
        target,
        augment,
        sample_cost,
    })
}

fn given_labels(task: &TaskSpec, label: &str) -> Result<Option<LabelSet>, Error> {
    if matches!(
        task.head,
        HeadKind::Regression | HeadKind::CausalLm | HeadKind::Span | HeadKind::Ranking
    ) {
        return Ok(None);
    }
    if let Some(names) = &task.data.labels {
        return LabelSet::given(names).map(Some);
    }
    if task.head == HeadKind::Ctc {
        return Ok(None);
    }
    let Some(first) = task.data.train.paths().first() else {
        return Ok(None);
    };
    source::class_names(Path::new(first), label)?
        .as_deref()
        .map(LabelSet::declared)
        .transpose()
}

/// The label set with unseen classes, and what all classes are; as it is where nobody describes them.
fn described(
    task: &TaskSpec,
    modality: &Modality,
    labels: LabelSet,
) -> Result<(LabelSet, Option<Classes>), Error> {
    if task.head == HeadKind::Entailment {
        let spec = task.zero_shot.clone().unwrap_or_default();
        let (labels, classes) = classes::hypotheses(&spec, &labels)?;
        return Ok((labels, Some(classes)));
    }
    match (&task.zero_shot, modality) {
        (None, _) => Ok((labels, None)),
        (
            Some(ZeroShotSpec {
                vectors: Some(file),
                unseen,
                ..
            }),
            _,
        ) => {
            let (labels, classes) = classes::by_vectors(unseen, file, &labels)?;
            Ok((labels, Some(classes)))
        }
        (Some(_), Modality::Media(_)) => Err(Error::NoDescriptions),
        (Some(spec), Modality::Text(tokenizer)) => {
            let (labels, classes) = classes::read(spec, &labels, tokenizer)?;
            Ok((labels, Some(classes)))
        }
    }
}

/// Numbers have an order; of other classes the job must give it.
fn in_order(task: &TaskSpec, labels: &LabelSet) -> Result<(), Error> {
    let mut texts = labels
        .names()
        .iter()
        .filter(|name| name.parse::<i64>().is_err());
    match texts.next() {
        Some(label) if task.head == HeadKind::Ordinal && task.data.labels.is_none() => {
            let label = label.clone();
            Err(Error::Order { label })
        }
        _ => Ok(()),
    }
}

fn mean_cost(split: &Split) -> Result<f64, Error> {
    let count = split.len().min(COST_SAMPLES);
    let mut sum = 0;
    for index in 0..count {
        sum += split.cost(index)? + split.partner_cost(index)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 256 samples' tokens")]
    Ok(sum as f64 / count.max(1) as f64)
}

#[cfg(test)]
mod tests;
