//! Taking up a run from a checkpoint.

use super::Error;
use super::part::Found;
use super::trainer::Trainer;
use crate::checkpoint::{self, Checkpoint, Image, RunState, Store};
use espalier_comm::CommunicatorExt;
use espalier_spec::Step;
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

/// Files of whole tensors: of the best model, and of checkpoints in the layout before parts.
pub(super) const MODEL: &str = "model.safetensors";
pub(super) const HEADS: &str = "heads.safetensors";
const OPTIMIZER: &str = "optimizer-";
/// In place of a step: no checkpoint was found.
const NONE: u64 = u64::MAX;

impl Trainer {
    /// Takes up a run from the newest whole checkpoint at or below `step`, on any number of ranks, in a trainer that
    /// has made no step.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] if there is none.
    pub fn resume_run(&mut self, store: &Store, dir: &Path, step: Step) -> Result<RunState, Error> {
        let checkpoint = self.agreed(store, dir, step)?;
        if checkpoint.has_parts() {
            self.load_files(&checkpoint)?;
        } else {
            self.assemble(true)?;
            self.load_model(&checkpoint)?;
            self.load_optimizer(&checkpoint)?;
            self.dismantle()?;
        }
        let state = checkpoint.manifest.state;
        self.take_up(&state)?;
        Ok(state)
    }

    /// The newest checkpoint at or below `step` that all ranks found whole. If there is none, that of a later step:
    /// it took the older one's place, and its writer was lost before it could say so.
    fn agreed(&self, store: &Store, dir: &Path, step: Step) -> Result<Checkpoint, Error> {
        let missing = || Error::NoCheckpoint {
            step: step.0,
            dir: dir.display().to_string(),
        };
        let comm = self.exchange.comm();
        let mut found = store.newest("step", step);
        if found.is_none() {
            found = store.newest("step", Step(u64::MAX));
        }
        // Ranks may have found different ones damaged: all look on from the oldest of their finds until all have the
        // same. With every round it is an older one.
        loop {
            let mine = found
                .as_ref()
                .map_or(NONE, |kept| kept.manifest.state.step.0);
            let all = comm.all_gather_bytes(mine.to_le_bytes().to_vec())?;
            let word =
                |bytes: &Vec<u8>| bytes.first_chunk().map_or(NONE, |b| u64::from_le_bytes(*b));
            let all: Vec<u64> = all.iter().map(word).collect();
            if all.contains(&NONE) {
                return Err(missing());
            }
            if all.iter().all(|step| *step == mine) {
                return found.ok_or_else(missing);
            }
            let oldest = all.into_iter().min().unwrap_or(0);
            found = store.newest("step", Step(oldest));
        }
    }

    /// Takes up all parts, one in memory at a time.
    fn load_files(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        self.make_ready()?;
        let mut found = Found::new(self.blocks());
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| checkpoint::Error::io("read", path, error))
        };
        for path in checkpoint.shared_parts() {
            let bytes = read(&path)?;
            let image = Image::read(&bytes, path.display().to_string())?;
            self.load_shared(&image, &mut found)?;
        }
        for path in checkpoint.own_parts() {
            let bytes = read(&path)?;
            let image = Image::read(&bytes, path.display().to_string())?;
            let bad = |message: String| image.bad(message);
            self.load_own(&image.tensors()?, &bad, &mut found.moments)?;
        }
        self.check_found(&found)
    }

    /// Takes up whole tensors of backbone and heads.
    ///
    /// # Errors
    /// [`checkpoint::Error::Damaged`] names a tensor that is missing.
    pub(super) fn load_model(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let mut tensors = checkpoint.tensors(MODEL)?;
        if let Some(table) = self.backbone.table_mut()
            && let Some(values) = tensors.remove(table.name())
        {
            table.load(&values)?;
        }
        for block in self.backbone.blocks_mut() {
            for (name, _) in block.names() {
                let values = tensors
                    .remove(&name)
                    .ok_or_else(|| lacks(checkpoint, &name))?;
                block.load(&name, &values)?;
            }
        }
        let mut tensors = checkpoint.tensors(HEADS)?;
        let block = self.heads.block_mut();
        for (name, _) in block.names() {
            let values = tensors
                .remove(&name)
                .ok_or_else(|| lacks(checkpoint, &name))?;
            block.load(&name, &values)?;
        }
        Ok(())
    }

    /// Takes up the optimizer's state as the layout before parts has it: what owners keep now, of all ranks.
    fn load_optimizer(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let mut found = Found::new(self.blocks());
        let files = checkpoint.manifest.files.iter();
        for file in files.filter(|file| file.name.starts_with(OPTIMIZER)) {
            let path = checkpoint.path.join(&file.name);
            let tensors: BTreeMap<String, Tensor> =
                checkpoint::read_tensors(&path)?.into_iter().collect();
            let bad = |message: String| checkpoint::Error::Damaged {
                path: path.clone(),
                message,
            };
            self.load_own(&tensors, &bad, &mut found.moments)?;
        }
        Ok(())
    }
}

fn lacks(checkpoint: &Checkpoint, name: &str) -> checkpoint::Error {
    let message = format!("tensor {name} is missing");
    checkpoint::Error::Damaged {
        path: checkpoint.path.clone(),
        message,
    }
}
