//! The optimizer of a row-sparse table (word embeddings): the job's method, exactly, over the rows that
//! ever got a gradient, and nothing for the others.
//!
//! A batch touches a few hundred of a vocabulary's rows. A row that no token ever touched has zero
//! moments, so it stays as it is (weight decay aside, which is not applied to it: it stays
//! as pretrained). Once touched, a row is updated in every step, since its momentum goes on. State
//! is kept only for such rows, in the order in which they were first touched.

use super::kernel::dot;
use super::optimizer::Optimizer;
use std::ops::Range;

const NONE: u32 = u32::MAX;

/// Gradient of some rows of a table: `rows` ascending and distinct, `values` [rows, width].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowGradient {
    /// Row numbers.
    pub rows: Vec<u32>,
    /// Their gradients, row after row.
    pub values: Vec<f32>,
}

impl RowGradient {
    /// From one gradient per token: `ids[t]` is the row that token t read, `values` [T, width] its
    /// gradient. Gradients of one row are added in order of tokens.
    #[must_use]
    pub fn collect(ids: &[u32], values: &[f32], width: usize) -> Self {
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_by_key(|&token| (ids[token as usize], token));
        let mut gradient = Self::default();
        for token in order {
            let row = ids[token as usize];
            let value = &values[token as usize * width..(token as usize + 1) * width];
            if gradient.rows.last() == Some(&row) {
                let start = gradient.values.len() - width;
                let sums = gradient.values[start..].iter_mut();
                sums.zip(value).for_each(|(sum, value)| *sum += value);
            } else {
                gradient.rows.push(row);
                gradient.values.extend_from_slice(value);
            }
        }
        gradient
    }

    /// The part for the owner of some rows.
    #[must_use]
    pub fn part(&self, owned: &Range<u32>, width: usize) -> Self {
        let start = self.rows.partition_point(|&row| row < owned.start);
        let end = self.rows.partition_point(|&row| row < owned.end);
        let values = self.values[start * width..end * width].to_vec();
        Self {
            rows: self.rows[start..end].to_vec(),
            values,
        }
    }

    /// The sum with another gradient, this one first.
    #[must_use]
    pub fn plus(self, other: &Self, width: usize) -> Self {
        if self.rows.is_empty() {
            return other.clone();
        }
        if other.rows.is_empty() {
            return self;
        }
        let mut sum = Self::default();
        let (mut i, mut j) = (0, 0);
        while i < self.rows.len() || j < other.rows.len() {
            let left = self.rows.get(i).copied().unwrap_or(NONE);
            let right = other.rows.get(j).copied().unwrap_or(NONE);
            sum.rows.push(left.min(right));
            if left <= right {
                sum.values.extend(&self.values[i * width..(i + 1) * width]);
                i += 1;
            }
            if right < left {
                sum.values.extend(&other.values[j * width..(j + 1) * width]);
            } else if left == right {
                let start = sum.values.len() - width;
                let more = &other.values[j * width..(j + 1) * width];
                let sums = sum.values[start..].iter_mut();
                sums.zip(more).for_each(|(sum, value)| *sum += value);
            }
            j += usize::from(right <= left);
        }
        sum
    }

    /// All numbers multiplied by a factor.
    #[must_use]
    pub fn times(mut self, factor: f32) -> Self {
        self.values.iter_mut().for_each(|value| *value *= factor);
        self
    }

    /// The rows and their numbers.
    pub fn each(&self, width: usize) -> impl Iterator<Item = (u32, &[f32])> {
        let values = self.values.chunks_exact(width.max(1));
        self.rows.iter().copied().zip(values)
    }

    /// The numbers of a row; none if it has no gradient.
    #[must_use]
    pub fn row(&self, row: u32, width: usize) -> Option<&[f32]> {
        let place = self.rows.binary_search(&row).ok()?;
        self.values.get(place * width..(place + 1) * width)
    }

    /// The numbers of a row, for writing.
    pub fn row_mut(&mut self, row: u32, width: usize) -> Option<&mut [f32]> {
        let place = self.rows.binary_search(&row).ok()?;
        self.values.get_mut(place * width..(place + 1) * width)
    }

    /// Gives the dot product of every row that both gradients have, in order of rows.
    pub fn dot(&self, other: &Self, width: usize, mut each: impl FnMut(f32)) {
        let (mut i, mut j) = (0, 0);
        while let (Some(left), Some(right)) = (self.rows.get(i), other.rows.get(j)) {
            if left == right {
                let left = &self.values[i * width..(i + 1) * width];
                each(dot(left, &other.values[j * width..(j + 1) * width]));
            }
            let (left, right) = (*left, *right);
            i += usize::from(left <= right);
            j += usize::from(right <= left);
        }
    }

    /// As bytes, for other ranks: count, rows, values, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 * (1 + self.rows.len() + self.values.len()));
        bytes.extend((self.rows.len() as u32).to_le_bytes());
        self.rows
            .iter()
            .for_each(|row| bytes.extend(row.to_le_bytes()));
        self.values
            .iter()
            .for_each(|value| bytes.extend(value.to_le_bytes()));
        bytes
    }

    /// Back from bytes; none if they are not such a gradient.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], width: usize) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        if rest.len() != 4 * count * (1 + width) {
            return None;
        }
        let (rows, values) = rest.split_at(4 * count);
        let (rows, _) = rows.as_chunks::<4>();
        let (values, _) = values.as_chunks::<4>();
        Some(Self {
            rows: rows.iter().map(|&row| u32::from_le_bytes(row)).collect(),
            values: values
                .iter()
                .map(|&value| f32::from_le_bytes(value))
                .collect(),
        })
    }
}

/// Optimizer state of the rows in `owned` that ever got a gradient.
#[derive(Debug)]
pub struct RowOptimizer {
    owned: Range<u32>,
    width: usize,
    /// Slot of each owned row, `NONE` before its first gradient.
    slots: Vec<u32>,
    /// Row of each slot.
    rows: Vec<u32>,
    /// First moments, or the momentum.
    first: Vec<f32>,
    /// Second moments; empty where the method has none.
    second: Vec<f32>,
    has_second: bool,
    gradient: Vec<f32>,
    /// What each slot's row was before its first step, where rows are pulled back to it.
    start: Option<Vec<f32>>,
}

impl RowOptimizer {
    /// State for rows `owned` of a table with `width` numbers a row.
    #[must_use]
    pub fn new(owned: Range<u32>, width: usize) -> Self {
        let slots = vec![NONE; owned.len()];
        let (rows, first, second, gradient) = Default::default();
        Self {
            owned,
            width,
            slots,
            rows,
            first,
            second,
            has_second: true,
            gradient,
            start: None,
        }
    }

    /// Keeps no second moments, where the method has none.
    #[must_use]
    pub fn without_second(mut self) -> Self {
        self.has_second = false;
        self
    }

    /// Keeps what rows were before their first step, and pulls them back to it, in place of their
    /// weight decay. A row that no token touched is as it was, and costs nothing.
    #[must_use]
    pub fn held_to_start(mut self) -> Self {
        self.start = Some(Vec::new());
        self
    }

    /// Rows that ever got a gradient, in the order of their first one.
    #[must_use]
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Forgets the gradients of the step before.
    pub fn clear(&mut self) {
        self.gradient.fill(0.0);
    }

    /// Adds gradients, each multiplied by `weight`; rows outside `owned` are ignored. A weight of 1
    /// multiplies nothing.
    pub fn add(&mut self, gradient: &RowGradient, weight: f32) {
        let width = self.width;
        for (&row, values) in gradient
            .rows
            .iter()
            .zip(gradient.values.chunks_exact(width))
        {
            if !self.owned.contains(&row) {
                continue;
            }
            let slot = self.slot(row);
            let sums = self.gradient[slot * width..(slot + 1) * width].iter_mut();
            if weight == 1.0 {
                sums.zip(values).for_each(|(sum, value)| *sum += value);
            } else {
                sums.zip(values)
                    .for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }

    fn slot(&mut self, row: u32) -> usize {
        let index = (row - self.owned.start) as usize;
        if self.slots[index] == NONE {
            self.slots[index] = self.rows.len() as u32;
            self.rows.push(row);
            let length = self.rows.len() * self.width;
            for buffer in [&mut self.first, &mut self.gradient] {
                buffer.resize(length, 0.0);
            }
            if self.has_second {
                self.second.resize(length, 0.0);
            }
        }
        self.slots[index] as usize
    }

    /// The rows that it steps.
    #[must_use]
    pub fn owned(&self) -> &Range<u32> {
        &self.owned
    }

    /// Steps every row that ever got a gradient. `table` holds the owned rows, row after row; `scale`
    /// multiplies the gradient (clipping).
    pub fn step(
        &mut self,
        table: &mut [f32],
        optimizer: &Optimizer,
        rate: f64,
        step: u64,
        scale: f32,
    ) {
        let coefficients = optimizer.coefficients(rate, step, self.start.is_none());
        let width = self.width;
        if let Some(start) = &mut self.start {
            for &row in self.rows.iter().skip(start.len() / width.max(1)) {
                let at = (row - self.owned.start) as usize * width;
                start.extend_from_slice(&table[at..at + width]);
            }
        }
        for (slot, &row) in self.rows.iter().enumerate() {
            let at = slot * width..(slot + 1) * width;
            let start = (row - self.owned.start) as usize * width;
            let parameters = &mut table[start..start + width];
            if let Some(start) = &self.start {
                optimizer.pull(parameters, &start[at.clone()], rate);
            }
            let first = &mut self.first[at.clone()];
            let second = self.second.get_mut(at.clone()).unwrap_or_default();
            coefficients.apply(parameters, &self.gradient[at], (first, second), scale);
        }
    }

    /// First moments or momentum and, where the method has them, second moments of all rows in
    /// [`RowOptimizer::rows`], row after row: for checkpoints.
    #[must_use]
    pub fn moments(&self) -> (&[f32], Option<&[f32]>) {
        let second = self.has_second.then_some(self.second.as_slice());
        (&self.first, second)
    }

    /// What the rows of [`RowOptimizer::rows`] were before their first step; none if they are not
    /// pulled back to it.
    #[must_use]
    pub fn start(&self) -> Option<&[f32]> {
        self.start.as_deref()
    }

    /// Takes up moments, and what rows were before their first step, from a checkpoint; rows outside
    /// `owned` are ignored.
    pub fn restore(
        &mut self,
        rows: &[u32],
        first: &[f32],
        second: Option<&[f32]>,
        start: Option<&[f32]>,
    ) {
        let second = second.filter(|_| self.has_second);
        let width = self.width;
        for (index, &row) in rows.iter().enumerate() {
            if !self.owned.contains(&row) {
                continue;
            }
            let from = index * width..(index + 1) * width;
            let slot = self.slot(row);
            let to = slot * width..(slot + 1) * width;
            self.first[to.clone()].copy_from_slice(&first[from.clone()]);
            if let Some(second) = second {
                self.second[to.clone()].copy_from_slice(&second[from.clone()]);
            }
            if let (Some(own), Some(start)) = (&mut self.start, start) {
                own.resize(own.len().max(to.end), 0.0);
                own[to].copy_from_slice(&start[from]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
