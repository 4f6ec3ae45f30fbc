//! Masks as targets: a class for every pixel.

use crate::metrics::Values;
use std::sync::Arc;

/// The masks of a split's samples, all of the size of the backbone's images.
#[derive(Clone, Debug, PartialEq)]
pub struct Masks {
    size: [usize; 2],
    ignore: u8,
    /// Row by row; empty for a sample without a label.
    all: Vec<Arc<[u8]>>,
    /// Pixels of each value.
    pixels: Vec<u64>,
}

impl Masks {
    /// None yet, of `size` (height, width); `ignore` stands for no class.
    pub(in crate::data) fn new(size: [usize; 2], ignore: u8) -> Self {
        Self {
            size,
            ignore,
            all: Vec::new(),
            pixels: vec![0; usize::from(u8::MAX) + 1],
        }
    }

    /// Adds the mask of a sample; an empty one for a sample without a label.
    pub(in crate::data) fn push(&mut self, mask: Vec<u8>) {
        for value in &mask {
            self.pixels[usize::from(*value)] += 1;
        }
        self.all.push(mask.into());
    }

    /// Height and width.
    #[must_use]
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Samples held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Pixels of each of `classes` classes; those that are ignored are of none.
    #[must_use]
    pub fn counts(&self, classes: usize) -> Vec<u64> {
        let ignored = usize::from(self.ignore);
        let count = |class: usize| match class == ignored {
            true => 0,
            false => self.pixels.get(class).copied().unwrap_or(0),
        };
        (0..classes).map(count).collect()
    }

    /// The masks of the samples `which`, in that order.
    pub(super) fn values(&self, classes: usize, which: impl IntoIterator<Item = usize>) -> Values {
        let masks = which.into_iter().filter_map(|i| self.all.get(i).cloned());
        Values::Masks {
            classes,
            size: self.size,
            ignore: self.ignore,
            values: masks.collect(),
        }
    }
}
