//! Event files for TensorBoard, in `tensorboard/` of the job's directory: one per generation.

use espalier_proto::tensorboard;
use espalier_spec::Step;
use espalier_spec::report::{Evaluation, Progress};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Directory of the files.
const DIR: &str = "tensorboard";

/// The file of a generation; a failure to write is told once, and training goes on.
#[derive(Debug)]
pub(super) struct Board {
    file: Option<fs::File>,
}

impl Board {
    /// Begins a file in a job's directory.
    pub(super) fn open(dir: &Path) -> Self {
        let dir = dir.join(DIR);
        // Readers take the files in order of their names: later ones must come later, also where two
        // begin in the same second.
        let name = |n: u32| {
            let (seconds, process) = (now() as u64, std::process::id());
            format!("events.out.tfevents.{seconds}.{n:04}.espalier.{process}")
        };
        let open = || {
            fs::create_dir_all(&dir)?;
            let count = fs::read_dir(&dir)?.count();
            let path = dir.join(name(u32::try_from(count).unwrap_or(u32::MAX)));
            OpenOptions::new().create(true).append(true).open(path)
        };
        let file = open()
            .inspect_err(|error| tracing::warn!("no event files in {}: {error}", dir.display()))
            .ok();
        let mut board = Self { file };
        board.write(&tensorboard::version(now()));
        board
    }

    /// Writes nothing.
    pub(super) fn none() -> Self {
        Self { file: None }
    }

    /// Training goes on after so many steps: later ones were of a generation that was lost.
    pub(super) fn begin(&mut self, steps: Step) {
        self.write(&tensorboard::start(now(), steps.0));
    }

    pub(super) fn progress(&mut self, progress: &Progress) {
        let losses = progress.losses.iter();
        let mut values: Vec<(String, f64)> = losses
            .map(|(task, loss)| (format!("loss/{task}"), *loss))
            .collect();
        let mut put = |tag: &str, value: f64| values.push((tag.to_owned(), value));
        put("train/learning_rate", progress.learning_rate);
        put("train/gradient_norm", progress.gradient_norm);
        put("speed/samples_per_second", progress.samples_per_second);
        put("speed/tokens_per_second", progress.tokens_per_second);
        if let Some(exchange) = &progress.exchange {
            put("exchange/seconds", exchange.seconds_per_step);
            put(
                "exchange/exposed_seconds",
                exchange.exposed_seconds_per_step,
            );
            put(
                "exchange/balance_seconds",
                exchange.balance_seconds_per_step,
            );
        }
        self.write(&tensorboard::scalars(now(), progress.step.0, values));
    }

    pub(super) fn evaluation(&mut self, evaluation: &Evaluation) {
        let split = &evaluation.split;
        let mut values = vec![(format!("{split}/selection"), evaluation.selection)];
        for (task, scores) in &evaluation.tasks {
            values.push((format!("{split}/{task}/loss"), scores.loss));
            for (metric, value) in &scores.metrics {
                // Its name as in metrics.jsonl.
                if let Ok(serde_json::Value::String(metric)) = serde_json::to_value(metric) {
                    values.push((format!("{split}/{task}/{metric}"), *value));
                }
            }
        }
        self.write(&tensorboard::scalars(now(), evaluation.step.0, values));
    }

    /// One record, whole: a reader sees it or not.
    fn write(&mut self, record: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write_all(record) {
            tracing::warn!("no more event files: {error}");
            self.file = None;
        }
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: each generation has a file of its own, later ones with later names, whose first record is
    // the version and whose second says from where it goes on.
    #[test]
    fn a_file_for_each_generation() {
        let dir = tempfile::tempdir().unwrap();
        for generation in 0..3 {
            let mut board = Board::open(dir.path());
            board.begin(Step(10 * generation));
            board.progress(&Progress::default());
            assert!(board.file.is_some());
        }
        let mut found: Vec<_> = fs::read_dir(dir.path().join(DIR))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        found.sort();
        assert_eq!(found.len(), 3);
        for (generation, path) in (0..).zip(&found) {
            let bytes = fs::read(path).unwrap();
            let version = tensorboard::version(1.0).len();
            let begun = &bytes[version..];
            let expected = tensorboard::start(1.0, 10 * generation);
            // Behind the time, which differs: the step and the session.
            assert_eq!(
                begun[21..expected.len() - 4],
                expected[21..expected.len() - 4]
            );
        }
    }

    // Promise: where nothing can be written, training goes on without.
    #[test]
    fn no_place_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(DIR), "a file").unwrap();
        let mut board = Board::open(dir.path());
        board.progress(&Progress::default());
        assert!(board.file.is_none());
    }
}
