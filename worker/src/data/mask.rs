//! Masks: a class for every pixel of an image, out of PNG files or lists of numbers, in the backbone's size.

use super::cell::describe_bytes;
use super::fit::Cut;
use super::inputs::{flatten, mismatch};
use super::media::{Held, MediaReader};
use super::{Cell, Problem};
use png::{BitDepth, ColorType};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

/// What a column of masks may hold.
const EXPECTED: &str = "a mask: the bytes of a PNG of grey or palette values, the path of such a file (from the data file's folder), or a list of numbers";
/// More pixels than this are no mask.
const MOST: usize = 1 << 28;

/// Reads the masks of a task: values are numbers of classes.
#[derive(Debug)]
pub(super) struct MaskReader {
    media: Arc<MediaReader>,
    classes: usize,
    ignore: u8,
}

/// Values of a mask as it came, row by row.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    size: [usize; 2],
    values: Vec<u8>,
}

/// Why bytes are no mask: of another kind, or damaged.
#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    Kind(String),
    Damaged(String),
}

impl MaskReader {
    /// Masks of images that `media` reads, for so many classes; `ignore` stands for none.
    pub(super) fn new(media: Arc<MediaReader>, classes: usize, ignore: u8) -> Self {
        Self {
            media,
            classes,
            ignore,
        }
    }

    /// Height and width.
    pub(super) fn size(&self) -> [usize; 2] {
        let [_, height, width] = self.media.shape();
        [height, width]
    }

    /// What stands for no class.
    pub(super) fn ignore(&self) -> u8 {
        self.ignore
    }

    /// The mask of a cell in the backbone's size: of every pixel the nearest one's value. What is cut off an image
    /// file is cut off a mask's, too.
    ///
    /// # Errors
    /// A cell that holds no mask, or a value that is no class.
    pub(super) fn read(&self, cell: Cell, column: &str, folder: &Path) -> Result<Vec<u8>, Problem> {
        let kind = |found: String| Problem::Type {
            column: column.to_owned(),
            expected: EXPECTED.to_owned(),
            found,
        };
        let held = self.media.held(cell, column, folder);
        let held = held.map_err(|problem| match problem {
            Problem::Type { found, .. } => kind(found),
            other => other,
        })?;
        let undecodable = |message: String| Problem::Undecodable {
            column: column.to_owned(),
            message,
        };
        let (picture, cut) = match held {
            Held::Bytes(bytes) => {
                let picture = decode(&bytes).map_err(|wrong| match wrong {
                    Wrong::Kind(found) => kind(found),
                    Wrong::Damaged(message) => {
                        undecodable(format!("the mask is damaged: {message}"))
                    }
                })?;
                let cut = self.media.cut(picture.size).map_err(undecodable)?;
                (picture, cut)
            }
            Held::List(list) => {
                let size = self.size();
                let values = self.listed(&list, column)?;
                (Picture { size, values }, Cut::all(size))
            }
            Held::Wave { .. } => return Err(kind("the samples of a sound".to_owned())),
        };
        self.check(&picture, column)?;
        Ok(resized(&picture, &cut))
    }

    /// Values of a list of numbers, or of lists of numbers.
    fn listed(&self, list: &Cell, column: &str) -> Result<Vec<u8>, Problem> {
        let mut numbers = Vec::new();
        flatten(list, column, &mut numbers)?;
        let [height, width] = self.size();
        if numbers.len() != height * width {
            return Err(Problem::ImageSize {
                column: column.to_owned(),
                expected: height * width,
                found: numbers.len(),
            });
        }
        let value = |number: &f32| {
            let whole = number.fract() == 0.0 && (0.0_f32..=255.0).contains(number);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole, from 0 to 255"
            )]
            let value = *number as u8;
            let found = Cell::Float(f64::from(*number));
            let expected = "whole numbers from 0 to 255";
            if whole {
                Ok(value)
            } else {
                Err(mismatch(column, expected, &found))
            }
        };
        numbers.iter().map(value).collect()
    }

    /// Checks that every value is a class or none.
    fn check(&self, picture: &Picture, column: &str) -> Result<(), Problem> {
        let is_wrong = |value: &u8| usize::from(*value) >= self.classes && *value != self.ignore;
        let Some(place) = picture.values.iter().position(is_wrong) else {
            return Ok(());
        };
        let width = picture.size[1].max(1);
        Err(Problem::Type {
            column: column.to_owned(),
            expected: format!(
                "values of 0 to {} (the classes of data.labels) or {} (none; \
                 segmentation.ignore_index)",
                self.classes.saturating_sub(1),
                self.ignore
            ),
            found: format!(
                "{} in row {}, column {} of the mask",
                picture.values[place],
                place / width + 1,
                place % width + 1
            ),
        })
    }
}

/// The values of a PNG as they are stored: grey levels, or places in the palette.
fn decode(bytes: &[u8]) -> Result<Picture, Wrong> {
    if !bytes.starts_with(b"\x89PNG") {
        return Err(Wrong::Kind(describe_bytes(bytes)));
    }
    let damaged = |error: png::DecodingError| Wrong::Damaged(error.to_string());
    let decoder = png::Decoder::new(Cursor::new(bytes));
    let mut reader = decoder.read_info().map_err(damaged)?;
    match reader.output_color_type() {
        (_, BitDepth::Sixteen) => {
            return Err(Wrong::Kind("a PNG of 16 bits a value".to_owned()));
        }
        (ColorType::Grayscale | ColorType::Indexed, _) => {}
        (colors, _) => return Err(Wrong::Kind(format!("a PNG of {colors:?} pixels"))),
    }
    // Eight values may share a byte.
    let pixels = u64::from(reader.info().width) * u64::from(reader.info().height);
    let room = reader.output_buffer_size();
    let room = room.filter(|size| *size <= MOST && pixels <= MOST as u64);
    let Some(room) = room else {
        let message = format!("it says that it has more than {MOST} pixels");
        return Err(Wrong::Damaged(message));
    };
    let mut packed = vec![0; room];
    let info = reader.next_frame(&mut packed).map_err(damaged)?;
    let (height, width) = (info.height as usize, info.width as usize);
    let mut values = Vec::with_capacity(height * width);
    for line in packed.chunks_exact(info.line_size.max(1)).take(height) {
        unpack(line, info.bit_depth as usize, width, &mut values);
    }
    Ok(Picture {
        size: [height, width],
        values,
    })
}

/// Adds the `width` values of a line, of 1, 2, 4 or 8 bits each, the first in the highest bits.
fn unpack(line: &[u8], bits: usize, width: usize, values: &mut Vec<u8>) {
    let lowest = u8::MAX >> (8 - bits.clamp(1, 8));
    values.extend((0..width).map(|x| {
        let at = x * bits;
        let byte = line.get(at / 8).copied().unwrap_or(0);
        (byte >> (8 - bits - at % 8)) & lowest
    }));
}

/// A part of a mask in another size: of every pixel the value of the one that its centre lies in.
fn resized(picture: &Picture, cut: &Cut) -> Vec<u8> {
    if *cut == Cut::all(picture.size) {
        return picture.values.clone();
    }
    let [rows, columns] = picture.size;
    let ([height, width], [top, left]) = (cut.size, cut.start);
    let place = |to: usize, size: usize, from: usize| (2 * to + 1) * from / (2 * size.max(1));
    let mut values = Vec::with_capacity(height * width);
    for y in top..top + height {
        let start = place(y, cut.whole[0], rows) * columns;
        let line = picture.values.get(start..start + columns);
        let line = line.unwrap_or_default();
        let value = |x: usize| {
            let from = place(x, cut.whole[1], columns);
            line.get(from).copied().unwrap_or(0)
        };
        values.extend((left..left + width).map(value));
    }
    values
}

/// A mask of `size` (height, width) as a PNG whose palette gives every class a colour of its own: black,
/// maroon, green, olive, as in the masks of PASCAL VOC. The values are those that are read back.
///
/// # Errors
/// A size that no PNG has, or that the values do not fill.
pub fn mask_png(values: &[u8], [height, width]: [usize; 2]) -> Result<Vec<u8>, String> {
    let side = |size: usize| u32::try_from(size).map_err(|error| error.to_string());
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(width)?, side(height)?);
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_palette((0..=u8::MAX).flat_map(color).collect::<Vec<u8>>());
    let written = encoder
        .write_header()
        .and_then(|mut writer| {
            writer.write_image_data(values)?;
            writer.finish()
        })
        .map_err(|error| error.to_string());
    written.map(|()| bytes)
}

/// Red, green and blue of a class: its bits dealt out to the three in turn, from the highest down.
fn color(class: u8) -> [u8; 3] {
    let channel = |first: u8| {
        let bit = |place: u8| {
            (class.checked_shr(u32::from(3 * place + first)).unwrap_or(0) & 1) << (7 - place)
        };
        bit(0) | bit(1) | bit(2)
    };
    [channel(0), channel(1), channel(2)]
}

#[cfg(test)]
mod tests;
