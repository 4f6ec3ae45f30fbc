//! Which blocks' parameters are here, where they are sharded: a block is here only while it runs.

use super::Exchange;
use crate::engine::Error;
use crate::engine::owner::SliceOptimizer;
use crate::model::Block;
use espalier_spec::exchange::Sharding;

/// Blocks of the backbone and who owns their slices.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// The blocks.
    pub blocks: &'a [Block],
    /// One for each block, and the heads'.
    pub owners: &'a [Option<SliceOptimizer>],
}

impl Exchange {
    /// Whether a block's parameters are kept only while they are used.
    #[must_use]
    pub fn is_sharded(&self, index: usize, block: &Block) -> bool {
        self.how.sharding == Sharding::Full && block.trainable() && !self.is_heads(index)
    }

    /// Whether a block's parameters are here.
    #[must_use]
    pub fn is_here(&self, index: usize) -> bool {
        self.present[index]
    }

    /// A block is about to run: waits for its parameters, and starts to gather those of the next
    /// one.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn need(
        &mut self,
        index: usize,
        next: Option<usize>,
        held: &Held<'_>,
    ) -> Result<(), Error> {
        self.fetch(index, held)?;
        self.gathered(index)?;
        match next {
            Some(next) if next < held.blocks.len() => self.fetch(next, held),
            _ => Ok(()),
        }
    }

    /// Every block in turn, for the ranks that run them, though this one does not.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn pass_by(&mut self, held: &Held<'_>) -> Result<(), Error> {
        for (index, block) in held.blocks.iter().enumerate() {
            self.need(index, Some(index + 1), held)?;
            self.release(index, block)?;
        }
        Ok(())
    }

    /// A sharded block that is not here: has memory for it and starts to gather it.
    fn fetch(&mut self, index: usize, held: &Held<'_>) -> Result<(), Error> {
        let block = &held.blocks[index];
        if !self.is_sharded(index, block) || self.present[index] {
            return Ok(());
        }
        self.present[index] = true;
        let blocks = held.blocks.iter().enumerate();
        let here = |(index, block): &(usize, &Block)| {
            self.present[*index] && self.is_sharded(*index, block)
        };
        let numbers = blocks.filter(here).map(|(_, block)| block.len()).sum();
        self.most_present = self.most_present.max(numbers);
        block.hold()?;
        if let Some(owner) = held.owners.get(index).and_then(Option::as_ref) {
            owner.bring(block)?;
        }
        self.gather(index, block)
    }

    /// A block has run: a sharded one is let go.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn release(&mut self, index: usize, block: &Block) -> Result<(), Error> {
        if self.is_sharded(index, block) && self.present[index] {
            self.gathered(index)?;
            self.present[index] = false;
            block.let_go()?;
        }
        Ok(())
    }

    /// Brings all blocks together, for what needs the whole model; where they are not to stay, each
    /// goes when the next one is brought. They do not count among those that steps had here.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn assemble(&mut self, held: &Held<'_>, stay: bool) -> Result<(), Error> {
        let most = self.most_present;
        self.settle()?;
        for (index, block) in held.blocks.iter().enumerate() {
            self.need(index, None, held)?;
            if !stay {
                self.release(index, block)?;
            }
        }
        self.most_present = most;
        Ok(())
    }

    /// Most numbers of sharded blocks that were here at once, since this was asked last.
    pub fn take_most_present(&mut self) -> usize {
        std::mem::take(&mut self.most_present)
    }
}
