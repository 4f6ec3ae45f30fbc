//! Pictures as SVG.

use super::{ADVANCE, Anchor, CAPITAL, Color, Picture, Shape};
use std::fmt::Write;

/// The picture as one SVG document.
pub(crate) fn svg(picture: &Picture) -> String {
    let (width, height) = (picture.width, picture.height);
    // Monospaced fonts are 0.6 of their size wide, capitals about 0.7 of it high.
    let size = ADVANCE * 10 / 6;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"ui-monospace, Menlo, Consolas, monospace\" \
         font-size=\"{size}\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    // Writing to a String can't fail.
    for shape in &picture.shapes {
        let _ = match shape {
            Shape::Rect {
                x,
                y,
                width,
                height,
                color,
            } => writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>",
                hex(*color)
            ),
            Shape::Text {
                x,
                y,
                anchor,
                color,
                text,
            } => writeln!(
                out,
                "<text x=\"{x}\" y=\"{}\" text-anchor=\"{}\" fill=\"{}\">{}</text>",
                y + CAPITAL / 2,
                match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                },
                hex(*color),
                escaped(text)
            ),
        };
    }
    out.push_str("</svg>\n");
    out
}

fn hex([red, green, blue]: Color) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// Text that can't end its element; control characters, which XML can't hold, become spaces.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_one_document() {
        // Promise: shapes keep their order and colours, and text can't break out of its element.
        let picture = Picture {
            width: 100,
            height: 50,
            shapes: vec![
                Shape::Rect {
                    x: 1,
                    y: 2,
                    width: 3,
                    height: 4,
                    color: [255, 0, 16],
                },
                Shape::Text {
                    x: 50,
                    y: 25,
                    anchor: Anchor::Middle,
                    color: [0; 3],
                    text: "</text><&\u{1b}".to_owned(),
                },
            ],
        };
        let text = svg(&picture);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("<svg ") && lines[0].contains("viewBox=\"0 0 100 50\""));
        assert_eq!(
            lines[1..],
            [
                "<rect width=\"100\" height=\"50\" fill=\"#ffffff\"/>",
                "<rect x=\"1\" y=\"2\" width=\"3\" height=\"4\" fill=\"#ff0010\"/>",
                "<text x=\"50\" y=\"32\" text-anchor=\"middle\" fill=\"#000000\">\
                 &lt;/text&gt;&lt;&amp; </text>",
                "</svg>",
            ]
        );
    }
}
