//! A micro-batch as the backbone takes it: samples, and after them the texts of their tasks' classes.
//!
//! Classes that are known by their description are read by the backbone in every step, and learn in it.
//! Each micro-batch that has samples of such a task reads the texts of the classes it is trained on, with
//! the same dropout; a loss is a sum over samples, so the gradients of all micro-batches and ranks add up to
//! those of one. Where a text is read together with what classes say of it, each sample comes with pairs of
//! other classes, which follow in the same way; and so do the texts that a sample is ranked with.

use super::Error;
use super::costs::Run;
use super::headset::key;
use super::lanes::Slot;
use super::trainer::Trainer;
use crate::data::{Input, Sample};
use crate::model::{Batch, mix};
use std::collections::BTreeSet;
use std::ops::Range;

/// Sets dropout of class texts apart from that of samples.
const CLASS: u64 = 0x636c_6173_7365_7321;

/// A packed micro-batch.
#[derive(Debug)]
pub(super) struct Micro {
    pub(super) batch: Batch,
    /// Identities for dropout: of samples, then of class texts.
    pub(super) keys: Vec<u64>,
    /// Each task's class texts, or its samples' pairs with other classes, or what they are ranked with: rows of
    /// the features.
    pub(super) classes: Vec<Run>,
    /// Tokens of the samples.
    pub(super) tokens: u64,
}

impl Micro {
    /// The rows of a task's class texts, or of what its samples brought.
    pub(super) fn classes_of(&self, task: usize) -> Option<&Range<usize>> {
        let mut all = self.classes.iter();
        all.find(|(own, _)| *own == task).map(|(_, rows)| rows)
    }
}

impl Trainer {
    /// Packs samples for the tasks of `slots`.
    ///
    /// # Errors
    /// If inputs do not fit the model.
    pub(super) fn micro(&self, samples: &[&Sample], slots: &[Slot]) -> Result<Micro, Error> {
        let mut keys: Vec<u64> = samples.iter().map(|sample| key(sample)).collect();
        let mut inputs: Vec<&Input> = samples.iter().map(|sample| &sample.input).collect();
        let leaders: BTreeSet<usize> = samples.iter().map(|s| usize::from(s.at.task)).collect();
        let wanted = |task: &usize| {
            let mut slots = slots.iter();
            leaders.contains(&self.groups.leader(*task))
                && slots.any(|slot| slot.task.is_none_or(|own| own == *task))
        };
        let mut classes = Vec::new();
        let mut extra = 0;
        for task in (0..self.tasks.len()).filter(wanted) {
            let start = inputs.len();
            if self.tasks[task].brings_more() {
                let own = samples.iter().filter(|s| usize::from(s.at.task) == task);
                for sample in own {
                    for (place, input) in (0..).zip(&sample.more) {
                        keys.push(mix(CLASS ^ mix(key(sample).wrapping_add(place))));
                        inputs.push(input);
                    }
                }
                classes.push((task, start..inputs.len()));
                continue;
            }
            let Some(described) = &self.tasks[task].classes else {
                continue;
            };
            if described.texts.is_empty() {
                // They are vectors already.
                continue;
            }
            for (place, input) in described.inputs(false).into_iter().enumerate() {
                keys.push(mix(CLASS ^ mix(((task as u64) << 32) | place as u64)));
                extra += input.ids().map_or(0, |ids| ids.len()) as u64;
                inputs.push(input);
            }
            classes.push((task, start..inputs.len()));
        }
        let batch = self.batch(&inputs, &keys)?;
        Ok(Micro {
            tokens: batch.tokens() as u64 - extra,
            batch,
            keys,
            classes,
        })
    }

    /// Token ids of all classes' texts.
    pub(super) fn class_ids(&self) -> impl Iterator<Item = u32> {
        let classes = self.tasks.iter().filter_map(|task| task.classes.as_ref());
        let inputs = classes.flat_map(|classes| classes.inputs(false));
        inputs
            .filter_map(Input::ids)
            .flat_map(|ids| ids.iter().copied())
    }
}
