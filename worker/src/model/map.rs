//! Maps of features: what the last block of a backbone of images leaves of every place of an image.

use super::Error;
use tch::Tensor;

/// How the last block's output holds a map of features, samples in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureMap {
    /// Rows [b · (before + height · width), h]: of each sample `before` rows, then its places, row by
    /// row.
    Rows {
        /// Rows of a sample that are no places, such as a class token.
        before: i64,
        /// Places from top to bottom.
        height: i64,
        /// Places from left to right.
        width: i64,
    },
    /// Channels [b, h, height, width].
    Channels,
}

impl FeatureMap {
    /// The maps [b, height, width, h] in the last block's output `x`, with the graph back to it.
    ///
    /// # Errors
    /// If `x` is of another shape or libtorch refuses.
    pub fn of(self, x: &Tensor) -> Result<Tensor, Error> {
        match self {
            FeatureMap::Rows {
                before,
                height,
                width,
            } => {
                let h = x.size().last().copied().unwrap_or(0);
                let places = height * width;
                let x_blh = x.f_reshape([-1, before + places, h])?;
                let x_bph = x_blh.f_narrow(1, before, places)?;
                Ok(x_bph.f_reshape([-1, height, width, h])?)
            }
            FeatureMap::Channels => Ok(x.f_permute([0, 2, 3, 1])?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    // Promise: rows and channels of the same map are the same map; what stands before the places is not
    // in it.
    #[test]
    fn rows_and_channels_hold_the_same_map() {
        let map = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 2, 3, 2]);
        let class = Tensor::full([2, 1, 2], -1.0, (Kind::Float, Device::Cpu));
        let places = map.view([2, 6, 2]);
        let rows = Tensor::cat(&[&class, &places], 1).view([14, 2]);
        let by_rows = FeatureMap::Rows {
            before: 1,
            height: 2,
            width: 3,
        };
        assert!(by_rows.of(&rows).unwrap().equal(&map));
        let channels = map.permute([0, 3, 1, 2]).contiguous();
        assert!(FeatureMap::Channels.of(&channels).unwrap().equal(&map));
    }
}
