//! A task's data: its splits, label set and mean cost.

mod begun;

use super::augment::Augmenter;
use super::inputs::Texts;
use super::labels::LabelReader;
use super::media::{Images, MediaReader};
use super::mix::{key, mix};
use super::source::{self, Row, Wanted};
use super::{Begun, Error, Features, Input, Inputs, LabelSet, Labels, Place, Problem, Tokenizer};
use espalier_spec::job::{Files, HeadKind, OnBadSample, TaskSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// Random changes of the training samples.
    pub augment: Option<Augmenter>,
    /// Mean cost of a training sample: tokens of the first 256 for text, 1 for images and sounds.
    pub sample_cost: f64,
}

impl TaskData {
    /// All splits.
    pub fn splits(&self) -> impl Iterator<Item = &Split> {
        let others = [self.validation.as_ref(), self.test.as_ref()];
        std::iter::once(&self.train).chain(others.into_iter().flatten())
    }

    /// Keeps `most` training samples of each class, drawn by `seed`; only where every sample has one
    /// class.
    pub fn thin(&mut self, most: usize, seed: u64) {
        self.train.thin(most, key(seed, &self.name));
    }

    /// The same task, with features of its training, validation and test samples in place of their
    /// inputs; splits of which there are none stay as they are.
    #[must_use]
    pub fn with_features(&self, [train, validation, test]: [Option<Arc<Features>>; 3]) -> Self {
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
            train: with(&self.train, train),
            validation: other(&self.validation, validation),
            test: other(&self.test, test),
            augment: None,
            sample_cost: 1.0,
        }
    }
}

/// One split: inputs and targets of the same length, never empty.
#[derive(Clone, Debug)]
pub struct Split {
    /// Inputs.
    pub inputs: Arc<Inputs>,
    /// Targets.
    pub labels: Labels,
    name: &'static str,
    task: String,
    skipped: u64,
    origins: Vec<Origin>,
    /// Which of the inputs the samples are, where not all were kept.
    kept: Option<Arc<[u32]>>,
    /// What the lowest blocks of the backbone made of every sample, if they did.
    begun: Option<Arc<Features>>,
}

/// Where a run of samples comes from: a file's rows one after another.
#[derive(Clone, Debug)]
struct Origin {
    file: Arc<PathBuf>,
    /// Number of the run's first sample in the split.
    first: usize,
    /// Its row in the file.
    row: u64,
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

    /// The number of sample `index` among the inputs that were read.
    fn row(&self, index: usize) -> usize {
        let kept = self.kept.as_ref().and_then(|kept| kept.get(index));
        kept.map_or(index, |row| *row as usize)
    }

    /// Keeps `most` samples of each class, drawn by a key, in their order; all of a class that has
    /// fewer.
    fn thin(&mut self, most: usize, key: u64) {
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
            Inputs::Image(_) | Inputs::Features(_) => Ok(1),
        }
    }

    /// How many samples were longer than the backbone takes and were cut: of texts, those tokenised
    /// so far.
    #[must_use]
    pub fn cut(&self) -> u64 {
        match self.inputs.as_ref() {
            Inputs::Text(texts) => texts.cut(),
            Inputs::Image(images) => images.cut(),
            Inputs::Features(_) => 0,
        }
    }

    /// `train`, `validation` or `test`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many rows were left out because they could not be decoded.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
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
        (Modality::Media(reader), _) => (reader.default_column(), "label"),
    };
    let wanted = Wanted {
        input: data.columns.input.as_deref().unwrap_or(input),
        pair: data.columns.pair.as_deref(),
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

    if task.head == HeadKind::Tags && matches!(modality, Modality::Media(_)) {
        return Err(context("train")(Error::NoWords));
    }
    if wanted.pair.is_some() && matches!(modality, Modality::Media(_)) {
        return Err(context("train")(Error::NoPairs));
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
    let reader = match modality {
        Modality::Media(reader) => Some(reader.as_ref()),
        Modality::Text(_) => None,
    };
    let augment = Augmenter::new(data.augment, reader, &train).map_err(context("train"))?;
    let sample_cost = mean_cost(&train)?;
    let (name, head) = (task.name.clone(), task.head);
    Ok(TaskData {
        name,
        head,
        labels,
        train,
        validation,
        test,
        augment,
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
            Modality::Media(reader) => Inputs::Image(Images::new(reader.clone())),
        };
        // A regression has an empty label set, which is not a set to look labels up in.
        let known = self
            .known
            .filter(|_| self.task.head != HeadKind::Regression);
        let mut labels = LabelReader::new(self.task.head, self.wanted.label, known);
        let mut origins: Vec<Origin> = Vec::new();
        let limit = self.limit.unwrap_or(u64::MAX);
        let mut count = 0;
        let mut bad = BadSamples::new(self.task.data.on_bad_sample);
        for path in paths {
            if count as u64 >= limit {
                break;
            }
            let path = Path::new(path);
            origins.push(Origin {
                file: Arc::new(path.to_owned()),
                first: count,
                row: 1,
            });
            source::read(path, self.wanted, &mut |row: Row| {
                let pushed = match &mut inputs {
                    Inputs::Text(texts) => texts.push(row.input, self.wanted.input, &row.place),
                    Inputs::Image(images) => images.push(row.input, self.wanted.input, &row.place),
                    // What is read from a file is no features.
                    Inputs::Features(_) => Ok(()),
                };
                if let Err(error) = pushed {
                    bad.skip(error)?;
                    origins.push(Origin {
                        file: row.place.file.clone(),
                        first: count,
                        row: row.place.row + 1,
                    });
                    return Ok(true);
                }
                if let (Inputs::Text(texts), Some(second)) = (&mut inputs, row.pair) {
                    let column = self.wanted.pair.unwrap_or_default();
                    texts.push_second(second, column, &row.place)?;
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
        let skipped = bad.skipped;
        if count == 0 {
            return Err(bad.nothing_left());
        }
        match &mut inputs {
            Inputs::Text(texts) => texts.finish(),
            Inputs::Image(images) => images.finish(),
            Inputs::Features(_) => {}
        }
        let (labels, set) = labels.finish()?;
        let (task, name) = (self.task.name.clone(), self.name);
        Ok((
            Split {
                inputs: Arc::new(inputs),
                labels,
                name,
                task,
                skipped,
                origins,
                kept: None,
                begun: None,
            },
            set,
        ))
    }
}

/// What becomes of rows that can't be decoded.
struct BadSamples {
    policy: OnBadSample,
    skipped: u64,
    first: Option<Error>,
}

impl BadSamples {
    fn new(policy: OnBadSample) -> Self {
        Self {
            policy,
            skipped: 0,
            first: None,
        }
    }

    /// Counts a row out, or gives the error back.
    fn skip(&mut self, error: Error) -> Result<(), Error> {
        let is_bad = matches!(&error, Error::Row { problem, .. } if problem.is_bad_sample());
        if self.policy == OnBadSample::Fail || !is_bad {
            return Err(error);
        }
        self.skipped += 1;
        self.first.get_or_insert(error);
        Ok(())
    }

    /// Why a split has no rows.
    fn nothing_left(self) -> Error {
        match self.first {
            Some(first) => Error::NothingLeft {
                skipped: self.skipped,
                first: Box::new(first),
            },
            None => Error::NoFiles,
        }
    }
}

#[cfg(test)]
mod tests;
