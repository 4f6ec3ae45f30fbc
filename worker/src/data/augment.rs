//! Random changes of training samples: windows and mirroring of images, masks of spectrograms
//! (SpecAugment, Park et al. 2019, arXiv 1904.08779, without its warping). What is drawn is a function
//! of a key, that of the draw.

use super::mix::mix;
use super::{Error, Input, Split, inputs::Inputs, media::MediaReader};
use espalier_spec::augment::Augment;
use std::sync::Arc;

/// Changes the samples of a task.
#[derive(Clone, Debug)]
pub struct Augmenter {
    spec: Augment,
    shape: [usize; 3],
    /// What black is, for each channel.
    black: Vec<f32>,
}

impl Augmenter {
    /// What the task asks for; none if nothing. `reader` is none for texts.
    ///
    /// # Errors
    /// The inputs have no such changes, or are too small for them.
    pub(super) fn new(
        spec: Augment,
        reader: Option<&MediaReader>,
        train: &Split,
    ) -> Result<Option<Self>, Error> {
        let Some(field) = first(spec) else {
            return Ok(None);
        };
        let wrong = |message: String| Err(Error::Augment { field, message });
        let (Some(reader), Inputs::Image(images)) = (reader, train.inputs.as_ref()) else {
            return wrong("the backbone reads texts; expected no random changes".to_owned());
        };
        let takes = match reader.is_audio() {
            true if spec.of_images() => Some("sounds; expected time_mask or frequency_mask"),
            false if spec.of_sounds() => Some("images; expected crop or flip"),
            _ => None,
        };
        if let Some(takes) = takes {
            return wrong(format!("the backbone reads {takes}"));
        }
        let shape = reader.shape();
        let [_, height, width] = shape;
        for (field, value, size) in [
            ("crop", spec.crop, height.min(width)),
            ("time_mask", spec.time_mask, width),
            ("frequency_mask", spec.frequency_mask, height),
        ] {
            if value as usize >= size && value > 0 {
                let message = format!(
                    "is {value}, but inputs are {height} x {width}; expected less than {size}"
                );
                return Err(Error::Augment { field, message });
            }
        }
        Ok(Some(Self {
            spec,
            shape,
            black: images.black(),
        }))
    }

    /// A sample as it is for the draw of this key.
    pub(super) fn apply(&self, input: Input, key: u64) -> Input {
        let Input::Numbers(numbers) = input else {
            return input;
        };
        let mut numbers = numbers.to_vec();
        if let Some(window) = self.window(key) {
            let [_, height, width] = self.shape;
            let planes = numbers.chunks_exact((height * width).max(1));
            let seen = planes.zip(&self.black);
            let seen = seen.flat_map(|(plane, black)| window.of(plane, [height, width], *black));
            numbers = seen.collect();
        }
        if self.spec.of_sounds() {
            self.mask(&mut numbers, &mut Draws { key, count: 0 });
        }
        Input::Numbers(Arc::from(numbers))
    }

    /// The window that images are seen through at the draw of this key; none if they stay as they are.
    pub(super) fn window(&self, key: u64) -> Option<Window> {
        let images = self.spec.of_images();
        images.then(|| Window::drawn(self.spec, &mut Draws { key, count: 0 }))
    }

    /// One band of frames and one of mel bins, each of 0 to the most, set to the mean.
    fn mask(&self, numbers: &mut [f32], draws: &mut Draws) {
        let [_, height, width] = self.shape;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "a mean of 32-bit numbers"
        )]
        let mean = (numbers.iter().map(|&n| f64::from(n)).sum::<f64>()
            / numbers.len().max(1) as f64) as f32;
        let mut band = |most: u32, size: usize| {
            let wide = draws.below(most as usize + 1);
            let from = draws.below(size - wide + 1);
            from..from + wide
        };
        let frames = band(self.spec.time_mask, width);
        let bins = band(self.spec.frequency_mask, height);
        for (bin, row) in numbers.chunks_exact_mut(width.max(1)).enumerate() {
            if bins.contains(&bin) {
                row.fill(mean);
            } else {
                row[frames.clone()].fill(mean);
            }
        }
    }
}

/// A window of a padded image, mirrored or not: what is done to an image is done to its mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    padding: usize,
    down: usize,
    right: usize,
    mirror: bool,
}

impl Window {
    fn drawn(spec: Augment, draws: &mut Draws) -> Self {
        let padding = spec.crop as usize;
        Self {
            padding,
            down: draws.below(2 * padding + 1),
            right: draws.below(2 * padding + 1),
            mirror: draws.below(2) == 1 && spec.flip,
        }
    }

    /// What is seen of a plane of so many rows and columns, [height, width]; around it everything is
    /// `beyond`.
    pub(crate) fn of<T: Copy>(self, plane: &[T], [height, width]: [usize; 2], beyond: T) -> Vec<T> {
        let mut seen = Vec::with_capacity(plane.len());
        for y in 0..height {
            for x in 0..width {
                let x = if self.mirror { width - 1 - x } else { x };
                // Places of the padded image, which begins `padding` before the image.
                let (y, x) = (
                    (y + self.down).checked_sub(self.padding),
                    (x + self.right).checked_sub(self.padding),
                );
                seen.push(match (y, x) {
                    (Some(y), Some(x)) if y < height && x < width => plane[y * width + x],
                    _ => beyond,
                });
            }
        }
        seen
    }
}

/// The first field that asks for something.
fn first(spec: Augment) -> Option<&'static str> {
    let fields = [
        ("crop", spec.crop > 0),
        ("flip", spec.flip),
        ("time_mask", spec.time_mask > 0),
        ("frequency_mask", spec.frequency_mask > 0),
    ];
    let found = fields.into_iter().find(|(_, on)| *on);
    found.map(|(field, _)| field)
}

/// Numbers drawn one after another from a key.
struct Draws {
    key: u64,
    count: u64,
}

impl Draws {
    /// A number of 0..n; n at least 1 and below 2^32.
    fn below(&mut self, n: usize) -> usize {
        self.count += 1;
        let random = mix(self.key ^ mix(self.count)) >> 32;
        ((random * n as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests;
