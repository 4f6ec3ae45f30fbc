//! Exchange of the word table: rows with a gradient go to their owners; updated rows come back, or
//! are fetched by the steps that read them.

use super::Error;
use super::exact::ExactSum;
use super::lanes::Lanes;
use super::optimizer::Optimizer;
use super::own_rows::OwnRows;
use super::owner::Pace;
use super::rows::{RowGradient, RowOptimizer};
use crate::checkpoint::{Values, fill};
use crate::model::Table;
use crate::torch;
use espalier_comm::{Communicator, CommunicatorExt};
use espalier_spec::exchange::Sharding;
use std::ops::Range;

/// The word table's optimizer and who owns which of its rows.
#[derive(Debug)]
pub(super) struct TableOwner {
    /// State of the rows that this rank steps.
    pub(super) optimizer: RowOptimizer,
    /// Rows of each rank.
    owned: Vec<Range<u32>>,
    /// Every rank steps every row.
    everywhere: bool,
    width: usize,
    /// Gradients that came: one for each row of the gradient matrix, or one.
    gradients: Vec<RowGradient>,
    /// The rows that this rank keeps, where no rank keeps the whole table.
    own: Option<OwnRows>,
}

impl TableOwner {
    pub(super) fn new(
        owned: Vec<Range<u32>>,
        rank: usize,
        width: usize,
        (sharding, how): (Sharding, &Optimizer),
    ) -> Self {
        let everywhere = sharding == Sharding::None;
        let all = 0..owned.last().map_or(0, |last| last.end);
        let own = owned.get(rank).cloned().unwrap_or(0..0);
        let stepped = if everywhere { all } else { own };
        let mut optimizer = RowOptimizer::new(stepped, width);
        if how.pulls() {
            optimizer = optimizer.held_to_start();
        }
        if !how.has_second() {
            optimizer = optimizer.without_second();
        }
        Self {
            own: (sharding == Sharding::Full).then(|| OwnRows::new(owned.clone(), width)),
            optimizer,
            owned,
            everywhere,
            width,
            gradients: Vec::new(),
        }
    }

    /// Brings each slot's gradient to those who step its rows; lanes of one task are added in order
    /// of rank.
    ///
    /// # Errors
    /// What the communicator says.
    pub(super) fn exchange(
        &mut self,
        comm: &dyn Communicator,
        lanes: &Lanes,
        slots: Vec<RowGradient>,
    ) -> Result<(), Error> {
        let by_rank = if comm.size() == 1 {
            vec![slots]
        } else {
            let parts = self.owned.iter().map(|rows| {
                let part = |slot: &RowGradient| {
                    let part = if self.everywhere {
                        slot.to_bytes()
                    } else {
                        slot.part(rows, self.width).to_bytes()
                    };
                    [(part.len() as u64).to_le_bytes().to_vec(), part].concat()
                };
                slots.iter().flat_map(part).collect()
            });
            let received = comm.all_to_all_bytes(parts.collect())?;
            let decoded = received.iter().map(|bytes| self.decode(bytes));
            decoded.collect::<Result<Vec<_>, _>>()?
        };
        let lane = |rank: usize, slot: usize| {
            let found = by_rank.get(rank).and_then(|slots| slots.get(slot));
            found.ok_or_else(|| Error::Plan(format!("rank {rank} sent no rows of slot {slot}")))
        };
        self.gradients.clear();
        let rows = lanes.rows();
        if rows.is_empty() {
            let mut sum = RowGradient::default();
            for rank in 0..by_rank.len() {
                sum = sum.plus(lane(rank, 0)?, self.width);
            }
            self.gradients.push(sum);
        }
        for row in rows {
            let mut sum = RowGradient::default();
            for id in row.lanes {
                sum = sum.plus(lane(id.rank, id.slot)?, self.width);
            }
            self.gradients.push(sum);
        }
        Ok(())
    }

    fn decode(&self, mut bytes: &[u8]) -> Result<Vec<RowGradient>, Error> {
        let mut slots = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
            let length = u64::from_le_bytes(*length) as usize;
            let part = rest.get(..length);
            let part = part.and_then(|part| RowGradient::from_bytes(part, self.width));
            slots.push(
                part.ok_or_else(|| Error::Plan("a peer sent rows of another width".to_owned()))?,
            );
            bytes = &rest[length..];
        }
        Ok(slots)
    }

    /// The gradients that came: one for each row of the gradient matrix, or one for all tasks.
    pub(super) fn gradients(&self) -> &[RowGradient] {
        &self.gradients
    }

    /// Numbers in a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Whether a rank owns a row, so that all ranks together count every row once.
    pub(super) fn owns(&self, rank: usize, row: u32) -> bool {
        self.owned.get(rank).is_some_and(|own| own.contains(&row))
    }

    /// State of the rows that a rank owns, in the order of their first gradient: the rows, and by name
    /// first moments (or momentum), second ones where the method has them and, where rows are pulled back
    /// to it, what they were at first.
    pub(super) fn own_state(&self, rank: usize) -> (Vec<u32>, Vec<(&'static str, Values<'_>)>) {
        let rows = self.optimizer.rows().iter().copied().enumerate();
        let owned = |(_, row): &(usize, u32)| self.owns(rank, *row);
        let (slots, rows): (Vec<usize>, Vec<u32>) = rows.filter(owned).unzip();
        let (first, second) = self.optimizer.moments();
        let kept = std::iter::once(("first", first));
        let kept = kept.chain(second.map(|second| ("second", second)));
        let kept = kept.chain(self.optimizer.start().map(|start| ("start", start)));
        let of_slots = |table| Values::Rows {
            table,
            rows: slots.clone(),
            width: self.width,
        };
        let named = kept.map(|(name, all)| (name, of_slots(all))).collect();
        (rows, named)
    }

    /// The rows that a rank owns and that ever got a gradient, in the order of their first one, and their
    /// values. All others are as they were at first: nothing decays or pulls them.
    ///
    /// # Errors
    /// If the table is not here, though no rank keeps rows of its own.
    pub(super) fn own_values<'a>(
        &'a self,
        rank: usize,
        table: &'a Table,
    ) -> Result<(Vec<u32>, Values<'a>), Error> {
        let rows = self.optimizer.rows().iter().copied();
        let rows: Vec<u32> = rows.filter(|row| self.owns(rank, *row)).collect();
        let (values, first) = match &self.own {
            Some(own) => (own.values(), self.first_own(rank)),
            None => (torch::data(table.weight()?)?, 0),
        };
        let places = rows.iter().map(|row| (row - first) as usize).collect();
        let values = Values::Rows {
            table: values,
            rows: places,
            width: self.width,
        };
        Ok((rows, values))
    }

    fn first_own(&self, rank: usize) -> u32 {
        self.owned.get(rank).map_or(0, |own| own.start)
    }

    /// Takes up the values of rows of the table, one row's numbers after another's: where no rank keeps the whole
    /// table, those of the rank's own rows.
    ///
    /// # Errors
    /// If the table is not here, though no rank keeps rows of its own.
    pub(super) fn put(
        &mut self,
        rank: usize,
        table: &mut Table,
        rows: &[u32],
        words: &[[u8; 4]],
    ) -> Result<(), Error> {
        let (width, first, sharded) = (self.width, self.first_own(rank), self.own.is_some());
        let owned = self.owned.get(rank).cloned().unwrap_or(0..0);
        let values = match &mut self.own {
            Some(own) => own.values_mut(),
            None => table.data_mut()?,
        };
        for (row, words) in rows.iter().zip(words.chunks_exact(width.max(1))) {
            if sharded && !owned.contains(row) {
                continue;
            }
            let start = (row - if sharded { first } else { 0 }) as usize * width;
            let place = values.get_mut(start..start + width);
            let place = place.ok_or_else(|| Error::Plan(format!("no row {row}")))?;
            fill(place, words);
        }
        Ok(())
    }

    /// Adds dot products of all pairs of gradients (as [`super::kernel::pair`] numbers them) over a
    /// rank's own rows.
    pub(super) fn gram(&self, gradients: &[RowGradient], rank: usize, sums: &mut [ExactSum]) {
        let own = self.owned.get(rank).cloned().unwrap_or(0..0);
        let cut = |gradient: &RowGradient| gradient.part(&own, self.width);
        let own: Vec<RowGradient> = gradients.iter().map(cut).collect();
        let mut place = sums.iter_mut();
        for (i, left) in own.iter().enumerate() {
            for right in &own[i..] {
                if let Some(sum) = place.next() {
                    left.dot(right, self.width, |product| sum.add(f64::from(product)));
                }
            }
        }
    }

    /// Makes the weighted sum of gradients the optimizer's; what has weight 0 is not read.
    pub(super) fn combine<'a>(
        &mut self,
        gradients: impl IntoIterator<Item = &'a RowGradient>,
        weights: &[f32],
    ) {
        self.optimizer.clear();
        for (gradient, weight) in gradients.into_iter().zip(weights) {
            if *weight != 0.0 {
                self.optimizer.add(gradient, *weight);
            }
        }
    }

    /// Makes the weighted sum of what came the optimizer's gradient.
    pub(super) fn combine_own(&mut self, weights: &[f32]) {
        let gradients = std::mem::take(&mut self.gradients);
        self.combine(&gradients, weights);
        self.gradients = gradients;
    }

    /// Steps all rows that ever got a gradient, and brings them to the ranks that keep them.
    ///
    /// # Errors
    /// What the communicator says.
    pub(super) fn step(
        &mut self,
        comm: &dyn Communicator,
        table: &mut Table,
        how: &Optimizer,
        pace: Pace,
    ) -> Result<(), Error> {
        let Pace { rate, step, scale } = pace;
        let optimizer = &mut self.optimizer;
        if let Some(own) = &mut self.own {
            // The next step fetches what it reads.
            optimizer.step(own.values_mut(), how, rate, step, scale as f32);
            return Ok(());
        }
        let stepped = optimizer.owned();
        let stepped = stepped.start as usize * self.width..stepped.end as usize * self.width;
        let values = &mut table.data_mut()?[stepped];
        optimizer.step(values, how, rate, step, scale as f32);
        self.gather(comm, table)
    }

    /// The rows that this rank keeps, where no rank keeps the whole table.
    pub(super) fn own(&self) -> Option<&OwnRows> {
        self.own.as_ref()
    }

    /// The same, for changing them.
    pub(super) fn own_mut(&mut self) -> Option<&mut OwnRows> {
        self.own.as_mut()
    }

    /// Brings the rows that their owners updated to all ranks.
    ///
    /// # Errors
    /// What the communicator says.
    fn gather(&self, comm: &dyn Communicator, table: &mut Table) -> Result<(), Error> {
        if comm.size() == 1 || self.everywhere {
            return Ok(());
        }
        let width = self.width;
        let data = table.data_mut()?;
        let rows = self.optimizer.rows().to_vec();
        let row = |&row: &u32| &data[row as usize * width..(row as usize + 1) * width];
        let values = rows.iter().flat_map(row).copied().collect();
        let mine = RowGradient { rows, values }.to_bytes();
        for (rank, bytes) in comm.all_gather_bytes(mine)?.iter().enumerate() {
            if rank == comm.rank() {
                continue;
            }
            let update = RowGradient::from_bytes(bytes, width)
                .ok_or_else(|| Error::Plan("a peer sent rows of another width".to_owned()))?;
            for (&row, values) in update.rows.iter().zip(update.values.chunks_exact(width)) {
                let start = row as usize * width;
                let place = data.get_mut(start..start + width);
                let place = place.ok_or_else(|| Error::Plan(format!("no row {row}")))?;
                place.copy_from_slice(values);
            }
        }
        Ok(())
    }

    /// Bytes of optimizer state.
    pub(super) fn optimizer_bytes(&self) -> u64 {
        let (first, second) = self.optimizer.moments();
        let start = self.optimizer.start().map_or(0, <[f32]>::len);
        let second = second.map_or(0, <[f32]>::len);
        4 * (first.len() + second + start) as u64
    }
}

/// Rows of each rank: the plan cuts the table by numbers, rows belong to whom their first number
/// belongs.
pub(super) fn table_rows(
    ends: &[u64],
    rows: usize,
    width: usize,
) -> Result<Vec<Range<u32>>, Error> {
    let total = (rows * width) as u64;
    if ends.last() != Some(&total) {
        return Err(Error::Plan(format!(
            "slices of the word table end at {ends:?}, not {total}"
        )));
    }
    let mut start = 0u32;
    let mut range = |&end: &u64| {
        let end = end.div_ceil(width as u64) as u32;
        let range = start..end.max(start);
        start = range.end;
        range
    };
    Ok(ends.iter().map(&mut range).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: rows of a table are owned exactly once, however the plan cuts its numbers.
    #[test]
    fn rows_tile_the_table() {
        let owned = table_rows(&[7, 16, 16, 40], 10, 4).unwrap();
        assert_eq!(owned, [0..2, 2..4, 4..4, 4..10]);
        assert!(table_rows(&[39], 10, 4).is_err());
    }
}
