//! Images in a backbone's size, after two of Hugging Face's image processors: `ViTImageProcessor` squeezes all of an
//! image into it; `ConvNextImageProcessor`, which ResNets come with, resizes an image in proportion and cuts out its
//! middle. (Of an odd rest the smaller half lies before the middle, as in its slow variant.)

use image::imageops::FilterType;
use serde::Deserialize;
use serde_json::Value;

/// How names of the processor that cuts begin; its ends have changed over time.
const CUTTER: &str = "ConvNext";
/// From this side on it squeezes, too.
const WHOLE_FROM: usize = 384;
/// How much of the shorter edge it keeps, where `crop_pct` does not say.
const USUAL_SHARE: f64 = 224.0 / 256.0;
/// The longest side that an image may have before it is cut.
const MOST: usize = 1 << 14;

/// `size` of `preprocessor_config.json`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Size {
    Square(usize),
    Sides { height: usize, width: usize },
    Shorter(Shorter),
    Other(Value),
}

/// Nothing but the shorter edge.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shorter {
    shortest_edge: usize,
}

/// What `preprocessor_config.json` says of sizes.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) size: Option<&'a Size>,
    /// Share of the shorter edge that is kept.
    pub(super) crop_pct: Option<f64>,
    /// Name of the processor, if it is told.
    pub(super) processor: Option<&'a str>,
}

impl Wanted<'_> {
    /// How long an image's shorter edge becomes before its middle, of `shape` (height, width), is cut out; none
    /// where all of it is squeezed. The error names the field.
    pub(super) fn edge(&self, shape: [usize; 2]) -> Result<Option<usize>, String> {
        let cuts = self.cuts()?;
        let given = match (self.size, cuts) {
            (None, false) => return Ok(None),
            (None, true) => {
                return Err(
                    "field size is missing; expected the side of what is cut out of images, such \
                     as {\"shortest_edge\": 224}"
                        .to_owned(),
                );
            }
            (
                Some(
                    Size::Square(side)
                    | Size::Shorter(Shorter {
                        shortest_edge: side,
                    }),
                ),
                _,
            ) => [*side; 2],
            (Some(Size::Sides { height, width }), false) => [*height, *width],
            (Some(Size::Sides { .. }), true) => {
                return Err(
                    "field size has height and width, but a square is cut out of images; expected \
                     shortest_edge"
                        .to_owned(),
                );
            }
            (Some(Size::Other(other)), _) => {
                return Err(format!(
                    "field size is {other}; expected a number, height and width, or shortest_edge"
                ));
            }
        };
        if given != shape {
            let ([h, w], [height, width]) = (given, shape);
            return Err(format!(
                "field size is {h} x {w}, but image_size in config.json is {height} x {width}; \
                 make them the same"
            ));
        }
        let [side, _] = given;
        if !cuts || side >= WHOLE_FROM {
            return Ok(None);
        }
        let share = self.crop_pct.unwrap_or(USUAL_SHARE);
        let edge = (side as f64 / share) as usize;
        let is_share = share > 0.0 && share <= 1.0;
        if !is_share || edge > MOST {
            return Err(format!(
                "field crop_pct is {share}; expected the share of an image's shorter edge that is \
                 kept, such as 0.875"
            ));
        }
        Ok(Some(edge))
    }

    /// Whether images are cut.
    fn cuts(&self) -> Result<bool, String> {
        let asks = self.crop_pct.is_some() || matches!(self.size, Some(Size::Shorter(_)));
        match self.processor {
            None => Ok(asks),
            Some(name) if name.starts_with(CUTTER) => Ok(true),
            Some(_) if !asks => Ok(false),
            Some(name) => Err(format!(
                "fields crop_pct and size.shortest_edge are followed as {CUTTER}ImageProcessor \
                 does, but the processor here is {name}; expected size with height and width, and \
                 no crop_pct"
            )),
        }
    }
}

/// How images get the backbone's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// They must have it.
    Given,
    /// All of an image is resized to it.
    Squeezed(FilterType),
    /// An image is resized until its shorter edge is so long, and the middle is cut out.
    Middle { filter: FilterType, edge: usize },
}

impl Fit {
    /// What resizes, if anything does.
    pub(super) fn filter(self) -> Option<FilterType> {
        match self {
            Self::Given => None,
            Self::Squeezed(filter) | Self::Middle { filter, .. } => Some(filter),
        }
    }

    /// What becomes of an image of `from` (height, width) for a backbone that takes `to`. The error says what is
    /// wrong with the image.
    pub(super) fn cut(self, from: [usize; 2], to: [usize; 2]) -> Result<Cut, String> {
        let Self::Middle { edge, .. } = self else {
            return Ok(Cut::all(to));
        };
        let [height, width] = from;
        let (short, long) = (height.min(width).max(1), height.max(width));
        let long = edge.saturating_mul(long) / short;
        if long > MOST {
            return Err(format!(
                "the image is {height} x {width}: with a shorter edge of {edge} the longer one \
                 would be {long}; expected {MOST} at most: cut the image into pieces"
            ));
        }
        let whole = match width <= height {
            true => [long, edge],
            false => [edge, long],
        };
        let start = [0, 1].map(|side: usize| whole[side].saturating_sub(to[side]) / 2);
        let size = to;
        Ok(Cut { whole, start, size })
    }
}

/// Which part of an image is taken, after all of it has got another size. Heights and widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// That size.
    pub(super) whole: [usize; 2],
    /// First row and column of the part.
    pub(super) start: [usize; 2],
    /// Size of the part.
    pub(super) size: [usize; 2],
}

impl Cut {
    /// All of an image in this size.
    pub(super) fn all(size: [usize; 2]) -> Self {
        Self {
            whole: size,
            start: [0, 0],
            size,
        }
    }

    /// The part of an image of the whole size, row by row; the `channels` numbers of a pixel stand together.
    pub(super) fn of(&self, image: Vec<u8>, channels: usize) -> Vec<u8> {
        if self.whole == self.size {
            return image;
        }
        let line = (self.whole[1] * channels).max(1);
        let lines = image.chunks_exact(line);
        let first = self.start[1] * channels;
        let end = first + self.size[1] * channels;
        let part = |line: &[u8]| line.get(first..end).unwrap_or_default().to_vec();
        let lines = lines.skip(self.start[0]).take(self.size[0]);
        lines.flat_map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn edge(fields: Value, side: usize) -> Result<Option<usize>, String> {
        let size: Option<Size> = serde_json::from_value(fields["size"].clone()).unwrap();
        let wanted = Wanted {
            size: size.as_ref(),
            crop_pct: fields["crop_pct"].as_f64(),
            processor: fields["processor"].as_str(),
        };
        wanted.edge([side; 2])
    }

    // Promise: which images are cut, and from which size, is what ConvNextImageProcessor of transformers does; other
    // processors squeeze; what nobody here does is refused by field.
    #[test]
    fn sizes_are_those_of_the_processors() {
        let fields = json!({"size": 224, "crop_pct": 0.875});
        assert_eq!(edge(fields, 224), Ok(Some(256)));
        let fields = json!({"size": {"shortest_edge": 224}, "crop_pct": 0.95});
        assert_eq!(edge(fields, 224), Ok(Some(235)));
        assert_eq!(
            edge(json!({"size": {"shortest_edge": 18}}), 18),
            Ok(Some(20))
        );
        for name in [
            "ConvNextFeatureExtractor",
            "ConvNextImageProcessor",
            "ConvNextImageProcessorFast",
        ] {
            let fields = json!({"size": 224, "processor": name});
            assert_eq!(edge(fields, 224), Ok(Some(256)), "{name}");
        }
        let fields = json!({"size": {"shortest_edge": 384}, "crop_pct": 1.0});
        assert_eq!(edge(fields, 384), Ok(None), "large images are squeezed");
        for size in [
            json!(224),
            json!({"height": 224, "width": 224}),
            json!(null),
        ] {
            let fields = json!({"size": size, "processor": "ViTImageProcessor"});
            assert_eq!(edge(fields, 224), Ok(None));
        }
        for (fields, said) in [
            (json!({"crop_pct": 0.9}), "field size is missing"),
            (
                json!({"size": {"height": 8, "width": 8}, "crop_pct": 0.9}),
                "expected shortest_edge",
            ),
            (
                json!({"size": {"shortest_edge": 8}, "processor": "BitImageProcessor"}),
                "the processor here is BitImageProcessor",
            ),
            (
                json!({"size": {"shortest_edge": 8, "longest_edge": 9}}),
                "expected a number, height and width, or shortest_edge",
            ),
            (json!({"size": {"shortest_edge": 9}}), "field size is 9 x 9"),
            (
                json!({"size": 8, "crop_pct": 0.0}),
                "field crop_pct is 0; expected the share",
            ),
            (json!({"size": 8, "crop_pct": 1.5}), "field crop_pct is 1.5"),
        ] {
            let error = edge(fields, 8).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    // Promise: the shorter edge gets its length, the longer one follows in proportion, and the middle is taken.
    #[test]
    fn the_middle_is_cut_out() {
        let filter = FilterType::Triangle;
        let cut = |edge, from, side| Fit::Middle { filter, edge }.cut(from, [side; 2]);
        for (from, whole, start) in [
            ([300, 500], [256, 426], [16, 101]),
            ([500, 300], [426, 256], [101, 16]),
            ([64, 64], [256, 256], [16, 16]),
        ] {
            let size = [224; 2];
            let expected = Cut { whole, start, size };
            assert_eq!(cut(256, from, 224), Ok(expected));
        }
        let odd = cut(235, [235, 300], 224).unwrap();
        assert_eq!(odd.start, [5, 38]);
        let error = cut(256, [1, 4000], 224).unwrap_err();
        assert!(error.contains("the image is 1 x 4000"), "{error}");
        let part = cut(4, [4, 5], 2).unwrap();
        let image: Vec<u8> = (0..40).collect();
        assert_eq!(part.of(image, 2), [12, 13, 14, 15, 22, 23, 24, 25]);
        let squeezed = Fit::Squeezed(filter).cut([3, 9], [2, 2]);
        assert_eq!(squeezed, Ok(Cut::all([2, 2])));
        assert_eq!(Cut::all([1, 2]).of(vec![7, 8], 1), [7, 8]);
    }
}
