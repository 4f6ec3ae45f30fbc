//! The two images of a rank's part of a run, in one piece of memory: it is sent, received and kept as it is, and only
//! parts of it are written.

use super::{Draft, Error};
use std::fmt;
use std::sync::Arc;

/// What every rank needs of a rank's part, and behind it what only the owner of the slices does. Clones share the
/// memory.
#[derive(Clone, Default)]
pub struct Images {
    bytes: Arc<Vec<u8>>,
    /// Where the first image begins.
    start: usize,
    /// Bytes of each.
    lengths: [usize; 2],
}

impl Images {
    /// Writes both, into memory that is taken once and in which nothing else is written before.
    ///
    /// # Errors
    /// [`Error::Tensor`] names the one whose memory cannot be read.
    pub fn encode(shared: &Draft<'_>, own: &Draft<'_>) -> Result<Self, Error> {
        let lengths = [shared.length(), own.length()];
        let mut words = Vec::with_capacity((lengths[0] + lengths[1]) / 4);
        shared.write(&mut words)?;
        own.write(&mut words)?;
        Ok(Self {
            bytes: Arc::new(words.into_flattened()),
            start: 0,
            lengths,
        })
    }

    /// Those that begin at `start` of `bytes`, of so many bytes each. What lies outside is empty.
    #[must_use]
    pub fn within(bytes: &Arc<Vec<u8>>, start: usize, lengths: [usize; 2]) -> Self {
        Self {
            bytes: Arc::clone(bytes),
            start,
            lengths,
        }
    }

    /// What every rank needs.
    #[must_use]
    pub fn shared(&self) -> &[u8] {
        self.slice(self.start, self.lengths[0])
    }

    /// What only the owner of the slices needs; may be empty.
    #[must_use]
    pub fn own(&self) -> &[u8] {
        let start = self.start.saturating_add(self.lengths[0]);
        self.slice(start, self.lengths[1])
    }

    /// Both, one behind the other.
    #[must_use]
    pub fn whole(&self) -> &[u8] {
        let [shared, own] = self.lengths;
        self.slice(self.start, shared.saturating_add(own))
    }

    /// Bytes of each.
    #[must_use]
    pub fn lengths(&self) -> [usize; 2] {
        self.lengths
    }

    fn slice(&self, start: usize, length: usize) -> &[u8] {
        let behind = self.bytes.get(start..).unwrap_or_default();
        behind.get(..length).unwrap_or_default()
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [shared, own] = self.lengths;
        write!(f, "Images({shared} + {own} bytes)")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::checkpoint::{Image, Values};
    use std::borrow::Cow;

    /// Two images of a few equal numbers each.
    pub(in crate::checkpoint) fn images(shared: f32, own: f32) -> Images {
        let draft = |number: f32| {
            let values = Values::Numbers(Cow::Owned(vec![number; 8]));
            Draft::new(vec![("w".to_owned(), values)], &[])
        };
        Images::encode(&draft(shared), &draft(own)).unwrap()
    }

    // Promise: both images are whole, wherever they lie; their memory is taken once and to the byte.
    #[test]
    fn both_are_read_back() {
        let both = images(0.5, 2.0);
        assert_eq!(both.bytes.capacity(), both.whole().len());
        let moved = [&[7u8; 3][..], both.whole(), &[7; 3]].concat();
        let moved = Images::within(&Arc::new(moved), 3, both.lengths());
        for both in [&both, &moved] {
            for (bytes, number) in [(both.shared(), 0.5f32), (both.own(), 2.0)] {
                let image = Image::read(bytes, "it").unwrap();
                assert_eq!(image.numbers("w", 8).unwrap(), [number.to_le_bytes(); 8]);
            }
        }
        assert_eq!(moved.whole(), [moved.shared(), moved.own()].concat());
    }

    // Promise: lengths that a peer made up are no panic.
    #[test]
    fn what_lies_outside_is_empty() {
        let bytes = Arc::new(vec![1, 2, 3]);
        for (start, lengths) in [(0, [4, 0]), (4, [1, 1]), (1, [usize::MAX; 2])] {
            let images = Images::within(&bytes, start, lengths);
            assert!(images.shared().is_empty() && images.own().is_empty());
            assert!(images.whole().is_empty());
        }
    }
}
