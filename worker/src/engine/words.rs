//! Words of a batch's samples, for heads that read words: which rows they are, and which have one.

use crate::data::{Input, NO_TOKEN};
use crate::metrics::Values;
use crate::model::Batch;
use tch::{TchError, Tensor};

/// Where the words of some samples stand in a batch.
#[derive(Debug)]
pub struct Words {
    /// Row of each word that has a token.
    rows: Vec<i64>,
    /// Whether each word has one, sample by sample.
    has: Vec<Vec<bool>>,
}

impl Words {
    /// The words of `inputs`, which are the samples `places` of the batch.
    #[must_use]
    pub fn of<'a>(
        batch: &Batch,
        places: impl IntoIterator<Item = usize>,
        inputs: impl Iterator<Item = &'a Input>,
    ) -> Self {
        let starts = match batch {
            Batch::Tokens(tokens) => tokens.first_rows(),
            Batch::Images(_) | Batch::Features(_) => Vec::new(),
        };
        let (mut rows, mut has) = (Vec::new(), Vec::new());
        let starts = places.into_iter().filter_map(|place| starts.get(place));
        for (start, input) in starts.zip(inputs) {
            let first = input.first();
            let there = first.iter().filter(|&&token| token != NO_TOKEN);
            rows.extend(there.map(|&token| start + i64::from(token)));
            has.push(first.iter().map(|&token| token != NO_TOKEN).collect());
        }
        Self { rows, has }
    }

    /// The vectors of the words that have a token, [w, h], out of those of all rows.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn vectors(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        let index = Tensor::f_from_slice(&self.rows)?.f_to_device(rows.device())?;
        rows.f_index_select(0, &index)
    }

    /// The targets of the words that have a token; others that are no tags, as they are.
    #[must_use]
    pub fn kept(&self, targets: Values) -> Values {
        let Values::Tags { set, values, .. } = targets else {
            return targets;
        };
        let all = self.has.iter().flatten().zip(&values);
        let kept = all.filter(|(has, _)| **has).map(|(_, tag)| *tag);
        Values::Tags {
            set,
            ends: self.ends(),
            values: kept.collect(),
        }
    }

    /// Where each sample's words end among those that have a token.
    #[must_use]
    pub fn ends(&self) -> Vec<u32> {
        let mut end = 0;
        let ends = self.has.iter().map(|has| {
            end += has.iter().filter(|has| **has).count() as u32;
            end
        });
        ends.collect()
    }

    /// What was found of words that have a token, dealt out to the samples; none for the others.
    #[must_use]
    pub fn spread<T>(&self, found: Vec<T>) -> Vec<Vec<Option<T>>> {
        let mut found = found.into_iter();
        let mut next = |has: &bool| has.then(|| found.next()).flatten();
        let samples = self.has.iter();
        samples
            .map(|has| has.iter().map(&mut next).collect())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::TagSet;
    use crate::model::TokenBatch;
    use std::sync::Arc;
    use tch::{Device, Kind};

    // Promise: words are read at their first token, whatever the packing; those that were cut have no
    // target and no decision.
    #[test]
    fn words_are_found_in_the_packed_batch() {
        let batch = TokenBatch::pack(&[&[9, 1, 2, 3], &[9, 4]], &[0, 1], Device::Cpu).unwrap();
        let batch = Batch::Tokens(batch);
        let words = |ids: &[u32], first: &[u32]| Input::Words {
            ids: ids.into(),
            first: first.into(),
        };
        let inputs = [
            words(&[9, 1, 2, 3], &[1, 3, NO_TOKEN]),
            words(&[9, 4], &[1]),
        ];
        let found = Words::of(&batch, 0..2, inputs.iter());
        // The shorter text comes first in the batch.
        assert_eq!(found.rows, [3, 5, 1]);
        let targets = Values::Tags {
            set: Arc::new(TagSet::of(&["O".to_owned(), "B-x".to_owned()])),
            ends: vec![3, 4],
            values: vec![1, 0, 1, 1],
        };
        let Values::Tags { ends, values, .. } = found.kept(targets) else {
            panic!("other targets");
        };
        assert_eq!((ends, values), (vec![2, 3], vec![1, 0, 1]));
        let spread = found.spread(vec![5, 6, 7]);
        assert_eq!(spread, [vec![Some(5), Some(6), None], vec![Some(7)]]);
        let rows = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([6, 1]);
        assert_eq!(found.vectors(&rows).unwrap().size(), [3, 1]);
    }
}
