//! Pictures to keep or to send: the heat map of an affinity as SVG or PNG.
//!
//! A picture is a list of rectangles and texts; both formats draw the same list.

mod font;
mod png;
mod svg;

pub(crate) use png::png;
pub(crate) use svg::svg;

use crate::output::heat::{Grid, cut, is_light, shade};

/// Red, green, blue.
pub(crate) type Color = [u8; 3];

const WHITE: Color = [255; 3];
const BLACK: Color = [0x20; 3];
const GREY: Color = [0x80; 3];
const EMPTY: Color = [0xec; 3];

/// A picture in pixels, on white.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) shapes: Vec<Shape>,
}

/// What a picture is made of, later ones over earlier ones.
#[derive(Debug, PartialEq)]
pub(crate) enum Shape {
    /// A filled rectangle.
    Rect {
        x: u32,
        y: u32,
        width: u32,
        height: u32,
        color: Color,
    },
    /// A line of text; `y` is its middle.
    Text {
        x: u32,
        y: u32,
        anchor: Anchor,
        color: Color,
        text: String,
    },
}

/// Which end of a text its `x` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Width of a character and height of a capital, both formats alike.
pub(crate) const ADVANCE: u32 = 2 * font::ADVANCE;
pub(crate) const CAPITAL: u32 = 2 * font::HEIGHT;

const MARGIN: u32 = 20;
const LINE: u32 = 28;
const CELL: u32 = 76;
const ROW: u32 = 40;
/// Characters of a task's name before it is cut.
const LONGEST: usize = 32;

/// The heat map of a grid under a title.
pub(crate) fn heat_map(grid: &Grid<'_>, title: &str) -> Picture {
    let names: Vec<String> = (1..)
        .zip(&grid.names)
        .map(|(number, name)| format!("{} {number}", cut(name, LONGEST)))
        .collect();
    let tasks = names.len() as u32;
    let wide = |text: &str| text.chars().count() as u32 * ADVANCE;
    let label = names.iter().map(|name| wide(name)).max().unwrap_or(0) + ADVANCE;
    let left = MARGIN + label;
    let top = MARGIN + 2 * LINE;
    let bottom = top + tasks * ROW;
    let note = "cosine of task gradients; grey: no clear relation";
    let legend = SCALE.len() as u32 * CELL;
    let width = [
        left + tasks * CELL,
        MARGIN + wide(title),
        MARGIN + wide(note),
    ]
    .into_iter()
    .chain([MARGIN + legend])
    .max()
    .unwrap_or(0);
    let mut picture = Picture {
        width: width + MARGIN,
        height: bottom + LINE + ROW + LINE + MARGIN,
        shapes: Vec::new(),
    };
    picture.text(MARGIN, MARGIN + LINE / 2, Anchor::Start, BLACK, title);
    for (row, name) in (0..).zip(&names) {
        let y = top + row * ROW + ROW / 2;
        picture.text(left - ADVANCE, y, Anchor::End, BLACK, name);
        let number = (row + 1).to_string();
        let x = left + row * CELL + CELL / 2;
        picture.text(x, top - LINE / 2, Anchor::Middle, BLACK, &number);
        for column in 0..tasks {
            let (x, y) = (left + column * CELL, top + row * ROW);
            match grid.pair(row as usize, column as usize) {
                Some(pair) => {
                    let number = format!("{:+.2}", pair.cosine);
                    match grid.color(pair) {
                        Some(color) => picture.cell(x, y, color, ink(color), &number),
                        None => picture.cell(x, y, EMPTY, GREY, &number),
                    }
                }
                None if row == column => picture.cell(x, y, WHITE, GREY, ""),
                None => picture.cell(x, y, EMPTY, GREY, "-"),
            }
        }
    }
    for (index, part) in (0..).zip(SCALE) {
        let color = shade(part);
        let number = format!("{:+.2}", part * grid.reach);
        let x = MARGIN + index * CELL;
        picture.cell(x, bottom + LINE, color, ink(color), &number);
    }
    let y = bottom + LINE + ROW + LINE / 2;
    picture.text(MARGIN, y, Anchor::Start, GREY, note);
    picture
}

/// Where the legend shows the scale.
const SCALE: [f64; 5] = [-1.0, -0.5, 0.0, 0.5, 1.0];

/// Text that is easy to read on a colour.
fn ink(color: Color) -> Color {
    if is_light(color) { BLACK } else { WHITE }
}

impl Picture {
    fn text(&mut self, x: u32, y: u32, anchor: Anchor, color: Color, text: &str) {
        let text = text.to_owned();
        self.shapes.push(Shape::Text {
            x,
            y,
            anchor,
            color,
            text,
        });
    }

    /// A rectangle with a gap around it and text in its middle.
    fn cell(&mut self, x: u32, y: u32, color: Color, ink: Color, text: &str) {
        self.shapes.push(Shape::Rect {
            x: x + 1,
            y: y + 1,
            width: CELL - 2,
            height: ROW - 2,
            color,
        });
        if !text.is_empty() {
            self.text(x + CELL / 2, y + ROW / 2, Anchor::Middle, ink, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::affinity::tests::sample;

    #[test]
    fn everything_lies_inside() {
        // Promise: no cell and no text is cut off, however long the names and however few the
        // tasks.
        let long = "n".repeat(60);
        for names in [
            vec!["a"],
            vec!["a", long.as_str()],
            vec!["a", "b", "c", "d", "e"],
        ] {
            let tasks: Vec<(&str, f64)> = names.iter().map(|name| (*name, 1.0)).collect();
            let pairs = [("a", "b", -0.4, 0.1, 100)];
            let affinity = sample(&tasks, if names.len() > 2 { &pairs } else { &[] });
            let picture = heat_map(&Grid::new(&affinity), "job: a title that is a bit longer");
            for shape in &picture.shapes {
                let (left, right, top, bottom) = bounds(shape);
                assert!(left >= 0 && top >= 0, "{shape:?}");
                assert!(right <= i64::from(picture.width), "{shape:?}");
                assert!(bottom <= i64::from(picture.height), "{shape:?}");
            }
        }
    }

    /// Left, right, top and bottom of a shape.
    fn bounds(shape: &Shape) -> (i64, i64, i64, i64) {
        match shape {
            Shape::Rect {
                x,
                y,
                width,
                height,
                ..
            } => (
                i64::from(*x),
                i64::from(x + width),
                i64::from(*y),
                i64::from(y + height),
            ),
            Shape::Text {
                x, y, anchor, text, ..
            } => {
                let width = i64::from(ADVANCE) * text.chars().count() as i64;
                let left = i64::from(*x)
                    - match anchor {
                        Anchor::Start => 0,
                        Anchor::Middle => width / 2,
                        Anchor::End => width,
                    };
                let half = i64::from(CAPITAL / 2);
                let y = i64::from(*y);
                (left, left + width, y - half, y + half)
            }
        }
    }
}
