//! Arithmetic over slices of gradients, in one pass over memory each: their Gram matrix, and their
//! weighted sum.
//!
//! A slice of a block arrives as *lanes*: one gradient per rank and task that it serves. The lanes of
//! one task are its *row*: they are added first, in the order given. Work goes chunk by chunk, with
//! chunks at fixed places of the block, so that the cache holds a chunk of every row.

use super::exact::ExactSum;
use super::threads::Threads;
use espalier_comm::Bf16;
use std::borrow::Cow;

/// Numbers in a chunk: 16 KiB of f32, of which a dozen fit a core's cache.
pub const CHUNK: usize = 4096;
/// Partial sums that a dot product is kept in.
const WIDE: usize = 16;

/// A gradient slice as it came.
#[derive(Clone, Copy, Debug)]
pub enum Lane<'a> {
    /// Full precision.
    F32(&'a [f32]),
    /// The upper halves of f32 numbers.
    Bf16(&'a [Bf16]),
}

impl Lane<'_> {
    fn copy(self, at: usize, out: &mut [f32]) {
        match self {
            Self::F32(values) => out.copy_from_slice(&values[at..at + out.len()]),
            Self::Bf16(values) => {
                let values = &values[at..at + out.len()];
                out.iter_mut()
                    .zip(values)
                    .for_each(|(o, v)| *o = v.to_f32());
            }
        }
    }

    fn add(self, at: usize, out: &mut [f32]) {
        match self {
            Self::F32(values) => {
                let values = &values[at..at + out.len()];
                out.iter_mut().zip(values).for_each(|(o, v)| *o += v);
            }
            Self::Bf16(values) => {
                let values = &values[at..at + out.len()];
                out.iter_mut()
                    .zip(values)
                    .for_each(|(o, v)| *o += v.to_f32());
            }
        }
    }
}

/// One task's gradient of a slice: the sum of its lanes in order.
#[derive(Clone, Debug, Default)]
pub struct Row<'a> {
    /// The lanes.
    pub lanes: Vec<Lane<'a>>,
}

impl<'a> Row<'a> {
    /// Numbers `at..at + length` of the row; borrowed where there is nothing to add.
    fn chunk(&self, at: usize, length: usize) -> Cow<'a, [f32]> {
        match self.lanes.as_slice() {
            [Lane::F32(only)] => Cow::Borrowed(&only[at..at + length]),
            [] => Cow::Owned(vec![0.0; length]),
            [first, rest @ ..] => {
                let mut sum = vec![0.0; length];
                first.copy(at, &mut sum);
                rest.iter().for_each(|lane| lane.add(at, &mut sum));
                Cow::Owned(sum)
            }
        }
    }
}

/// Chunks of a slice that begins at number `start` of its block: bounds within the slice.
fn chunks(start: usize, length: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let size = (CHUNK - (start + at) % CHUNK).min(length - at);
        let chunk = (size > 0).then_some((at, size));
        at += size;
        chunk
    })
}

/// Index of the pair (i, j), i <= j, of `n` rows among all pairs in order (0,0), (0,1), ..., (1,1).
#[must_use]
pub fn pair(i: usize, j: usize, n: usize) -> usize {
    let (i, j) = (i.min(j), i.max(j));
    i * n - i * i.saturating_sub(1) / 2 + (j - i)
}

/// Number of pairs (i, j) with i <= j.
#[must_use]
pub fn pairs(n: usize) -> usize {
    n * (n + 1) / 2
}

/// Adds the dot products of all pairs of rows over a slice that begins at number `start` of its
/// block to `sums` (as indexed by [`pair`]).
pub fn gram(
    threads: &Threads,
    rows: &[Row<'_>],
    start: usize,
    length: usize,
    sums: &mut [ExactSum],
) {
    let mut all: Vec<(usize, usize)> = chunks(start, length).collect();
    let over = threads.over(&mut all, length * rows.len(), |chunks| {
        let mut sums = vec![ExactSum::default(); pairs(rows.len())];
        for (at, size) in chunks {
            let parts: Vec<_> = rows.iter().map(|row| row.chunk(*at, *size)).collect();
            let mut place = sums.iter_mut();
            for (i, left) in parts.iter().enumerate() {
                for right in &parts[i..] {
                    if let Some(sum) = place.next() {
                        sum.add(f64::from(dot(left, right)));
                    }
                }
            }
        }
        sums
    });
    for part in over {
        let sums = sums.iter_mut();
        sums.zip(part).for_each(|(sum, part)| sum.merge(&part));
    }
}

/// Writes the weighted sum of rows of a slice into `out`. A weight of 1 multiplies nothing, so that
/// equal weights give what plain summation gives; a row of weight 0 is not even read.
pub fn combine(
    threads: &Threads,
    rows: &[Row<'_>],
    weights: &[f32],
    start: usize,
    out: &mut [f32],
) {
    let used = rows.iter().zip(weights.iter().copied());
    let used: Vec<(&Row<'_>, f32)> = used.filter(|(_, weight)| *weight != 0.0).collect();
    let numbers = out.len();
    let mut targets = Vec::new();
    let mut rest = out;
    for (at, size) in chunks(start, numbers) {
        let (target, after) = rest.split_at_mut(size);
        targets.push((at, target));
        rest = after;
    }
    threads.over(&mut targets, numbers * used.len(), |targets| {
        for (at, target) in targets {
            if used.is_empty() {
                target.fill(0.0);
            }
            for (place, (row, weight)) in used.iter().enumerate() {
                weigh(&row.chunk(*at, target.len()), *weight, place == 0, target);
            }
        }
    });
}

/// Sum of squares over a slice that begins at number `start` of its block.
#[must_use]
pub fn squares(threads: &Threads, values: &[f32], start: usize) -> ExactSum {
    let mut sum = [ExactSum::default()];
    let row = Row {
        lanes: vec![Lane::F32(values)],
    };
    gram(threads, &[row], start, values.len(), &mut sum);
    sum[0]
}

fn weigh(part: &[f32], weight: f32, first: bool, out: &mut [f32]) {
    let pairs = out.iter_mut().zip(part);
    match (first, weight == 1.0) {
        (true, true) => pairs.for_each(|(o, g)| *o = *g),
        (true, false) => pairs.for_each(|(o, g)| *o = weight * g),
        (false, true) => pairs.for_each(|(o, g)| *o += g),
        (false, false) => pairs.for_each(|(o, g)| *o += weight * g),
    }
}

/// Calls `each` with (offset in the slice, one chunk of every row), for rules that work number by
/// number.
pub fn for_chunks(
    rows: &[Row<'_>],
    start: usize,
    length: usize,
    mut each: impl FnMut(usize, &[&[f32]]),
) {
    for (at, size) in chunks(start, length) {
        let parts: Vec<_> = rows.iter().map(|row| row.chunk(at, size)).collect();
        let parts: Vec<&[f32]> = parts.iter().map(AsRef::as_ref).collect();
        each(at, &parts);
    }
}

/// Dot product; the order of additions is fixed, whatever vectors the machine has.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; WIDE];
    let (a_wide, a_rest) = a.as_chunks::<WIDE>();
    let (b_wide, b_rest) = b.as_chunks::<WIDE>();
    for (a, b) in a_wide.iter().zip(b_wide) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += a * b;
    }
    let mut width = WIDE / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: usize, length: usize) -> Vec<f32> {
        (0..length)
            .map(|i| ((i * 7 + seed * 13) as f32 * 0.37).sin())
            .collect()
    }

    fn rows(values: &[Vec<f32>]) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for values in values {
            let lanes = vec![Lane::F32(values)];
            rows.push(Row { lanes });
        }
        rows
    }

    // Promise: cutting a block among owners changes no bit of the Gram matrix if cuts lie between
    // chunks, and only rounding if they do not; the sum never changes, and threads change nothing.
    #[test]
    fn cuts_change_nothing() {
        let length = 40 * CHUNK + 77;
        let values: Vec<_> = (0..3).map(|k| numbers(k, length)).collect();
        let one = Threads::default();
        let gram_of = |cuts: &[usize], threads: &Threads| {
            let mut sums = vec![ExactSum::default(); pairs(3)];
            let mut out = vec![0f32; length];
            for cut in cuts.windows(2) {
                let part: Vec<_> = values.iter().map(|v| v[cut[0]..cut[1]].to_vec()).collect();
                gram(threads, &rows(&part), cut[0], cut[1] - cut[0], &mut sums);
                combine(
                    threads,
                    &rows(&part),
                    &[0.5, 1.0, -2.0],
                    cut[0],
                    &mut out[cut[0]..cut[1]],
                );
            }
            (sums.iter().map(ExactSum::value).collect::<Vec<_>>(), out)
        };
        let whole = gram_of(&[0, length], &one);
        let several = Threads::new(3);
        assert_eq!(whole, gram_of(&[0, length], &several));
        assert_eq!(whole, gram_of(&[0, CHUNK, 2 * CHUNK, length], &one));
        let ragged = gram_of(&[0, 100, CHUNK + 5, length], &several);
        assert_eq!(whole.1, ragged.1);
        for (a, b) in whole.0.iter().zip(&ragged.0) {
            assert!((a - b).abs() < 1e-2 * a.abs().max(1.0));
        }
    }

    // Promise: lanes of a task are added in order; equal weights are plain sums.
    #[test]
    fn lanes_are_added_in_order() {
        let (a, b, c) = (numbers(1, 500), numbers(2, 500), numbers(3, 500));
        let rows = [
            Row {
                lanes: vec![Lane::F32(&a), Lane::F32(&b)],
            },
            Row {
                lanes: vec![Lane::F32(&c)],
            },
        ];
        let mut out = vec![0f32; 500];
        combine(&Threads::default(), &rows, &[1.0, 1.0], 0, &mut out);
        for i in 0..500 {
            assert_eq!(out[i], (a[i] + b[i]) + c[i]);
        }
        let expected: f64 = out.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((squares(&Threads::default(), &out, 0).value() - expected).abs() < 1e-3);

        // What is not wanted is not read: it may be no number.
        let lost = vec![f32::NAN; 500];
        let rows = [&lost, &c].map(|values| Row {
            lanes: vec![Lane::F32(values)],
        });
        combine(&Threads::default(), &rows, &[0.0, 1.0], 0, &mut out);
        assert_eq!(out, c);
    }

    // Promise: pairs are numbered one after another.
    #[test]
    fn pairs_are_numbered() {
        let n = 5;
        let all: Vec<_> = (0..n).flat_map(|i| (i..n).map(move |j| (i, j))).collect();
        assert_eq!(all.len(), pairs(n));
        for (index, (i, j)) in all.into_iter().enumerate() {
            assert_eq!(pair(i, j, n), index);
            assert_eq!(pair(j, i, n), index);
        }
    }
}
