//! Labels: the classes of a task and the targets of its samples.

use super::error::nearest;
use super::inputs::{mismatch, number};
use super::{Cell, Error, Place, Problem};
use crate::metrics::{TagSet, Values};
use espalier_spec::job::HeadKind;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The classes of a task, in order; empty for regression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSet {
    names: Vec<String>,
    index: BTreeMap<String, u32>,
    given: bool,
}

impl LabelSet {
    /// The classes that the job (or the data files' own description) names.
    ///
    /// # Errors
    /// Fewer than two classes; one named twice.
    pub fn given(names: &[String]) -> Result<Self, Error> {
        let mut set = Self {
            given: true,
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
    /// `ClassLabel`: an integer that isn't a name itself counts the classes from 0.
    fn find(&self, label: &Label) -> Option<u32> {
        let by_name = self.index(&label.name);
        let by_number = || label.number.and_then(|n| u32::try_from(n).ok());
        by_name.or_else(|| by_number().filter(|n| self.given && (*n as usize) < self.len()))
    }

    fn intern(&mut self, name: &str) -> u32 {
        if let Some(index) = self.index.get(name) {
            return *index;
        }
        let next = index(self.names.len());
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), next);
        next
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
        Problem::UnknownLabel {
            label: label.name.clone(),
            suggestion: nearest(&label.name, self.names.iter().map(String::as_str)),
            given: self.given,
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
    /// Of so many samples, the tokens that follow each token: they are in the inputs.
    Next(usize),
}

impl Labels {
    /// Samples held.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Labels::Single(classes) => classes.len(),
            Labels::Multi { ends, .. } => ends.len(),
            Labels::Numbers(numbers) => numbers.len(),
            Labels::Tags { ends, .. } => ends.len(),
            Labels::Next(samples) => *samples,
        }
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The classes of sample `index`, or the tags of its words; empty beyond the last and for
    /// regression.
    #[must_use]
    pub fn classes(&self, index: usize) -> &[u32] {
        match self {
            Labels::Single(classes) => classes.get(index..=index).unwrap_or_default(),
            Labels::Multi { ends, classes }
            | Labels::Tags {
                ends,
                tags: classes,
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
            Labels::Numbers(_) | Labels::Next(_) => &[],
        }
    }

    /// Samples of each of `classes` classes; words, where they are tags.
    #[must_use]
    pub fn counts(&self, classes: usize) -> Vec<u64> {
        let mut counts = vec![0; classes];
        let all = match self {
            Labels::Single(all)
            | Labels::Multi { classes: all, .. }
            | Labels::Tags { tags: all, .. } => all.as_slice(),
            Labels::Numbers(_) | Labels::Next(_) => &[],
        };
        for class in all {
            if let Some(count) = counts.get_mut(*class as usize) {
                *count += 1;
            }
        }
        counts
    }

    /// The targets of the samples `which`, in that order, as metrics take them; none of next tokens,
    /// which are in the inputs.
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

/// Turns cells into targets. Without a label set it collects one.
pub(super) struct LabelReader<'a> {
    column: &'a str,
    known: Option<&'a LabelSet>,
    found: LabelSet,
    labels: Labels,
}

impl<'a> LabelReader<'a> {
    pub(super) fn new(head: HeadKind, column: &'a str, known: Option<&'a LabelSet>) -> Self {
        let labels = match head {
            HeadKind::SingleLabel => Labels::Single(Vec::new()),
            HeadKind::MultiLabel => Labels::Multi {
                ends: Vec::new(),
                classes: Vec::new(),
            },
            HeadKind::Regression => Labels::Numbers(Vec::new()),
            HeadKind::Tags => Labels::Tags {
                set: Arc::default(),
                ends: Vec::new(),
                tags: Vec::new(),
            },
            HeadKind::CausalLm => Labels::Next(0),
        };
        Self {
            column,
            known,
            found: LabelSet::default(),
            labels,
        }
    }

    pub(super) fn push(&mut self, cell: Cell, place: &Place) -> Result<(), Error> {
        self.add(cell).map_err(|problem| place.error(problem))
    }

    /// Tags of the sample that was pushed last; none if labels are no tags.
    pub(super) fn last_tags(&self) -> Option<usize> {
        match &self.labels {
            Labels::Tags { .. } => {
                Some(self.labels.classes(self.labels.len().checked_sub(1)?).len())
            }
            _ => None,
        }
    }

    fn add(&mut self, cell: Cell) -> Result<(), Problem> {
        match &mut self.labels {
            Labels::Next(samples) => *samples += 1,
            Labels::Numbers(numbers) => numbers.push(number(&cell, self.column)?),
            Labels::Single(classes) => {
                let label = Label::of(cell, self.column, "a class: a text or an integer")?;
                classes.push(class(self.known, &mut self.found, &label)?);
            }
            Labels::Multi { ends, classes } => {
                let cells = match cell.unpacked() {
                    Cell::List(cells) => cells,
                    other => {
                        let what = "a list of classes, such as [\"a\",\"b\"] or []";
                        return Err(mismatch(self.column, what, &other));
                    }
                };
                let mut row = Vec::with_capacity(cells.len());
                for cell in cells {
                    let label = Label::of(cell, self.column, "a list of texts or integers")?;
                    row.push(class(self.known, &mut self.found, &label)?);
                }
                row.sort_unstable();
                row.dedup();
                classes.extend(row);
                ends.push(index(classes.len()));
            }
            Labels::Tags { ends, tags, .. } => {
                let what = "a list of tags, one for each word";
                let cells = match cell.unpacked() {
                    Cell::List(cells) => cells,
                    other => return Err(mismatch(self.column, what, &other)),
                };
                let mut before: Option<String> = None;
                for (word, cell) in cells.into_iter().enumerate() {
                    let label = Label::of(cell, self.column, what)?;
                    tags.push(class(self.known, &mut self.found, &label)?);
                    let name = match self.known {
                        // By number: the name is the set's.
                        Some(set) => tags
                            .last()
                            .and_then(|&tag| set.names.get(tag as usize))
                            .cloned(),
                        None => None,
                    };
                    let name = name.unwrap_or(label.name);
                    if let Some(kind) = name.strip_prefix("I-")
                        && before.as_deref().and_then(|b| b.get(2..)) != Some(kind)
                    {
                        return Err(Problem::Bio {
                            column: self.column.to_owned(),
                            word: word + 1,
                            before: before.map_or("nothing".to_owned(), |tag| format!("`{tag}`")),
                            tag: name,
                        });
                    }
                    before = Some(name);
                }
                ends.push(index(tags.len()));
            }
        }
        Ok(())
    }

    /// The targets, and the label set: the known one, or the one found, sorted.
    pub(super) fn finish(mut self) -> Result<(Labels, LabelSet), Error> {
        if let Some(known) = self.known {
            if let Labels::Tags { set, .. } = &mut self.labels {
                *set = Arc::new(TagSet::of(known.names()));
            }
            return Ok((self.labels, known.clone()));
        }
        if matches!(self.labels, Labels::Numbers(_) | Labels::Next(_)) {
            return Ok((self.labels, LabelSet::default()));
        }
        let renamed = self.found.sort();
        match &mut self.labels {
            Labels::Single(all) => all.iter_mut().for_each(|c| *c = renamed[*c as usize]),
            Labels::Multi { ends, classes } => {
                classes.iter_mut().for_each(|c| *c = renamed[*c as usize]);
                let mut start = 0;
                for end in ends {
                    classes[start..*end as usize].sort_unstable();
                    start = *end as usize;
                }
            }
            Labels::Tags { set, tags, .. } => {
                tags.iter_mut()
                    .for_each(|tag| *tag = renamed[*tag as usize]);
                *set = Arc::new(TagSet::of(self.found.names()));
            }
            Labels::Numbers(_) | Labels::Next(_) => {}
        }
        Ok((self.labels, self.found.checked()?))
    }
}

fn class(known: Option<&LabelSet>, found: &mut LabelSet, label: &Label) -> Result<u32, Problem> {
    match known {
        Some(set) => set.find(label).ok_or_else(|| set.unknown(label)),
        None => Ok(found.intern(&label.name)),
    }
}

/// A class as a row names it.
struct Label {
    name: String,
    number: Option<i64>,
}

impl Label {
    fn of(cell: Cell, column: &str, expected: &str) -> Result<Self, Problem> {
        match cell {
            Cell::Text(name) => Ok(Label { name, number: None }),
            Cell::Raw(name) if !name.is_empty() => {
                let number = name.parse().ok();
                Ok(Label { name, number })
            }
            Cell::Int(number) => Ok(Label {
                name: number.to_string(),
                number: Some(number),
            }),
            Cell::Bool(value) => Ok(Label {
                name: value.to_string(),
                number: Some(i64::from(value)),
            }),
            // A column of integers with gaps is often stored as floating point.
            #[expect(clippy::cast_possible_truncation, reason = "whole and small: exact")]
            Cell::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => Ok(Label {
                name: (number as i64).to_string(),
                number: Some(number as i64),
            }),
            other => Err(mismatch(column, expected, &other)),
        }
    }
}

/// A count as a class number. Classes and labels are counted in 32 bits: `dataset` reads no more
/// than 2^32 rows, and a set of classes that large doesn't fit into a head.
fn index(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
