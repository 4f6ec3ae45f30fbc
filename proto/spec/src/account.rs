//! Accounts of samples: which samples each rank trained on in every step it completed, as bytes. Ranks
//! write them, `espalier audit` reads them.
//!
//! A file belongs to one rank in one generation, `rank-00003.g00007.bin`. Numbers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `ESPACCT` and the version of the format, 1 |
//! | 4 | length of the record that follows, in bytes |
//! | 8 | its checksum: FNV-1a of 64 bits |
//! | … | the first record: the [`Header`]; then others, each behind its length and checksum |
//!
//! The record of a step: `0` (1 byte), steps done before it (8), samples drawn for it over all ranks, those
//! of targets not counted (8); then runs of draws that have task, kind and pass in common: task (2), `1` for
//! samples of the task's target (1), nothing (1), pass (4), how many (4), and the samples (4 each).
//! The last record of a rank that stopped at a step boundary: `1`, steps done (8). What follows the last
//! whole record is the trace of a process that was killed, and means nothing.
//!
//! The checksum is the hash of Fowler, Noll and Vo, FNV-1a.

use crate::{Generation, Rank, Step};
use std::ops::Range;

const MAGIC: [u8; 8] = *b"ESPACCT\x01";
/// Length and checksum.
const FRAME: usize = 12;
const STEP: u8 = 0;
const END: u8 = 1;

/// Whose account it is, and of what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The generation.
    pub generation: Generation,
    /// The rank.
    pub rank: Rank,
    /// Ranks of the generation.
    pub ranks: u32,
    /// Steps done when the generation went on.
    pub from: Step,
    /// The job's tasks, in order.
    pub tasks: Vec<TaskSamples>,
}

/// What a task draws from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskSamples {
    /// Its name.
    pub name: String,
    /// Training samples.
    pub samples: u64,
    /// Samples of its target, if it has one.
    pub target: Option<u64>,
}

/// One sample of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Draw {
    /// Index of the task; of the one that leads, if tasks share inputs.
    pub task: u16,
    /// Whether it is one of the task's target.
    pub target: bool,
    /// Passes over the task's samples that were complete before it.
    pub pass: u32,
    /// Index of the sample in the task's training split, or in its target.
    pub sample: u32,
}

/// What a rank noted after its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It completed a step.
    Step {
        /// Steps done before it.
        step: Step,
        /// Samples drawn for the step over all ranks, those of targets not counted.
        drawn: u64,
        /// Those that this rank trained on.
        draws: Vec<Draw>,
    },
    /// It stopped at a step boundary.
    End {
        /// Steps done.
        step: Step,
    },
}

/// One file, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Whose it is.
    pub header: Header,
    /// What was noted, in the order of writing.
    pub entries: Vec<Entry>,
    /// Bytes after the last whole record.
    pub torn: u64,
}

/// Why bytes are no account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// They begin with something else.
    #[error("it does not begin as an account of samples of version 1 does")]
    Magic,
    /// The first record is torn or makes no sense.
    #[error("its header is torn or makes no sense")]
    Header,
}

/// Name of the file of a rank's account in one generation.
#[must_use]
pub fn file_name(generation: Generation, rank: Rank) -> String {
    format!("rank-{:05}.g{:05}.bin", rank.0, generation.0)
}

/// The first bytes of a file.
#[must_use]
pub fn header(header: &Header) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let frame = begin(&mut bytes);
    bytes.extend_from_slice(&header.generation.0.to_le_bytes());
    bytes.extend_from_slice(&header.rank.0.to_le_bytes());
    bytes.extend_from_slice(&header.ranks.to_le_bytes());
    bytes.extend_from_slice(&header.from.0.to_le_bytes());
    for task in &header.tasks {
        let name = task.name.as_bytes();
        bytes.extend_from_slice(&count(name.len()).to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&task.samples.to_le_bytes());
        bytes.push(u8::from(task.target.is_some()));
        bytes.extend_from_slice(&task.target.unwrap_or(0).to_le_bytes());
    }
    end(&mut bytes, frame);
    bytes
}

/// Appends the record of a step: steps done before it, samples drawn for it over all ranks, and those of
/// this rank. Draws that follow each other should have task and pass in common: it keeps the record small.
pub fn step(bytes: &mut Vec<u8>, step: Step, drawn: u64, draws: impl Iterator<Item = Draw>) {
    let frame = begin(bytes);
    bytes.push(STEP);
    bytes.extend_from_slice(&step.0.to_le_bytes());
    bytes.extend_from_slice(&drawn.to_le_bytes());
    // What the open run has in common, where its count is to be written, and the count.
    let mut run: Option<((u16, bool, u32), usize, u32)> = None;
    for draw in draws {
        let what = (draw.task, draw.target, draw.pass);
        match &mut run {
            Some((common, _, samples)) if *common == what => *samples += 1,
            open => {
                if let Some((_, at, samples)) = open {
                    bytes[*at..*at + 4].copy_from_slice(&samples.to_le_bytes());
                }
                bytes.extend_from_slice(&draw.task.to_le_bytes());
                bytes.extend_from_slice(&[u8::from(draw.target), 0]);
                bytes.extend_from_slice(&draw.pass.to_le_bytes());
                *open = Some((what, bytes.len(), 1));
                bytes.extend_from_slice(&[0; 4]);
            }
        }
        bytes.extend_from_slice(&draw.sample.to_le_bytes());
    }
    if let Some((_, at, samples)) = run {
        bytes[at..at + 4].copy_from_slice(&samples.to_le_bytes());
    }
    end(bytes, frame);
}

/// Appends the last record: so many steps are done.
pub fn stop(bytes: &mut Vec<u8>, step: Step) {
    let frame = begin(bytes);
    bytes.push(END);
    bytes.extend_from_slice(&step.0.to_le_bytes());
    end(bytes, frame);
}

/// Reads a file. Records after one that is torn or damaged are not read.
///
/// # Errors
/// It is no account, or its header is not whole.
pub fn read(bytes: &[u8]) -> Result<Account, Error> {
    let mut rest = bytes.strip_prefix(&MAGIC).ok_or(Error::Magic)?;
    let header = record(&mut rest).and_then(read_header);
    let header = header.ok_or(Error::Header)?;
    let mut entries = Vec::new();
    let mut torn = rest.len();
    while let Some(entry) = record(&mut rest).and_then(read_entry) {
        entries.push(entry);
        torn = rest.len();
    }
    Ok(Account {
        header,
        entries,
        torn: torn as u64,
    })
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Leaves room for a record's length and checksum; gives the place.
fn begin(bytes: &mut Vec<u8>) -> Range<usize> {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; FRAME]);
    start..start + FRAME
}

/// Fills them in.
fn end(bytes: &mut [u8], frame: Range<usize>) {
    let body = &bytes[frame.end..];
    let (length, sum) = (count(body.len()), checksum(body));
    let frame = &mut bytes[frame];
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..].copy_from_slice(&sum.to_le_bytes());
}

fn checksum(body: &[u8]) -> u64 {
    body.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Takes the next whole record.
fn record<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut after = *rest;
    let length = number(&mut after).map(u32::from_le_bytes)?;
    let sum = number(&mut after).map(u64::from_le_bytes)?;
    let body = take(&mut after, length as usize)?;
    *rest = after;
    (checksum(body) == sum).then_some(body)
}

fn read_header(mut body: &[u8]) -> Option<Header> {
    let body = &mut body;
    let mut header = Header {
        generation: Generation(number(body).map(u64::from_le_bytes)?),
        rank: Rank(number(body).map(u32::from_le_bytes)?),
        ranks: number(body).map(u32::from_le_bytes)?,
        from: Step(number(body).map(u64::from_le_bytes)?),
        tasks: Vec::new(),
    };
    while !body.is_empty() {
        let length = number(body).map(u32::from_le_bytes)?;
        let name = std::str::from_utf8(take(body, length as usize)?).ok()?;
        let samples = number(body).map(u64::from_le_bytes)?;
        let [has_target] = number::<1>(body)?;
        let target = number(body).map(u64::from_le_bytes)?;
        header.tasks.push(TaskSamples {
            name: name.to_owned(),
            samples,
            target: (has_target != 0).then_some(target),
        });
    }
    Some(header)
}

fn read_entry(mut body: &[u8]) -> Option<Entry> {
    let body = &mut body;
    let [kind] = number::<1>(body)?;
    let step = Step(number(body).map(u64::from_le_bytes)?);
    if kind == END {
        return Some(Entry::End { step });
    }
    let drawn = number(body).map(u64::from_le_bytes)?;
    let mut draws = Vec::new();
    while !body.is_empty() {
        let task = number(body).map(u16::from_le_bytes)?;
        let [target, _] = number::<2>(body)?;
        let pass = number(body).map(u32::from_le_bytes)?;
        let samples = number(body).map(u32::from_le_bytes)?;
        for _ in 0..samples {
            draws.push(Draw {
                task,
                target: target != 0,
                pass,
                sample: number(body).map(u32::from_le_bytes)?,
            });
        }
    }
    (kind == STEP).then_some(Entry::Step { step, drawn, draws })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

fn number<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    take(rest, N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn draw() -> impl Strategy<Value = Draw> {
        (0..3u16, any::<bool>(), 0..3u32, any::<u32>()).prop_map(|(task, target, pass, sample)| {
            Draw {
                task,
                target,
                pass,
                sample,
            }
        })
    }

    fn written() -> impl Strategy<Value = (Header, Vec<Entry>)> {
        let task = ("[a-zäö]{0,5}", any::<u64>(), any::<Option<u64>>());
        let task = task.prop_map(|(name, samples, target)| TaskSamples {
            name,
            samples,
            target,
        });
        let header = (any::<[u64; 2]>(), any::<[u32; 2]>(), vec(task, 0..4));
        let header = header.prop_map(|([generation, from], [rank, ranks], tasks)| Header {
            generation: Generation(generation),
            rank: Rank(rank),
            ranks,
            from: Step(from),
            tasks,
        });
        let step = (any::<[u64; 2]>(), vec(draw(), 0..20));
        let step = step.prop_map(|([step, drawn], draws)| Entry::Step {
            step: Step(step),
            drawn,
            draws,
        });
        let end = any::<u64>().prop_map(|step| Entry::End { step: Step(step) });
        (header, vec(prop_oneof![4 => step, 1 => end], 0..6))
    }

    fn bytes(head: &Header, entries: &[Entry]) -> Vec<u8> {
        let mut bytes = header(head);
        for entry in entries {
            match entry {
                Entry::Step {
                    step: at,
                    drawn,
                    draws,
                } => step(&mut bytes, *at, *drawn, draws.iter().copied()),
                Entry::End { step } => stop(&mut bytes, *step),
            }
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        // Promise: what is written is read again; of a file that ends anywhere, every whole record is, and
        // nothing else.
        #[test]
        fn whole_records_are_read((head, entries) in written(), cut in any::<prop::sample::Index>()) {
            let whole = bytes(&head, &entries);
            let account = read(&whole).unwrap();
            prop_assert_eq!(&account.header, &head);
            prop_assert_eq!(&account.entries, &entries);
            prop_assert_eq!(account.torn, 0);

            let least = header(&head).len();
            let cut = least + cut.index(whole.len() - least + 1);
            let account = read(&whole[..cut]).unwrap();
            let kept = account.entries.len();
            prop_assert_eq!(&account.entries[..], &entries[..kept]);
            let rest = bytes(&head, &entries[..kept]).len();
            prop_assert_eq!(account.torn as usize, cut - rest);
            prop_assert!(kept == entries.len() || bytes(&head, &entries[..=kept]).len() > cut);
        }

        // Promise: a flipped bit never changes what is read: the record is left out.
        #[test]
        fn damage_is_noticed((head, entries) in written(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut whole = bytes(&head, &entries);
            let at = at.index(whole.len());
            whole[at] ^= 1 << bit;
            if let Ok(account) = read(&whole) {
                prop_assert_eq!(&account.header, &head);
                prop_assert_eq!(&account.entries[..], &entries[..account.entries.len()]);
                prop_assert!(account.entries.len() < entries.len());
            }
        }
    }

    // Promise: other files are told apart from accounts.
    #[test]
    fn others_are_refused() {
        assert_eq!(read(b""), Err(Error::Magic));
        assert_eq!(read(b"ESPACCT\x02............"), Err(Error::Magic));
        assert_eq!(read(&MAGIC), Err(Error::Header));
    }
}
