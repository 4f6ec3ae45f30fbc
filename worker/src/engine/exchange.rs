//! How gradients reach owners and parameters come back: one block at a time.
//!
//! Every rank computes gradients of whole blocks; rank r owns slice r of each. A reduce-scatter sums
//! a block's gradients in order of rank into the owners' slices; after the owners' step an
//! all-gather brings the updated slices to all. Rows of the word table travel sparsely: only those
//! with a gradient go to their owners, and only those that were updated come back.

use super::Error;
use super::rows::{RowGradient, RowOptimizer};
use crate::model::{Block, Table};
use crate::torch::Lent;
use espalier_comm::{Communicator, CommunicatorExt, Handle};
use espalier_spec::plan::BlockPlacement;
use std::ops::Range;
use std::sync::Arc;

/// Exchange of all blocks of a job, seen from one rank.
pub struct Exchange {
    comm: Arc<dyn Communicator>,
    /// For each block the slice of each rank.
    slices: Vec<Vec<Range<usize>>>,
    pending: Vec<Handle<Lent>>,
}

impl Exchange {
    /// For blocks whose slices are given, in order.
    pub fn new<'a>(
        comm: Arc<dyn Communicator>,
        blocks: impl IntoIterator<Item = &'a BlockPlacement>,
    ) -> Self {
        let slices = blocks.into_iter().map(ranges).collect();
        Self {
            comm,
            slices,
            pending: Vec::new(),
        }
    }

    fn alone(&self) -> bool {
        self.comm.size() == 1
    }

    /// This rank's slice of a block.
    #[must_use]
    pub fn owned(&self, index: usize) -> Range<usize> {
        self.slices[index]
            .get(self.comm.rank())
            .cloned()
            .unwrap_or(0..0)
    }

    /// Starts to sum a block's gradients at their owners; it overlaps what the caller does next.
    ///
    /// # Errors
    /// If the gradient cannot be lent.
    pub fn reduce(&mut self, index: usize, block: &Block) -> Result<(), Error> {
        if let (false, Some(grad)) = (self.alone(), block.grad()) {
            let lent = Lent::new(grad)?;
            self.pending
                .push(self.comm.start_reduce_scatter(lent, &self.slices[index]));
        }
        Ok(())
    }

    /// Starts to bring a block's updated slices to all ranks.
    ///
    /// # Errors
    /// If the parameters cannot be lent.
    pub fn gather(&mut self, index: usize, block: &Block) -> Result<(), Error> {
        if !self.alone() && block.trainable() {
            let lent = Lent::new(block.flat())?;
            self.pending
                .push(self.comm.start_all_gather(lent, &self.slices[index]));
        }
        Ok(())
    }

    /// Waits for everything started.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn finish(&mut self) -> Result<(), Error> {
        for handle in self.pending.drain(..) {
            handle.wait()?;
        }
        Ok(())
    }

    /// Brings gradients of rows to their owners, who add them in order of rank.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn reduce_rows(
        &self,
        gradient: &RowGradient,
        owned: &[Range<u32>],
        optimizer: &mut RowOptimizer,
        width: usize,
    ) -> Result<(), Error> {
        optimizer.clear();
        if self.alone() {
            optimizer.add(gradient);
            return Ok(());
        }
        let parts = owned
            .iter()
            .map(|rows| gradient.part(rows, width).to_bytes())
            .collect();
        for bytes in self.comm.all_to_all_bytes(parts)? {
            optimizer.add(&decode(&bytes, width)?);
        }
        Ok(())
    }

    /// Brings the rows that their owners updated to all ranks.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn gather_rows(&self, optimizer: &RowOptimizer, table: &mut Table) -> Result<(), Error> {
        if self.alone() {
            return Ok(());
        }
        let width = table.width();
        let data = table.data_mut()?;
        let rows = optimizer.rows().to_vec();
        let row = |&row: &u32| &data[row as usize * width..(row as usize + 1) * width];
        let values = rows.iter().flat_map(row).copied().collect();
        let mine = RowGradient { rows, values }.to_bytes();
        for (rank, bytes) in self.comm.all_gather_bytes(mine)?.iter().enumerate() {
            if rank == self.comm.rank() {
                continue;
            }
            let update = decode(bytes, width)?;
            for (&row, values) in update.rows.iter().zip(update.values.chunks_exact(width)) {
                let start = row as usize * width;
                let place = data.get_mut(start..start + width);
                let place = place.ok_or_else(|| Error::Plan(format!("no row {row}")))?;
                place.copy_from_slice(values);
            }
        }
        Ok(())
    }

    /// Sums small numbers over all ranks, in order of rank: all ranks get the same bits.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn agree(&self, numbers: &mut [f64]) -> Result<(), Error> {
        if !self.alone() {
            self.comm.all_reduce(numbers)?;
        }
        Ok(())
    }

    /// The communicator, for what is no part of a step.
    #[must_use]
    pub fn comm(&self) -> &dyn Communicator {
        self.comm.as_ref()
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rank, size) = (self.comm.rank(), self.comm.size());
        write!(
            f,
            "Exchange(rank {rank} of {size}, {} pending)",
            self.pending.len()
        )
    }
}

fn decode(bytes: &[u8], width: usize) -> Result<RowGradient, Error> {
    RowGradient::from_bytes(bytes, width)
        .ok_or_else(|| Error::Plan("a peer sent rows of another width".to_owned()))
}

fn ranges(placement: &BlockPlacement) -> Vec<Range<usize>> {
    let mut start = 0;
    let mut slice = |&end: &u64| {
        let range = start..end as usize;
        start = end as usize;
        range
    };
    placement.ends.iter().map(&mut slice).collect()
}
