//! Writes which samples this rank trained on, step by step ([`espalier_spec::account`]), into
//! `samples/` in the job's directory.
//!
//! A step's record is written when the step is done and before any snapshot or checkpoint is taken of it, in
//! one call to the system: what a killed process had done up to a snapshot is in the file.

use crate::data::{RankStep, SampleRef, TaskData};
use espalier_spec::account::{self, Draw, Header, TaskSamples};
use espalier_spec::{Generation, Rank, Step};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Directory of a job's accounts.
const DIR: &str = "samples";

/// A rank's account; a failure to write is told once, and training goes on.
#[derive(Debug)]
pub(super) struct Account {
    file: Option<File>,
    /// The record that is written, kept for its room.
    record: Vec<u8>,
}

impl Account {
    /// Begins the account of a rank, of so many, in a generation that goes on from `from`.
    pub(super) fn open(
        dir: &Path,
        (generation, rank, ranks): (Generation, Rank, usize),
        from: Step,
        tasks: &[Arc<TaskData>],
    ) -> Self {
        let samples = |task: &Arc<TaskData>| TaskSamples {
            name: task.name.clone(),
            samples: task.train.len() as u64,
            target: task.target.as_ref().map(|split| split.len() as u64),
        };
        let header = account::header(&Header {
            generation,
            rank,
            ranks: u32::try_from(ranks).unwrap_or(u32::MAX),
            from,
            tasks: tasks.iter().map(samples).collect(),
        });
        let dir = dir.join(DIR);
        let path = dir.join(account::file_name(generation, rank));
        let opened = std::fs::create_dir_all(&dir).and_then(|()| File::create(&path));
        let written = opened.and_then(|mut file| file.write_all(&header).map(|()| file));
        let file = written
            .inspect_err(|error| tracing::warn!("no account in {}: {error}", path.display()))
            .ok();
        Self {
            file,
            record: Vec::new(),
        }
    }

    /// A step is done.
    pub(super) fn step(&mut self, batch: &RankStep) {
        let samples = batch.shards.iter().flat_map(|shard| &shard.micro).flatten();
        let draws = samples.map(|sample| draw(sample.at));
        account::step(&mut self.record, Step(batch.step), batch.drawn, draws);
        self.write();
    }

    /// The rank stops with so many steps done.
    pub(super) fn stop(&mut self, step: Step) {
        account::stop(&mut self.record, step);
        self.write();
        self.sync();
    }

    /// Makes what was written as durable as the checkpoint that follows.
    pub(super) fn sync(&mut self) {
        if let Some(Err(error)) = self.file.as_ref().map(File::sync_data) {
            self.end(&error);
        }
    }

    fn write(&mut self) {
        let written = self.file.as_mut().map(|file| file.write_all(&self.record));
        self.record.clear();
        if let Some(Err(error)) = written {
            self.end(&error);
        }
    }

    fn end(&mut self, error: &std::io::Error) {
        tracing::warn!("no more account of samples: {error}");
        self.file = None;
    }
}

fn draw(at: SampleRef) -> Draw {
    Draw {
        task: at.task,
        target: at.target,
        pass: at.epoch,
        sample: at.sample,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Input, Sample, ShardBatch};
    use espalier_spec::account::Entry;

    fn sample(task: u16, sample: u32) -> Sample {
        Sample {
            at: SampleRef {
                task,
                sample,
                epoch: 1,
                target: false,
            },
            input: Input::Numbers(Arc::from([0.0])),
            more: Vec::new(),
            window: None,
        }
    }

    // Promise: the account on disk is whole after every step, without a flush; it names each sample of the
    // rank's shards once.
    #[test]
    fn every_step_is_on_disk_when_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let who = (Generation(3), Rank(1), 2);
        let mut account = Account::open(dir.path(), who, Step(7), &[]);
        let batch = RankStep {
            step: 7,
            counts: vec![3, 1],
            drawn: 4,
            shards: vec![
                ShardBatch {
                    shard: 0,
                    micro: vec![vec![sample(0, 5), sample(1, 2)], vec![sample(0, 6)]],
                },
                ShardBatch {
                    shard: 1,
                    micro: vec![vec![sample(0, 1)]],
                },
            ],
        };
        account.step(&batch);
        let path = dir.path().join("samples/rank-00001.g00003.bin");
        let read = || account::read(&std::fs::read(&path).unwrap()).unwrap();
        let found = read();
        assert_eq!((found.header.from, found.torn), (Step(7), 0));
        let Entry::Step { step, drawn, draws } = &found.entries[0] else {
            panic!("{found:?}")
        };
        assert_eq!((*step, *drawn), (Step(7), 4));
        let named: Vec<_> = draws.iter().map(|d| (d.task, d.pass, d.sample)).collect();
        assert_eq!(named, [(0, 1, 5), (1, 1, 2), (0, 1, 6), (0, 1, 1)]);
        account.stop(Step(8));
        assert_eq!(read().entries.last(), Some(&Entry::End { step: Step(8) }));
    }
}
