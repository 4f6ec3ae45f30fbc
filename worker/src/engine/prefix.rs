//! What the frozen lowest blocks make of every sample, computed once: steps and evaluations begin at the
//! lowest block that is trained.

use super::Error;
use super::cache::{Cached, Spill};
use super::trainer::Trainer;
use crate::data::{Features, Input, Split};
use crate::model::{Batch, Block, Start, lowest};
use crate::torch;
use espalier_spec::job::Tuning;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Tensor};

/// Fewer blocks than this are not worth it: the lowest one only looks words up.
const FEWEST: usize = 2;
/// More bytes than this are not kept, be it in a file: the blocks run again.
const MOST: usize = 16 << 30;

/// How rows of samples become the input of the lowest block that is trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    /// Blocks that ran.
    blocks: usize,
    /// What they give for each token or image is of this shape; the first number counts rows.
    shape: Vec<i64>,
}

impl Prefix {
    /// Numbers for each token or image.
    fn numbers(&self) -> usize {
        self.shape.iter().product::<i64>().unsigned_abs() as usize
    }

    /// Room for what the blocks make of the samples of a split.
    pub(super) fn room(&self, split: &Split, spill: Option<&Path>) -> Result<Features, Error> {
        let mut widths = Vec::with_capacity(split.len());
        for index in 0..split.len() {
            widths.push(split.cost(index)? as usize * self.numbers());
        }
        Ok(Features::ragged(widths, spill)?)
    }

    /// Lets a batch of `inputs` start where they were left; at the first block, if one of them was not
    /// begun.
    pub(super) fn start(
        &self,
        batch: Batch,
        inputs: &[&Input],
        device: Device,
    ) -> Result<Batch, Error> {
        let mut numbers = Vec::new();
        for place in packed(&batch, inputs.len()) {
            let Some(begun) = inputs.get(place).and_then(|input| input.begun()) else {
                return Ok(batch);
            };
            begun.rows.append(begun.index, &mut numbers)?;
        }
        let mut shape = self.shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = -1;
        }
        let x = Tensor::f_from_slice(&numbers)?.f_view(&shape[..])?;
        Ok(batch.started(Start {
            blocks: self.blocks,
            x: x.f_to_device(device)?,
        }))
    }
}

/// The samples of a batch in the order in which their rows stand.
fn packed(batch: &Batch, samples: usize) -> Vec<usize> {
    match batch {
        Batch::Tokens(tokens) => tokens.order.clone(),
        Batch::Images(_) | Batch::Features(_) => (0..samples).collect(),
    }
}

impl Trainer {
    /// Blocks that are frozen for good below the first that is trained, if it is worth keeping what they
    /// make of the samples in a run that draws `draws`.
    fn frozen_prefix(&self, draws: u64) -> Option<usize> {
        let wanted = self.begun.is_none()
            && self.spec.backbone.cache_features
            && matches!(self.spec.tuning, Tuning::LastBlocks(_))
            && self.are_steady()
            && draws > self.one_pass();
        let mut blocks = self.backbone.blocks().iter();
        let frozen = blocks.position(Block::trainable).unwrap_or(0);
        (wanted && frozen >= FEWEST).then_some(frozen)
    }

    /// Computes what the frozen lowest blocks make of all samples, if a run that draws `draws` samples
    /// sees about every one more than once: from then on steps and evaluations begin above them. What is
    /// too much for memory goes to files; what is too much for these is not kept. All ranks call it
    /// together. Says whether it did.
    ///
    /// # Errors
    /// If a sample cannot be read, a file cannot be written, or a peer is lost.
    pub(super) fn cache_prefix(&mut self, draws: u64, spill: Spill<'_>) -> Result<bool, Error> {
        let Some(blocks) = self.frozen_prefix(draws) else {
            return Ok(false);
        };
        let Some(prefix) = self.probe(blocks)? else {
            return Ok(false);
        };
        let mut costs = 0;
        for split in self.tasks.iter().flat_map(|task| task.splits()) {
            for index in 0..split.len() {
                costs += split.cost(index)? as usize;
            }
        }
        let bytes = costs * prefix.numbers() * size_of::<f32>();
        if bytes > MOST {
            tracing::info!(
                bytes,
                most = MOST,
                "what the frozen blocks make of the samples is too much to keep: they run in every step"
            );
            return Ok(false);
        }
        let tasks = self.cache_all(&Cached::Prefix(prefix.clone()), bytes, spill)?;
        self.tasks = Arc::new(tasks);
        self.begun = Some(prefix);
        Ok(true)
    }

    /// What `blocks` blocks give for a token or an image, by the first sample; none if it is not a row for
    /// each token.
    fn probe(&self, blocks: usize) -> Result<Option<Prefix>, Error> {
        let none = || Error::Plan("a task has no sample".to_owned());
        let task = self.tasks.first().ok_or_else(none)?;
        let input = task.train.input(0)?;
        let cost = i64::try_from(input.cost().max(1)).unwrap_or(1);
        let batch = self.batch(&[&input], &[0])?;
        let mut shape = lowest(self.backbone.as_ref(), &batch, blocks)?.size();
        let Some(rows) = shape.first_mut() else {
            return Ok(None);
        };
        if matches!(batch, Batch::Tokens(_)) && *rows != cost {
            return Ok(None);
        }
        *rows /= cost;
        Ok(Some(Prefix { blocks, shape }))
    }

    /// Adds what the blocks make of some samples, in the order given.
    pub(super) fn append_prefix(
        &self,
        prefix: &Prefix,
        inputs: &[&Input],
        bytes: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if inputs.is_empty() {
            return Ok(());
        }
        let batch = self.batch(inputs, &vec![0; inputs.len()])?;
        let x = lowest(self.backbone.as_ref(), &batch, prefix.blocks)?;
        let numbers = torch::numbers(&x)?;
        let width = |place: usize| inputs[place].cost() as usize * prefix.numbers();
        let mut start = 0;
        let mut places = vec![0..0; inputs.len()];
        for place in packed(&batch, inputs.len()) {
            places[place] = start..start + width(place);
            start += width(place);
        }
        if start != numbers.len() {
            return Err(Error::Plan(format!(
                "the frozen blocks give {} numbers where {start} were expected: set \
                 backbone.cache_features to false",
                numbers.len()
            )));
        }
        for place in places {
            bytes.extend(
                numbers[place]
                    .iter()
                    .flat_map(|number| number.to_le_bytes()),
            );
        }
        Ok(())
    }
}
