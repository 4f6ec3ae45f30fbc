//! A task's data: its splits, label set and mean cost.

use super::inputs::{Images, Texts};
use super::labels::LabelReader;
use super::source::{self, Row, Wanted};
use super::{Error, Input, Inputs, LabelSet, Labels, Place, Problem, Tokenizer};
use espalier_spec::job::{Files, HeadKind, TaskSpec};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Samples whose tokens are counted for a task's mean cost.
const COST_SAMPLES: usize = 256;

/// What the backbone takes.
#[derive(Clone, Debug)]
pub enum Modality {
    /// Text, in the column `text` unless the task says otherwise.
    Text(Arc<Tokenizer>),
    /// Images of this many numbers each (channels · height · width), in the column `image` unless
    /// the task says otherwise.
    Image {
        /// Numbers of an image.
        numbers: usize,
    },
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
    /// Samples for training.
    pub train: Split,
    /// Samples for evaluation during training.
    pub validation: Option<Split>,
    /// Samples for the final evaluation.
    pub test: Option<Split>,
    /// Mean cost of a training sample: tokens of the first 256 for text, 1 for images.
    pub sample_cost: f64,
}

/// One split: inputs and targets of the same length, never empty.
#[derive(Debug)]
pub struct Split {
    /// Inputs.
    pub inputs: Inputs,
    /// Targets.
    pub labels: Labels,
    name: &'static str,
    task: String,
    origins: Vec<Origin>,
}

/// A file and the number of its first sample in the split.
#[derive(Debug)]
struct Origin {
    file: Arc<PathBuf>,
    first: usize,
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
        match &self.inputs {
            Inputs::Text(texts) => texts
                .tokens(index)
                .map_err(|problem| self.problem(index, problem)),
            Inputs::Image(images) => Ok(Input::Numbers(images.numbers(index).into())),
        }
    }

    /// Predicted cost of sample `index`: tokens for text, 1 for images.
    ///
    /// # Errors
    /// As [`Split::input`].
    pub fn cost(&self, index: usize) -> Result<u64, Error> {
        match &self.inputs {
            Inputs::Text(_) => Ok(self.input(index)?.cost()),
            Inputs::Image(_) => Ok(1),
        }
    }

    /// How many samples tokenised so far were longer than the token limit and were cut.
    #[must_use]
    pub fn cut(&self) -> u64 {
        match &self.inputs {
            Inputs::Text(texts) => texts.cut(),
            Inputs::Image(_) => 0,
        }
    }

    /// The file and data row of sample `index`.
    #[must_use]
    pub fn place(&self, index: usize) -> Option<Place> {
        let origin = self
            .origins
            .iter()
            .rev()
            .find(|origin| origin.first <= index)?;
        let row = (index - origin.first) as u64 + 1;
        Some(Place {
            file: origin.file.clone(),
            row,
            line: None,
        })
    }

    fn problem(&self, index: usize, problem: Problem) -> Error {
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

/// Reads all splits of a task.
///
/// The label set is `data.labels`; without it, the class names that a Parquet file declares (Hugging
/// Face's `ClassLabel`); without those, the labels of the training samples that are used, sorted: as
/// numbers if all are integers, else as text.
///
/// # Errors
/// Names the task and split, and the file, row and column of what is wrong.
pub fn load(task: &TaskSpec, modality: &Modality) -> Result<TaskData, Error> {
    let data = &task.data;
    let (input, label) = match (modality, task.head) {
        (Modality::Text(_), HeadKind::Tags) => ("tokens", "tags"),
        (Modality::Text(_), _) => ("text", "label"),
        (Modality::Image { .. }, _) => ("image", "label"),
    };
    let wanted = Wanted {
        input: data.columns.input.as_deref().unwrap_or(input),
        label: data.columns.label.as_deref().unwrap_or(label),
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

    if task.head == HeadKind::Tags && matches!(modality, Modality::Image { .. }) {
        return Err(context("train")(Error::NoWords));
    }
    let known = given_labels(task, wanted.label).map_err(context("train"))?;
    let read = |name: &'static str, files: &Files, known: Option<&LabelSet>, limit: Option<u64>| {
        let reader = SplitReader {
            task,
            modality,
            wanted,
            known,
            limit,
            name,
        };
        reader.read(files.paths()).map_err(context(name))
    };
    let (train, labels) = read("train", &data.train, known.as_ref(), data.max_train_samples)?;
    let other = |name: &'static str, files: Option<&Files>| match files {
        Some(files) => read(name, files, Some(&labels), None).map(|(split, _)| Some(split)),
        None => Ok(None),
    };
    let validation = other("validation", data.validation.as_ref())?;
    let test = other("test", data.test.as_ref())?;
    let sample_cost = mean_cost(&train)?;
    let (name, head) = (task.name.clone(), task.head);
    Ok(TaskData {
        name,
        head,
        labels,
        train,
        validation,
        test,
        sample_cost,
    })
}

fn given_labels(task: &TaskSpec, label: &str) -> Result<Option<LabelSet>, Error> {
    if task.head == HeadKind::Regression {
        return Ok(None);
    }
    if let Some(names) = &task.data.labels {
        return LabelSet::given(names).map(Some);
    }
    let Some(first) = task.data.train.paths().first() else {
        return Ok(None);
    };
    source::class_names(Path::new(first), label)?
        .as_deref()
        .map(LabelSet::given)
        .transpose()
}

fn mean_cost(split: &Split) -> Result<f64, Error> {
    let count = split.len().min(COST_SAMPLES);
    let mut sum = 0;
    for index in 0..count {
        sum += split.cost(index)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 256 samples' tokens")]
    Ok(sum as f64 / count.max(1) as f64)
}

/// Reads the files of one split.
struct SplitReader<'a> {
    task: &'a TaskSpec,
    modality: &'a Modality,
    wanted: Wanted<'a>,
    known: Option<&'a LabelSet>,
    limit: Option<u64>,
    name: &'static str,
}

impl SplitReader<'_> {
    fn read(self, paths: &[String]) -> Result<(Split, LabelSet), Error> {
        let mut inputs = match self.modality {
            Modality::Text(tokenizer) => {
                let words = self.task.head == HeadKind::Tags;
                Inputs::Text(Texts::new(tokenizer.clone(), words))
            }
            Modality::Image { numbers } => Inputs::Image(Images::new(*numbers)),
        };
        // A regression has an empty label set, which is not a set to look labels up in.
        let known = self
            .known
            .filter(|_| self.task.head != HeadKind::Regression);
        let mut labels = LabelReader::new(self.task.head, self.wanted.label, known);
        let mut origins: Vec<Origin> = Vec::new();
        let limit = self.limit.unwrap_or(u64::MAX);
        let mut count = 0;
        for path in paths {
            if count as u64 >= limit {
                break;
            }
            let path = Path::new(path);
            origins.push(Origin {
                file: Arc::new(path.to_owned()),
                first: count,
            });
            source::read(path, self.wanted, &mut |row: Row| {
                match &mut inputs {
                    Inputs::Text(texts) => texts.push(row.input, self.wanted.input, &row.place)?,
                    Inputs::Image(images) => {
                        images.push(row.input, self.wanted.input, &row.place)?
                    }
                }
                labels.push(row.label, &row.place)?;
                if let (Inputs::Text(texts), Some(found)) = (&inputs, labels.last_tags()) {
                    let expected = texts.words(count).map_or(0, |words| words.len());
                    if found != expected {
                        let column = self.wanted.label.to_owned();
                        return Err(row.place.error(Problem::TagCount {
                            column,
                            expected,
                            found,
                        }));
                    }
                }
                count += 1;
                if count >= u32::MAX as usize {
                    return Err(Error::TooManySamples);
                }
                Ok((count as u64) < limit)
            })?;
        }
        if count == 0 {
            return Err(Error::NoFiles);
        }
        if let Inputs::Text(texts) = &mut inputs {
            texts.finish();
        }
        let (labels, set) = labels.finish()?;
        let (task, name) = (self.task.name.clone(), self.name);
        Ok((
            Split {
                inputs,
                labels,
                name,
                task,
                origins,
            },
            set,
        ))
    }
}

#[cfg(test)]
mod tests;
