//! The series of one job: its tables in memory, the same in its file.

use super::file::{self, JobFile, Records};
use super::table::{Line, Room, Table};
use std::io;
use std::path::PathBuf;

/// Which figures are reported together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of training.
    Progress,
    /// Of an evaluation on validation files.
    Validation,
    /// Of an evaluation on test files.
    Test,
}

/// Tables of a job, one a kind.
const TABLES: usize = 3;
/// What a file may have beyond twice what its tables need, before it is written anew.
const SLACK: u64 = 1 << 20;

/// Figures of one report.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) kind: Kind,
    pub(crate) step: u64,
    /// Names and values.
    pub(crate) figures: Vec<(String, f64)>,
}

/// Which part of which series is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Names, or beginnings of names that end with `/`; empty: all.
    pub(crate) names: Vec<String>,
    pub(crate) from: u64,
    /// The last step, included.
    pub(crate) to: u64,
    /// Most points of a series.
    pub(crate) points: usize,
    /// Most points of all series together.
    pub(crate) in_all: usize,
}

impl Wanted {
    fn wants(&self, name: &str) -> bool {
        let fits = |wanted: &String| {
            wanted == name || (wanted.ends_with('/') && name.starts_with(wanted.as_str()))
        };
        self.names.is_empty() || self.names.iter().any(fits)
    }
}

/// The series of one job.
#[derive(Debug)]
pub(super) struct Job {
    tables: [Table; TABLES],
    /// Newest event of the job that is in them.
    event: u64,
    file: JobFile,
    /// The disk failed; said once.
    failed: bool,
    /// The job was deleted: nothing more is written.
    gone: bool,
}

impl Job {
    /// Reads the file, if there is one.
    pub(super) fn open(path: PathBuf, room: Room) -> Self {
        let mut tables: [Table; TABLES] = std::array::from_fn(|_| Table::new(room));
        let (file, event) = JobFile::read(path, &mut tables);
        Self {
            tables,
            event,
            file,
            failed: false,
            gone: false,
        }
    }

    /// Newest event of the job that is in the tables.
    pub(super) fn event(&self) -> u64 {
        self.event
    }

    /// Takes reports that are newer than what is there, and events up to `event`.
    pub(super) fn record(&mut self, reports: &[Report], event: u64) {
        if self.gone {
            return;
        }
        let mut records = Records::default();
        let mut news = false;
        for report in reports {
            news |= self.take(report, &mut records);
        }
        if event > self.event {
            self.event = event;
            records.event(event);
            // Without reports among them events can be read again.
            news |= reports.iter().any(|report| report.kind != Kind::Progress);
        }
        if !news {
            return;
        }
        if let Err(error) = self.write(&records)
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!("series of a job are kept in memory only: {error}");
        }
    }

    fn take(&mut self, report: &Report, records: &mut Records) -> bool {
        let number = report.kind as usize;
        let table = &mut self.tables[number];
        if table.last_step().is_some_and(|last| report.step <= last) {
            return false;
        }
        // There are three tables.
        let number = number as u8;
        for (name, _) in &report.figures {
            if table.column(name).is_none() && table.add_column(name) {
                records.column(number, name);
            }
        }
        let mut values = vec![f32::NAN; table.width()];
        for (name, value) in &report.figures {
            if let Some(column) = table.column(name) {
                values[column] = *value as f32;
            }
        }
        records.report(number, report.step, &values);
        table.push(report.step, &values)
    }

    fn write(&mut self, records: &Records) -> io::Result<()> {
        let needed: u64 = self.tables.iter().map(file::size).sum();
        if !self.file.broken() && self.file.size() <= 2 * needed + SLACK {
            return self.file.append(records);
        }
        let mut whole = Records::default();
        for (number, table) in (0u8..).zip(&self.tables) {
            whole.table(number, table);
        }
        whole.event(self.event);
        self.file.replace(&whole)
    }

    /// The series that are wanted in order of name, and the newest step of all.
    pub(super) fn read(&self, wanted: &Wanted) -> (Vec<Line>, u64) {
        let mut found: Vec<(&str, &Table)> = Vec::new();
        for table in &self.tables {
            let names = table.names().filter(|name| wanted.wants(name));
            found.extend(names.map(|name| (name, table)));
        }
        found.sort_by_key(|(name, _)| *name);
        let share = wanted.in_all / found.len().max(1);
        let points = wanted.points.min(share).max(1);
        let line = |(name, table): (&str, &Table)| {
            let column = table.column(name)?;
            Some(table.line(column, table.range(wanted.from, wanted.to), points))
        };
        let lines = found.into_iter().filter_map(line).collect();
        let steps = self.tables.iter().filter_map(Table::last_step);
        (lines, steps.max().unwrap_or(0))
    }

    /// Writes nothing any more.
    pub(super) fn forget(&mut self) {
        self.gone = true;
    }
}
