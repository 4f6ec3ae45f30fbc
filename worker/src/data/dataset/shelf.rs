//! Files that several tasks of a job ask for in the same way are read once.

use super::{Split, SplitReader};
use crate::data::{Error, LabelSet};
use std::collections::BTreeMap;

/// Splits that were read for a job's tasks, by all that decides on what is read.
#[derive(Debug, Default)]
pub struct Shelf {
    splits: BTreeMap<String, (Split, LabelSet)>,
}

impl Shelf {
    /// What `reader` reads of `paths`, or read of them for another task: both hold the same inputs in memory.
    ///
    /// # Errors
    /// As [`SplitReader::read`].
    pub(super) fn read(
        &mut self,
        reader: SplitReader<'_>,
        paths: &[String],
    ) -> Result<(Split, LabelSet), Error> {
        let key = reader.key(paths);
        if let Some((split, labels)) = self.splits.get(&key) {
            return Ok((split.of_task(&reader.task.name), labels.clone()));
        }
        let read = reader.read(paths)?;
        self.splits.insert(key, read.clone());
        Ok(read)
    }
}
