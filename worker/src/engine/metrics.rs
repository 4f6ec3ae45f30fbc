//! `metrics.jsonl` in the job's directory: one line per report, for people's own plots. After a
//! recovery steps may come twice: the later line counts. The same as event files for TensorBoard, in
//! `tensorboard/`: there what a recovery made void is marked so.

use super::board::Board;
use espalier_spec::Step;
use espalier_spec::report::{Evaluation, Progress};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

const FILE: &str = "metrics.jsonl";

/// The file; a failure to write is told once, and training goes on.
#[derive(Debug)]
pub(super) struct Metrics {
    file: Option<File>,
    board: Board,
}

impl Metrics {
    /// Appends to the file of a job's directory, which need not be there yet.
    pub(super) fn append(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let opened = fs::create_dir_all(dir)
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
        let file = opened
            .inspect_err(|error| tracing::warn!("no metrics in {}: {error}", path.display()))
            .ok();
        let board = Board::open(dir);
        Self { file, board }
    }

    /// Writes nothing.
    pub(super) fn none() -> Self {
        Self {
            file: None,
            board: Board::none(),
        }
    }

    /// Training goes on after so many steps.
    pub(super) fn begin(&mut self, steps: Step) {
        self.board.begin(steps);
    }

    pub(super) fn progress(&mut self, progress: &Progress) {
        self.line("progress", progress);
        self.board.progress(progress);
    }

    pub(super) fn evaluation(&mut self, evaluation: &Evaluation) {
        self.line("evaluation", evaluation);
        self.board.evaluation(evaluation);
    }

    fn line<T: Serialize>(&mut self, kind: &str, value: &T) {
        let Some(file) = &mut self.file else { return };
        let line = serde_json::json!({ kind: value });
        if let Err(error) = writeln!(file, "{line}") {
            tracing::warn!("no more metrics: {error}");
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // Promise: a job's first generation, which finds no directory, writes its figures; later ones add theirs.
    #[test]
    fn the_first_generation_writes_too() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("jobs/a-1");
        for generation in 1..=2 {
            let mut metrics = Metrics::append(&dir);
            metrics.progress(&Progress::default());
            metrics.evaluation(&Evaluation::default());
            let text = fs::read_to_string(dir.join(FILE)).unwrap();
            assert_eq!(text.lines().count(), 2 * generation, "{text}");
        }
    }
}
