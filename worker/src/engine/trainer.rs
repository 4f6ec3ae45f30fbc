//! A rank's trainer: model, heads, exchange and the optimizer of what this rank owns.

use super::adamw::AdamW;
use super::exchange::Exchange;
use super::headset::HeadSet;
use super::owner::SliceOptimizer;
use super::rows::RowOptimizer;
use super::schedule::Schedule;
use super::{Error, Sources};
use crate::data::{Input, TaskData};
use crate::model::{Backbone, Batch, Block, TokenBatch, images};
use crate::model::{Context, Modality};
use espalier_comm::Communicator;
use espalier_spec::{JobSpec, Plan};
use std::ops::Range;
use std::sync::Arc;
use tch::Device;

/// Everything that a step needs.
#[derive(Debug)]
pub struct Trainer {
    pub(super) spec: JobSpec,
    pub(super) backbone: Box<dyn Backbone>,
    pub(super) heads: HeadSet,
    pub(super) exchange: Exchange,
    /// One for each block in order, heads last; none where frozen.
    pub(super) owners: Vec<Option<SliceOptimizer>>,
    pub(super) rows: Option<Rows>,
    pub(super) adamw: AdamW,
    pub(super) schedule: Schedule,
    pub(super) tasks: Arc<Vec<Arc<TaskData>>>,
    modality: Modality,
    device: Device,
}

/// The optimizer of the word table and who owns which of its rows.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) optimizer: RowOptimizer,
    pub(super) owned: Vec<Range<u32>>,
}

impl Trainer {
    /// A trainer at step 0 for this rank's part of a plan.
    ///
    /// # Errors
    /// If the plan does not fit the model.
    pub fn new(
        spec: &JobSpec,
        plan: &Plan,
        comm: Arc<dyn Communicator>,
        sources: &Sources,
        backbone: Box<dyn Backbone>,
    ) -> Result<Self, Error> {
        let device = Device::Cpu;
        let heads = HeadSet::new(spec, &sources.tasks, backbone.width(), device)?;
        let tables = usize::from(backbone.table().is_some());
        let blocks: Vec<&Block> = backbone.blocks().iter().chain([heads.block()]).collect();
        let placed = plan.blocks.get(tables..).unwrap_or_default();
        let wanted: Vec<&str> = blocks.iter().map(|block| block.name()).collect();
        let found: Vec<&str> = placed
            .iter()
            .map(|placement| placement.block.as_str())
            .collect();
        if wanted != found {
            return Err(Error::Plan(format!(
                "blocks are {wanted:?}, the plan places {found:?}"
            )));
        }
        let rank = comm.rank();
        let rows = match backbone.table() {
            Some(table) if table.trainable() => {
                let owned = table_rows(&plan.blocks[0].ends, table.rows(), table.width())?;
                let own = owned.get(rank).cloned().unwrap_or(0..0);
                Some(Rows {
                    optimizer: RowOptimizer::new(own, table.width()),
                    owned,
                })
            }
            _ => None,
        };
        let exchange = Exchange::new(comm, placed);
        let mut owners = Vec::with_capacity(blocks.len());
        for (index, block) in blocks.iter().enumerate() {
            let end = placed[index].ends.last().copied().unwrap_or(0);
            if block.trainable() && end != block.len() as u64 {
                return Err(Error::Plan(format!(
                    "slices of {} end at {end}, not {}",
                    block.name(),
                    block.len()
                )));
            }
            let owner = block
                .trainable()
                .then(|| SliceOptimizer::new(exchange.owned(index), block));
            owners.push(owner.transpose()?);
        }
        Ok(Self {
            adamw: AdamW::new(&spec.training.optimizer),
            schedule: Schedule::new(&spec.training.schedule, sources.total_steps(spec)),
            spec: spec.clone(),
            tasks: Arc::clone(&sources.tasks),
            modality: sources.modality,
            backbone,
            heads,
            exchange,
            owners,
            rows,
            device,
        })
    }

    /// The heads, for giving them weights of one's own before the first step: the same ones on all
    /// ranks, since nothing sends them round.
    pub fn heads_mut(&mut self) -> &mut HeadSet {
        &mut self.heads
    }

    /// The block of an index; the heads' block is the last one.
    pub(super) fn block(&self, index: usize) -> &Block {
        self.backbone
            .blocks()
            .get(index)
            .unwrap_or_else(|| self.heads.block())
    }

    /// Number of blocks, the heads' included.
    pub(super) fn blocks(&self) -> usize {
        self.owners.len()
    }

    pub(super) fn zero_grad(&mut self) -> Result<(), Error> {
        for block in self.backbone.blocks_mut() {
            block.zero_grad()?;
        }
        Ok(self.heads.block_mut().zero_grad()?)
    }

    pub(super) fn context(&self, step: u64) -> Context {
        Context {
            train: true,
            seed: self.spec.seed,
            step,
        }
    }

    /// A forward pass's batch; `keys` are the samples' identities for dropout.
    pub(super) fn batch(&self, inputs: &[&Input], keys: &[u64]) -> Result<Batch, Error> {
        pack(inputs, keys, self.modality, self.device)
    }
}

/// Packs inputs of one modality.
///
/// # Errors
/// If inputs do not fit the modality.
pub fn pack(
    inputs: &[&Input],
    keys: &[u64],
    modality: Modality,
    device: Device,
) -> Result<Batch, Error> {
    match modality {
        Modality::Text => {
            let tokens = |input: &&Input| match input {
                Input::Tokens(ids) => Some(ids.clone()),
                Input::Numbers(_) => None,
            };
            let ids: Vec<Arc<[u32]>> = inputs.iter().filter_map(tokens).collect();
            let samples: Vec<&[u32]> = ids.iter().map(AsRef::as_ref).collect();
            Ok(Batch::Tokens(TokenBatch::pack(&samples, keys, device)?))
        }
        Modality::Image(shape) => {
            let numbers = |input: &&Input| match input {
                Input::Numbers(numbers) => Some(numbers.clone()),
                Input::Tokens(_) => None,
            };
            let all: Vec<Arc<[f32]>> = inputs.iter().filter_map(numbers).collect();
            let samples: Vec<&[f32]> = all.iter().map(AsRef::as_ref).collect();
            Ok(images(&samples, shape, device)?)
        }
    }
}

/// Rows of each rank: the plan cuts the table by numbers, rows belong to whom their first number
/// belongs.
fn table_rows(ends: &[u64], rows: usize, width: usize) -> Result<Vec<Range<u32>>, Error> {
    let total = (rows * width) as u64;
    if ends.last() != Some(&total) {
        return Err(Error::Plan(format!(
            "slices of the word table end at {:?}, not {total}",
            ends.last()
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
