//! How figures of jobs went over their steps: what charts are made of.
//!
//! ```text
//!  machine ──notices──> recorder ──> job: tables ──> file, one a job
//!                                        │ column: sums over ever more rows
//!  GetJobSeries <── at most so many points, whatever the range
//! ```
//!
//! `recorder` looks at jobs when watchers do and takes what is new; `figures` names it; `table` keeps
//! it in bounded room; `column` answers any range at the same cost; `file` makes it survive. It is
//! best effort, like logs: never worth a training step. Figures of steps that are done again after a
//! fault are not taken twice, since they are the same.

mod column;
mod figures;
mod file;
mod job;
mod recorder;
mod table;

pub(crate) use job::Wanted;
pub(crate) use recorder::{record, refresh};
pub(crate) use table::Line;

use file::JobFile;
use job::{Job, Report};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};
use table::Room;

/// Jobs whose series stay in memory; of more than that the ones used last.
const JOBS: usize = 32;
/// How the files' names end.
const ENDING: &str = "series";

/// The series of all jobs, by uid. Calls block on the disk.
#[derive(Debug)]
pub(crate) struct Series {
    directory: PathBuf,
    room: Room,
    /// Most points of an answer.
    points: usize,
    jobs: Mutex<Jobs>,
}

#[derive(Debug, Default)]
struct Jobs {
    open: BTreeMap<String, (u64, Arc<Mutex<Job>>)>,
    /// Counts uses.
    clock: u64,
}

impl Series {
    /// Opens the directory; makes it if need be. Forgets the series of all jobs but `known`. Answers
    /// have at most `points` points.
    ///
    /// # Errors
    ///
    /// The directory can't be made or listed.
    pub(crate) fn open(
        directory: &Path,
        known: &BTreeSet<String>,
        points: usize,
    ) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|name| name.to_str());
            let whole = path.extension().is_some_and(|ending| ending == ENDING);
            if !whole || !stem.is_some_and(|uid| known.contains(uid)) {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            room: Room::default(),
            points,
            jobs: Mutex::default(),
        })
    }

    /// Newest event of a job that is in its series.
    pub(crate) fn event(&self, uid: &str) -> u64 {
        lock(&self.job(uid)).event()
    }

    /// The series of a job that are wanted, and their newest step.
    pub(crate) fn read(&self, uid: &str, wanted: Wanted) -> (Vec<Line>, u64) {
        let wanted = Wanted {
            in_all: self.points,
            ..wanted
        };
        lock(&self.job(uid)).read(&wanted)
    }

    /// Forgets a job's series.
    pub(crate) fn forget(&self, uid: &str) {
        let job = self.job(uid);
        lock(&job).forget();
        lock(&self.jobs).open.remove(uid);
        JobFile::remove(&self.path(uid));
    }

    fn record(&self, uid: &str, reports: &[Report], event: u64) {
        lock(&self.job(uid)).record(reports, event);
    }

    fn job(&self, uid: &str) -> Arc<Mutex<Job>> {
        let mut jobs = lock(&self.jobs);
        jobs.clock += 1;
        let now = jobs.clock;
        if let Some((used, job)) = jobs.open.get_mut(uid) {
            *used = now;
            return job.clone();
        }
        while jobs.open.len() >= JOBS {
            // Whoever uses one now must not find it opened a second time.
            let idle = jobs.open.iter();
            let idle = idle.filter(|(_, (_, job))| Arc::strong_count(job) == 1);
            let oldest = idle.min_by_key(|(_, (used, _))| *used);
            let Some(uid) = oldest.map(|(uid, _)| uid.clone()) else {
                break;
            };
            jobs.open.remove(&uid);
        }
        let job = Arc::new(Mutex::new(Job::open(self.path(uid), self.room)));
        jobs.open.insert(uid.to_owned(), (now, job.clone()));
        job
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(uid).with_extension(ENDING)
    }
}

// Every change under these locks leaves a whole state, whatever panicked after it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
