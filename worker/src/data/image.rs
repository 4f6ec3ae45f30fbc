//! Images: PNG and JPEG to pixels, pixels to numbers, after Hugging Face's image processors.

use super::cell::describe_bytes;
use super::fit::{Cut, Fit, Size, Wanted};
use super::media::fields;
use image::imageops::{FilterType, resize};
use image::{DynamicImage, ImageFormat};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io::Cursor;

/// Fields of `preprocessor_config.json` for images.
#[derive(Debug, Default, Deserialize)]
struct Config {
    do_resize: Option<bool>,
    size: Option<Size>,
    crop_pct: Option<f64>,
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    resample: Option<u32>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Channels>,
    image_std: Option<Channels>,
    do_center_crop: Option<bool>,
    do_pad: Option<bool>,
    do_flip_channel_order: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Channels {
    All(f64),
    Each(Vec<f64>),
}

/// Decodes images to a backbone's size, and rescales their pixels.
#[derive(Debug)]
pub(super) struct ImageReader {
    channels: usize,
    height: usize,
    width: usize,
    /// How images get that size.
    fit: Fit,
    /// What each of the 256 pixels becomes, for each channel.
    tables: Vec<Vec<f32>>,
}

impl ImageReader {
    /// Images resized to `shape` and rescaled to 0..1.
    pub(super) fn plain([channels, height, width]: [usize; 3]) -> Self {
        Self {
            channels,
            height,
            width,
            fit: Fit::Squeezed(FilterType::Triangle),
            tables: vec![table(1.0 / 255.0, 0.0, 1.0); channels],
        }
    }

    /// As the configuration says. The error names the field.
    pub(super) fn new(config: &Map<String, Value>, shape: [usize; 3]) -> Result<Self, String> {
        let config: Config = fields(config)?;
        let mut reader = Self::plain(shape);
        let [channels, height, width] = shape;
        let on = |field: Option<bool>| field.unwrap_or(false);
        for (name, field) in [
            ("do_center_crop", config.do_center_crop),
            ("do_pad", config.do_pad),
            ("do_flip_channel_order", config.do_flip_channel_order),
        ] {
            if on(field) {
                return Err(format!(
                    "field {name} is true, which is not supported; expected images that are only \
                     resized, rescaled and normalised: set it to false if that will do"
                ));
            }
        }
        let processor = config.image_processor_type.as_deref();
        let wanted = Wanted {
            size: config.size.as_ref(),
            crop_pct: config.crop_pct,
            processor: processor.or(config.feature_extractor_type.as_deref()),
        };
        let edge = wanted.edge([height, width])?;
        let fit = |filter| match edge {
            Some(edge) => Fit::Middle { filter, edge },
            None => Fit::Squeezed(filter),
        };
        reader.fit = match (config.do_resize.unwrap_or(true), config.resample) {
            (false, _) => Fit::Given,
            (true, None | Some(2)) => fit(FilterType::Triangle),
            (true, Some(0)) => fit(FilterType::Nearest),
            (true, Some(1)) => fit(FilterType::Lanczos3),
            (true, Some(3)) => fit(FilterType::CatmullRom),
            (true, Some(other)) => {
                return Err(format!(
                    "field resample is {other}; expected 0 (nearest), 1 (Lanczos), 2 (bilinear) or \
                     3 (bicubic)"
                ));
            }
        };
        let factor = match config.do_rescale {
            Some(false) => 1.0,
            _ => config.rescale_factor.unwrap_or(1.0 / 255.0),
        };
        let has_mean = config.image_mean.is_some();
        let (mean, std) = if config.do_normalize.unwrap_or(has_mean) {
            (
                each("image_mean", config.image_mean, channels)?,
                each("image_std", config.image_std, channels)?,
            )
        } else {
            (vec![0.0; channels], vec![1.0; channels])
        };
        if let Some(wrong) = std.iter().find(|std| **std <= 0.0 || !std.is_finite()) {
            return Err(format!(
                "field image_std holds {wrong}; expected numbers above 0"
            ));
        }
        reader.tables = mean
            .iter()
            .zip(&std)
            .map(|(mean, std)| table(factor, *mean, *std))
            .collect();
        Ok(reader)
    }

    /// Pixels [channels, height, width] of an encoded image: luma (Rec. 709) for one channel, red,
    /// green and blue for three; transparency is dropped. The error says what is wrong.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let reader = image::ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|error| error.to_string())?;
        let format = match reader.format() {
            Some(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => format,
            _ => {
                return Err(format!(
                    "expected a PNG or JPEG image, found {}",
                    describe_bytes(bytes)
                ));
            }
        };
        let image = reader.decode().map_err(|error| {
            let kind = format.to_mime_type();
            format!("the image ({kind}) is damaged: {error}")
        })?;
        let from = [image.height() as usize, image.width() as usize];
        if self.fit == Fit::Given && from != [self.height, self.width] {
            let [height, width] = from;
            return Err(format!(
                "the image is {height} x {width}, expected {} x {}, as do_resize in \
                 preprocessor_config.json is false",
                self.height, self.width
            ));
        }
        self.fitted(image, &self.cut(from)?)
    }

    /// What becomes of an image of `from` (height, width). The error says what is wrong with it.
    pub(super) fn cut(&self, from: [usize; 2]) -> Result<Cut, String> {
        self.fit.cut(from, [self.height, self.width])
    }

    fn fitted(&self, image: DynamicImage, cut: &Cut) -> Result<Vec<u8>, String> {
        let [height, width] = cut.whole;
        let (Ok(width), Ok(height)) = (u32::try_from(width), u32::try_from(height)) else {
            return Err("the backbone's image_size is too large".to_owned());
        };
        let is_whole = (image.width(), image.height()) == (width, height);
        let filter = self.fit.filter().filter(|_| !is_whole);
        match self.channels {
            1 => {
                let luma = image.into_luma8();
                let luma = match filter {
                    Some(filter) => resize(&luma, width, height, filter),
                    None => luma,
                };
                Ok(cut.of(luma.into_raw(), 1))
            }
            3 => {
                let rgb = image.into_rgb8();
                let rgb = match filter {
                    Some(filter) => resize(&rgb, width, height, filter),
                    None => rgb,
                };
                let interleaved = cut.of(rgb.into_raw(), 3);
                let plane = |channel| interleaved.iter().skip(channel).step_by(3).copied();
                Ok((0..3).flat_map(plane).collect())
            }
            other => Err(format!(
                "the backbone takes {other} channels, and an image file has 1 or 3; give lists of \
                 numbers"
            )),
        }
    }

    /// Pixels [channels, height, width] as the backbone takes them.
    pub(super) fn rescaled(&self, pixels: &[u8]) -> Vec<f32> {
        let plane = (self.height * self.width).max(1);
        let mut numbers = Vec::with_capacity(pixels.len());
        for (pixels, table) in pixels.chunks(plane).zip(&self.tables) {
            numbers.extend(pixels.iter().map(|&pixel| table[usize::from(pixel)]));
        }
        numbers
    }

    /// What a pixel of 0 becomes, for each channel.
    pub(super) fn black(&self) -> Vec<f32> {
        self.tables.iter().map(|table| table[0]).collect()
    }
}

/// (pixel · factor - mean) / std for every pixel.
#[expect(clippy::cast_possible_truncation, reason = "numbers are 32 bit")]
fn table(factor: f64, mean: f64, std: f64) -> Vec<f32> {
    let number = |pixel: u8| ((f64::from(pixel) * factor - mean) / std) as f32;
    (0..=255).map(number).collect()
}

/// A number for each channel.
fn each(name: &str, field: Option<Channels>, channels: usize) -> Result<Vec<f64>, String> {
    match field {
        Some(Channels::All(number)) => Ok(vec![number; channels]),
        Some(Channels::Each(numbers)) if numbers.len() == channels => Ok(numbers),
        Some(Channels::Each(numbers)) => Err(format!(
            "field {name} has {} numbers, but num_channels in config.json is {channels}",
            numbers.len()
        )),
        None => Err(format!(
            "field {name} is missing; expected a number per channel, or do_normalize: false"
        )),
    }
}
