//! Batches: token sequences packed without padding, images, or features computed before.

use super::Error;
use super::layout::Layout;
use std::sync::OnceLock;
use tch::{Device, Tensor};

/// Inputs of one forward pass.
#[derive(Debug)]
pub enum Batch {
    /// Texts.
    Tokens(TokenBatch),
    /// Images.
    Images(ImageBatch),
    /// What the backbone made of the samples before, f32 [b, h]: no block runs.
    Features(Tensor),
}

/// Where a pass over a batch starts, if not at the first block.
#[derive(Debug)]
pub struct Start {
    /// Blocks that ran before.
    pub blocks: usize,
    /// What they gave, as the next one takes it.
    pub x: Tensor,
}

impl Batch {
    /// Where a pass starts; none if at the first block.
    #[must_use]
    pub fn start(&self) -> Option<&Start> {
        match self {
            Batch::Tokens(tokens) => tokens.start.as_ref(),
            Batch::Images(images) => images.start.as_ref(),
            Batch::Features(_) => None,
        }
    }

    /// Says that the lowest blocks ran before: a pass leaves them out.
    #[must_use]
    pub fn started(mut self, start: Start) -> Self {
        match &mut self {
            Batch::Tokens(tokens) => tokens.start = Some(start),
            Batch::Images(images) => images.start = Some(start),
            Batch::Features(_) => {}
        }
        self
    }

    /// Samples in the batch.
    #[must_use]
    pub fn samples(&self) -> usize {
        match self {
            Batch::Tokens(tokens) => tokens.order.len(),
            Batch::Images(images) => images.keys.len(),
            Batch::Features(rows) => rows.size()[0] as usize,
        }
    }

    /// Real tokens in the batch; 0 for images.
    #[must_use]
    pub fn tokens(&self) -> usize {
        match self {
            Batch::Tokens(tokens) => tokens.host_ids.len(),
            Batch::Images(_) | Batch::Features(_) => 0,
        }
    }

    /// Checks that no sample has more than `limit` tokens.
    ///
    /// # Errors
    /// [`Error::Input`] that says what to do.
    pub(super) fn check_length(&self, limit: i64) -> Result<(), Error> {
        if let Batch::Tokens(tokens) = self
            && let Some(group) = tokens.layout.groups.last()
            && group.length > limit
        {
            return Err(Error::Input(format!(
                "a sample has {} tokens, the model takes {limit} at most: lower backbone.max_tokens",
                group.length
            )));
        }
        Ok(())
    }

    /// Its token sequences.
    ///
    /// # Errors
    /// [`Error::Input`] if it has none.
    pub(super) fn as_tokens(&self) -> Result<&TokenBatch, Error> {
        match self {
            Batch::Tokens(tokens) => Ok(tokens),
            Batch::Images(_) => Err(Error::Input("a text model was given images".into())),
            Batch::Features(_) => Err(Error::Input("a model was given its own features".into())),
        }
    }

    /// Its images.
    ///
    /// # Errors
    /// [`Error::Input`] if it has none.
    pub(super) fn as_images(&self) -> Result<&ImageBatch, Error> {
        match self {
            Batch::Images(images) => Ok(images),
            Batch::Tokens(_) => Err(Error::Input("an image model was given texts".into())),
            Batch::Features(_) => Err(Error::Input("a model was given its own features".into())),
        }
    }
}

/// Images of one shape.
#[derive(Debug)]
pub struct ImageBatch {
    /// Their numbers, f32 [samples, channels, height, width].
    pub pixels: Tensor,
    /// Identity of each image for dropout.
    pub keys: Vec<u64>,
    /// Where the patches stand, once a model has asked.
    layout: OnceLock<Layout>,
    start: Option<Start>,
}

impl ImageBatch {
    /// The numbers, if each image has this shape: channels, height, width.
    ///
    /// # Errors
    /// [`Error::Input`] for another one.
    pub(super) fn of_shape(&self, shape: [i64; 3]) -> Result<Tensor, Error> {
        let found = &self.pixels.size()[1..];
        if found != shape {
            return Err(Error::Input(format!(
                "images are {found:?}, the model takes {shape:?}"
            )));
        }
        Ok(self.pixels.shallow_clone())
    }

    /// The layout of a model that makes `rows` rows of every image.
    pub(super) fn layout(&self, rows: i64) -> &Layout {
        self.layout
            .get_or_init(|| Layout::even(&self.keys, rows.unsigned_abs() as usize))
    }
}

/// Token sequences, one after another, shorter ones first, without padding: T tokens in all.
#[derive(Debug)]
pub struct TokenBatch {
    /// Token ids, i64 `[T]`.
    pub ids: Tensor,
    /// Place of each token in its sample, i64 `[T]`.
    pub positions: Tensor,
    /// Which text of a pair each token belongs to, i64 `[T]` of 0 and 1; none if there are no pairs.
    pub segments: Option<Tensor>,
    /// Where samples and their tokens stand.
    pub layout: Layout,
    /// `order[i]`: which of the samples given is the i-th packed one.
    pub order: Vec<usize>,
    /// The way back: features in packed order, taken at `inverse`, are in the order given. i64 `[B]`.
    pub inverse: Tensor,
    /// The ids again, on the host, in packed order.
    pub host_ids: Vec<u32>,
    /// Where rows stand with a prompt before each sample's own, once a model has asked.
    longer: OnceLock<Layout>,
    start: Option<Start>,
}

impl TokenBatch {
    /// Where rows stand with `more` before each sample's own, as many as the model always has.
    pub(super) fn layout_with(&self, more: i64) -> &Layout {
        match more {
            0 => &self.layout,
            more => self.longer.get_or_init(|| self.layout.longer(more)),
        }
    }

    /// The row of each sample's first token, samples in the order given.
    #[must_use]
    pub fn first_rows(&self) -> Vec<i64> {
        let mut rows = vec![0; self.order.len()];
        let groups = self.layout.groups.iter();
        let lengths = groups.flat_map(|g| std::iter::repeat_n(g.length, g.samples as usize));
        let mut row = 0;
        for (&index, length) in self.order.iter().zip(lengths) {
            rows[index] = row;
            row += length;
        }
        rows
    }

    /// Packs samples; `keys` are their identities for dropout.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty batch or an empty sample.
    pub fn pack(samples: &[&[u32]], keys: &[u64], device: Device) -> Result<Self, Error> {
        Self::pack_pairs(samples, &[], keys, device)
    }

    /// The same for pairs of texts: `seconds` says where in each sample the second text begins; what it
    /// lacks is one text.
    ///
    /// # Errors
    /// As [`TokenBatch::pack`].
    pub fn pack_pairs(
        samples: &[&[u32]],
        seconds: &[Option<u32>],
        keys: &[u64],
        device: Device,
    ) -> Result<Self, Error> {
        if samples.is_empty() || samples.len() != keys.len() {
            return Err(Error::Input(
                "a batch needs at least one sample, and a key for each".into(),
            ));
        }
        if let Some(empty) = samples.iter().position(|sample| sample.is_empty()) {
            return Err(Error::Input(format!(
                "sample {empty} of the batch has no tokens"
            )));
        }
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by_key(|&index| samples[index].len());
        let total = samples.iter().map(|sample| sample.len()).sum();
        let mut host_ids = Vec::with_capacity(total);
        let mut positions = Vec::with_capacity(total);
        let mut layout = Layout::default();
        let mut segments = Vec::new();
        let has_pairs = seconds.iter().any(Option::is_some);
        for &index in &order {
            let sample = samples[index];
            host_ids.extend_from_slice(sample);
            positions.extend(0..sample.len() as i64);
            layout.push(keys[index], sample.len());
            if has_pairs {
                let second = seconds.get(index).copied().flatten();
                let second = second.map_or(sample.len(), |second| second as usize);
                segments.extend((0..sample.len()).map(|place| i64::from(place >= second)));
            }
        }
        let mut inverse = vec![0i64; order.len()];
        for (packed, &index) in order.iter().enumerate() {
            inverse[index] = packed as i64;
        }
        let ids: Vec<i64> = host_ids.iter().map(|&id| i64::from(id)).collect();
        Ok(Self {
            ids: Tensor::f_from_slice(&ids)?.f_to_device(device)?,
            positions: Tensor::f_from_slice(&positions)?.f_to_device(device)?,
            segments: match has_pairs {
                true => Some(Tensor::f_from_slice(&segments)?.f_to_device(device)?),
                false => None,
            },
            layout,
            inverse: Tensor::f_from_slice(&inverse)?.f_to_device(device)?,
            order,
            host_ids,
            longer: OnceLock::new(),
            start: None,
        })
    }
}

/// Images of `shape` (channels, height, width) from their numbers; `keys` are their identities for
/// dropout.
///
/// # Errors
/// [`Error::Input`] if a sample has another count of numbers.
pub fn images(
    samples: &[&[f32]],
    keys: &[u64],
    shape: [i64; 3],
    device: Device,
) -> Result<Batch, Error> {
    let expected = shape.iter().product::<i64>() as usize;
    if let Some(wrong) = samples.iter().position(|sample| sample.len() != expected) {
        let found = samples[wrong].len();
        let [channels, height, width] = shape;
        return Err(Error::Input(format!(
            "image {wrong} of the batch has {found} numbers, expected {expected} ({channels} x {height} x {width})"
        )));
    }
    let flat: Vec<f32> = samples.concat();
    let size = [samples.len() as i64, shape[0], shape[1], shape[2]];
    Ok(Batch::Images(ImageBatch {
        pixels: Tensor::f_from_slice(&flat)?
            .f_view(size)?
            .f_to_device(device)?,
        keys: keys.to_vec(),
        layout: OnceLock::new(),
        start: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: nothing is padded, equal lengths stand together, and the way back is right.
    #[test]
    fn packs_by_length_and_knows_the_way_back() {
        let samples: [&[u32]; 4] = [&[1, 2, 3], &[4], &[5, 6, 7], &[8, 9]];
        let batch = TokenBatch::pack(&samples, &[10, 11, 12, 13], Device::Cpu).unwrap();
        assert_eq!(batch.host_ids, [4, 8, 9, 1, 2, 3, 5, 6, 7]);
        let groups: Vec<_> = batch
            .layout
            .groups
            .iter()
            .map(|g| (g.samples, g.length))
            .collect();
        assert_eq!(groups, [(1, 1), (1, 2), (2, 3)]);
        let inverse: Vec<i64> = Vec::try_from(&batch.inverse).unwrap();
        for (index, &packed) in inverse.iter().enumerate() {
            assert_eq!(batch.order[packed as usize], index);
        }
        assert!(TokenBatch::pack(&[&[]], &[0], Device::Cpu).is_err());
    }
}
