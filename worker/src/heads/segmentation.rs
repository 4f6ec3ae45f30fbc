//! One of several classes for every pixel of an image: semantic segmentation.

use super::{Error, Head, Level, beside, label_fields, targets_error};
use crate::metrics::Values;
use espalier_spec::job::HeadKind;
use serde_json::{Map, Value};
use std::sync::Arc;
use tch::{Device, Kind, Reduction, Tensor};

/// A class for every pixel: a linear layer on every place of a map of features, whose outputs are brought
/// to the image's size bilinearly (Long et al. 2015, arXiv 1411.4038, without skips). Shapes: B samples, C
/// classes, Y and X pixels from top to bottom and from left to right.
#[derive(Debug)]
pub struct Segmentation {
    names: Vec<String>,
    weights: Option<Vec<f32>>,
    ignore: u8,
}

impl Segmentation {
    /// A head for the classes `names`, with a weight for each class or none; pixels of the value `ignore`
    /// have no class.
    #[must_use]
    pub fn new(names: Vec<String>, weights: Option<Vec<f32>>, ignore: u8) -> Self {
        Self {
            names,
            weights,
            ignore,
        }
    }

    /// Checks that `outputs` is `[B, C, Y, X]` and returns B, Y and X.
    fn shape(&self, outputs: &Tensor) -> Result<[usize; 3], Error> {
        match outputs.size().as_slice() {
            [b, classes, y, x] if usize::try_from(*classes) == Ok(self.names.len()) => {
                Ok([b, y, x].map(|size| usize::try_from(*size).unwrap_or(0)))
            }
            shape => Err(Error::Outputs {
                expected: self.names.len(),
                found: shape.to_vec(),
            }),
        }
    }

    /// The class with the largest output of every pixel, sample by sample and row by row.
    fn best(&self, outputs: &Tensor) -> Result<Vec<u8>, Error> {
        let best = outputs.f_argmax(1_i64, false)?.f_to_kind(Kind::Uint8)?;
        let best = best.f_to_device(Device::Cpu)?.f_contiguous()?;
        Ok(Vec::<u8>::try_from(&best.f_flatten(0, -1)?)?)
    }
}

/// Outputs `[B, C, Y, X]` of every pixel from those of the places of a map, `[B, Y', X', C]`: bilinear, pixels
/// being squares (PyTorch's `align_corners=False`). `size` is Y and X.
///
/// # Errors
/// Errors of torch.
pub fn upsampled(places: &Tensor, size: [usize; 2]) -> Result<Tensor, Error> {
    let size = size.map(|side| i64::try_from(side).unwrap_or(i64::MAX));
    let channels = places.f_permute([0, 3, 1, 2])?.f_contiguous()?;
    Ok(channels.f_upsample_bilinear2d(size, false, None::<f64>, None::<f64>)?)
}

impl Head for Segmentation {
    fn kind(&self) -> HeadKind {
        HeadKind::Segmentation
    }

    fn level(&self) -> Level {
        Level::Place
    }

    fn outputs(&self) -> usize {
        self.names.len()
    }

    /// Mean over a sample's pixels that have a class of w_y · -log p_y, so that a sample weighs the same
    /// however many it has; 0 for one that has none.
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error> {
        let [b, y, x] = self.shape(outputs)?;
        let masks = match targets {
            Values::Masks {
                classes,
                size,
                values,
                ..
            } if *classes == self.outputs()
                && *size == [y, x]
                && values.len() == b
                && values.iter().all(|mask| mask.len() == y * x) =>
            {
                values
            }
            other => {
                let classes = self.outputs();
                let expected = format!("{b} masks of {y} x {x} pixels of one in {classes} classes");
                return Err(targets_error(expected, other));
            }
        };
        let mut flat = Vec::with_capacity(b * y * x);
        let mut shares = Vec::with_capacity(b);
        for mask in masks {
            flat.extend_from_slice(mask);
            let with_class = mask.iter().filter(|pixel| **pixel != self.ignore).count();
            #[expect(clippy::cast_precision_loss, reason = "pixels of an image")]
            shares.push(1.0 / with_class.max(1) as f32);
        }
        let size = [b, y, x].map(|size| i64::try_from(size).unwrap_or(i64::MAX));
        let target_byx = Tensor::f_from_slice(&flat)?
            .f_view(size)?
            .f_to_device(outputs.device())?
            .f_to_kind(Kind::Int64)?;
        let weights = self.weights.as_ref();
        let weights = weights
            .map(|weights| beside(outputs, weights))
            .transpose()?;
        let losses_byx = outputs.f_cross_entropy_loss(
            &target_byx,
            weights.as_ref(),
            Reduction::None,
            i64::from(self.ignore),
            0.0,
        )?;
        let pixels = [1_i64, 2];
        let sums_b = losses_byx.f_sum_dim_intlist(Some(pixels.as_slice()), false, Kind::Float)?;
        Ok(sums_b.f_mul(&beside(outputs, &shares)?)?)
    }

    /// The class with the largest output, pixel by pixel.
    fn decide(&self, outputs: &Tensor) -> Result<Values, Error> {
        let [_, y, x] = self.shape(outputs)?;
        let best = self.best(outputs)?;
        Ok(Values::Masks {
            classes: self.outputs(),
            size: [y, x],
            ignore: self.ignore,
            values: best.chunks_exact((y * x).max(1)).map(Arc::from).collect(),
        })
    }

    /// The share of a sample's pixels that each class has.
    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error> {
        let [_, y, x] = self.shape(outputs)?;
        let best = self.best(outputs)?;
        let masks = best.chunks_exact((y * x).max(1));
        Ok(masks
            .flat_map(|mask| shares(mask, self.outputs()))
            .map(|share| {
                #[expect(clippy::cast_possible_truncation, reason = "a share")]
                let share = share as f32;
                share
            })
            .collect())
    }

    fn config(&self) -> Map<String, Value> {
        let mut fields = label_fields("", &self.names);
        // transformers knows kinds of problems for whole samples only.
        fields.remove("problem_type");
        fields
    }
}

/// The share of the pixels of `mask` that each of `classes` classes has.
#[must_use]
pub fn shares(mask: &[u8], classes: usize) -> Vec<f64> {
    let mut counts = vec![0_u32; classes];
    for class in mask {
        if let Some(count) = counts.get_mut(usize::from(*class)) {
            *count += 1;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "pixels of an image")]
    let all = mask.len().max(1) as f64;
    counts.into_iter().map(|n| f64::from(n) / all).collect()
}

#[cfg(test)]
mod tests;
