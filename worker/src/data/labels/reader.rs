//! Turns cells into labels.

use super::{LabelSet, Labels, Masks, NO_CLASS, index};
use crate::data::cell::shortened;
use crate::data::inputs::{mismatch, number};
use crate::data::mask::MaskReader;
use crate::data::{Cell, Error, Place, Problem};
use crate::metrics::TagSet;
use espalier_spec::job::HeadKind;
use std::sync::Arc;

/// What labels of the head `ctc` are, in words.
const TEXT: &str = "a text";
/// What labels of the head `tags` are.
const TAGS: &str = "a list of tags, one for each word";
/// What parts words.
const SPACE: &str = " ";

/// Turns cells into targets. Without a label set it collects one.
pub(in crate::data) struct LabelReader<'a> {
    column: &'a str,
    known: Option<&'a LabelSet>,
    /// Classes that no row may have.
    unseen: &'a [String],
    found: LabelSet,
    labels: Labels,
    /// Samples without a label, ascending.
    missing: Vec<u32>,
}

impl<'a> LabelReader<'a> {
    pub(in crate::data) fn new(
        head: HeadKind,
        column: &'a str,
        known: Option<&'a LabelSet>,
    ) -> Self {
        let labels = match head {
            HeadKind::SingleLabel
            | HeadKind::Ordinal
            | HeadKind::LabelEmbedding
            | HeadKind::Entailment => Labels::Single(Vec::new()),
            HeadKind::MultiLabel => Labels::Multi {
                ends: Vec::new(),
                classes: Vec::new(),
            },
            HeadKind::Regression => Labels::Numbers(Vec::new()),
            HeadKind::CausalLm => Labels::Next(0),
            // What they are like, `of_masks` says.
            HeadKind::Segmentation => Labels::Masks(Masks::new([0, 0], u8::MAX)),
            HeadKind::Span => Labels::Answers(Vec::new()),
            // What is right for a sample is an input, too.
            HeadKind::Ranking => Labels::Unlabelled(0),
            HeadKind::Tags => Labels::Tags {
                set: Arc::default(),
                ends: Vec::new(),
                tags: Vec::new(),
            },
            HeadKind::Ctc => Labels::Text {
                space: None,
                ends: Vec::new(),
                characters: Vec::new(),
            },
        };
        Self {
            column,
            known,
            unseen: &[],
            found: LabelSet::default(),
            labels,
            missing: Vec::new(),
        }
    }

    /// Reads none.
    pub(in crate::data) fn none(column: &'a str) -> Self {
        Self {
            column,
            known: None,
            unseen: &[],
            found: LabelSet::default(),
            labels: Labels::Unlabelled(0),
            missing: Vec::new(),
        }
    }

    /// Refuses rows of these classes.
    pub(in crate::data) fn without(self, unseen: &'a [String]) -> Self {
        Self { unseen, ..self }
    }

    /// Takes masks as they come out of this reader.
    pub(in crate::data) fn of_masks(self, reader: &MaskReader) -> Self {
        Self {
            labels: Labels::Masks(Masks::new(reader.size(), reader.ignore())),
            ..self
        }
    }

    /// Adds the mask of a sample, which was read before.
    pub(in crate::data) fn push_mask(&mut self, mask: Vec<u8>) {
        if let Labels::Masks(masks) = &mut self.labels {
            masks.push(mask);
        }
    }

    /// Whether a cell holds no label: null, an empty text, or not a number.
    pub(in crate::data) fn is_missing(cell: &Cell) -> bool {
        is_empty(cell) || matches!(cell, Cell::Float(number) if number.is_nan())
    }

    /// Adds a sample without a label.
    pub(in crate::data) fn push_missing(&mut self) {
        self.missing.push(index(self.labels.len()));
        match &mut self.labels {
            Labels::Single(classes) => classes.push(NO_CLASS),
            Labels::Multi { ends, classes } => ends.push(index(classes.len())),
            Labels::Numbers(numbers) => numbers.push(f32::NAN),
            Labels::Unlabelled(count) | Labels::Next(count) => *count += 1,
            Labels::Tags { ends, tags, .. } => ends.push(index(tags.len())),
            Labels::Text {
                ends, characters, ..
            } => ends.push(index(characters.len())),
            Labels::Masks(masks) => masks.push(Vec::new()),
            Labels::Answers(answers) => answers.push(Arc::default()),
        }
    }

    /// Adds the right answers of a sample.
    pub(in crate::data) fn push_answers(&mut self, texts: Arc<[String]>) {
        if let Labels::Answers(answers) = &mut self.labels {
            answers.push(texts);
        }
    }

    /// What is wrong with a text that is read out of `frames` frames, if that are too few: a character
    /// takes one, and between two that are the same there must be another.
    pub(in crate::data) fn too_long(&self, cell: &Cell, frames: usize) -> Option<Problem> {
        let Labels::Text { .. } = &self.labels else {
            return None;
        };
        let label = Label::of(cell.clone(), self.column, TEXT).ok()?;
        let characters: Vec<char> = label.name.chars().collect();
        let same = characters.windows(2).filter(|pair| pair[0] == pair[1]);
        let needed = characters.len() + same.count();
        (needed > frames).then(|| Problem::Undecodable {
            column: self.column.to_owned(),
            message: format!(
                "the text `{}` needs {needed} frames (one for each character, and one between two that are \
                 the same), but the backbone gives {frames}",
                shortened(&label.name)
            ),
        })
    }

    /// What is wrong with tags: not one for each word of an input, or one that goes on with a span that has not
    /// begun. Nothing where labels are no tags, or where a cell is none that is taken: that is told later.
    pub(in crate::data) fn wrong_tags(&self, tags: &Cell, input: &Cell) -> Option<Problem> {
        let (Labels::Tags { .. }, Cell::List(tags), Cell::List(words)) =
            (&self.labels, tags, input)
        else {
            return None;
        };
        if tags.len() != words.len() {
            return Some(Problem::TagCount {
                column: self.column.to_owned(),
                expected: words.len(),
                found: tags.len(),
            });
        }
        let mut before: Option<String> = None;
        for (word, cell) in tags.iter().enumerate() {
            let tag = self.name(Label::of(cell.clone(), self.column, TAGS).ok()?);
            if let Some(kind) = tag.strip_prefix("I-")
                && before.as_deref().and_then(|b| b.get(2..)) != Some(kind)
            {
                return Some(Problem::Bio {
                    column: self.column.to_owned(),
                    word: word + 1,
                    before: before.map_or("nothing".to_owned(), |tag| format!("`{tag}`")),
                    tag,
                });
            }
            before = Some(tag);
        }
        None
    }

    /// The name of a label's class: of one that is told by number the set's.
    fn name(&self, label: Label) -> String {
        let class = self.known.and_then(|set| Some((set, set.find(&label)?)));
        let name = class.and_then(|(set, class)| set.names.get(class as usize));
        name.cloned().unwrap_or(label.name)
    }

    /// Samples without a label, ascending.
    pub(in crate::data) fn take_missing(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.missing)
    }

    pub(in crate::data) fn push(&mut self, cell: Cell, place: &Place) -> Result<(), Error> {
        let wants_label = !matches!(self.labels, Labels::Unlabelled(_) | Labels::Next(_));
        if wants_label && is_empty(&cell) {
            let column = self.column.to_owned();
            return Err(place.error(Problem::NoLabel { column }));
        }
        self.add(cell).map_err(|problem| place.error(problem))
    }

    fn add(&mut self, cell: Cell) -> Result<(), Problem> {
        match &mut self.labels {
            Labels::Numbers(numbers) => numbers.push(number(&cell, self.column)?),
            Labels::Unlabelled(count) | Labels::Next(count) => *count += 1,
            // They are decoded before: `push_mask`.
            Labels::Masks(_) => return Err(mismatch(self.column, "a mask", &cell)),
            // They are read together with their contexts.
            Labels::Answers(_) => return Err(mismatch(self.column, "answers", &cell)),
            Labels::Single(classes) => {
                let label = Label::of(cell, self.column, "a class: a text or an integer")?;
                let class = class(self.known, &mut self.found, &label);
                // By number: the name is the set's.
                let name = match (self.known, &class) {
                    (Some(set), Ok(class)) => set.names.get(*class as usize),
                    _ => None,
                };
                let name = name.unwrap_or(&label.name);
                if self.unseen.contains(name) {
                    let label = name.clone();
                    return Err(Problem::Unseen { label });
                }
                classes.push(class?);
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
                let cells = match cell.unpacked() {
                    Cell::List(cells) => cells,
                    other => return Err(mismatch(self.column, TAGS, &other)),
                };
                for cell in cells {
                    let label = Label::of(cell, self.column, TAGS)?;
                    tags.push(class(self.known, &mut self.found, &label)?);
                }
                ends.push(index(tags.len()));
            }
            Labels::Text {
                ends, characters, ..
            } => {
                let label = Label::of(cell, self.column, TEXT)?;
                for character in label.name.chars() {
                    let label = Label::named(character.to_string());
                    characters.push(class(self.known, &mut self.found, &label)?);
                }
                ends.push(index(characters.len()));
            }
        }
        Ok(())
    }

    /// The targets, and the label set: the known one, or the one found, sorted.
    pub(in crate::data) fn finish(mut self) -> Result<(Labels, LabelSet), Error> {
        if let Some(known) = self.known {
            match &mut self.labels {
                Labels::Tags { set, .. } => *set = Arc::new(TagSet::of(known.names())),
                Labels::Text { space, .. } => *space = known.index(SPACE),
                _ => {}
            }
            return Ok((self.labels, known.clone()));
        }
        if matches!(
            self.labels,
            Labels::Numbers(_) | Labels::Unlabelled(_) | Labels::Next(_) | Labels::Answers(_)
        ) {
            return Ok((self.labels, LabelSet::default()));
        }
        let renamed = self.found.sort();
        match &mut self.labels {
            Labels::Single(all) => all
                .iter_mut()
                .filter(|class| **class != NO_CLASS)
                .for_each(|c| *c = renamed[*c as usize]),
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
            Labels::Text {
                space, characters, ..
            } => {
                let all = characters.iter_mut();
                all.for_each(|character| *character = renamed[*character as usize]);
                *space = self.found.index(SPACE);
            }
            Labels::Numbers(_)
            | Labels::Unlabelled(_)
            | Labels::Next(_)
            | Labels::Masks(_)
            | Labels::Answers(_) => {}
        }
        Ok((self.labels, self.found.checked()?))
    }
}

fn is_empty(cell: &Cell) -> bool {
    match cell {
        Cell::Null => true,
        Cell::Text(text) | Cell::Raw(text) => text.is_empty(),
        _ => false,
    }
}

fn class(known: Option<&LabelSet>, found: &mut LabelSet, label: &Label) -> Result<u32, Problem> {
    match known {
        Some(set) => set.find(label).ok_or_else(|| set.unknown(label)),
        None => Ok(found.intern(&label.name)),
    }
}

/// A class as a row names it.
pub(super) struct Label {
    pub(super) name: String,
    /// What it is as a number, if it can be read as one.
    pub(super) number: Option<i64>,
    /// Whether it is an integer in the file, not a text that can be read as one.
    pub(super) is_integer: bool,
}

impl Label {
    fn of(cell: Cell, column: &str, expected: &str) -> Result<Self, Problem> {
        match cell {
            Cell::Text(name) => Ok(Label::named(name)),
            Cell::Raw(name) if !name.is_empty() => Ok(Label {
                number: name.parse().ok(),
                ..Label::named(name)
            }),
            Cell::Int(number) => Ok(Label::integer(number)),
            Cell::Bool(value) => Ok(Label {
                number: Some(i64::from(value)),
                ..Label::named(value.to_string())
            }),
            // A column of integers with gaps is often stored as floating point.
            #[expect(clippy::cast_possible_truncation, reason = "whole and small: exact")]
            Cell::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
                Ok(Label::integer(number as i64))
            }
            other => Err(mismatch(column, expected, &other)),
        }
    }

    fn named(name: String) -> Self {
        Self {
            name,
            number: None,
            is_integer: false,
        }
    }

    fn integer(number: i64) -> Self {
        Self {
            name: number.to_string(),
            number: Some(number),
            is_integer: true,
        }
    }
}
