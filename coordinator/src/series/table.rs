//! Figures that are reported together: one row a report. A table never outgrows its room: where it
//! would, every two rows become one, and from then on a row takes in that many more reports.

use super::column::{Cell, Column};
use std::collections::BTreeMap;
use std::ops::Range;

/// Columns of a table; further figures are left out.
const COLUMNS: usize = 512;
/// Rows that a table has room for, however many columns it has.
const LEAST_ROWS: usize = 256;

/// How much a table holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Rows times columns, of single values.
    pub(super) cells: usize,
    /// Rows.
    pub(super) rows: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            cells: 1 << 21,
            rows: 1 << 17,
        }
    }
}

/// Figures that are reported together.
#[derive(Clone, Debug)]
pub(super) struct Table {
    room: Room,
    /// Reports that a row takes in.
    stride: u64,
    /// Reports that the last row has.
    taken: u64,
    /// Last step of each row, rising.
    steps: Vec<u64>,
    columns: Vec<Column>,
    index: BTreeMap<String, usize>,
}

/// One series, thinned out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line {
    /// Its name.
    pub(crate) name: String,
    /// Last step of each point.
    pub(crate) steps: Vec<u64>,
    /// Mean of each point.
    pub(crate) means: Vec<f64>,
    /// Smallest value of each point; empty if every point is one value.
    pub(crate) lows: Vec<f64>,
    /// Largest value of each point; empty if every point is one value.
    pub(crate) highs: Vec<f64>,
}

impl Table {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            stride: 1,
            taken: 0,
            steps: Vec::new(),
            columns: Vec::new(),
            index: BTreeMap::new(),
        }
    }

    /// The newest step.
    pub(super) fn last_step(&self) -> Option<u64> {
        self.steps.last().copied()
    }

    /// Names of the columns, in order of their numbers.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// The number of a figure's column; none if there is none yet.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Adds a column. False: there is one of this name, or no room.
    pub(super) fn add_column(&mut self, name: &str) -> bool {
        if self.columns.len() >= COLUMNS || self.index.contains_key(name) {
            return false;
        }
        let column = Column::new(name.to_owned(), self.steps.len(), self.stride > 1);
        self.index.insert(name.to_owned(), self.columns.len());
        self.columns.push(column);
        self.thin();
        true
    }

    /// Adds a report: a value of each column in order (NaN: absent; those at the end may be left
    /// out). False: it is not newer than the newest.
    pub(super) fn push(&mut self, step: u64, values: &[f32]) -> bool {
        if self.last_step().is_some_and(|last| step <= last) {
            return false;
        }
        let values = values.iter().copied().chain(std::iter::repeat(f32::NAN));
        match self.steps.last_mut() {
            Some(last) if self.taken < self.stride => {
                *last = step;
                self.taken += 1;
                for (column, value) in self.columns.iter_mut().zip(values) {
                    column.merge(value);
                }
            }
            _ => {
                self.steps.push(step);
                self.taken = 1;
                for (column, value) in self.columns.iter_mut().zip(values) {
                    column.push(Cell::of(value));
                }
                self.thin();
            }
        }
        true
    }

    /// Adds a row that was merged before; for a table that is read again.
    pub(super) fn push_row(&mut self, step: u64, taken: u64, cells: &[Cell]) -> bool {
        if self.last_step().is_some_and(|last| step <= last) || self.stride == 1 {
            return false;
        }
        let cells = cells.iter().copied();
        let cells = cells.chain(std::iter::repeat(Cell::of(f32::NAN)));
        self.steps.push(step);
        self.taken = taken;
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.push(cell);
        }
        self.thin();
        true
    }

    /// Lets rows take in so many reports; only while there are none.
    pub(super) fn set_stride(&mut self, stride: u64) -> bool {
        if !self.steps.is_empty() || stride < 2 {
            return false;
        }
        self.stride = stride;
        // Columns that are there already hold no rows: they begin anew as merged ones.
        for column in &mut self.columns {
            *column = Column::new(std::mem::take(&mut column.name), 0, true);
        }
        true
    }

    /// Reports that a row takes in.
    pub(super) fn stride(&self) -> u64 {
        self.stride
    }

    /// Rows.
    pub(super) fn rows(&self) -> usize {
        self.steps.len()
    }

    /// Columns.
    pub(super) fn width(&self) -> usize {
        self.columns.len()
    }

    /// A row: its last step, the reports that it has, a cell of each column.
    pub(super) fn row(&self, row: usize) -> (u64, u64, impl Iterator<Item = Cell>) {
        let last = row + 1 == self.steps.len();
        let taken = if last { self.taken } else { self.stride };
        let cells = self.columns.iter().map(move |column| column.row(row));
        (self.steps[row], taken, cells)
    }

    /// The rows of these steps, `to` included.
    pub(super) fn range(&self, from: u64, to: u64) -> Range<usize> {
        let start = self.steps.partition_point(|step| *step < from);
        let end = self.steps.partition_point(|step| *step <= to);
        start..end.max(start)
    }

    /// A figure over some rows in at most `points` points. Points stand for as many rows each, and
    /// end where they end in every range: a chart that moves or grows does not flicker.
    pub(super) fn line(&self, column: usize, rows: Range<usize>, points: usize) -> Line {
        let column = &self.columns[column];
        let mut line = Line {
            name: column.name.clone(),
            ..Line::default()
        };
        if rows.is_empty() {
            return line;
        }
        let (first, last) = (rows.start, rows.end - 1);
        let mut width = 1;
        while last / width - first / width >= points.max(1) {
            width *= 2;
        }
        let mut single = true;
        for group in first / width..=last / width {
            let from = (group * width).max(rows.start);
            let to = ((group + 1) * width).min(rows.end);
            let sum = column.sum(from..to);
            if sum.count() == 0 {
                continue;
            }
            single &= sum.count() == 1;
            let cell = sum.cell();
            line.steps.push(self.steps[to - 1]);
            line.means.push(f64::from(cell.mean));
            line.lows.push(f64::from(cell.low));
            line.highs.push(f64::from(cell.high));
        }
        if single {
            line.lows.clear();
            line.highs.clear();
        }
        line
    }

    /// Rows that there is room for; merged ones take four times as much.
    fn most_rows(&self) -> usize {
        let cells = match self.stride {
            1 => self.room.cells,
            _ => self.room.cells / 4,
        };
        let rows = cells / self.columns.len().max(1);
        rows.min(self.room.rows).max(LEAST_ROWS)
    }

    fn thin(&mut self) {
        while self.steps.len() > self.most_rows() {
            let odd = !self.steps.len().is_multiple_of(2);
            let last = self.steps.last().copied();
            let mut halved: Vec<u64> = self.steps.iter().skip(1).step_by(2).copied().collect();
            halved.extend(last.filter(|_| odd));
            self.steps = halved;
            self.taken += if odd { 0 } else { self.stride };
            self.stride *= 2;
            for column in &mut self.columns {
                column.halve();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    const SMALL: Room = Room {
        cells: 600,
        rows: 300,
    };

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

        // Promise: whatever was thinned and however few points are asked for, the points of the whole
        // run are all its values: their extremes exactly, their mean, each step once and in order.
        #[test]
        fn points_are_all_values(
            values in prop::collection::vec((1u64..5, -10f32..10.0), 1..2000),
            points in 1usize..400,
        ) {
            let mut table = Table::new(SMALL);
            table.add_column("a");
            let mut step = 0;
            for (index, (gap, value)) in values.iter().enumerate() {
                if index == 100 {
                    table.add_column("b");
                }
                step += gap;
                prop_assert!(table.push(step, &[*value, 1.0]));
                prop_assert!(!table.push(step, &[*value]));
            }
            prop_assert!(table.rows() <= 300);
            let line = table.line(0, table.range(0, u64::MAX), points);
            prop_assert!(!line.steps.is_empty() && line.steps.len() <= points);
            prop_assert!(line.steps.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(line.steps.last().copied(), Some(step));
            let all = || values.iter().map(|(_, value)| f64::from(*value));
            let low = all().fold(f64::INFINITY, f64::min);
            let high = all().fold(f64::NEG_INFINITY, f64::max);
            let bounds = if line.lows.is_empty() { [&line.means; 2] } else { [&line.lows, &line.highs] };
            prop_assert_eq!(bounds[0].iter().copied().fold(f64::INFINITY, f64::min), low);
            prop_assert_eq!(bounds[1].iter().copied().fold(f64::NEG_INFINITY, f64::max), high);
            let one = table.line(0, table.range(0, u64::MAX), 1);
            let mean = all().sum::<f64>() / values.len() as f64;
            prop_assert!((one.means[0] - mean).abs() < 1e-4, "{} {mean}", one.means[0]);
        }
    }

    // Promise: while nothing was thinned, points are the values themselves, and a range holds the steps that
    // it names and no others.
    #[test]
    fn raw_values() {
        let mut table = Table::new(SMALL);
        table.add_column("a");
        for step in 1..=200 {
            table.push(step, &[step as f32]);
        }
        let line = table.line(0, table.range(50, 52), 1000);
        assert_eq!(line.steps, [50, 51, 52]);
        assert_eq!(line.means, [50.0, 51.0, 52.0]);
        assert!(line.lows.is_empty() && line.highs.is_empty());
        assert!(table.line(0, table.range(201, 300), 10).steps.is_empty());
        assert!(table.line(0, table.range(9, 3), 10).steps.is_empty());
    }

    // Promise: points of a range that grows or moves stay as they were, but for those at its ends.
    #[test]
    fn points_stay() {
        let mut table = Table::new(SMALL);
        table.add_column("a");
        for step in 1..=240 {
            table.push(step, &[(step * 7 % 31) as f32]);
        }
        let wide = table.line(0, table.range(1, 200), 60);
        let moved = table.line(0, table.range(21, 220), 60);
        let common: Vec<u64> = moved
            .steps
            .iter()
            .copied()
            .filter(|step| *step < 200)
            .collect();
        assert!(common.len() > 30);
        assert!(common.iter().skip(1).all(|step| wide.steps.contains(step)));
    }

    // Promise: columns are limited, and what there is no room for is left out without harm.
    #[test]
    fn too_many_figures() {
        let mut table = Table::new(Room::default());
        for number in 0..COLUMNS + 10 {
            assert_eq!(table.add_column(&format!("c{number}")), number < COLUMNS);
        }
        assert!(table.push(1, &[0.5; COLUMNS + 10]));
        assert_eq!(table.width(), COLUMNS);
    }
}
