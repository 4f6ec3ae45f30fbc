//! Where the rows of a packed batch stand: which belong together, and who they are.

use super::Error;
use super::context::mix;
use tch::Tensor;

/// Samples of one length, side by side in the packed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Samples.
    pub samples: i64,
    /// Rows of each: tokens, or patches of an image.
    pub length: i64,
}

/// The rows of a packed batch: samples one after another, shorter ones first, none padded.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Runs of equal length, in order.
    pub groups: Vec<Group>,
    /// Identity of each row (sample and position) for dropout.
    pub row_keys: Vec<u64>,
    /// Identity of each sample, in packed order.
    pub sample_keys: Vec<u64>,
}

impl Layout {
    /// Adds a sample that is no shorter than those before.
    pub(super) fn push(&mut self, key: u64, length: usize) {
        let rows = 0..length as u64;
        self.row_keys
            .extend(rows.map(|position| mix(key ^ mix(position))));
        self.sample_keys.push(key);
        let length = length as i64;
        match self.groups.last_mut() {
            Some(group) if group.length == length => group.samples += 1,
            _ => self.groups.push(Group { samples: 1, length }),
        }
    }

    /// The layout of samples that all have `length` rows.
    pub(super) fn even(keys: &[u64], length: usize) -> Self {
        let mut layout = Self::default();
        keys.iter().for_each(|&key| layout.push(key, length));
        layout
    }

    /// The same samples with `more` rows before each one's own.
    pub(super) fn longer(&self, more: i64) -> Self {
        let mut longer = Self::default();
        let mut keys = self.sample_keys.iter();
        for group in &self.groups {
            let length = (group.length + more).unsigned_abs() as usize;
            for &key in keys.by_ref().take(group.samples as usize) {
                longer.push(key, length);
            }
        }
        longer
    }

    /// The place of each row in its sample, counted from `first`.
    pub(super) fn positions(&self, first: i64) -> Vec<i64> {
        let mut positions = Vec::with_capacity(self.row_keys.len());
        for group in &self.groups {
            for _ in 0..group.samples {
                positions.extend(first..first + group.length);
            }
        }
        positions
    }

    /// Cuts `x` [T, ...] into one tensor per group, [samples · length, ...] each.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn split(&self, x: &Tensor) -> Result<Vec<Tensor>, Error> {
        let sizes: Vec<i64> = self.groups.iter().map(|g| g.samples * g.length).collect();
        Ok(x.f_split_with_sizes(&sizes[..], 0)?)
    }

    /// Keys of the rows of each group's attention, [samples · heads · length].
    #[must_use]
    pub fn attention_keys(&self, heads: i64) -> Vec<Vec<u64>> {
        let mut sample = self.sample_keys.iter();
        let mut keys_of = |group: &Group| {
            let mut keys = Vec::with_capacity((group.samples * heads * group.length) as usize);
            for &key in sample.by_ref().take(group.samples as usize) {
                for head in 1..=heads as u64 {
                    let head = mix(key ^ mix(head << 32));
                    keys.extend((0..group.length as u64).map(|row| mix(head ^ row)));
                }
            }
            keys
        };
        self.groups.iter().map(&mut keys_of).collect()
    }
}
