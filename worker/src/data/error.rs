//! What can be wrong with data, said so that a person finds the place and knows what to do.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Errors of reading and serving data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anything below, with the task and split that it happened in.
    #[error("task {task}, {split} data: {cause}")]
    Task {
        /// Name of the task.
        task: String,
        /// `train`, `validation`, `test` or `target`.
        split: &'static str,
        /// What happened.
        cause: Box<Error>,
    },
    /// The file isn't there.
    #[error("{}: no such file on this machine; check the path, or put the file where all workers see it", file.display())]
    Missing {
        /// The path.
        file: PathBuf,
    },
    /// The file can't be opened or read.
    #[error("{}: cannot be read: {cause}", file.display())]
    Read {
        /// The path.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The extension names no known format.
    #[error("{}: unknown data format; expected a name that ends in .parquet, .jsonl, .json or .csv", file.display())]
    Format {
        /// The path.
        file: PathBuf,
    },
    /// A file, or all files of a split, hold no rows.
    #[error("{}: empty data: the file holds no rows", file.display())]
    Empty {
        /// The path.
        file: PathBuf,
    },
    /// A split names no files.
    #[error("empty data: no file is named, or max_train_samples is 0")]
    NoFiles,
    /// A head for words or tokens on a backbone that reads none.
    #[error(
        "the head `{head}` is for texts, but this backbone reads images or sounds; use a text backbone or another head"
    )]
    NoTexts {
        /// The head.
        head: &'static str,
    },
    /// Masks for a backbone that reads no images.
    #[error("the head `segmentation` is for images; use a backbone of images or another head")]
    NoImages,
    /// Too little text to cut a window from.
    #[error(
        "all texts together have {tokens} tokens, but a window needs {needed}; give more text, lower backbone.max_tokens, or set data.join to apart"
    )]
    ShortStream {
        /// Tokens there are.
        tokens: usize,
        /// Tokens of a window and the one behind it.
        needed: usize,
    },
    /// Texts to be ended by a token that the model does not have.
    #[error(
        "data.join is `end_token`, but the backbone's config.json names no eos_token_id; add it, or use nothing or apart"
    )]
    NoEndToken,
    /// Pairs of texts for a backbone that reads none.
    #[error(
        "data.columns.pair names a second text, but this backbone reads no texts; remove it or use a text backbone"
    )]
    NoPairs,
    /// A Parquet file without its end.
    #[error("{}: not a whole Parquet file: {found}; the file was probably cut off: copy it again", file.display())]
    CutOff {
        /// The path.
        file: PathBuf,
        /// What was seen: a missing footer, a length.
        found: String,
    },
    /// A Parquet file that can't be decoded.
    #[error("{}: damaged Parquet file: {message}; write or copy it again", file.display())]
    Damaged {
        /// The path.
        file: PathBuf,
        /// What the reader said.
        message: String,
    },
    /// A column that the task needs isn't in the file.
    #[error("{}: no column `{wanted}`{}; columns here: {}", file.display(), did_you_mean(suggestion.as_deref()), listed(found))]
    Column {
        /// The path.
        file: PathBuf,
        /// The column that was looked for.
        wanted: String,
        /// The columns that the file has.
        found: Vec<String>,
        /// The nearest of them.
        suggestion: Option<String>,
    },
    /// One row is wrong.
    #[error("{place}: {problem}")]
    Row {
        /// File, row and, for text formats, line.
        place: Place,
        /// What is wrong with it.
        problem: Problem,
    },
    /// Fewer than two classes.
    #[error(
        "{count} class(es) in the training labels; a classification needs two or more: check the label column or give data.labels"
    )]
    TooFewClasses {
        /// Distinct labels seen.
        count: usize,
    },
    /// A class that nobody describes.
    #[error("zero_shot.{place} has no {} of the class `{class}`{}; add one", place.trim_end_matches('s'), did_you_mean(suggestion.as_deref()))]
    Undescribed {
        /// The field: `descriptions` or `vectors`.
        place: &'static str,
        /// The class.
        class: String,
        /// The nearest class that has one.
        suggestion: Option<String>,
    },
    /// A description that becomes no tokens.
    #[error("zero_shot.descriptions, class `{class}`: {problem}")]
    Description {
        /// The class.
        class: String,
        /// What is wrong with it.
        problem: Box<Problem>,
    },
    /// Descriptions for a backbone that reads no texts.
    #[error(
        "the head `label_embedding` compares texts with descriptions, but this backbone reads no texts; give zero_shot.vectors in their place, or use a text backbone or another head"
    )]
    NoDescriptions,
    /// Ordered classes whose order is not known.
    #[error(
        "the classes of the head `ordinal` are texts, such as `{label}`, and their order is not known; list them in data.labels, lowest first"
    )]
    Order {
        /// One of the classes.
        label: String,
    },
    /// A label stands twice in the job's list.
    #[error("data.labels names `{label}` twice; name each class once")]
    DuplicateLabel {
        /// The label.
        label: String,
    },
    /// More rows than a sample number can count.
    #[error("more than {max} samples in one split; split the files into several tasks or fewer rows", max = u32::MAX)]
    TooManySamples,
    /// `tokenizer.json` isn't there.
    #[error("{}: no such file; a text backbone's directory must hold a tokenizer.json", file.display())]
    TokenizerMissing {
        /// The path.
        file: PathBuf,
    },
    /// `tokenizer.json` can't be used.
    #[error("{}: not a usable tokenizer: {message}", file.display())]
    Tokenizer {
        /// The path.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The file that features of a frozen backbone are kept in can't be used.
    #[error("{}: features of the frozen backbone cannot be kept there: {cause}; make room, or set backbone.cache_features to false", file.display())]
    Spill {
        /// The path; its name is gone while it is used.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// `preprocessor_config.json` can't be used.
    #[error("{}: {message}", file.display())]
    Preprocessor {
        /// The path.
        file: PathBuf,
        /// The field, what is wrong and what was expected.
        message: String,
    },
    /// Random changes that the inputs don't have.
    #[error("data.augment.{field}: {message}")]
    Augment {
        /// The field below `data.augment`.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// No row of a split could be decoded.
    #[error(
        "all {skipped} rows were left out, as data.on_bad_sample is `skip`; the first: {first}"
    )]
    NothingLeft {
        /// Rows left out.
        skipped: u64,
        /// What was wrong with the first of them.
        first: Box<Error>,
    },
    /// No row of a split has a label.
    #[error(
        "no row has a label in column `{column}`: all {rows} are null or empty, and data.on_missing_label is `skip`; check the column's name"
    )]
    NoLabels {
        /// The column.
        column: String,
        /// Rows without a label.
        rows: u64,
    },
    /// A task that no shard may compute.
    #[error("task {task} of the plan is served by {shards}; expected one or more of shards 0 to {last}", last = count.saturating_sub(1))]
    Placement {
        /// Index of the task.
        task: usize,
        /// What the plan says.
        shards: String,
        /// Shards in all.
        count: usize,
    },
    /// A loader thread ended without a result.
    #[error(
        "the loader's thread for step {step} ended early; this is a bug, its message is above in the log"
    )]
    LoaderDied {
        /// The step that was wanted.
        step: u64,
    },
    /// The system gave no thread.
    #[error("cannot start a loader thread: {0}")]
    Thread(std::io::Error),
}

/// Where in the files a sample stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<PathBuf>,
    /// Data row, from 1; headers don't count.
    pub row: u64,
    /// Line of the file, from 1; for text formats.
    pub line: Option<u64>,
}

impl Place {
    /// The error that `problem` is at this place.
    pub(crate) fn error(&self, problem: Problem) -> Error {
        Error::Row {
            place: self.clone(),
            problem,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, row {}", self.file.display(), self.row)?;
        match self.line {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    /// No value.
    #[error("column `{column}` is null; fill it or remove the row")]
    Null {
        /// The column.
        column: String,
    },
    /// No label.
    #[error(
        "column `{column}` is null or empty; fill it, remove the row, or set data.on_missing_label to skip"
    )]
    NoLabel {
        /// The column.
        column: String,
    },
    /// A value of another type.
    #[error("column `{column}`: expected {expected}, found {found}")]
    Type {
        /// The column.
        column: String,
        /// What the task needs.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// Infinity or not a number.
    #[error("column `{column}`: expected a finite number, found {found}")]
    NotFinite {
        /// The column.
        column: String,
        /// The number.
        found: f64,
    },
    /// A class that the job doesn't know.
    #[error("label `{label}` is not in the label set{}; {}", did_you_mean(suggestion.as_deref()), label_set(*given, *classes))]
    UnknownLabel {
        /// The label.
        label: String,
        /// The nearest class.
        suggestion: Option<String>,
        /// Whether the job or the file's own description gives the set; else it was taken from the
        /// training labels.
        given: bool,
        /// Size of the set.
        classes: usize,
    },
    /// A class that was not to be trained on.
    #[error(
        "label `{label}` is in zero_shot.unseen, but this row would train on it; remove the row, or the class from the list"
    )]
    Unseen {
        /// The label.
        label: String,
    },
    /// Tags that are more or fewer than the words.
    #[error("column `{column}`: {found} tags for {expected} words; expected one for each")]
    TagCount {
        /// The column of the tags.
        column: String,
        /// Words of the text.
        expected: usize,
        /// Tags that stand there.
        found: usize,
    },
    /// A tag that goes on with a span that has not begun.
    #[error("column `{column}`: word {word} is `{tag}` after {before}; a span begins with `B-`")]
    Bio {
        /// The column of the tags.
        column: String,
        /// Number of the word, from 1.
        word: usize,
        /// Its tag.
        tag: String,
        /// What stands before it.
        before: String,
    },
    /// An image of another size.
    #[error("column `{column}`: expected {expected} numbers an image, found {found}")]
    ImageSize {
        /// The column.
        column: String,
        /// Numbers that the backbone takes.
        expected: usize,
        /// Numbers that stand there.
        found: usize,
    },
    /// The file of an image or a sound can't be read.
    #[error("column `{column}`: cannot read the file `{path}`: {message}")]
    MediaFile {
        /// The column.
        column: String,
        /// The path as it was looked for.
        path: String,
        /// What the system said, and what the column may hold.
        message: String,
    },
    /// The column's file lies where this worker lets no job read: the column, and why.
    #[error("column `{0}`: {1}")]
    Outside(String, String),
    /// An image or a sound that can't be decoded, or that a label doesn't fit into; an answer that is not
    /// where it should be.
    #[error(
        "column `{column}`: {message}; replace it, remove the row, or set data.on_bad_sample to skip"
    )]
    Undecodable {
        /// The column.
        column: String,
        /// What is wrong with it.
        message: String,
    },
    /// A sound of another sample rate.
    #[error("column `{column}`: sample rate {found} Hz, the backbone takes {expected}; convert it")]
    SampleRate {
        /// The column.
        column: String,
        /// Samples a second of the sound.
        found: u32,
        /// Samples a second by `preprocessor_config.json`.
        expected: u32,
    },
    /// Bytes that are no UTF-8.
    #[error("not valid UTF-8; save the file in UTF-8")]
    Utf8,
    /// A line that is no JSON object.
    #[error("not a JSON object on one line: {message}")]
    Json {
        /// What the parser said.
        message: String,
    },
    /// A CSV record with more or fewer fields than the header.
    #[error(
        "{found} fields, but the header has {expected}; quote fields that hold commas or line breaks"
    )]
    Fields {
        /// Fields of the header.
        expected: u64,
        /// Fields of this record.
        found: u64,
    },
    /// A quote that never ends.
    #[error(
        "a quote that is opened in this row is never closed: the rest of the file was taken into one field"
    )]
    Quote,
    /// A row that the Parquet reader can't decode.
    #[error("the row cannot be decoded: {message}; write or copy the file again")]
    Decode {
        /// What the reader said.
        message: String,
    },
    /// A text that becomes no tokens.
    #[error("the text has no tokens; give it some text or remove the row")]
    NoTokens,
    /// A text that the tokenizer rejects.
    #[error("the text cannot be tokenised: {message}")]
    Tokenise {
        /// What the tokenizer said.
        message: String,
    },
}

impl Problem {
    /// Whether this is a sample that `data.on_bad_sample` may leave out: an image or a sound that
    /// can't be read or decoded, a wrong answer, wrong tags, or a text without tokens.
    pub(crate) fn is_bad_sample(&self) -> bool {
        let is_file = matches!(self, Problem::MediaFile { .. } | Problem::SampleRate { .. });
        let is_tags = matches!(self, Problem::TagCount { .. } | Problem::Bio { .. });
        is_file || is_tags || matches!(self, Problem::Undecodable { .. } | Problem::NoTokens)
    }
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion
        .map(|name| format!(" (did you mean `{name}`?)"))
        .unwrap_or_default()
}

fn label_set(given: bool, classes: usize) -> String {
    if given {
        format!("the given set has {classes} classes: add it to data.labels or correct the row")
    } else {
        format!(
            "the {classes} classes are those of the training files: give data.labels to name all classes"
        )
    }
}

fn listed(names: &[String]) -> String {
    const MOST: usize = 12;
    let mut text = names
        .iter()
        .take(MOST)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > MOST {
        text.push_str(&format!(" and {} more", names.len() - MOST));
    }
    if text.is_empty() {
        "none".to_owned()
    } else {
        text
    }
}

/// The name of `names` that is nearest to `wanted`, if one is near.
pub(crate) fn nearest<'a>(
    wanted: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let wanted_lower = wanted.to_lowercase();
    let score = |name: &str| strsim::jaro_winkler(&wanted_lower, &name.to_lowercase());
    names
        .into_iter()
        .map(|name| (score(name), name))
        .filter(|(score, _)| *score >= 0.8)
        // The first of equals wins, so that the answer is always the same.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, name)| name.to_owned())
}
