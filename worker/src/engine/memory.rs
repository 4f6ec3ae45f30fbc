//! What a rank keeps in memory.

use super::table::TableOwner;
use super::trainer::Trainer;
use crate::model::{Block, Table};
use espalier_spec::report::MemoryStats;

/// Bytes of a number.
const F32: u64 = 4;

impl Trainer {
    /// Bytes by what they are for. The peak of parameters is that of steps and evaluations since this
    /// was asked last; a checkpoint or an export needs the whole model for a moment.
    pub fn memory(&mut self) -> MemoryStats {
        let blocks = self.backbone.blocks();
        let sharded = |(index, block): (usize, &Block)| {
            self.exchange
                .is_sharded(index, block)
                .then_some(block.len())
        };
        let gone: usize = blocks.iter().enumerate().filter_map(sharded).sum();
        let of = |block: &Block| block.len() + block.untrained();
        let all: usize = blocks.iter().map(of).sum();
        let (kept, most_rows) = match self.rows.as_mut().and_then(TableOwner::own_mut) {
            Some(own) => (Some(own.numbers()), own.take_most()),
            None => (None, 0),
        };
        let whole = || self.backbone.table().map_or(0, Table::numbers);
        let table = kept.unwrap_or_else(whole);
        let heads = self.heads.block().len();
        let masters: usize = self.owners.iter().flatten().map(|owner| owner.kept()).sum();
        let parameters = F32 * (all - gone + masters + table + heads) as u64;
        let gradient = |block: &Block| F32 * (block.len() * block.slots()) as u64;
        let gradients = blocks
            .iter()
            .chain([self.heads.block()])
            .map(gradient)
            .sum();
        let moments: usize = self
            .owners
            .iter()
            .flatten()
            .map(|owner| owner.numbers())
            .sum();
        let rows = self.rows.as_ref().map_or(0, |rows| rows.optimizer_bytes());
        let buffers = self.exchange.buffer_bytes() + self.tracks.bytes();
        // A step has the rows that it reads here as long as its passes run.
        let present = (self.exchange.take_most_present() + most_rows) as u64;
        MemoryStats {
            parameter_bytes: parameters,
            gradient_bytes: gradients,
            optimizer_bytes: F32 * moments as u64 + rows,
            buffer_bytes: buffers + F32 * self.scratch.numel() as u64,
            peak_parameter_bytes: parameters + F32 * present,
            peak_resident_bytes: peak_resident().unwrap_or(0),
        }
    }
}

/// The most memory that this process ever had, as Linux counts it.
fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
