//! The file of a job's series: records, one after another, each with its length and a checksum.
//!
//! A record is `length: u32, checksum: u32` and then so many bytes: a kind, the table's number and
//! what the kind says, little endian. What a crash cut off or left as zeros ends the file.

use super::column::Cell;
use super::table::Table;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// First bytes of a file: what it is, and the version of its form.
const MAGIC: &[u8; 8] = b"espser\x00\x01";
/// No record is longer.
const LONGEST: usize = 64 << 10;

const COLUMN: u8 = 1;
const REPORT: u8 = 2;
const MERGED: u8 = 3;
const STRIDE: u8 = 4;
const EVENT: u8 = 5;

/// Bytes that are to be written.
#[derive(Debug, Default)]
pub(super) struct Records(Vec<u8>);

impl Records {
    /// A table has one more column.
    pub(super) fn column(&mut self, table: u8, name: &str) {
        self.record(COLUMN, table, |to| to.extend_from_slice(name.as_bytes()));
    }

    /// A table has one more report.
    pub(super) fn report(&mut self, table: u8, step: u64, values: &[f32]) {
        self.record(REPORT, table, |to| {
            to.extend_from_slice(&step.to_le_bytes());
            for value in values {
                to.extend_from_slice(&value.to_le_bytes());
            }
        });
    }

    /// Events of the job up to this one are in the tables.
    pub(super) fn event(&mut self, sequence: u64) {
        self.record(EVENT, 0, |to| to.extend_from_slice(&sequence.to_le_bytes()));
    }

    /// A whole table.
    pub(super) fn table(&mut self, number: u8, table: &Table) {
        let merged = table.stride() > 1;
        if merged {
            let stride = table.stride().to_le_bytes();
            self.record(STRIDE, number, |to| to.extend_from_slice(&stride));
        }
        for name in table.names() {
            self.column(number, name);
        }
        for row in 0..table.rows() {
            let (step, taken, cells) = table.row(row);
            if merged {
                self.record(MERGED, number, |to| {
                    to.extend_from_slice(&step.to_le_bytes());
                    to.extend_from_slice(&taken.to_le_bytes());
                    cells.for_each(|cell| put_cell(to, cell));
                });
            } else {
                let value = |cell: Cell| if cell.count == 0 { f32::NAN } else { cell.mean };
                let values: Vec<f32> = cells.map(value).collect();
                self.report(number, step, &values);
            }
        }
    }

    fn record(&mut self, kind: u8, table: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 8]);
        self.0.extend_from_slice(&[kind, table]);
        fill(&mut self.0);
        let body = start + 8;
        let length = u32::try_from(self.0.len() - body).unwrap_or(u32::MAX);
        let sum = checksum(&self.0[body..]);
        self.0[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.0[start + 4..body].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The bytes that a table takes in a file, about.
pub(super) fn size(table: &Table) -> u64 {
    let cell = if table.stride() > 1 { 16 } else { 4 };
    (table.rows() * (26 + cell * table.width())) as u64
}

fn put_cell(to: &mut Vec<u8>, cell: Cell) {
    for part in [cell.mean, cell.low, cell.high] {
        to.extend_from_slice(&part.to_le_bytes());
    }
    to.extend_from_slice(&cell.count.to_le_bytes());
}

/// The file of a job.
#[derive(Debug)]
pub(super) struct JobFile {
    path: PathBuf,
    open: Option<File>,
    size: u64,
    /// What is in it is not what is in memory: it must be written as a whole.
    broken: bool,
}

impl JobFile {
    /// Reads a file into tables, as far as it is whole; answers the newest event in them, too.
    pub(super) fn read(path: PathBuf, tables: &mut [Table]) -> (Self, u64) {
        let bytes = fs::read(&path).unwrap_or_default();
        let mut event = 0;
        let mut good = 0;
        if bytes.starts_with(MAGIC) {
            good = MAGIC.len();
            while let Some((body, next)) = record(&bytes, good) {
                if take(body, tables, &mut event).is_none() {
                    break;
                }
                good = next;
            }
        }
        let file = Self {
            path,
            open: None,
            size: good as u64,
            // Also what a crash cut off: records after it would never be read.
            broken: good != bytes.len() || good == 0,
        };
        (file, event)
    }

    /// Bytes in it.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether it must be written as a whole.
    pub(super) fn broken(&self) -> bool {
        self.broken
    }

    /// Adds records.
    pub(super) fn append(&mut self, records: &Records) -> io::Result<()> {
        let written = self.try_append(&records.0);
        if written.is_err() {
            self.open = None;
            self.broken = true;
        }
        written
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.open {
            Some(file) => file,
            none => none.insert(OpenOptions::new().append(true).open(&self.path)?),
        };
        file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Writes it anew; it is never seen half written.
    pub(super) fn replace(&mut self, records: &Records) -> io::Result<()> {
        self.open = None;
        let partial = self.path.with_extension("new");
        let mut file = File::create(&partial)?;
        file.write_all(MAGIC)?;
        file.write_all(&records.0)?;
        drop(file);
        fs::rename(&partial, &self.path)?;
        self.size = (MAGIC.len() + records.0.len()) as u64;
        self.broken = false;
        Ok(())
    }

    /// Removes it.
    pub(super) fn remove(path: &Path) {
        // It may never have been written.
        let _ = fs::remove_file(path);
    }
}

/// The record at a place, and the place after it; none if it is not whole.
fn record(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = bytes.get(at..at.checked_add(8)?)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?);
    let sum = u32::from_le_bytes(head[4..].try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    if !(2..=LONGEST).contains(&length) {
        return None;
    }
    let end = at + 8 + length;
    let body = bytes.get(at + 8..end)?;
    (checksum(body) == sum).then_some((body, end))
}

/// Puts a record into its table; none if it makes no sense there.
fn take(body: &[u8], tables: &mut [Table], event: &mut u64) -> Option<()> {
    let (kind, number, rest) = (body[0], usize::from(body[1]), &body[2..]);
    let number_at = |at: usize| Some(u64::from_le_bytes(rest.get(at..at + 8)?.try_into().ok()?));
    if kind == EVENT {
        *event = number_at(0)?;
        return Some(());
    }
    let table = tables.get_mut(number)?;
    let done = match kind {
        // What is there already was written twice, by a lead and by the one after it: no harm.
        COLUMN => {
            table.add_column(std::str::from_utf8(rest).ok()?);
            true
        }
        STRIDE => table.set_stride(number_at(0)?),
        REPORT => {
            let parts = rest.get(8..)?.chunks_exact(4);
            let values: Vec<f32> = parts.map(float).collect();
            table.push(number_at(0)?, &values);
            true
        }
        MERGED => {
            let parts = rest.get(16..)?.chunks_exact(16);
            let cells: Vec<Cell> = parts.map(cell).collect();
            table.push_row(number_at(0)?, number_at(8)?, &cells)
        }
        _ => false,
    };
    done.then_some(())
}

fn float(bytes: &[u8]) -> f32 {
    let mut part = [0; 4];
    part.copy_from_slice(&bytes[..4]);
    f32::from_le_bytes(part)
}

fn cell(bytes: &[u8]) -> Cell {
    let mut count = [0; 4];
    count.copy_from_slice(&bytes[12..16]);
    Cell {
        mean: float(bytes),
        low: float(&bytes[4..]),
        high: float(&bytes[8..]),
        count: u32::from_le_bytes(count),
    }
}

/// FNV-1a: finds what a crash left, not what somebody forged.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}
