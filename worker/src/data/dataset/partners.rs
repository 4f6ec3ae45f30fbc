//! Texts that samples are ranked with: the one that belongs to a sample, and maybe one that does not.

use super::{Modality, Split};
use crate::data::inputs::Texts;
use crate::data::source::{Row, Wanted};
use crate::data::{Cell, Error, Input, Place};
use espalier_spec::job::{HeadKind, TaskSpec};
use std::sync::Arc;

/// Such texts as they are read; none for other heads than `ranking`.
pub(super) struct PartnerReader {
    /// Those that belong to the samples, then those that do not, if there are any.
    texts: Vec<Texts>,
}

impl PartnerReader {
    pub(super) fn new(task: &TaskSpec, modality: &Modality) -> Self {
        let count = match task.head {
            HeadKind::Ranking => 1 + usize::from(task.data.columns.negative.is_some()),
            _ => 0,
        };
        let texts = match modality {
            Modality::Text(tokenizer) => {
                let new = |_| Texts::new(tokenizer.clone(), false);
                (0..count).map(new).collect()
            }
            // They were refused before.
            Modality::Media(_) => Vec::new(),
        };
        Self { texts }
    }

    /// Whether samples have such texts.
    pub(super) fn is_wanted(&self) -> bool {
        !self.texts.is_empty()
    }

    /// Whether such a text of a row says nothing: everything is as near to it as anything else.
    pub(super) fn is_blank(&self, row: &Row) -> bool {
        let cells = row.pair.iter().chain([&row.label]);
        let mut wanted = self.texts.iter().zip(cells).map(|(_, cell)| cell);
        wanted.any(
            |cell| matches!(cell, Cell::Text(text) | Cell::Raw(text) if text.trim().is_empty()),
        )
    }

    /// Takes such texts out of a row: the pair, and what does not belong to the input in place of a label.
    ///
    /// # Errors
    /// A cell that is no text, with its place.
    pub(super) fn push(
        &mut self,
        (pair, label): (&mut Option<Cell>, &mut Cell),
        wanted: Wanted<'_>,
        place: &Place,
    ) -> Result<(), Error> {
        if !self.is_wanted() {
            return Ok(());
        }
        let positive = pair.take().unwrap_or(Cell::Null);
        let negative = std::mem::replace(label, Cell::Null);
        let cells = [
            (positive, wanted.pair.unwrap_or_default()),
            (negative, wanted.label),
        ];
        for (texts, (cell, column)) in self.texts.iter_mut().zip(cells) {
            texts.push(cell, column, place)?;
        }
        Ok(())
    }

    /// The texts, with room for their tokens.
    pub(super) fn finish(mut self) -> Arc<[Texts]> {
        self.texts.iter_mut().for_each(Texts::finish);
        self.texts.into()
    }
}

impl Split {
    /// What sample `index` is ranked with: the text that belongs to it, then one that does not, if there are
    /// any; none for other heads. Texts are tokenised when first wanted.
    ///
    /// # Errors
    /// As [`Split::input`].
    pub fn partners(&self, index: usize) -> Result<Vec<Input>, Error> {
        let row = self.row(index);
        let tokens = |texts: &Texts| {
            let tokens = texts.tokens(row);
            tokens.map_err(|problem| self.problem(index, problem))
        };
        self.partners.iter().map(tokens).collect()
    }

    /// Predicted cost of these, in tokens; 0 if there are none.
    ///
    /// # Errors
    /// As [`Split::input`].
    pub fn partner_cost(&self, index: usize) -> Result<u64, Error> {
        let partners = self.partners(index)?;
        Ok(partners.iter().map(Input::cost).sum())
    }
}
