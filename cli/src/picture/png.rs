//! Pictures as PNG: drawn dot by dot in 24-bit colour.

use super::{ADVANCE, Anchor, CAPITAL, Color, Picture, Shape, font};
use crate::error::{Error, Result};

/// Pixels of one dot of the lettering.
const DOT: u32 = ADVANCE / font::ADVANCE;

/// The picture as the bytes of a PNG file.
///
/// # Errors
/// The picture is too large to be encoded.
pub(crate) fn png(picture: &Picture) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&Canvas::draw(picture).pixels));
    written.map_err(|error| {
        let (width, height) = (picture.width, picture.height);
        Error::failure(format!(
            "can't encode a picture of {width} by {height} pixels as PNG: {error}"
        ))
        .hint("--svg has no such limit")
    })?;
    Ok(bytes)
}

/// Rows of pixels of three bytes.
struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Canvas {
    fn draw(picture: &Picture) -> Self {
        let (width, height) = (picture.width, picture.height);
        let mut canvas = Self {
            width,
            height,
            pixels: vec![255; 3 * width as usize * height as usize],
        };
        for shape in &picture.shapes {
            match shape {
                Shape::Rect {
                    x,
                    y,
                    width,
                    height,
                    color,
                } => canvas.fill(*x, *y, *width, *height, *color),
                Shape::Text {
                    x,
                    y,
                    anchor,
                    color,
                    text,
                } => {
                    // The last character has no gap behind it.
                    let wide = (text.chars().count() as u32 * ADVANCE).saturating_sub(DOT);
                    let left = match anchor {
                        Anchor::Start => *x,
                        Anchor::Middle => x.saturating_sub(wide / 2),
                        Anchor::End => x.saturating_sub(wide),
                    };
                    canvas.text(left, y.saturating_sub(CAPITAL / 2), *color, text);
                }
            }
        }
        canvas
    }

    /// Fills the part of a rectangle that lies on the canvas.
    fn fill(&mut self, x: u32, y: u32, width: u32, height: u32, color: Color) {
        let columns = x.min(self.width)..x.saturating_add(width).min(self.width);
        for row in y.min(self.height)..y.saturating_add(height).min(self.height) {
            for column in columns.clone() {
                let start = 3 * (row as usize * self.width as usize + column as usize);
                self.pixels[start..start + 3].copy_from_slice(&color);
            }
        }
    }

    fn text(&mut self, mut x: u32, y: u32, color: Color, text: &str) {
        for c in text.chars() {
            for (column, dots) in (0..).zip(font::glyph(c)) {
                for row in (0..8).filter(|row| dots >> row & 1 == 1) {
                    self.fill(x + column * DOT, y + row * DOT, DOT, DOT, color);
                }
            }
            x = x.saturating_add(ADVANCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_can_be_read_back() {
        // Promise: the file is a PNG of the picture's size, its shapes where they belong, clipped
        // at the edges.
        let picture = Picture {
            width: 40,
            height: 30,
            shapes: vec![
                Shape::Rect {
                    x: 30,
                    y: 20,
                    width: 50,
                    height: 50,
                    color: [1, 2, 3],
                },
                Shape::Text {
                    x: 20,
                    y: 10,
                    anchor: Anchor::Middle,
                    color: [9; 3],
                    text: "I".to_owned(),
                },
            ],
        };
        let bytes = png(&picture).expect("encoded");
        let decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        let mut reader = decoder.read_info().expect("a header");
        let mut pixels = vec![0; 3 * 40 * 30];
        let info = reader.next_frame(&mut pixels).expect("pixels");
        assert_eq!((info.width, info.height), (40, 30));
        let pixel = |x: usize, y: usize| pixels[3 * (y * 40 + x)..][..3].to_vec();
        assert_eq!(pixel(39, 29), [1, 2, 3]);
        assert_eq!(pixel(29, 29), [255; 3]);
        // The stem of the letter, two pixels wide.
        assert_eq!([pixel(19, 10), pixel(20, 10)], [[9; 3], [9; 3]]);
        assert_eq!([pixel(18, 10), pixel(21, 10)], [[255; 3], [255; 3]]);
    }
}
