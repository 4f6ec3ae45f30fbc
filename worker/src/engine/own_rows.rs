//! The rows of the word table that a rank owns, where no rank keeps the whole table: a step fetches
//! the rows that it reads from their owners.

use super::Error;
use crate::model::Table;
use crate::torch;
use espalier_comm::{Communicator, CommunicatorExt};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// This rank's rows of the word table, and whose the others are.
#[derive(Debug)]
pub(super) struct OwnRows {
    /// Rows of each rank, ascending.
    owned: Vec<Range<u32>>,
    width: usize,
    /// Values of this rank's rows, row after row.
    values: Vec<f32>,
    /// Most numbers of fetched rows that were here at once.
    most: usize,
}

impl OwnRows {
    /// For a table that is whole as yet: [`OwnRows::keep`] takes the values from it.
    pub(super) fn new(owned: Vec<Range<u32>>, width: usize) -> Self {
        Self {
            owned,
            width,
            values: Vec::new(),
            most: 0,
        }
    }

    /// The values of this rank's rows, row after row.
    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The same, for reading.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Numbers of this rank's rows.
    pub(super) fn numbers(&self) -> usize {
        self.values.len()
    }

    /// Most numbers of fetched rows that were here at once, since this was asked last.
    pub(super) fn take_most(&mut self) -> usize {
        std::mem::take(&mut self.most)
    }

    fn own(&self, rank: usize) -> Range<u32> {
        self.owned.get(rank).cloned().unwrap_or(0..0)
    }

    /// The numbers of the whole table that rows take.
    fn place(&self, rows: &Range<u32>) -> Range<usize> {
        rows.start as usize * self.width..rows.end as usize * self.width
    }

    /// Brings `rows`, ascending and distinct, from their owners into the table, in place of what was
    /// there. All ranks call it together, each with the rows that it reads.
    ///
    /// # Errors
    /// If a row is none of the table's, or what the communicator says.
    pub(super) fn fetch(
        &mut self,
        comm: &dyn Communicator,
        table: &mut Table,
        rows: Vec<u32>,
    ) -> Result<(), Error> {
        table.check(&rows)?;
        let of_owner = |owned: &Range<u32>| {
            let start = rows.partition_point(|row| *row < owned.start);
            let end = rows.partition_point(|row| *row < owned.end);
            let bytes = rows[start..end].iter().flat_map(|row| row.to_le_bytes());
            bytes.collect()
        };
        let asked = comm.all_to_all_bytes(self.owned.iter().map(of_owner).collect())?;
        let own = self.own(comm.rank());
        let answers = asked.iter().map(|rows| self.answer(&own, rows));
        let answers = comm.all_to_all_bytes(answers.collect::<Result<_, _>>()?)?;
        // Ranks own ascending rows: their answers, one after another, are in order of rows.
        let size = [rows.len() as i64, self.width as i64];
        let mut values = Tensor::f_zeros(size, (Kind::Float, Device::Cpu))?;
        let sent: usize = answers.iter().map(Vec::len).sum();
        if sent != 4 * values.numel() {
            return Err(Error::Plan(format!(
                "owners sent {sent} bytes for {} rows of the word table of {} numbers each",
                rows.len(),
                self.width
            )));
        }
        self.most = self.most.max(values.numel());
        let mut places = torch::data_mut(&mut values)?;
        for answer in answers {
            let (numbers, _) = answer.as_chunks::<4>();
            // The answers are as long as the places: each finds its own.
            let (own, rest) = std::mem::take(&mut places).split_at_mut(numbers.len());
            let own = own.iter_mut().zip(numbers);
            own.for_each(|(place, number)| *place = f32::from_le_bytes(*number));
            places = rest;
        }
        Ok(table.bring(rows, values)?)
    }

    /// The values of rows that a peer asked for.
    fn answer(&self, own: &Range<u32>, asked: &[u8]) -> Result<Vec<u8>, Error> {
        let (rows, _) = asked.as_chunks::<4>();
        let mut bytes = Vec::with_capacity(4 * rows.len() * self.width);
        for row in rows {
            let row = u32::from_le_bytes(*row);
            if !own.contains(&row) {
                return Err(Error::Plan(format!(
                    "a peer asked for row {row} of the word table, rows {own:?} are kept here"
                )));
            }
            let start = (row - own.start) as usize * self.width;
            for value in &self.values[start..start + self.width] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        Ok(bytes)
    }

    /// Brings the whole table together, on every rank or on rank 0 only. All ranks call it.
    ///
    /// # Errors
    /// If memory cannot be had, or what the communicator says.
    pub(super) fn assemble(
        &self,
        comm: &dyn Communicator,
        table: &mut Table,
        everywhere: bool,
    ) -> Result<(), Error> {
        if table.is_whole() {
            return Ok(());
        }
        let places: Vec<Range<usize>> = self.owned.iter().map(|rows| self.place(rows)).collect();
        let nothing = vec![0..0; places.len()];
        let mut to = nothing.clone();
        if let (Some(first), false) = (to.first_mut(), everywhere) {
            *first = 0..self.values.len();
        }
        if !everywhere && comm.rank() != 0 {
            return Ok(comm.all_to_all(&self.values, &to, &mut [], &nothing)?);
        }
        table.hold()?;
        let data = table.data_mut()?;
        if !everywhere {
            return Ok(comm.all_to_all(&self.values, &to, data, &places)?);
        }
        data[self.place(&self.own(comm.rank()))].copy_from_slice(&self.values);
        Ok(comm.all_gather(data, &places)?)
    }

    /// Keeps this rank's rows of a whole table, and lets the table go.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn keep(&mut self, rank: usize, table: &mut Table) -> Result<(), Error> {
        if table.is_whole() {
            let own = self.place(&self.own(rank));
            self.values.clear();
            self.values.extend_from_slice(&table.data_mut()?[own]);
            table.let_go()?;
        }
        Ok(())
    }
}
