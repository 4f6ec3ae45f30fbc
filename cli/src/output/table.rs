//! Tables as kubectl prints them: upper-case headings, columns apart by spaces, no lines.

use super::Screen;
use owo_colors::Style;
use unicode_width::UnicodeWidthStr;

/// A cell: text and how it looks on a colourful screen.
pub(crate) struct Cell {
    text: String,
    style: Option<Style>,
    right: bool,
}

impl Cell {
    /// Text in a style.
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self {
            style: Some(style),
            ..Self::from(text.into())
        }
    }

    /// The same text in a style.
    pub(crate) fn painted(self, style: Style) -> Self {
        Self {
            style: Some(style),
            ..self
        }
    }

    /// A number: at the right edge of its column.
    pub(crate) fn right(text: impl Into<String>) -> Self {
        Self {
            right: true,
            ..Self::from(text.into())
        }
    }
}

impl From<String> for Cell {
    /// Control characters, which could forge rows or colours, become spaces.
    fn from(text: String) -> Self {
        let text = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Self {
            text,
            style: None,
            right: false,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

/// A table; rows may be shorter than the headings.
pub(crate) struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self {
            headings: headings.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as lines, each with a line end and behind `indent` spaces.
    pub(crate) fn render(&self, screen: &Screen, indent: usize) -> String {
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let widest = cells.map(|cell| cell.text.width()).max().unwrap_or(0);
                widest.max(self.headings[column].width())
            })
            .collect();
        let right: Vec<bool> = (0..self.headings.len())
            .map(|column| {
                self.rows
                    .iter()
                    .any(|row| row.get(column).is_some_and(|c| c.right))
            })
            .collect();
        let mut text = String::new();
        let headings: Vec<Cell> = self
            .headings
            .iter()
            .zip(&right)
            .map(|(heading, right)| Cell {
                right: *right,
                ..Cell::styled(heading.clone(), Style::new().bold())
            })
            .collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = " ".repeat(indent);
            for (column, cell) in row.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                let gap = " ".repeat(width.saturating_sub(cell.text.width()));
                let shown = match cell.style {
                    Some(style) => screen.paint(&cell.text, style),
                    None => cell.text.clone(),
                };
                let separator = if column == 0 { "" } else { "   " };
                line.push_str(separator);
                line.push_str(&if cell.right {
                    gap + &shown
                } else {
                    shown + &gap
                });
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Cell, Screen, Table};
    use owo_colors::Style;

    fn table() -> Table {
        let mut table = Table::new(["NAME", "STATE", "STEP"]);
        table.row([
            Cell::from("a"),
            Cell::styled("RUNNING", Style::new().green()),
            Cell::right("7"),
        ]);
        table.row([
            Cell::from("日本"),
            Cell::from("x\u{1b}[31m\ny"),
            Cell::right("1,000"),
        ]);
        table
    }

    #[test]
    fn columns_line_up() {
        // Columns line up for wide characters too, and a cell can't forge rows or colours.
        let plain = Screen {
            terminal: false,
            color: false,
        };
        assert_eq!(
            table().render(&plain, 2),
            "  NAME   STATE       STEP\n  a      RUNNING        7\n  日本   x [31m y   1,000\n"
        );
    }

    #[test]
    fn colours_do_not_shift_columns() {
        // Without its colour codes the colourful table is the plain one.
        let color = table().render(
            &Screen {
                terminal: true,
                color: true,
            },
            0,
        );
        assert!(color.contains("\u{1b}[32mRUNNING\u{1b}[0m"), "{color:?}");
        let plain = table().render(
            &Screen {
                terminal: false,
                color: false,
            },
            0,
        );
        let stripped = ["\u{1b}[1m", "\u{1b}[0m", "\u{1b}[32m"]
            .iter()
            .fold(color, |text, code| text.replace(code, ""));
        assert_eq!(stripped, plain);
    }
}
