//! Batches: token sequences packed without padding, or images.

use super::Error;
use super::context::mix;
use tch::{Device, Tensor};

/// Inputs of one forward pass.
#[derive(Debug)]
pub enum Batch {
    /// Texts.
    Tokens(TokenBatch),
    /// Images, f32 [samples, channels, height, width].
    Images(Tensor),
}

impl Batch {
    /// Samples in the batch.
    #[must_use]
    pub fn samples(&self) -> usize {
        match self {
            Batch::Tokens(tokens) => tokens.order.len(),
            Batch::Images(images) => images.size().first().copied().unwrap_or(0) as usize,
        }
    }

    /// Real tokens in the batch; 0 for images.
    #[must_use]
    pub fn tokens(&self) -> usize {
        match self {
            Batch::Tokens(tokens) => tokens.row_keys.len(),
            Batch::Images(_) => 0,
        }
    }
}

/// Samples of one length, side by side in the packed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Samples.
    pub samples: i64,
    /// Tokens of each.
    pub length: i64,
}

/// Token sequences, one after another, shorter ones first, without padding: T tokens in all.
#[derive(Debug)]
pub struct TokenBatch {
    /// Token ids, i64 `[T]`.
    pub ids: Tensor,
    /// Place of each token in its sample, i64 `[T]`.
    pub positions: Tensor,
    /// Runs of equal length, in order.
    pub groups: Vec<Group>,
    /// `order[i]`: which of the samples given is the i-th packed one.
    pub order: Vec<usize>,
    /// The way back: features in packed order, taken at `inverse`, are in the order given. i64 `[B]`.
    pub inverse: Tensor,
    /// Identity of each token (sample and position) for dropout.
    pub row_keys: Vec<u64>,
    /// Identity of each sample, in packed order.
    pub sample_keys: Vec<u64>,
    /// The ids again, on the host, in packed order.
    pub host_ids: Vec<u32>,
}

impl TokenBatch {
    /// Packs samples; `keys` are their identities for dropout.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty batch or an empty sample.
    pub fn pack(samples: &[&[u32]], keys: &[u64], device: Device) -> Result<Self, Error> {
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
        let mut row_keys = Vec::with_capacity(total);
        let mut groups: Vec<Group> = Vec::new();
        for &index in &order {
            let (sample, key) = (samples[index], keys[index]);
            host_ids.extend_from_slice(sample);
            positions.extend(0..sample.len() as i64);
            row_keys.extend((0..sample.len() as u64).map(|position| mix(key ^ mix(position))));
            let length = sample.len() as i64;
            match groups.last_mut() {
                Some(group) if group.length == length => group.samples += 1,
                _ => groups.push(Group { samples: 1, length }),
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
            groups,
            sample_keys: order.iter().map(|&index| keys[index]).collect(),
            inverse: Tensor::f_from_slice(&inverse)?.f_to_device(device)?,
            order,
            row_keys,
            host_ids,
        })
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

/// Images from their numbers, f32 [samples, channels, height, width].
///
/// # Errors
/// [`Error::Input`] if a sample has another count of numbers.
pub fn images(samples: &[&[f32]], shape: [i64; 3], device: Device) -> Result<Batch, Error> {
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
    Ok(Batch::Images(
        Tensor::f_from_slice(&flat)?
            .f_view(size)?
            .f_to_device(device)?,
    ))
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
        let groups: Vec<_> = batch.groups.iter().map(|g| (g.samples, g.length)).collect();
        assert_eq!(groups, [(1, 1), (1, 2), (2, 3)]);
        let inverse: Vec<i64> = Vec::try_from(&batch.inverse).unwrap();
        for (index, &packed) in inverse.iter().enumerate() {
            assert_eq!(batch.order[packed as usize], index);
        }
        assert!(TokenBatch::pack(&[&[]], &[0], Device::Cpu).is_err());
    }
}
