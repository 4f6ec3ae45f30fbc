//! What workers print about a job: the newest lines in memory, more in files that survive a
//! restart. Best effort: a log line is never worth a training step.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Lines kept per job.
const LINES: usize = 5_000;
/// Size at which a job's file becomes its old file; two are kept.
const FILE_BYTES: u64 = 4 << 20;
/// Bytes of a line's text; the rest is cut.
const TEXT_BYTES: usize = 4 << 10;
/// Bytes of a line's level, likewise.
const LEVEL_BYTES: usize = 16;
/// Jobs whose lines stay in memory while nobody reads them.
const JOBS: usize = 64;

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since 1970-01-01 UTC.
    pub time: u64,
    /// ERROR, WARN, INFO, DEBUG or TRACE.
    pub level: String,
    /// The worker that wrote it.
    pub worker: String,
    /// The rank; none if it is the worker's own.
    pub rank: Option<u32>,
    /// The text.
    pub text: String,
}

/// The logs of all jobs, by uid. Calls block on the disk.
#[derive(Debug)]
pub struct Logs {
    directory: PathBuf,
    jobs: Mutex<BTreeMap<String, Arc<JobLog>>>,
}

impl Logs {
    /// Opens the directory; makes it if need be. Forgets the logs of all jobs but `known`.
    ///
    /// # Errors
    ///
    /// The directory can't be made or listed.
    pub fn open(directory: &Path, known: &BTreeSet<String>) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let uid = name.split('.').next().unwrap_or_default();
            if !known.contains(uid) {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            jobs: Mutex::default(),
        })
    }

    /// The log of the job with this uid; an empty one if nothing was written.
    pub fn job(&self, uid: &str) -> Arc<JobLog> {
        let mut jobs = lock(&self.jobs);
        if let Some(log) = jobs.get(uid) {
            return log.clone();
        }
        if jobs.len() >= JOBS {
            jobs.retain(|_, log| Arc::strong_count(log) > 1);
        }
        let log = Arc::new(JobLog::open(self.directory.join(uid)));
        jobs.insert(uid.to_owned(), log.clone());
        log
    }

    /// Forgets a job's log.
    pub fn forget(&self, uid: &str) {
        lock(&self.jobs).remove(uid);
        let base = self.directory.join(uid);
        for path in [current(&base), old(&base)] {
            // It may never have been written.
            let _ = fs::remove_file(path);
        }
    }
}

/// The log of one job.
#[derive(Debug)]
pub struct JobLog {
    base: PathBuf,
    lines: Mutex<Lines>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<Line>,
    /// Lines that were dropped from the front.
    dropped: u64,
    file: Option<(File, u64)>,
    /// The disk failed; said once.
    failed: bool,
}

impl JobLog {
    fn open(base: PathBuf) -> Self {
        let mut lines = Lines::default();
        for path in [old(&base), current(&base)] {
            let Ok(file) = File::open(path) else { continue };
            // A line that a crash cut off, within a letter perhaps, is skipped.
            let read = BufReader::new(file).split(b'\n').map_while(Result::ok);
            for line in read.filter_map(|text| serde_json::from_slice(&text).ok()) {
                lines.push(line);
            }
        }
        Self {
            base,
            lines: Mutex::new(lines),
            changed: watch::Sender::new(()),
        }
    }

    /// Adds lines.
    pub fn append(&self, added: Vec<Line>) {
        let mut lines = lock(&self.lines);
        let mut bytes = Vec::new();
        for mut line in added {
            truncate(&mut line.text, TEXT_BYTES);
            truncate(&mut line.level, LEVEL_BYTES);
            // A line is plain texts and numbers: it always has a JSON form.
            if serde_json::to_writer(&mut bytes, &line).is_ok() {
                bytes.push(b'\n');
            }
            lines.push(line);
        }
        if let Err(error) = lines.write(&self.base, &bytes) {
            lines.file = None;
            if !std::mem::replace(&mut lines.failed, true) {
                tracing::warn!("log lines of a job are kept in memory only: {error}");
            }
        }
        drop(lines);
        self.changed.send_replace(());
    }

    /// At most `limit` lines from number `from` on (lines that are no longer kept are passed over),
    /// and the number after them.
    pub fn read(&self, from: u64, limit: usize) -> (Vec<Line>, u64) {
        let lines = lock(&self.lines);
        let skip = usize::try_from(from.saturating_sub(lines.dropped)).unwrap_or(usize::MAX);
        let found: Vec<Line> = lines.kept.iter().skip(skip).take(limit).cloned().collect();
        let next = from.max(lines.dropped) + found.len() as u64;
        (found, next)
    }

    /// The number from which on the newest `count` lines are kept.
    pub fn tail(&self, count: usize) -> u64 {
        let lines = lock(&self.lines);
        lines.dropped + lines.kept.len().saturating_sub(count) as u64
    }

    /// Notices of new lines.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Lines {
    fn push(&mut self, line: Line) {
        self.kept.push_back(line);
        if self.kept.len() > LINES {
            self.kept.pop_front();
            self.dropped += 1;
        }
    }

    fn write(&mut self, base: &Path, bytes: &[u8]) -> io::Result<()> {
        let path = current(base);
        if self
            .file
            .as_ref()
            .is_some_and(|(_, size)| *size >= FILE_BYTES)
        {
            self.file = None;
            fs::rename(&path, old(base))?;
        }
        let (file, size) = match &mut self.file {
            Some(open) => open,
            none => {
                let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
                let size = file.metadata()?.len();
                if size > 0 {
                    // Ends a line that a crash cut off.
                    file.write_all(b"\n")?;
                }
                none.insert((file, size))
            }
        };
        file.write_all(bytes)?;
        *size += bytes.len() as u64;
        Ok(())
    }
}

fn current(base: &Path) -> PathBuf {
    base.with_extension("jsonl")
}

fn old(base: &Path) -> PathBuf {
    base.with_extension("old.jsonl")
}

/// Cuts at a character's boundary.
fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
    }
}

// Every change under these locks leaves a whole state, whatever panicked after it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line {
            time: 1,
            level: "INFO".into(),
            worker: "w".into(),
            rank: Some(0),
            text: text.into(),
        }
    }

    fn texts(log: &JobLog, from: u64) -> Vec<String> {
        log.read(from, usize::MAX)
            .0
            .into_iter()
            .map(|line| line.text)
            .collect()
    }

    // Promise: lines survive a restart and a crash in the middle of one; unknown jobs' do not.
    #[test]
    fn lines_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let known = BTreeSet::from(["a".to_owned()]);
        let logs = Logs::open(directory.path(), &known).unwrap();
        logs.job("a").append(vec![line("one"), line("two")]);
        logs.job("b").append(vec![line("other")]);
        let file = directory.path().join("a.jsonl");
        let mut cut = OpenOptions::new().append(true).open(file).unwrap();
        cut.write_all(br#"{"time": 1, "lev"#).unwrap();
        drop((logs, cut));
        let logs = Logs::open(directory.path(), &known).unwrap();
        logs.job("a").append(vec![line("three")]);
        let logs = Logs::open(directory.path(), &known).unwrap();
        assert_eq!(texts(&logs.job("a"), 0), ["one", "two", "three"]);
        assert_eq!(logs.job("a").tail(1), 2);
        assert!(!directory.path().join("b.jsonl").exists());
        logs.forget("a");
        assert!(texts(&logs.job("a"), 0).is_empty());
    }

    // Promise: a chatty job uses bounded memory and disk, and a reader that fell behind goes on
    // with what is left.
    #[test]
    fn memory_and_disk_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path(), &BTreeSet::new()).unwrap();
        let log = logs.job("a");
        let long = "é".repeat(TEXT_BYTES);
        for _ in 0..LINES / 50 + 5 {
            log.append(vec![line(&long); 50]);
        }
        let (lines, next) = log.read(3, 10);
        assert_eq!((lines.len(), next), (10, 250 + 10));
        assert_eq!(lines[0].text.len(), TEXT_BYTES);
        let size: u64 = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(size < 3 * FILE_BYTES, "{size}");
        let other = logs.job("b");
        other.append(vec![Line {
            level: long,
            ..line("x")
        }]);
        assert!(other.read(0, 1).0[0].level.len() <= LEVEL_BYTES);
    }
}
