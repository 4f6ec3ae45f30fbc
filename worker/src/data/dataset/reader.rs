//! Files of a split to inputs and labels.

use super::left_out::LeftOut;
use super::length::too_long;
use super::partners::PartnerReader;
use super::split::Origin;
use super::{Modality, Split, answers, target};
use crate::data::inputs::Texts;
use crate::data::labels::LabelReader;
use crate::data::mask::MaskReader;
use crate::data::media::Images;
use crate::data::source::{self, Row, Wanted};
use crate::data::{Cell, Error, Inputs, LabelSet, Problem};
use espalier_spec::job::{DataSpec, Files, HeadKind, Join, OnMissingLabel, TaskSpec, TooLong};
use std::path::Path;
use std::sync::Arc;

/// Reads the files of one split.
pub(super) struct SplitReader<'a> {
    pub(super) task: &'a TaskSpec,
    pub(super) modality: &'a Modality,
    pub(super) wanted: Wanted<'a>,
    pub(super) known: Option<&'a LabelSet>,
    pub(super) limit: Option<u64>,
    pub(super) name: &'static str,
    pub(super) labelled: bool,
}

impl SplitReader<'_> {
    /// Classes that no row of the split may have.
    fn unseen(&self) -> &[String] {
        match &self.task.zero_shot {
            Some(spec) if self.name == "train" => &spec.unseen,
            _ => &[],
        }
    }

    /// Frames of a sample, if the backbone gives any.
    fn frames(&self) -> Option<usize> {
        match self.modality {
            Modality::Media(reader) => reader.frames(),
            Modality::Text(_) => None,
        }
    }

    fn skips_unlabelled(&self) -> bool {
        let skips = self.task.data.on_missing_label == OnMissingLabel::Skip;
        self.labelled && (skips || self.name == target::NAME)
    }

    /// Whether texts become one stream, in which an empty one is nothing.
    fn joins(&self) -> bool {
        self.task.head == HeadKind::CausalLm && self.task.data.join != Join::Apart
    }

    /// What is wrong with a row's text if it would be cut and the job wants none cut.
    fn too_long(&self, row: &Row) -> Option<Problem> {
        let Modality::Text(tokenizer) = self.modality else {
            return None;
        };
        let is_wanted = self.cuts_nothing() && !self.joins();
        let input = (&row.input, row.pair.as_ref());
        is_wanted.then(|| too_long(tokenizer, self.wanted.input, input))?
    }

    fn cuts_nothing(&self) -> bool {
        self.task.data.too_long == TooLong::Error
    }

    /// Whether rows without a label stay: for the other tasks of a group, or as a target, which needs none.
    fn keeps_unlabelled(&self) -> bool {
        self.name == target::NAME || self.task.input_group.is_some() && self.name == "train"
    }

    /// What reads masks, if the task has some.
    fn masks(&self) -> Option<MaskReader> {
        let Modality::Media(reader) = self.modality else {
            return None;
        };
        let ignore = self.task.segmentation.unwrap_or_default().ignore_index;
        let classes = self.known.map_or(0, LabelSet::len);
        let wanted = self.task.head.reads_map() && self.labelled;
        wanted.then(|| MaskReader::new(reader.clone(), classes, ignore))
    }

    /// The answers of a row; none for heads that want no answers.
    fn answers(&self, row: &Row) -> Result<Option<answers::Answers>, Error> {
        let (HeadKind::Span, Some(context)) = (self.task.head, &row.pair) else {
            return Ok(None);
        };
        let found = answers::read(&row.label, self.wanted.label, context);
        found.map(Some).map_err(|problem| row.place.error(problem))
    }

    /// All that decides on what is read of files: they, columns and classes, and the task but for what says nothing
    /// of its samples.
    pub(super) fn key(&self, paths: &[String]) -> String {
        let data = DataSpec {
            train: Files::Many(Vec::new()),
            validation: None,
            test: None,
            ..self.task.data.clone()
        };
        let task = TaskSpec {
            name: String::new(),
            data,
            weight: 1.0,
            metric: None,
            evaluation: None,
            adaptation: None,
            adapter: None,
            ..self.task.clone()
        };
        let how = (self.name, self.labelled, self.limit, self.wanted);
        format!("{:?}", (paths, how, self.known, task))
    }

    pub(super) fn read(self, paths: &[String]) -> Result<(Split, LabelSet), Error> {
        let mut inputs = match self.modality {
            Modality::Text(tokenizer) => {
                let words = self.task.head == HeadKind::Tags;
                let texts = Texts::new(tokenizer.clone(), words);
                Inputs::Text(match self.task.head {
                    HeadKind::Span => texts.searched(),
                    _ => texts,
                })
            }
            Modality::Media(reader) => {
                Inputs::Image(Images::new(reader.clone()).whole(self.cuts_nothing()))
            }
        };
        // An empty label set is that of a task without classes, not one to look labels up in.
        let known = self.known.filter(|set| !set.is_empty());
        let mut labels = match self.labelled {
            true => {
                LabelReader::new(self.task.head, self.wanted.label, known).without(self.unseen())
            }
            false => LabelReader::none(self.wanted.label),
        };
        let masks = self.masks();
        if let Some(masks) = &masks {
            labels = labels.of_masks(masks);
        }
        let mut partners = PartnerReader::new(self.task, self.modality);
        let mut origins: Vec<Origin> = Vec::new();
        let limit = self.limit.unwrap_or(u64::MAX);
        let mut count = 0;
        let mut left_out = LeftOut::new(&self.task.data);
        for (number, path) in paths.iter().enumerate() {
            if count as u64 >= limit {
                break;
            }
            let path = Path::new(path);
            origins.push(Origin {
                file: Arc::new(path.to_owned()),
                number,
                first: count,
                row: 1,
            });
            source::read(path, self.wanted, &mut |mut row: Row| {
                let mut missing = self.skips_unlabelled() && LabelReader::is_missing(&row.label);
                let next = |count| Origin {
                    file: row.place.file.clone(),
                    number,
                    first: count,
                    row: row.place.row + 1,
                };
                if missing {
                    left_out.unlabelled += 1;
                    if !self.keeps_unlabelled() {
                        origins.push(next(count));
                        return Ok(true);
                    }
                }
                if self.task.head == HeadKind::Tags {
                    row.input = row.input.unpacked();
                    row.label = row.label.unpacked();
                }
                let frames = self.frames();
                let long = || frames.and_then(|frames| labels.too_long(&row.label, frames));
                let wrong = || long().or_else(|| labels.wrong_tags(&row.label, &row.input));
                let wrong = if missing { None } else { wrong() };
                if let Some(problem) = wrong {
                    left_out.skip(row.place.error(problem))?;
                    if !self.keeps_unlabelled() {
                        origins.push(next(count));
                        return Ok(true);
                    }
                    missing = true;
                }
                let mask = match &masks {
                    Some(reader) if !missing => {
                        let cell = std::mem::replace(&mut row.label, Cell::Null);
                        let folder = row.place.file.parent().unwrap_or(Path::new(""));
                        let mask = reader.read(cell, self.wanted.label, folder);
                        match mask.map_err(|problem| row.place.error(problem)) {
                            Ok(mask) => Some(mask),
                            Err(error) => {
                                left_out.skip(error)?;
                                if !self.keeps_unlabelled() {
                                    origins.push(next(count));
                                    return Ok(true);
                                }
                                missing = true;
                                None
                            }
                        }
                    }
                    _ => None,
                };
                let answers = match missing {
                    true => Ok(None),
                    false => self.answers(&row),
                };
                let answers = match answers {
                    Ok(answers) => answers,
                    Err(error) => {
                        left_out.skip(error)?;
                        origins.push(next(count));
                        return Ok(true);
                    }
                };
                // Read together with the input, unless it is ranked with it.
                let second = row.pair.as_ref().filter(|_| !partners.is_wanted());
                if let Inputs::Text(texts) = &inputs
                    && !self.joins()
                    && (texts.lacks_tokens(&row.input, second) || partners.is_blank(&row))
                {
                    left_out.skip(row.place.error(Problem::NoTokens))?;
                    origins.push(next(count));
                    return Ok(true);
                }
                if let Some(problem) = self.too_long(&row) {
                    left_out.skip(row.place.error(problem))?;
                    origins.push(next(count));
                    return Ok(true);
                }
                let pushed = match &mut inputs {
                    Inputs::Text(texts) => texts.push(row.input, self.wanted.input, &row.place),
                    Inputs::Image(images) => images.push(row.input, self.wanted.input, &row.place),
                    // What is read from a file is neither features nor a stream.
                    Inputs::Features(_) | Inputs::Stream(_) => Ok(()),
                };
                if let Err(error) = pushed {
                    left_out.skip(error)?;
                    origins.push(next(count));
                    return Ok(true);
                }
                let cells = (&mut row.pair, &mut row.label);
                partners.push(cells, self.wanted, &row.place)?;
                if let (Inputs::Text(texts), Some(second)) = (&mut inputs, row.pair) {
                    let column = self.wanted.pair.unwrap_or_default();
                    texts.push_second(second, column, &row.place)?;
                }
                if let (Inputs::Text(texts), HeadKind::Span) = (&mut inputs, self.task.head) {
                    texts.push_answer(answers.as_ref().and_then(|answers| answers.first));
                }
                match (mask, answers) {
                    _ if missing => labels.push_missing(),
                    (Some(mask), _) => labels.push_mask(mask),
                    (None, Some(answers)) => labels.push_answers(answers.texts),
                    (None, None) => labels.push(row.label, &row.place)?,
                }
                count += 1;
                if count >= u32::MAX as usize {
                    return Err(Error::TooManySamples);
                }
                Ok((count as u64) < limit)
            })?;
        }
        let missing = labels.take_missing();
        let wants_labels = self.name != target::NAME;
        if count == 0 || wants_labels && count == missing.len() {
            return Err(left_out.nothing_left(self.wanted.label));
        }
        let (skipped, unlabelled) = (left_out.skipped, left_out.unlabelled);
        match &mut inputs {
            Inputs::Text(texts) => texts.finish(),
            Inputs::Image(images) => images.finish(),
            Inputs::Features(_) | Inputs::Stream(_) => {}
        }
        let (labels, set) = labels.finish()?;
        let (task, name) = (self.task.name.clone(), self.name);
        let split = Split {
            inputs: Arc::new(inputs),
            labels,
            name,
            task,
            skipped,
            unlabelled,
            origins,
            kept: None,
            begun: None,
            missing: missing.into(),
            partners: partners.finish(),
        };
        let split = match self.modality {
            Modality::Text(tokenizer) if self.joins() => {
                split.joined(tokenizer, self.task.data.join, name == "train")?
            }
            _ => split,
        };
        Ok((split, set))
    }
}
