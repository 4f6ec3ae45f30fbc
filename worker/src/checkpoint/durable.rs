//! Checkpoints on disk: written under a temporary name, committed by manifest and rename. One that takes the place of
//! another, as a run that went back writes, sets that one aside first and removes it last: at every moment one of the
//! two is whole under a name that readers look for.

use super::files::{entry, write_bytes};
use super::{Error, FileEntry, read_tensors};
use crate::metrics::AffinityMeter;
use espalier_spec::{Generation, JobId, Step};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tch::Tensor;

pub(super) const MANIFEST: &str = "manifest.json";
/// The hash of the manifest, hexadecimal and nothing else.
pub(super) const SEAL: &str = "manifest.blake3";
const FORMAT: u32 = 2;
/// The oldest layout that is read: without a hash of the manifest.
const OLDEST: u32 = 1;

/// What a run must remember besides tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Steps done.
    pub step: Step,
    /// Samples trained on.
    pub samples: u64,
    /// Real tokens trained on.
    pub tokens: u64,
    /// Selection figure and step of the best evaluation so far.
    pub best: Option<(f64, Step)>,
    /// Evaluations since the best one.
    pub evaluations_without_gain: u32,
    /// What each task gave to the selection figure when it was last evaluated; none stands for what was no finite
    /// number.
    #[serde(default)]
    pub figures: BTreeMap<String, Option<f64>>,
    /// What the balancer remembers.
    #[serde(default)]
    pub balancer: Option<espalier_balance::State>,
    /// How tasks' gradients relate, as far as seen.
    #[serde(default)]
    pub affinity: AffinityMeter,
    /// What a sampler that follows the tasks' losses remembers.
    #[serde(default)]
    pub sampler: Option<crate::data::Followed>,
}

/// The last file of a checkpoint: without it the directory is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// The job.
    pub job: JobId,
    /// What the run must remember besides tensors.
    pub state: RunState,
    /// Every other file.
    pub files: Vec<FileEntry>,
}

/// The checkpoints of one job.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    generation: Generation,
}

/// A checkpoint that is being written. Dropped without [`Writer::commit`], it is removed by the next
/// one.
#[derive(Clone, Debug)]
pub struct Writer {
    temporary: PathBuf,
    target: PathBuf,
    /// Where what has the target's name is set aside.
    aside: PathBuf,
}

/// A verified checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its directory.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
}

impl Store {
    /// The checkpoints under `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            generation: Generation::default(),
        }
    }

    /// The same, for ranks of a generation: what other ones left unfinished is none of theirs.
    #[must_use]
    pub fn of(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// Where the checkpoint of `step` is or will be; `kind` is `step` or `best`.
    #[must_use]
    pub fn path(&self, kind: &str, step: Step) -> PathBuf {
        self.dir.join(format!("{kind}-{:08}", step.0))
    }

    /// Where one is while another takes its place. That it is still there is the trace of a writer that was killed.
    fn aside(&self, kind: &str, step: Step) -> PathBuf {
        self.dir.join(format!(".{kind}-{:08}.old", step.0))
    }

    /// Opens the checkpoint of a step and verifies it; if it is not whole, that whose place it was about to take.
    ///
    /// # Errors
    /// See [`Checkpoint::open`].
    pub fn open(&self, kind: &str, step: Step) -> Result<Checkpoint, Error> {
        Checkpoint::open(&self.path(kind, step)).or_else(|error| {
            let before = Checkpoint::open(&self.aside(kind, step));
            before.map_err(|_| error)
        })
    }

    /// Makes the temporary directory that all ranks write their files into. Call it on one rank,
    /// [`Store::join`] on the others after it.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`].
    pub fn begin(&self, kind: &str, step: Step) -> Result<Writer, Error> {
        let writer = self.join(kind, step);
        self.sweep(kind, step);
        if writer.temporary.exists() {
            fs::remove_dir_all(&writer.temporary)
                .map_err(|e| Error::io("remove", &writer.temporary, e))?;
        }
        writer.create()?;
        Ok(writer)
    }

    /// The writer of a checkpoint that another rank began.
    #[must_use]
    pub fn join(&self, kind: &str, step: Step) -> Writer {
        let target = self.path(kind, step);
        let Generation(generation) = self.generation;
        let name = format!(".{kind}-{:08}.g{generation}.tmp", step.0);
        Writer {
            temporary: self.dir.join(name),
            target,
            aside: self.aside(kind, step),
        }
    }

    /// Removes what generations before this one left unfinished, and this one before `step`; and what was set aside
    /// for one that is there.
    pub(super) fn sweep(&self, kind: &str, step: Step) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten();
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                continue;
            };
            let is_left =
                unfinished(name, kind).is_some_and(|begun| begun < (self.generation, step));
            let is_replaced =
                aside_of(name, kind).is_some_and(|step| self.path(kind, step).is_dir());
            if (is_left || is_replaced)
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                let path = entry.path();
                tracing::warn!(path = %path.display(), %error, "cannot remove what is left of a checkpoint");
            }
        }
    }

    /// Steps of all committed checkpoints of a kind, oldest first; not verified.
    #[must_use]
    pub fn steps(&self, kind: &str) -> Vec<Step> {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let mut steps: Vec<Step> = entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter_map(|name| step_of(&name, kind).or_else(|| aside_of(&name, kind)))
            .collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }

    /// The newest checkpoint at or below `limit` that is whole. Damaged ones are passed over with a
    /// warning.
    #[must_use]
    pub fn newest(&self, kind: &str, limit: Step) -> Option<Checkpoint> {
        for step in self.steps(kind).into_iter().rev().filter(|&s| s <= limit) {
            match self.open(kind, step) {
                Ok(checkpoint) => return Some(checkpoint),
                Err(error) => {
                    tracing::warn!(step = step.0, %error, "checkpoint cannot be used, trying the one before");
                }
            }
        }
        None
    }

    /// Removes all but the newest `keep` checkpoints of a kind up to `newest`, which was just written. Those of later
    /// steps, from before the run went back, don't count.
    pub fn retain(&self, kind: &str, keep: usize, newest: Step) {
        let steps = self.steps(kind);
        let steps = steps.iter().rev().filter(|step| **step <= newest);
        for step in steps.skip(keep.max(1)) {
            self.remove(kind, *step);
        }
    }

    /// Removes the best models before `newest` that go with no checkpoint: each goes with all those from its step to
    /// that of the next one, so that a run which goes back to one of these finds it.
    pub fn retain_best(&self, newest: Step) {
        let bests = self.steps("best");
        let needed = match self.steps("step").first() {
            None => Some(&newest),
            Some(oldest) => bests.iter().rev().find(|best| *best <= oldest),
        };
        let needed = needed.copied().unwrap_or_default().min(newest);
        for best in bests.into_iter().filter(|best| *best < needed) {
            self.remove("best", best);
        }
    }

    fn remove(&self, kind: &str, step: Step) {
        for path in [self.path(kind, step), self.aside(kind, step)] {
            if let Err(error) = remove_if_there(&path) {
                tracing::warn!(%error, "an old checkpoint stays");
            }
        }
    }
}

impl Writer {
    /// Path of a file to write.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.temporary.join(name)
    }

    /// Makes the directory that files are written into, unless another rank has.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`].
    pub(super) fn create(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.temporary).map_err(|e| Error::io("create", &self.temporary, e))
    }

    /// Whether that directory is still there.
    pub(super) fn is_there(&self) -> bool {
        self.temporary.is_dir()
    }

    /// Where the checkpoint will be once committed.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes the manifest and gives the checkpoint its name. `files` are those of all ranks.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`]; then nothing is committed.
    pub fn commit(
        self,
        job: &JobId,
        state: RunState,
        files: Vec<FileEntry>,
    ) -> Result<PathBuf, Error> {
        let manifest = Manifest {
            format: FORMAT,
            job: job.clone(),
            state,
            files,
        };
        let path = self.file(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::Damaged {
            path: path.clone(),
            message: e.to_string(),
        })?;
        let manifest = write_bytes(&path, &text)?;
        write_bytes(&self.file(SEAL), manifest.blake3.as_bytes())?;
        self.publish()?;
        Ok(self.target)
    }

    /// Gives a checkpoint its name that was written elsewhere and brought here, manifest and all, if it is whole.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the file; [`Error::DiskFull`], [`Error::Io`]. Then nothing is committed.
    pub(super) fn adopt(&self) -> Result<Checkpoint, Error> {
        let checkpoint = Checkpoint::open(&self.temporary)?;
        self.publish()?;
        Ok(Checkpoint {
            path: self.target.clone(),
            ..checkpoint
        })
    }

    fn publish(&self) -> Result<(), Error> {
        sync(&self.temporary)?;
        self.set_aside()?;
        if let Err(error) = fs::rename(&self.temporary, &self.target) {
            // Readers would find it where it is, too.
            let _ = fs::rename(&self.aside, &self.target);
            return Err(Error::io("rename", &self.target, error));
        }
        if let Some(parent) = self.target.parent() {
            sync(parent)?;
        }
        if let Err(error) = remove_if_there(&self.aside) {
            tracing::warn!(%error, "the checkpoint is whole; what it took the place of stays");
        }
        Ok(())
    }

    /// Puts what has the target's name out of the way, where readers still find it.
    fn set_aside(&self) -> Result<(), Error> {
        if !self.target.exists() {
            // What a writer set aside that was killed right then is the only one, and stays until this one is there.
            return Ok(());
        }
        remove_if_there(&self.aside)?;
        fs::rename(&self.target, &self.aside).map_err(|e| Error::io("replace", &self.target, e))
    }

    /// Removes what was written; for a checkpoint that failed.
    pub fn abandon(self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

impl Checkpoint {
    /// Opens a checkpoint and verifies length and hash of every file.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let manifest_path = path.join(MANIFEST);
        let damaged = |path: PathBuf, message: String| Error::Damaged { path, message };
        let text = fs::read(&manifest_path).map_err(|e| Error::io("read", &manifest_path, e))?;
        let seal_path = path.join(SEAL);
        let seal = match fs::read(&seal_path) {
            Ok(seal) => Some(seal),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("read", &seal_path, error)),
        };
        let hash = blake3::hash(&text).to_hex();
        if seal.as_ref().is_some_and(|seal| seal != hash.as_bytes()) {
            let message = format!("its content does not match {SEAL}");
            return Err(damaged(manifest_path, message));
        }
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|e| damaged(manifest_path.clone(), format!("not a manifest: {e}")))?;
        if !(OLDEST..=FORMAT).contains(&manifest.format) {
            let found = manifest.format;
            let message = format!("layout {found}, this program reads {OLDEST} to {FORMAT}");
            return Err(damaged(manifest_path, message));
        }
        if seal.is_none() && manifest.format > OLDEST {
            return Err(damaged(seal_path, "the file is missing".to_owned()));
        }
        if let Some(odd) = outside(&manifest) {
            let message = format!("names the file {odd:?}, expected one of its own directory");
            return Err(damaged(manifest_path, message));
        }
        for wanted in &manifest.files {
            let file = path.join(&wanted.name);
            let found = entry(&file)?;
            if found.bytes != wanted.bytes {
                let message = format!("{} bytes, expected {}", found.bytes, wanted.bytes);
                return Err(damaged(file, message));
            }
            if found.blake3 != wanted.blake3 {
                return Err(damaged(
                    file,
                    "its content does not match its hash".to_owned(),
                ));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            manifest,
        })
    }

    /// All tensors of all files whose name begins with `prefix`.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn tensors(&self, prefix: &str) -> Result<HashMap<String, Tensor>, Error> {
        let mut all = HashMap::new();
        for file in self
            .manifest
            .files
            .iter()
            .filter(|f| f.name.starts_with(prefix))
        {
            all.extend(read_tensors(&self.path.join(&file.name))?);
        }
        Ok(all)
    }
}

/// A file that a manifest names and that is not of its own directory: what came back from elsewhere may say
/// anything.
pub(super) fn outside(manifest: &Manifest) -> Option<&str> {
    let mut names = manifest.files.iter().map(|file| file.name.as_str());
    names.find(|name| matches!(*name, "" | "." | "..") || name.contains(['/', '\\']))
}

/// The step of one that is there under its own name.
fn step_of(name: &str, kind: &str) -> Option<Step> {
    let step = name.strip_prefix(kind)?.strip_prefix('-')?;
    Some(Step(step.parse().ok()?))
}

/// The step of one that was set aside.
fn aside_of(name: &str, kind: &str) -> Option<Step> {
    step_of(name.strip_prefix('.')?.strip_suffix(".old")?, kind)
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Generation and step of a checkpoint that was begun, by the name of its temporary directory; the oldest layout's
/// says no generation.
fn unfinished(name: &str, kind: &str) -> Option<(Generation, Step)> {
    let name = name.strip_prefix('.')?.strip_prefix(kind)?;
    let name = name.strip_prefix('-')?.strip_suffix(".tmp")?;
    let (step, generation) = name.split_once(".g").unwrap_or((name, "0"));
    let generation = Generation(generation.parse().ok()?);
    Some((generation, Step(step.parse().ok()?)))
}

pub(super) fn sync(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|f| f.sync_all())
        .map_err(|e| Error::io("sync", path, e))
}

#[cfg(test)]
mod tests;
