//! Saving and loading a run: all ranks together, each what it owns.

use super::Error;
use super::trainer::Trainer;
use crate::checkpoint::{
    self, Adapter, Checkpoint, Export, ExportedClasses, ExportedTask, FileEntry, LowRank, RunState,
    Store, write_export, write_tensors,
};
use crate::model::{Block, adapters_of, prefix, prompt};
use espalier_comm::CommunicatorExt;
use espalier_spec::job::{HeadKind, Tuning};
use espalier_spec::{JobId, Step};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tch::Tensor;

const MODEL: &str = "model.safetensors";
const HEADS: &str = "heads.safetensors";
const ROWS: &str = "rows";

type Named = Vec<(String, Tensor)>;

impl Trainer {
    /// Writes a checkpoint of all that a run depends on, wherever ranks keep it. Returns its
    /// directory.
    ///
    /// # Errors
    /// [`Error::Persist`] on all ranks if writing failed on any; then older checkpoints are intact.
    pub fn save_run(&mut self, store: &Store, state: &mut RunState) -> Result<PathBuf, Error> {
        self.assemble(false)?;
        state.balancer = Some(self.balancing.state());
        state.sampler = self.follower.as_ref().map(|own| own.state().clone());
        let saved = self.save(store, state);
        self.dismantle()?;
        saved
    }

    /// Takes up a run from the newest whole checkpoint at or below `step`.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] if there is none.
    pub fn resume_run(&mut self, store: &Store, dir: &Path, step: Step) -> Result<RunState, Error> {
        self.assemble(true)?;
        let state = self.resume(store, dir, step)?;
        if let Some(state) = &state.balancer {
            self.balancing.restore(state)?;
        }
        if let (Some(follower), Some(state)) = (&mut self.follower, &state.sampler) {
            follower.restore(state.clone());
            self.order.follow(follower.factors());
        }
        self.dismantle()?;
        Ok(state)
    }

    /// Writes a checkpoint: model and heads by rank 0, optimizer state by its owners. Returns its
    /// directory.
    ///
    /// # Errors
    /// [`Error::Persist`] on all ranks if writing failed on any; then older checkpoints are intact.
    fn save(&self, store: &Store, state: &RunState) -> Result<PathBuf, Error> {
        let rank = self.exchange.comm().rank();
        let begun = if rank == 0 {
            store.begin("step", state.step)
        } else {
            Ok(store.join("step", state.step))
        };
        self.all(begun.as_ref().map(|_| Vec::new()))?;
        // `all` has returned only if every rank's value is good.
        let writer = begun?;
        let written = (|| {
            let mut files = Vec::new();
            if rank == 0 {
                files.push(write_tensors(
                    &writer.file(MODEL),
                    &self.backbone.tensors()?,
                    None,
                )?);
                files.push(write_tensors(
                    &writer.file(HEADS),
                    &self.heads.block().export()?,
                    None,
                )?);
            }
            let name = format!("optimizer-{rank:05}.safetensors");
            files.push(write_tensors(
                &writer.file(&name),
                &self.optimizer_state()?,
                None,
            )?);
            Ok(files)
        })();
        let parts = match self.all(written.as_ref().map(to_json)) {
            Ok(parts) => parts,
            Err(error) => {
                if rank == 0 {
                    writer.abandon();
                }
                return Err(written.err().unwrap_or(error));
            }
        };
        let target = writer.target().to_owned();
        let committed = if rank == 0 {
            let files = parts.iter().flat_map(|part| from_json(part)).collect();
            writer
                .commit(&JobId(self.spec.name.clone()), state.clone(), files)
                .map(|_| ())
        } else {
            Ok(())
        };
        self.all(committed.as_ref().map(|()| Vec::new()))?;
        committed?;
        if rank == 0 {
            store.retain("step", self.spec.checkpoint.keep as usize);
        }
        Ok(target)
    }

    /// Keeps the model as the best one so far: rank 0 writes model and heads.
    ///
    /// # Errors
    /// [`Error::Persist`] on all ranks if writing failed.
    pub fn save_best(&mut self, store: &Store, state: &RunState) -> Result<PathBuf, Error> {
        self.assemble(false)?;
        let saved = self.write_best(store, state);
        self.dismantle()?;
        saved
    }

    fn write_best(&self, store: &Store, state: &RunState) -> Result<PathBuf, Error> {
        let target = store.path("best", state.step);
        let written = if self.exchange.comm().rank() == 0 {
            (|| {
                let writer = store.begin("best", state.step)?;
                let model = write_tensors(&writer.file(MODEL), &self.backbone.tensors()?, None)?;
                let heads =
                    write_tensors(&writer.file(HEADS), &self.heads.block().export()?, None)?;
                writer.commit(
                    &JobId(self.spec.name.clone()),
                    state.clone(),
                    vec![model, heads],
                )?;
                store.retain("best", 1);
                Ok::<(), Error>(())
            })()
        } else {
            Ok(())
        };
        self.all(written.as_ref().map(|()| Vec::new()))?;
        written?;
        Ok(target)
    }

    /// Takes up a run at the newest whole checkpoint at or below `step`.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] if there is none.
    fn resume(&mut self, store: &Store, dir: &Path, step: Step) -> Result<RunState, Error> {
        let missing = || Error::NoCheckpoint {
            step: step.0,
            dir: dir.display().to_string(),
        };
        let checkpoint = store.newest("step", step).ok_or_else(missing)?;
        // Ranks may have found different ones damaged: all take the oldest of their finds.
        let found = checkpoint.manifest.state.step;
        let found = self
            .exchange
            .comm()
            .all_gather_bytes(found.0.to_le_bytes().to_vec())?;
        let word = |bytes: &Vec<u8>| bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let common = Step(found.iter().map(word).min().unwrap_or(0));
        let checkpoint = match checkpoint.manifest.state.step == common {
            true => checkpoint,
            false => store.newest("step", common).ok_or_else(missing)?,
        };
        self.load_model(&checkpoint)?;
        self.load_optimizer(&checkpoint)?;
        Ok(checkpoint.manifest.state)
    }

    /// Takes up model and heads of the best evaluation.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] if it is gone.
    pub fn load_best(&mut self, store: &Store, dir: &Path, step: Step) -> Result<(), Error> {
        let checkpoint =
            Checkpoint::open(&store.path("best", step)).map_err(|_| Error::NoCheckpoint {
                step: step.0,
                dir: dir.display().to_string(),
            })?;
        self.assemble(true)?;
        self.load_model(&checkpoint)?;
        self.dismantle()
    }

    /// Writes the export on rank 0; the others wait.
    ///
    /// # Errors
    /// [`Error::Persist`] on all ranks if writing failed.
    pub fn export(&mut self, target: &Path, step: Step) -> Result<(), Error> {
        self.assemble(false)?;
        let written = self.write_model(target, step);
        self.dismantle()?;
        written
    }

    /// Low-rank updates by themselves, if the job trains some, and the backbone's adapters and virtual tokens.
    fn adapters(&self) -> Result<Vec<Adapter<'_>>, Error> {
        let (mut updates, mut bottlenecks) = (Vec::new(), Vec::new());
        for block in self.backbone.blocks() {
            updates.extend(block.updates()?);
            bottlenecks.extend(block.bottlenecks()?);
        }
        let mut adapters = Vec::new();
        if let Tuning::Lora(lora) = &self.spec.tuning {
            let blocks = self.backbone.blocks();
            adapters.push(Adapter::LowRank(LowRank {
                lora,
                updates,
                fan_in_fan_out: blocks.iter().any(Block::is_transposed),
            }));
        }
        if !bottlenecks.is_empty() {
            let adapter = match &self.spec.tuning {
                Tuning::Adapter(adapter) => Some(*adapter),
                _ => adapters_of(Path::new(&self.spec.backbone.path))?,
            };
            adapters.extend(adapter.map(|adapter| Adapter::Bottleneck(adapter, bottlenecks)));
        }
        let blocks = self.backbone.blocks();
        adapters.extend(prompt(blocks)?.map(Adapter::Prompt));
        adapters.extend(prefix(blocks)?.map(Adapter::Prefix));
        Ok(adapters)
    }

    fn write_model(&self, target: &Path, step: Step) -> Result<(), Error> {
        let written = if self.exchange.comm().rank() == 0 {
            let task = |(index, task): (usize, &espalier_spec::job::TaskSpec)| ExportedTask {
                name: task.name.clone(),
                head: task.head,
                labels: self.tasks[index].labels.names().to_vec(),
                classes: self.tasks[index]
                    .classes
                    .as_ref()
                    .map(|classes| ExportedClasses {
                        templates: classes.templates.clone(),
                        texts: classes.texts.clone(),
                        seen: classes.seen.clone(),
                    }),
                max_answer_tokens: (task.head == HeadKind::Span)
                    .then(|| task.span.unwrap_or_default().max_answer_tokens),
            };
            let meta = Export {
                format: 1,
                job: self.spec.name.clone(),
                step: step.0,
                pooling: self.spec.backbone.pooling,
                max_tokens: self.spec.backbone.max_tokens,
                tasks: self.spec.tasks.iter().enumerate().map(task).collect(),
            };
            let source = Path::new(&self.spec.backbone.path);
            let heads = self.heads.export()?;
            let backbone = self.backbone.export()?;
            write_export(target, source, &meta, backbone, &heads, &self.adapters()?)
                .map_err(Error::from)
        } else {
            Ok(())
        };
        self.all(written.as_ref().map(|()| Vec::new()))?;
        written
    }

    /// Gathers every rank's bytes; if any rank failed, all fail with its message.
    fn all<E: std::fmt::Display>(&self, mine: Result<Vec<u8>, E>) -> Result<Vec<Vec<u8>>, Error> {
        let tagged = match mine {
            Ok(bytes) => [vec![1], bytes].concat(),
            Err(error) => [vec![0], error.to_string().into_bytes()].concat(),
        };
        let parts = self.exchange.comm().all_gather_bytes(tagged)?;
        let failed = parts
            .iter()
            .enumerate()
            .find(|(_, part)| part.first() != Some(&1));
        if let Some((rank, part)) = failed {
            let text = String::from_utf8_lossy(part.get(1..).unwrap_or_default());
            return Err(Error::Persist(format!("rank {rank}: {text}")));
        }
        Ok(parts.into_iter().map(|part| part[1..].to_vec()).collect())
    }

    /// State of this rank's slices, by block: `<block>|<first or second>|<start>|<end>`, of its rows
    /// of the table, and what the balancer keeps beside them.
    fn optimizer_state(&self) -> Result<Named, Error> {
        let rank = self.exchange.comm().rank();
        let mut tensors = Vec::new();
        for (index, owner) in self.owners.iter().enumerate() {
            let Some(owner) = owner else { continue };
            let (name, slice) = (self.block(index).name(), self.exchange.slice(index));
            // Where every rank has all the state, each writes its own slice of it.
            let start = slice.start - owner.range().start;
            let (first, second) = owner.moments();
            for (which, tensor) in [("first", first), ("second", second)] {
                let key = format!("{name}|{which}|{}|{}", slice.start, slice.end);
                tensors.push((key, tensor.f_narrow(0, start as i64, slice.len() as i64)?));
            }
        }
        if let Some(rows) = &self.rows {
            let (ids, kept) = rows.own_state(rank);
            let ids: Vec<i64> = ids.iter().map(|&row| i64::from(row)).collect();
            tensors.push((format!("{ROWS}|ids"), Tensor::f_from_slice(&ids)?));
            for (name, numbers) in kept {
                tensors.push((format!("{ROWS}|{name}"), Tensor::f_from_slice(&numbers)?));
            }
        }
        tensors.extend(self.tracks_state()?);
        Ok(tensors)
    }

    fn load_model(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
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

    fn load_optimizer(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let files = checkpoint
            .manifest
            .files
            .iter()
            .filter(|f| f.name.starts_with("optimizer-"));
        for file in files {
            let tensors: BTreeMap<String, Tensor> =
                checkpoint::read_tensors(&checkpoint.path.join(&file.name))?
                    .into_iter()
                    .collect();
            for (key, first) in &tensors {
                let Some((block, range)) = parse(key) else {
                    continue;
                };
                let other = key.replace("|first|", "|second|");
                let second = tensors
                    .get(&other)
                    .ok_or_else(|| lacks(checkpoint, &other))?;
                let place = (0..self.blocks()).find(|&index| self.block(index).name() == block);
                if let Some(owner) = place.and_then(|index| self.owners[index].as_mut()) {
                    owner.restore(&range, first, second)?;
                }
            }
            if let (Some(rows), Some(ids)) = (&mut self.rows, tensors.get(&format!("{ROWS}|ids"))) {
                let ids: Vec<u32> = Vec::<i64>::try_from(ids)?
                    .iter()
                    .map(|&id| id as u32)
                    .collect();
                let numbers = |which: &str| {
                    let key = format!("{ROWS}|{which}");
                    let tensor = tensors.get(&key).ok_or_else(|| lacks(checkpoint, &key))?;
                    Ok::<_, Error>(Vec::<f32>::try_from(tensor)?)
                };
                let start = rows.optimizer.start().is_some();
                let start = start.then(|| numbers("start")).transpose()?;
                let (first, second) = (numbers("first")?, numbers("second")?);
                rows.optimizer
                    .restore(&ids, &first, &second, start.as_deref());
            }
            self.restore_tracks(&tensors)?;
        }
        Ok(())
    }
}

/// Block and range of a tensor of first moments.
fn parse(key: &str) -> Option<(&str, Range<usize>)> {
    let mut parts = key.split('|');
    let block = parts.next()?;
    if parts.next()? != "first" {
        return None;
    }
    Some((
        block,
        parts.next()?.parse().ok()?..parts.next()?.parse().ok()?,
    ))
}

fn lacks(checkpoint: &Checkpoint, name: &str) -> checkpoint::Error {
    let message = format!("tensor {name} is missing");
    checkpoint::Error::Damaged {
        path: checkpoint.path.clone(),
        message,
    }
}

fn to_json(files: &Vec<FileEntry>) -> Vec<u8> {
    // File entries are strings and numbers: they can always be written as JSON.
    serde_json::to_vec(files).unwrap_or_default()
}

fn from_json(bytes: &[u8]) -> Vec<FileEntry> {
    serde_json::from_slice(bytes).unwrap_or_default()
}
