//! Samples on which the lowest blocks of the backbone were run before.

use super::{Features, Split, TaskData};
use std::sync::Arc;

impl TaskData {
    /// The same task, with what the lowest blocks made of its training, validation, test and target samples
    /// beside their inputs; splits of which there is none stay as they are.
    #[must_use]
    pub fn begun(&self, [train, validation, test, target]: [Option<Arc<Features>>; 4]) -> Self {
        let with = |split: &Split, begun| Split {
            begun,
            ..split.clone()
        };
        let other = |split: &Option<Split>, begun| Some(with(split.as_ref()?, begun));
        Self {
            name: self.name.clone(),
            head: self.head,
            labels: self.labels.clone(),
            classes: self.classes.clone(),
            train: with(&self.train, train),
            validation: other(&self.validation, validation),
            test: other(&self.test, test),
            target: other(&self.target, target),
            words: self.words,
            augment: None,
            sample_cost: self.sample_cost,
        }
    }
}
