//! Frames: what a backbone gives of a sound or an image place by place, in order of time or from left to
//! right.

use super::Error;
use tch::{Kind, Tensor};

/// How frames are read out of what the last block gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Maps `[b, h, y, x]`: every x is a frame, of all that stands above one another there (of a
    /// spectrogram: at that time), since a convolution does not know at which height it is.
    Maps {
        /// Height of the maps.
        rows: i64,
        /// Width of the maps.
        columns: i64,
    },
    /// Rows `[b · (first + y · x), h]` of samples in the order given: every x is a frame, the mean over y.
    Patches {
        /// Rows of each sample that stand before its patches, for all of it.
        first: i64,
        /// Patches above one another.
        rows: i64,
        /// Patches side by side.
        columns: i64,
    },
}

impl Frames {
    /// Frames of a sample.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Frames::Maps { columns, .. } | Frames::Patches { columns, .. } => {
                usize::try_from(columns).unwrap_or(0)
            }
        }
    }

    /// Numbers of a frame, of a backbone whose features have `hidden`.
    #[must_use]
    pub fn width(self, hidden: usize) -> usize {
        match self {
            Frames::Maps { rows, .. } => hidden * usize::try_from(rows).unwrap_or(0),
            Frames::Patches { .. } => hidden,
        }
    }

    /// Frames f32 `[b, t, w]` out of the last block's output.
    ///
    /// # Errors
    /// If it has another shape, or libtorch refuses.
    pub fn of(self, output: &Tensor) -> Result<Tensor, Error> {
        Ok(match self {
            Frames::Maps { .. } => output.f_permute([0, 3, 1, 2])?.f_flatten(2, -1)?,
            Frames::Patches {
                first,
                rows,
                columns,
            } => {
                let patches = rows * columns;
                let width = output.size().last().copied().unwrap_or(1);
                output
                    .f_reshape([-1, first + patches, width])?
                    .f_narrow(1, first, patches)?
                    .f_reshape([-1, rows, columns, width])?
                    .f_mean_dim(&[1i64][..], false, Kind::Float)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    // Promise: a frame is what stands at its place, of maps all of it, of patches the mean.
    #[test]
    fn frames_stand_in_order() {
        // Two samples, height 2, width 3, vectors of one number: 0 to 11.
        let numbers = Tensor::arange(12, (Kind::Float, Device::Cpu));
        let maps = numbers.view([2, 1, 2, 3]);
        let patches = numbers.view([2, 6, 1]);
        let first = Tensor::full([2, 2, 1], 99.0, (Kind::Float, Device::Cpu));
        let patches = Tensor::cat(&[first, patches], 1).view([16, 1]);
        let of = |frames: Frames, output: &Tensor| {
            let found = frames.of(output).unwrap();
            let size = [2, frames.count() as i64, frames.width(1) as i64];
            assert_eq!(found.size(), size);
            Vec::<f32>::try_from(&found.contiguous().flatten(0, -1)).unwrap()
        };
        let columns = 3;
        assert_eq!(
            of(Frames::Maps { rows: 2, columns }, &maps),
            [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 6.0, 9.0, 7.0, 10.0, 8.0, 11.0]
        );
        let layout = Frames::Patches {
            first: 2,
            rows: 2,
            columns,
        };
        assert_eq!(of(layout, &patches), [1.5, 2.5, 3.5, 7.5, 8.5, 9.5]);
    }
}
