//! Copies of a job's checkpoints elsewhere: `JOB/step-00000500/…` as it is here, and `JOB/best-00000450/…` of the best
//! model that goes with it, where JOB is the name of the job's directory. The manifest is written last and removed
//! first, so what has one is whole.

use super::durable::{MANIFEST, SEAL, outside};
use super::{Checkpoint, Error, Manifest, Store};
use crate::fetch::{self, Depot, Stop};
use espalier_spec::Step;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

/// Who brings copies back holds it, in the job's directory.
const LOCK: &str = "checkpoints.lock";
/// How often a wait for it looks whether it was told to stop.
const LOOK: Duration = Duration::from_millis(200);

/// Files of all copies by the names of their directories.
type Listing = BTreeMap<String, Vec<String>>;

/// A checkpoint whose files are open: it can still be copied when it is removed here.
#[derive(Debug)]
pub(super) struct Opened {
    name: String,
    /// The manifest last.
    files: Vec<(String, File)>,
    manifest: Manifest,
}

impl Opened {
    /// Opens all files of a checkpoint, unverified.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub(super) fn new(path: &Path) -> Result<Self, Error> {
        let manifest_path = path.join(MANIFEST);
        let text = fs::read(&manifest_path).map_err(|e| Error::io("read", &manifest_path, e))?;
        let damaged = |message: String| Error::Damaged {
            path: manifest_path.clone(),
            message,
        };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|e| damaged(format!("not a manifest: {e}")))?;
        if let Some(odd) = outside(&manifest) {
            let message = format!("names the file {odd:?}, expected one of its own directory");
            return Err(damaged(message));
        }
        let mut files = Vec::new();
        let names = manifest.files.iter().map(|file| file.name.as_str());
        for name in names.chain([SEAL, MANIFEST]) {
            let path = path.join(name);
            let file = File::open(&path).map_err(|e| Error::io("open", path, e))?;
            files.push((name.to_owned(), file));
        }
        let name = path.file_name().unwrap_or_default();
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            files,
            manifest,
        })
    }

    /// The best model so far when it was written.
    pub(super) fn best(&self) -> Option<Step> {
        self.manifest.state.best.map(|(_, step)| step)
    }
}

/// The copies of one job.
pub(super) struct Copies<'a> {
    depot: Depot<'a>,
    job: String,
}

impl<'a> Copies<'a> {
    /// Those at `url` of the job whose directory is `dir`, until `stop` says so.
    ///
    /// # Errors
    /// If the URL or the environment leave something open; nothing is asked for yet.
    pub(super) fn open(url: &str, dir: &Path, stop: Stop<'a>) -> Result<Self, fetch::Error> {
        Ok(Self::of(Depot::open(url, stop)?, dir))
    }

    fn of(depot: Depot<'a>, dir: &Path) -> Self {
        // Unlike the job's own name, no later job has this one.
        let job = dir.file_name().unwrap_or_default();
        Self {
            depot,
            job: job.to_string_lossy().into_owned(),
        }
    }

    /// Copies a checkpoint, before it the best model that goes with it unless that is there, and then removes copies
    /// beyond the `keep` newest up to this one.
    ///
    /// # Errors
    /// [`Error::Copy`]; then earlier copies are intact.
    pub(super) async fn add(
        &self,
        mut checkpoint: Opened,
        best: Option<Opened>,
        keep: usize,
    ) -> Result<(), Error> {
        let there = self.list().await?;
        if let Some(mut best) = best
            && !is_whole(&there, &best.name)
        {
            self.put(&mut best, &there).await?;
        }
        self.put(&mut checkpoint, &there).await?;
        let newest = checkpoint.manifest.state.step;
        self.retain(keep, newest).await?;
        Ok(())
    }

    async fn put(&self, opened: &mut Opened, there: &Listing) -> Result<(), fetch::Error> {
        // Bytes of both under the manifest of one would be taken for whole until they are read.
        if is_whole(there, &opened.name) {
            self.depot.remove(&self.key(&opened.name, MANIFEST)).await?;
        }
        for (name, file) in &mut opened.files {
            self.depot.put(&self.key(&opened.name, name), file).await?;
        }
        Ok(())
    }

    /// Removes all but the newest `keep` whole copies up to `newest`, which was just made, and the best models that go
    /// with them, and what is not whole. Those of later steps, from before the run went back, don't count and stay.
    async fn retain(&self, keep: usize, newest: Step) -> Result<(), fetch::Error> {
        let there = self.list().await?;
        let (steps, bests) = (whole(&there, "step"), whole(&there, "best"));
        let until = steps.partition_point(|step| *step <= newest);
        let kept = &steps[until.saturating_sub(keep.max(1))..];
        // A best model goes with all checkpoints from its step to the next best one's.
        let is_needed = |best: &&Step| kept.first().is_none_or(|oldest| *best <= oldest);
        let oldest_best = bests.iter().rev().find(is_needed);
        for (folder, files) in &there {
            let goes = match (step_of("step", folder), step_of("best", folder)) {
                (Some(step), _) => !kept.contains(&step),
                (None, Some(step)) => {
                    !bests.contains(&step) || oldest_best.is_some_and(|oldest| step < *oldest)
                }
                (None, None) => false,
            };
            if goes {
                let is_manifest = |file: &&String| *file == MANIFEST;
                let first = files.iter().filter(is_manifest);
                for file in first.chain(files) {
                    self.depot.remove(&self.key(folder, file)).await?;
                }
            }
        }
        Ok(())
    }

    /// Brings back what of the newest whole checkpoint at or below `limit` is newer than those in `store`, and the best
    /// model that goes with it.
    ///
    /// # Errors
    /// [`Error::Copy`] if copies can't be looked at. One that is damaged is passed over with a warning.
    async fn bring_back(&self, store: &Store, limit: Step) -> Result<(), Error> {
        let there = self.list().await?;
        let mut newest = store.newest("step", limit);
        for step in whole(&there, "step").into_iter().rev() {
            let here = newest.as_ref().map(|found| found.manifest.state.step);
            if step > limit || here.is_some_and(|here| here >= step) {
                continue;
            }
            match self.get("step", step, store, &there).await {
                Ok(checkpoint) => newest = Some(checkpoint),
                Err(Error::Copy(fetch::Error::Stopped)) => {
                    return Err(Error::Copy(fetch::Error::Stopped));
                }
                Err(error) => {
                    tracing::warn!(step = step.0, %error, "a copy cannot be used, trying the one before");
                }
            }
        }
        if let Some(best) = newest.and_then(|checkpoint| lacks_best(store, &checkpoint))
            && is_whole(&there, &format!("best-{:08}", best.0))
        {
            self.get("best", best, store, &there).await?;
        }
        Ok(())
    }

    /// Brings back the best model of a step.
    ///
    /// # Errors
    /// [`Error::Copy`], [`Error::Damaged`], or that there is no whole copy.
    async fn bring_best(&self, store: &Store, best: Step) -> Result<(), Error> {
        let there = self.list().await?;
        let folder = format!("best-{:08}", best.0);
        if !is_whole(&there, &folder) {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            let copy = format!("a whole copy {}/{folder}", self.job);
            return Err(Error::io("find", copy, missing));
        }
        self.get("best", best, store, &there).await.map(drop)
    }

    async fn get(
        &self,
        kind: &str,
        step: Step,
        store: &Store,
        there: &Listing,
    ) -> Result<Checkpoint, Error> {
        let folder = format!("{kind}-{:08}", step.0);
        let writer = store.begin(kind, step)?;
        let brought = async {
            for name in there.get(&folder).into_iter().flatten() {
                let to = writer.file(name);
                self.depot.get(&self.key(&folder, name), &to).await?;
            }
            writer.adopt()
        };
        let brought = brought.await;
        match &brought {
            Ok(checkpoint) => {
                let path = checkpoint.path.display();
                tracing::info!(step = step.0, %path, "brought back from its copy");
            }
            Err(_) => writer.abandon(),
        }
        brought
    }

    async fn list(&self) -> Result<Listing, fetch::Error> {
        let mut listing = Listing::new();
        for name in self.depot.list(&self.job).await? {
            if let Some((folder, file)) = name.split_once('/')
                && !file.contains(['/', '\\'])
            {
                let files = listing.entry(folder.to_owned()).or_default();
                files.push(file.to_owned());
            }
        }
        Ok(listing)
    }

    fn key(&self, folder: &str, file: &str) -> String {
        format!("{}/{folder}/{file}", self.job)
    }
}

/// Brings back from `url` what the job in `dir` needs to go on from the newest checkpoint at or below `limit` that is
/// whole, here or there; asks nobody if it is here. Workers that share `dir` do so one after another.
///
/// # Errors
/// [`Error::Copy`] if copies can't be looked at, or `stop` said so; [`Error::DiskFull`], [`Error::Io`].
pub fn bring_back(
    url: &str,
    dir: &Path,
    store: &Store,
    limit: Step,
    stop: Stop<'_>,
) -> Result<(), Error> {
    if is_here(store, limit) {
        return Ok(());
    }
    let _lock = lock(dir, stop)?;
    if is_here(store, limit) {
        return Ok(());
    }
    let copies = Copies::open(url, dir, stop)?;
    runtime()?.block_on(copies.bring_back(store, limit))
}

/// Brings back from `url` the best model of a step of the job in `dir`; asks nobody if it is whole in `store`. Workers
/// that share `dir` do so one after another.
///
/// # Errors
/// [`Error::Copy`], [`Error::Damaged`] or [`Error::Io`] if there is no copy that can be used, or `stop` said so.
pub fn bring_best(
    url: &str,
    (dir, store): (&Path, &Store),
    best: Step,
    stop: Stop<'_>,
) -> Result<(), Error> {
    let is_here = || store.open("best", best).is_ok();
    if is_here() {
        return Ok(());
    }
    let _lock = lock(dir, stop)?;
    if is_here() {
        return Ok(());
    }
    let copies = Copies::open(url, dir, stop)?;
    runtime()?.block_on(copies.bring_best(store, best))
}

/// What talks to a store.
///
/// # Errors
/// [`Error::Io`] if the system gives no means for it.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let built = builder.enable_all().build();
    built.map_err(|e| Error::io("start", "the connection for copies of checkpoints", e))
}

fn is_here(store: &Store, limit: Step) -> bool {
    let newest = store.newest("step", limit);
    newest.is_some_and(|checkpoint| {
        checkpoint.manifest.state.step == limit && lacks_best(store, &checkpoint).is_none()
    })
}

/// The best model that goes with a checkpoint, if it isn't here.
fn lacks_best(store: &Store, checkpoint: &Checkpoint) -> Option<Step> {
    let (_, best) = checkpoint.manifest.state.best?;
    let opened = store.open("best", best);
    opened.is_err().then_some(best)
}

fn lock(dir: &Path, stop: Stop<'_>) -> Result<File, Error> {
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true);
    let file = options
        .open(&path)
        .map_err(|e| Error::io("open", &path, e))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(cause)) => return Err(Error::io("lock", &path, cause)),
        }
        if stop() {
            return Err(Error::Copy(fetch::Error::Stopped));
        }
        std::thread::sleep(LOOK);
    }
}

fn is_whole(there: &Listing, folder: &str) -> bool {
    let files = there.get(folder);
    files.is_some_and(|files| files.iter().any(|file| file == MANIFEST))
}

/// Steps of all whole copies of a kind, oldest first.
fn whole(there: &Listing, kind: &str) -> Vec<Step> {
    let folders = there.keys().filter(|folder| is_whole(there, folder));
    let mut steps: Vec<Step> = folders.filter_map(|folder| step_of(kind, folder)).collect();
    steps.sort_unstable();
    steps
}

fn step_of(kind: &str, folder: &str) -> Option<Step> {
    let number = folder.strip_prefix(kind)?.strip_prefix('-')?;
    number.parse().ok().map(Step)
}

#[cfg(test)]
mod tests;
