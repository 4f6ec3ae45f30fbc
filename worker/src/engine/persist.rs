//! Saving a run, the best model and the export: all ranks together.

use super::Error;
use super::part::Part;
use super::resume::{HEADS, MODEL};
use super::trainer::Trainer;
use crate::checkpoint::{
    Adapter, Export, ExportedClasses, ExportedTask, FileEntry, LowRank, RunState, Store, Writer,
    write_export, write_tensors,
};
use crate::model::{Block, adapters_of, prefix, prompt};
use espalier_comm::CommunicatorExt;
use espalier_spec::job::{HeadKind, Tuning};
use espalier_spec::report::Failure;
use espalier_spec::{JobId, Step};
use std::path::{Path, PathBuf};

impl Trainer {
    /// Writes a checkpoint of all that a run depends on, every rank its part, and waits until it is durable. Returns
    /// its directory. [`crate::checkpoint::Saving`] writes the same while training goes on.
    ///
    /// # Errors
    /// [`Error::Persist`] on all ranks if writing failed on any; then older checkpoints are intact.
    pub fn save_run(&mut self, store: &Store, state: &mut RunState) -> Result<PathBuf, Error> {
        let rank = self.exchange.comm().rank();
        let part = self.take_part(state);
        let begun = match rank {
            0 => store.begin("step", state.step).map_err(Error::from),
            _ => Ok(store.join("step", state.step)),
        };
        self.all(begun.as_ref().map(|_| Vec::new()))?;
        // `all` has returned only if every rank's value is good.
        let writer = begun?;
        let write = |part: Part| {
            let written = writer.write_part(rank, part.images.shared(), part.images.own());
            written.map_err(Error::from)
        };
        let written = part.and_then(write);
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
        let committed = match rank {
            0 => {
                let files = parts.iter().flat_map(|part| from_json(part)).collect();
                self.commit(writer, state, files)
            }
            _ => Ok(()),
        };
        self.all(committed.as_ref().map(|()| Vec::new()))?;
        committed?;
        if rank == 0 {
            store.retain("step", self.spec.checkpoint.keep as usize, state.step);
        }
        Ok(target)
    }

    /// Gives what rank 0 and others wrote its name; removes it if that fails: what is there of it takes room.
    fn commit(&self, writer: Writer, state: &RunState, files: Vec<FileEntry>) -> Result<(), Error> {
        let job = JobId(self.spec.name.clone());
        let committed = writer.clone().commit(&job, state.clone(), files);
        if committed.is_err() {
            writer.abandon();
        }
        Ok(committed.map(drop)?)
    }

    /// Keeps the model as the best one so far: rank 0 writes model and heads.
    ///
    /// # Errors
    /// [`Error::Persist`] on all ranks if writing failed; then the best one before is intact, and every rank can go
    /// on.
    pub fn save_best(&mut self, store: &Store, state: &RunState) -> Result<PathBuf, Error> {
        self.assemble(false)?;
        let saved = self.write_best(store, state);
        self.dismantle()?;
        saved
    }

    fn write_best(&self, store: &Store, state: &RunState) -> Result<PathBuf, Error> {
        let written = match self.exchange.comm().rank() {
            0 => self.write_best_files(store, state),
            _ => Ok(()),
        };
        self.all(written.as_ref().map(|()| Vec::new()))?;
        written?;
        Ok(store.path("best", state.step))
    }

    fn write_best_files(&self, store: &Store, state: &RunState) -> Result<(), Error> {
        let writer = store.begin("best", state.step)?;
        let write = || {
            let model = write_tensors(&writer.file(MODEL), &self.backbone.tensors()?, None)?;
            let heads = self.heads.block().export()?;
            let heads = write_tensors(&writer.file(HEADS), &heads, None)?;
            Ok::<_, Error>(vec![model, heads])
        };
        match write() {
            Ok(files) => self.commit(writer, state, files)?,
            Err(error) => {
                writer.abandon();
                return Err(error);
            }
        }
        store.retain_best(state.step);
        Ok(())
    }

    /// Takes up model and heads of the best evaluation, if all ranks find them whole. If not, says so on all ranks, and
    /// nothing has changed.
    ///
    /// # Errors
    /// What the communicator says, or what is wrong with a tensor.
    pub fn load_best(&mut self, store: &Store, step: Step) -> Result<bool, Error> {
        let opened = store.open("best", step);
        if let Err(error) = &opened {
            tracing::warn!(step = step.0, %error, "the best model cannot be read");
        }
        let is_whole = self.all_say(opened.is_ok())?;
        let Some(checkpoint) = opened.ok().filter(|_| is_whole) else {
            return Ok(false);
        };
        self.assemble(true)?;
        self.load_model(&checkpoint)?;
        self.dismantle()?;
        Ok(true)
    }

    /// Whether all ranks say yes; all call it together.
    ///
    /// # Errors
    /// What the communicator says.
    pub(super) fn all_say(&self, mine: bool) -> Result<bool, Error> {
        let all = self
            .exchange
            .comm()
            .all_gather_bytes(vec![u8::from(mine)])?;
        Ok(all.iter().all(|yes| yes.first() == Some(&1)))
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
                words: Some(self.tasks[index].words),
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
    fn all(&self, mine: Result<Vec<u8>, &Error>) -> Result<Vec<Vec<u8>>, Error> {
        let tagged = match mine {
            Ok(bytes) => [vec![1], bytes].concat(),
            // Texts and flags can always be written as JSON.
            Err(error) => {
                let failure = serde_json::to_vec(&error.failure()).unwrap_or_default();
                [vec![0], failure].concat()
            }
        };
        let parts = self.exchange.comm().all_gather_bytes(tagged)?;
        let failed = parts
            .iter()
            .enumerate()
            .find(|(_, part)| part.first() != Some(&1));
        if let Some((rank, part)) = failed {
            return Err(said(rank, part.get(1..).unwrap_or_default()));
        }
        Ok(parts.into_iter().map(|part| part[1..].to_vec()).collect())
    }
}

/// What a rank said of its failure.
fn said(rank: usize, bytes: &[u8]) -> Error {
    let failure = serde_json::from_slice(bytes).unwrap_or_else(|error| Failure {
        code: "checkpoint".to_owned(),
        message: format!("it failed to write, and why can't be read: {error}"),
        retryable: true,
        lost: None,
    });
    Error::Persist {
        message: format!("rank {rank}: {}", failure.message),
        code: failure.code,
        retryable: failure.retryable,
    }
}

fn to_json(files: &Vec<FileEntry>) -> Vec<u8> {
    // File entries are strings and numbers: they can always be written as JSON.
    serde_json::to_vec(files).unwrap_or_default()
}

fn from_json(bytes: &[u8]) -> Vec<FileEntry> {
    serde_json::from_slice(bytes).unwrap_or_default()
}
