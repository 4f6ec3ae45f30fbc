//! A symmetric matrix of cosines as a heat map: its colours, and how it looks on a terminal.

use super::Screen;
use super::text::plain;
use crate::view::affinity::Relation;
use espalier_spec::report::{Affinity, TaskPair};
use owo_colors::{Style, XtermColors};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// From the most negative to the most positive: red to blue by way of white, told apart by people
/// who see no difference between red and green too (ColorBrewer's RdBu).
const SCALE: [[u8; 3]; 9] = [
    [0xb2, 0x18, 0x2b],
    [0xd6, 0x60, 0x4d],
    [0xf4, 0xa5, 0x82],
    [0xfd, 0xdb, 0xc7],
    [0xf7, 0xf7, 0xf7],
    [0xd1, 0xe5, 0xf0],
    [0x92, 0xc5, 0xde],
    [0x43, 0x93, 0xc3],
    [0x21, 0x66, 0xac],
];

/// Room for a heading or a row's name before it is cut.
const LONGEST: usize = 24;

/// Tasks by row and column, and the scale of their cosines.
pub(crate) struct Grid<'a> {
    /// Names of the tasks, in order of the job file.
    pub(crate) names: Vec<&'a str>,
    cells: Vec<Vec<Option<&'a TaskPair>>>,
    /// The cosine at which colours are deepest: 0.1, 0.2, 0.5 or 1.
    pub(crate) reach: f64,
}

impl<'a> Grid<'a> {
    /// The matrix of an affinity.
    pub(crate) fn new(affinity: &'a Affinity) -> Self {
        let names: Vec<&str> = affinity
            .tasks
            .iter()
            .map(|task| task.task.as_str())
            .collect();
        let cells = names
            .iter()
            .map(|a| names.iter().map(|b| affinity.pair(a, b)).collect())
            .collect();
        let most = affinity
            .pairs
            .iter()
            .map(|pair| pair.cosine.abs())
            .fold(0.0, f64::max);
        let reach = [0.1, 0.2, 0.5].into_iter().find(|reach| most <= *reach);
        Self {
            names,
            cells,
            reach: reach.unwrap_or(1.0),
        }
    }

    /// The pair of two tasks; none if it is one task or they were never seen together.
    pub(crate) fn pair(&self, row: usize, column: usize) -> Option<&'a TaskPair> {
        self.cells.get(row)?.get(column).copied().flatten()
    }

    /// What fills a pair's cell; none if the evidence claims nothing.
    pub(crate) fn color(&self, pair: &TaskPair) -> Option<[u8; 3]> {
        (Relation::of(pair) != Relation::Unclear).then(|| shade(pair.cosine / self.reach))
    }
}

/// The colour of a value between -1 and 1.
pub(crate) fn shade(value: f64) -> [u8; 3] {
    let last = SCALE.len() - 1;
    let place = (value.clamp(-1.0, 1.0) + 1.0) / 2.0 * last as f64;
    // A value that is no number is drawn as the middle; between the bounds the cast is exact.
    let place = if place.is_nan() {
        last as f64 / 2.0
    } else {
        place
    };
    let below = (place.floor() as usize).min(last - 1);
    let part = place - below as f64;
    let (from, to) = (SCALE[below], SCALE[below + 1]);
    std::array::from_fn(|i| (f64::from(from[i]) * (1.0 - part) + f64::from(to[i]) * part) as u8)
}

/// Whether black is easier to read than white on a colour (relative luminance of ITU-R BT.709).
pub(crate) fn is_light([red, green, blue]: [u8; 3]) -> bool {
    0.2126 * f64::from(red) + 0.7152 * f64::from(green) + 0.0722 * f64::from(blue) > 120.0
}

/// How numbers and headings are written, given the room.
#[derive(Clone, Copy, PartialEq)]
enum Room {
    /// Names above the columns.
    Names(usize),
    /// Numbers above the columns.
    Numbers,
    /// Numbers above the columns, cosines in hundredths.
    Hundredths,
}

impl Room {
    fn cell(self) -> usize {
        match self {
            Room::Names(widest) => widest.max(5) + 2,
            Room::Numbers => 7,
            Room::Hundredths => 5,
        }
    }

    fn number(self, cosine: f64) -> String {
        match self {
            Room::Names(_) | Room::Numbers => format!("{cosine:+.2}"),
            Room::Hundredths => format!("{:+.0}", cosine * 100.0),
        }
    }
}

/// The heat map in lines of at most `width` columns where that is possible at all, and a legend.
pub(crate) fn render(grid: &Grid<'_>, screen: &Screen, width: usize) -> String {
    let name = |name: &&str| cut(&plain(name), LONGEST);
    let names: Vec<String> = grid.names.iter().map(name).collect();
    let widest = names.iter().map(|name| name.width()).max().unwrap_or(0);
    let digits = names.len().to_string().len();
    let tasks = names.len();
    let fits = |room: Room, label: usize| label + tasks * room.cell() <= width;
    let numbered = digits + 1 + widest;
    let (room, label) = if fits(Room::Names(widest), widest) {
        (Room::Names(widest), widest)
    } else if fits(Room::Numbers, numbered) {
        (Room::Numbers, numbered)
    } else {
        (Room::Hundredths, numbered)
    };
    let columns = (width.saturating_sub(label) / room.cell()).clamp(1, tasks.max(1));
    let mut out = String::new();
    for start in (0..tasks).step_by(columns) {
        let columns = start..(start + columns).min(tasks);
        if start > 0 {
            out.push('\n');
        }
        let mut line = " ".repeat(label);
        for column in columns.clone() {
            let heading = match room {
                Room::Names(_) => names[column].clone(),
                Room::Numbers | Room::Hundredths => (column + 1).to_string(),
            };
            line.push_str(&screen.paint(&centre(&heading, room.cell()), Style::new().bold()));
        }
        out.push_str(line.trim_end());
        out.push('\n');
        for (row, name) in names.iter().enumerate() {
            let gap = " ".repeat(widest - name.width());
            let mut line = match room {
                Room::Names(_) => format!("{name}{gap}"),
                Room::Numbers | Room::Hundredths => format!("{:>digits$} {name}{gap}", row + 1),
            };
            for column in columns.clone() {
                line.push_str(&cell(grid, row, column, room, screen));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out.push('\n');
    out.push_str(&legend(grid, room, screen));
    out
}

fn cell(grid: &Grid<'_>, row: usize, column: usize, room: Room, screen: &Screen) -> String {
    let Some(pair) = grid.pair(row, column) else {
        let text = if row == column { "·" } else { "-" };
        return centre(text, room.cell());
    };
    let text = centre(&room.number(pair.cosine), room.cell());
    match grid.color(pair) {
        Some(color) => screen.paint(&text, filled(color)),
        None => screen.paint(&text, Style::new().dimmed()),
    }
}

/// The scale in words and, on a colourful screen, in colours.
fn legend(grid: &Grid<'_>, room: Room, screen: &Screen) -> String {
    let unit = match room {
        Room::Hundredths => "hundredths of the ",
        Room::Names(_) | Room::Numbers => "",
    };
    let mut text = format!("{unit}cosine of task gradients: below 0 hurts, above 0 helps");
    if screen.color {
        let steps = [-1.0, -0.5, 0.0, 0.5, 1.0];
        let scale: String = steps
            .iter()
            .map(|step| {
                let number = format!("{:+.2}", step * grid.reach);
                screen.paint(&centre(&number, 7), filled(shade(*step)))
            })
            .collect();
        text = format!("{scale}\n{text}; without colour: no clear relation");
    }
    text.push('\n');
    text
}

fn filled(color: [u8; 3]) -> Style {
    let text = if is_light(color) { 16 } else { 231 };
    Style::new()
        .color(XtermColors::from(text))
        .on_color(XtermColors::from(xterm(color)))
}

/// The nearest colour of the 6×6×6 cube that every colourful terminal has.
fn xterm(color: [u8; 3]) -> u8 {
    let level = |part: u8| match part {
        0..48 => 0,
        48..115 => 1,
        _ => (part - 35) / 40,
    };
    let [red, green, blue] = color.map(level);
    16 + 36 * red + 6 * green + blue
}

/// Text in the middle of `width` columns.
fn centre(text: &str, width: usize) -> String {
    let room = width.saturating_sub(text.width());
    let left = room.div_ceil(2);
    format!("{}{text}{}", " ".repeat(left), " ".repeat(room - left))
}

/// Text of at most `width` columns, its end replaced by `…` where it is longer.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut room = width.saturating_sub(1);
    for c in text.chars() {
        let Some(rest) = room.checked_sub(c.width().unwrap_or(0)) else {
            break;
        };
        room = rest;
        short.push(c);
    }
    short + "…"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::affinity::tests::sample;

    const PLAIN: Screen = Screen {
        terminal: false,
        color: false,
    };

    fn three() -> Affinity {
        sample(
            &[("section", 1.0), ("role", 1.0), ("toxicity", 1.0)],
            &[
                ("section", "role", 0.31, 0.12, 400),
                ("section", "toxicity", -0.2, 0.3, 400),
            ],
        )
    }

    fn lines(width: usize) -> Vec<String> {
        let text = render(&Grid::new(&three()), &PLAIN, width);
        text.lines().map(str::to_owned).collect()
    }

    fn twelve() -> (Vec<String>, Vec<(usize, usize)>) {
        let names = (0..12).map(|k| format!("task_{k}_of_a_dozen_with_long_names"));
        let pairs = (0..12).flat_map(|i| (i + 1..12).map(move |j| (i, j)));
        (names.collect(), pairs.collect())
    }

    fn affinity(names: &[String], pairs: &[(usize, usize)]) -> Affinity {
        let tasks: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(i, j)| {
                let cosine = (*i as f64 - *j as f64 + 5.0) / 10.0;
                (names[*i].as_str(), names[*j].as_str(), cosine, 0.1, 100)
            })
            .collect();
        sample(&tasks, &pairs)
    }

    #[test]
    fn a_wide_page_has_names_on_both_sides() {
        // Promise: where there is room the matrix reads without looking numbers up.
        let expected = [
            "          section    role    toxicity",
            "section      ·       +0.31     -0.20",
            "role       +0.31       ·         -",
            "toxicity   -0.20       -         ·",
            "",
            "cosine of task gradients: below 0 hurts, above 0 helps",
        ];
        assert_eq!(lines(80), expected);
    }

    #[test]
    fn a_narrow_page_has_numbers() {
        // Promise: less room costs the names above, then decimals, but no cell.
        let numbers = [
            "             1      2      3",
            "1 section    ·    +0.31  -0.20",
            "2 role     +0.31    ·      -",
            "3 toxicity -0.20    -      ·",
            "",
            "cosine of task gradients: below 0 hurts, above 0 helps",
        ];
        assert_eq!(lines(35), numbers);
        let hundredths = [
            "            1    2    3",
            "1 section   ·   +31  -20",
            "2 role     +31   ·    -",
            "3 toxicity -20   -    ·",
            "",
            "hundredths of the cosine of task gradients: below 0 hurts, above 0 helps",
        ];
        assert_eq!(lines(28), hundredths);
        let parts = [
            "            1    2",
            "1 section   ·   +31",
            "2 role     +31   ·",
            "3 toxicity -20   -",
            "",
            "            3",
            "1 section  -20",
            "2 role      -",
            "3 toxicity  ·",
            "",
            "hundredths of the cosine of task gradients: below 0 hurts, above 0 helps",
        ];
        assert_eq!(lines(21), parts);
    }

    #[test]
    fn every_line_fits() {
        // Promise: twelve tasks with long names stay within 80 columns, on any wider page too, and
        // each pair is there twice.
        let (names, pairs) = twelve();
        let affinity = affinity(&names, &pairs);
        for width in [40, 60, 80, 100, 140, 400] {
            let text = render(&Grid::new(&affinity), &PLAIN, width);
            let map = text.split("\n\n").filter(|part| !part.contains("cosine"));
            let map: Vec<&str> = map.flat_map(str::lines).collect();
            let longest = map.iter().map(|line| line.width()).max();
            assert!(longest.is_some_and(|longest| longest <= width), "{text}");
            let numbers: usize = map
                .iter()
                .map(|line| line.matches(['+', '-']).count())
                .sum();
            assert_eq!(numbers, 2 * pairs.len(), "{text}");
        }
    }

    #[test]
    fn one_task_is_a_dot() {
        // Promise: a matrix without pairs is drawn, not divided by.
        let one = sample(&[("only", 1.0)], &[]);
        let text = render(&Grid::new(&one), &PLAIN, 80);
        assert!(text.starts_with("      only\nonly   ·\n"), "{text}");
        let none = render(&Grid::new(&Affinity::default()), &PLAIN, 80);
        assert!(none.contains("cosine"), "{none}");
    }

    #[test]
    fn colours_do_not_shift_cells() {
        // Promise: without its colour codes the colourful map is the plain one, and only claims
        // are coloured.
        let mut affinity = three();
        affinity.pairs[1].steps = 2;
        let grid = Grid::new(&affinity);
        let screen = Screen {
            terminal: true,
            color: true,
        };
        let color = render(&grid, &screen, 80);
        let mut stripped = String::new();
        for (index, part) in color.split('\u{1b}').enumerate() {
            let text = part.split_once('m').filter(|_| index > 0);
            stripped.push_str(text.map_or(part, |(_, text)| text));
        }
        let head = |text: &str| -> Vec<String> {
            let lines = text.lines().take(4);
            lines.map(|line| line.trim_end().to_owned()).collect()
        };
        assert_eq!(head(&stripped), head(&render(&grid, &PLAIN, 80)));
        let filled = color.lines().take(4).map(|l| l.matches("48;5;").count());
        assert_eq!(filled.sum::<usize>(), 2, "{color:?}");
    }

    #[test]
    fn the_scale_diverges() {
        // Promise: opposite values have opposite colours, the middle is white, and text on each is
        // readable.
        assert_eq!(shade(-1.0), SCALE[0]);
        assert_eq!(shade(7.0), SCALE[8]);
        assert_eq!(shade(0.0), SCALE[4]);
        assert_eq!(shade(f64::NAN), SCALE[4]);
        assert_eq!(
            [shade(-1.0), shade(0.0), shade(1.0)].map(is_light),
            [false, true, false]
        );
        assert_eq!(Grid::new(&three()).reach, 0.5);
        assert_eq!([xterm([0, 0, 0]), xterm([255, 255, 255])], [16, 231]);
    }

    #[test]
    fn long_text_is_cut_by_columns() {
        // Promise: a name is cut at its width on the screen, not at its number of characters.
        assert_eq!(cut("section", 7), "section");
        assert_eq!(cut("sections", 7), "sectio…");
        assert_eq!(cut("日本語日本語", 6), "日本…");
    }
}
