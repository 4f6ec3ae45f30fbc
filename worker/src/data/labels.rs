//! Labels: the classes of a task and the targets of its samples.

mod masks;
mod reader;

use super::error::nearest;
use super::{Error, Problem};
use crate::metrics::{TagSet, Values};
pub use masks::Masks;
use reader::Label;
pub(super) use reader::LabelReader;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Stands for the class of a sample that has none; no head is that wide.
const NO_CLASS: u32 = u32::MAX;

/// The classes of a task, in order; empty for regression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSet {
    names: Vec<String>,
    index: BTreeMap<String, u32>,
    origin: Origin,
    /// Whether a name is itself an integer.
    numerals: bool,
}

/// Where classes come from, which says what an integer in a row means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Origin {
    /// The training rows: an integer is a name.
    #[default]
    Found,
    /// The job: an integer is a name, or a number where no name is an integer.
    Given,
    /// The data file's own description: an integer is a number.
    Declared,
}

impl LabelSet {
    /// The classes that the job names.
    ///
    /// # Errors
    /// Fewer than two classes; one named twice.
    pub fn given(names: &[String]) -> Result<Self, Error> {
        Self::of(names, Origin::Given)
    }

    /// The classes that a data file itself declares, as Hugging Face's `ClassLabel` does: its integers
    /// count them from 0, whatever the names are.
    ///
    /// # Errors
    /// As [`LabelSet::given`].
    pub fn declared(names: &[String]) -> Result<Self, Error> {
        Self::of(names, Origin::Declared)
    }

    fn of(names: &[String], origin: Origin) -> Result<Self, Error> {
        let mut set = Self {
            origin,
            ..Self::default()
        };
        for name in names {
            let count = set.names.len();
            if set.intern(name) != index(count) {
                return Err(Error::DuplicateLabel {
                    label: name.clone(),
                });
            }
        }
        set.checked()
    }

    /// Names in order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Number of classes; 0 for regression.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no classes: a regression.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The number of the class `name`.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<u32> {
        self.index.get(name).copied()
    }

    /// The class of a label, by name, or by number after the convention of Hugging Face's
    /// `ClassLabel`: counted from 0. Names that are integers leave no room for numbers, since `1` as
    /// a name beside `0` as a number would make one class of two; but the integers of a file that
    /// declares its classes are never names.
    fn find(&self, label: &Label) -> Option<u32> {
        let by_number = || {
            let number = label.number.and_then(|n| u32::try_from(n).ok());
            number.filter(|n| (*n as usize) < self.len())
        };
        if self.counts(label) {
            return by_number();
        }
        let by_name = self.index(&label.name);
        let may_count = self.origin != Origin::Found && !self.numerals;
        by_name.or_else(|| by_number().filter(|_| may_count))
    }

    /// Whether a label can only be the number of a class.
    fn counts(&self, label: &Label) -> bool {
        self.origin == Origin::Declared && label.is_integer
    }

    fn intern(&mut self, name: &str) -> u32 {
        if let Some(index) = self.index.get(name) {
            return *index;
        }
        let next = index(self.names.len());
        self.numerals |= name.parse::<i64>().is_ok();
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), next);
        next
    }

    /// The same set with `more` classes at its end; those that are there already stay where they are.
    pub(super) fn with(&self, more: &[String]) -> Self {
        let mut all = self.clone();
        for name in more {
            all.intern(name);
        }
        all
    }

    fn checked(self) -> Result<Self, Error> {
        match self.len() {
            count @ (0 | 1) => Err(Error::TooFewClasses { count }),
            _ => Ok(self),
        }
    }

    /// Sorts the classes (as numbers if all are integers, else as text) and returns the new number
    /// of each old one.
    fn sort(&mut self) -> Vec<u32> {
        let mut order: Vec<usize> = (0..self.names.len()).collect();
        let numbers: Option<Vec<i64>> = self.names.iter().map(|name| name.parse().ok()).collect();
        match numbers {
            Some(numbers) => order.sort_by_key(|old| numbers[*old]),
            None => order.sort_by(|a, b| self.names[*a].cmp(&self.names[*b])),
        }
        let mut renamed = vec![0; order.len()];
        for (new, old) in order.iter().enumerate() {
            renamed[*old] = index(new);
        }
        self.names = order.iter().map(|old| self.names[*old].clone()).collect();
        self.index = self.names.iter().cloned().zip(0..).collect();
        renamed
    }

    fn unknown(&self, label: &Label) -> Problem {
        let names = self.names.iter().map(String::as_str);
        // The name that looks like a number is no hint where numbers are no names.
        let (label, suggestion) = match self.counts(label) {
            true => (format!("{}, counted from 0", label.name), None),
            false => (label.name.clone(), nearest(&label.name, names)),
        };
        Problem::UnknownLabel {
            label,
            suggestion,
            given: self.origin != Origin::Found,
            classes: self.len(),
        }
    }
}

/// The targets of a split.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// One class a sample.
    Single(Vec<u32>),
    /// Any number of classes a sample: sample i has `classes[ends[i-1]..ends[i]]`, ascending.
    Multi {
        /// End of each sample's classes.
        ends: Vec<u32>,
        /// The classes of all samples.
        classes: Vec<u32>,
    },
    /// One number a sample.
    Numbers(Vec<f32>),
    /// One tag for every word: sample i has `tags[ends[i-1]..ends[i]]`.
    Tags {
        /// What the tags mean; empty while they are read.
        set: Arc<TagSet>,
        /// End of each sample's tags.
        ends: Vec<u32>,
        /// The tags of all samples.
        tags: Vec<u32>,
    },
    /// A text a sample, of the characters that are the classes: sample i has
    /// `characters[ends[i-1]..ends[i]]`.
    Text {
        /// The class that is a space; none while they are read, or if there is none.
        space: Option<u32>,
        /// End of each sample's characters.
        ends: Vec<u32>,
        /// The characters of all samples.
        characters: Vec<u32>,
    },
    /// None for any of so many samples.
    Unlabelled(usize),
    /// Of so many samples, the tokens that follow each token: they are in the inputs.
    Next(usize),
    /// A class for every pixel of a sample.
    Masks(Masks),
    /// The right answers of each sample, in words: none where there is none.
    Answers(Vec<Arc<[String]>>),
}

impl Labels {
    /// Samples held.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Labels::Single(classes) => classes.len(),
            Labels::Multi { ends, .. } => ends.len(),
            Labels::Numbers(numbers) => numbers.len(),
            Labels::Tags { ends, .. } | Labels::Text { ends, .. } => ends.len(),
            Labels::Unlabelled(count) | Labels::Next(count) => *count,
            Labels::Masks(masks) => masks.len(),
            Labels::Answers(answers) => answers.len(),
        }
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The classes of sample `index`, the tags of its words or the characters of its text; empty beyond the
    /// last, for regression and for masks.
    #[must_use]
    pub fn classes(&self, index: usize) -> &[u32] {
        match self {
            Labels::Single(classes) => classes.get(index..=index).unwrap_or_default(),
            Labels::Multi { ends, classes }
            | Labels::Tags {
                ends,
                tags: classes,
                ..
            }
            | Labels::Text {
                ends,
                characters: classes,
                ..
            } => {
                let start = index
                    .checked_sub(1)
                    .and_then(|i| ends.get(i))
                    .copied()
                    .unwrap_or(0);
                let end = ends.get(index).copied().unwrap_or(start);
                classes
                    .get(start as usize..end as usize)
                    .unwrap_or_default()
            }
            Labels::Numbers(_)
            | Labels::Unlabelled(_)
            | Labels::Next(_)
            | Labels::Masks(_)
            | Labels::Answers(_) => &[],
        }
    }

    /// Height and width of masks; none where labels are others.
    #[must_use]
    pub fn mask_size(&self) -> Option<[usize; 2]> {
        match self {
            Labels::Masks(masks) => Some(masks.size()),
            _ => None,
        }
    }

    /// Samples of each of `classes` classes; words, where they are tags, characters, where they are texts,
    /// and pixels, where they are masks.
    #[must_use]
    pub fn counts(&self, classes: usize) -> Vec<u64> {
        let mut counts = vec![0; classes];
        let all = match self {
            Labels::Single(all)
            | Labels::Multi { classes: all, .. }
            | Labels::Tags { tags: all, .. }
            | Labels::Text {
                characters: all, ..
            } => all.as_slice(),
            Labels::Masks(masks) => return masks.counts(classes),
            Labels::Numbers(_) | Labels::Unlabelled(_) | Labels::Next(_) | Labels::Answers(_) => {
                &[]
            }
        };
        for class in all {
            if let Some(count) = counts.get_mut(*class as usize) {
                *count += 1;
            }
        }
        counts
    }

    /// The targets of the samples `which`, in that order, as metrics take them; no numbers where there
    /// are no labels.
    pub fn values(&self, classes: usize, which: impl IntoIterator<Item = usize>) -> Values {
        match self {
            Labels::Single(all) => Values::Single {
                classes,
                values: which
                    .into_iter()
                    .filter_map(|i| all.get(i).copied())
                    .collect(),
            },
            Labels::Multi { .. } => {
                let mut values = Vec::new();
                for sample in which {
                    let start = values.len();
                    values.resize(start + classes, false);
                    for class in self.classes(sample) {
                        values[start + *class as usize] = true;
                    }
                }
                Values::Multi { classes, values }
            }
            Labels::Tags { set, .. } => {
                let (mut ends, mut values) = (Vec::new(), Vec::new());
                for sample in which {
                    values.extend_from_slice(self.classes(sample));
                    ends.push(index(values.len()));
                }
                Values::Tags {
                    set: set.clone(),
                    ends,
                    values,
                }
            }
            Labels::Text { space, .. } => {
                let (mut ends, mut values) = (Vec::new(), Vec::new());
                for sample in which {
                    values.extend_from_slice(self.classes(sample));
                    ends.push(index(values.len()));
                }
                Values::Text {
                    classes,
                    space: *space,
                    ends,
                    values,
                }
            }
            Labels::Masks(masks) => masks.values(classes, which),
            Labels::Unlabelled(_) => Values::Numbers(Vec::new()),
            Labels::Answers(all) => {
                let which = which.into_iter();
                Values::Answers(which.filter_map(|i| all.get(i).cloned()).collect())
            }
            Labels::Next(_) => Values::Next {
                ends: Vec::new(),
                values: Vec::new(),
            },
            Labels::Numbers(all) => Values::Numbers(
                which
                    .into_iter()
                    .filter_map(|i| all.get(i).map(|x| f64::from(*x)))
                    .collect(),
            ),
        }
    }
}

/// A count as a class number. Classes and labels are counted in 32 bits: `dataset` reads no more
/// than 2^32 rows, and a set of classes that large doesn't fit into a head.
fn index(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
