//! One figure over the rows of its table, with sums over ever more rows above it: the mean and the
//! extremes of any range of rows cost the same whatever its length.

use std::ops::Range;

/// Rows, or nodes of a level, that one node of the next level stands for.
const FAN: usize = 16;

/// Values of one row or of several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) mean: f32,
    pub(super) low: f32,
    pub(super) high: f32,
    /// Values; 0: the figure was in none of the rows.
    pub(super) count: u32,
}

impl Cell {
    /// A single value; one that is no number counts as absent.
    pub(super) fn of(value: f32) -> Self {
        let count = u32::from(value.is_finite());
        let value = if count == 1 { value } else { 0.0 };
        Self {
            mean: value,
            low: value,
            high: value,
            count,
        }
    }
}

/// What several cells are together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum {
    total: f64,
    low: f32,
    high: f32,
    count: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            total: 0.0,
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            count: 0,
        }
    }
}

impl Sum {
    fn add(&mut self, cell: Cell) {
        if cell.count > 0 {
            self.total += f64::from(cell.mean) * f64::from(cell.count);
            self.low = self.low.min(cell.low);
            self.high = self.high.max(cell.high);
            self.count += u64::from(cell.count);
        }
    }

    fn of(cells: impl IntoIterator<Item = Cell>) -> Self {
        let mut sum = Self::default();
        cells.into_iter().for_each(|cell| sum.add(cell));
        sum
    }

    /// Values in it.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// As one cell.
    pub(super) fn cell(&self) -> Cell {
        if self.count == 0 {
            return Cell::of(f32::NAN);
        }
        // A mean of f32s is in their range.
        let mean = (self.total / self.count as f64) as f32;
        Cell {
            // Rounding must not lift a mean above its largest value.
            mean: mean.clamp(self.low, self.high),
            low: self.low,
            high: self.high,
            count: u32::try_from(self.count).unwrap_or(u32::MAX),
        }
    }
}

/// The rows: as they came until the table is thinned, then several in one.
#[derive(Clone, Debug)]
enum Rows {
    Single(Vec<f32>),
    Merged(Vec<Cell>),
}

/// One figure.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    rows: Rows,
    /// Level k holds a node for each FAN^(k+1) rows that won't change any more.
    levels: Vec<Vec<Cell>>,
}

impl Column {
    /// A figure that was in none of the first `rows` rows.
    pub(super) fn new(name: String, rows: usize, merged: bool) -> Self {
        let mut column = Self {
            name,
            rows: if merged {
                Rows::Merged(vec![Cell::of(f32::NAN); rows])
            } else {
                Rows::Single(vec![f32::NAN; rows])
            },
            levels: Vec::new(),
        };
        column.rebuild();
        column
    }

    /// Adds a row; the one before it won't change any more.
    pub(super) fn push(&mut self, cell: Cell) {
        self.settle(self.len());
        match &mut self.rows {
            Rows::Single(rows) if cell.count == 0 => rows.push(f32::NAN),
            Rows::Single(rows) => rows.push(cell.mean),
            Rows::Merged(rows) => rows.push(cell),
        }
    }

    /// Puts a value into the last row of a thinned table.
    pub(super) fn merge(&mut self, value: f32) {
        if let Rows::Merged(rows) = &mut self.rows
            && let Some(last) = rows.last_mut()
        {
            *last = Sum::of([*last, Cell::of(value)]).cell();
        }
    }

    /// Makes one row of every two.
    pub(super) fn halve(&mut self) {
        let cells: Vec<Cell> = (0..self.len()).map(|row| self.row(row)).collect();
        let pairs = cells.chunks(2);
        let halved = pairs.map(|pair| Sum::of(pair.iter().copied()).cell());
        self.rows = Rows::Merged(halved.collect());
        self.rebuild();
    }

    /// A row.
    pub(super) fn row(&self, row: usize) -> Cell {
        match &self.rows {
            Rows::Single(rows) => Cell::of(rows[row]),
            Rows::Merged(rows) => rows[row],
        }
    }

    /// What a range of rows is together.
    pub(super) fn sum(&self, rows: Range<usize>) -> Sum {
        let (mut from, mut to) = (rows.start, rows.end.min(self.len()));
        let mut sum = Sum::default();
        let mut level = 0;
        while from < to {
            let above = self.levels.get(level).map_or(0, Vec::len);
            while from < to && !from.is_multiple_of(FAN) {
                sum.add(self.node(level, from));
                from += 1;
            }
            while from < to && (!to.is_multiple_of(FAN) || to / FAN > above) {
                to -= 1;
                sum.add(self.node(level, to));
            }
            (from, to) = (from / FAN, to / FAN);
            level += 1;
        }
        sum
    }

    fn len(&self) -> usize {
        match &self.rows {
            Rows::Single(rows) => rows.len(),
            Rows::Merged(rows) => rows.len(),
        }
    }

    /// A row on level 0, above it a node of the level beneath.
    fn node(&self, level: usize, index: usize) -> Cell {
        match level.checked_sub(1) {
            None => self.row(index),
            Some(level) => self.levels[level][index],
        }
    }

    /// Adds the nodes that end with row number `rows`.
    fn settle(&mut self, rows: usize) {
        let mut ends = rows;
        let mut level = 0;
        while ends > 0 && ends.is_multiple_of(FAN) {
            let cells = (ends - FAN..ends).map(|index| self.node(level, index));
            let node = Sum::of(cells).cell();
            ends /= FAN;
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            if self.levels[level].len() >= ends {
                return;
            }
            self.levels[level].push(node);
            level += 1;
        }
    }

    /// All nodes anew; the last row may still change.
    fn rebuild(&mut self) {
        self.levels.clear();
        for rows in 1..self.len() {
            self.settle(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn naive(values: &[f32]) -> Sum {
        Sum::of(values.iter().map(|value| Cell::of(*value)))
    }

    fn same(found: Sum, expected: Sum) {
        assert_eq!(found.count, expected.count);
        if found.count > 0 {
            let (found, expected) = (found.cell(), expected.cell());
            assert_eq!((found.low, found.high), (expected.low, expected.high));
            let room = 1e-5 * (1.0 + expected.low.abs().max(expected.high.abs()));
            assert!(
                (found.mean - expected.mean).abs() <= room,
                "{found:?} {expected:?}"
            );
        }
    }

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![8 => -1e3f32..1e3, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        // Promise: mean, low, high and number of any range are those of its values, also of a figure
        // that came late, and after the table was thinned.
        #[test]
        fn any_range_is_right(
            late in 0usize..40,
            values in prop::collection::vec(value(), 1..900),
            ends in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 8),
            halvings in 0usize..4,
        ) {
            let mut column = Column::new("a".into(), late, false);
            let mut all = vec![f32::NAN; late];
            for value in &values {
                column.push(Cell::of(*value));
                all.push(*value);
            }
            for _ in 0..halvings {
                column.halve();
            }
            let width = 1 << halvings;
            let rows = all.len().div_ceil(width);
            for (a, b) in ends {
                let (a, b) = (a.index(rows + 1), b.index(rows + 1));
                let (from, to) = (a.min(b), a.max(b));
                let values = &all[(from * width).min(all.len())..(to * width).min(all.len())];
                same(column.sum(from..to), naive(values));
            }
        }

        // Promise: the last row of a thinned table takes values in, whatever its place.
        #[test]
        fn the_last_row_grows(values in prop::collection::vec(value(), 1..600)) {
            let mut column = Column::new("a".into(), 0, true);
            for pair in values.chunks(2) {
                column.push(Cell::of(pair[0]));
                if let Some(second) = pair.get(1) {
                    column.merge(*second);
                }
                let rows = column.len();
                let done = &values[..(2 * rows).min(values.len())];
                same(column.sum(0..rows), naive(done));
            }
        }
    }
}
