//! Parts of a buffer, one per rank.

use std::ops::Range;

use crate::memory::DType;

/// Slices of an all-reduce start at multiples of this many elements: whole cache lines.
const LINE: usize = 16;

/// Where a range of elements lies in bytes.
pub(crate) fn in_bytes(range: &Range<usize>, dtype: DType) -> Range<usize> {
    range.start * dtype.width()..range.end * dtype.width()
}

/// Cuts disjoint ranges (checked before) out of `bytes`, in rank order.
pub(crate) fn split<'a>(
    bytes: &'a mut [u8],
    ranges: &[Range<usize>],
    dtype: DType,
) -> Vec<&'a mut [u8]> {
    let mut order: Vec<usize> = (0..ranges.len())
        .filter(|&r| !ranges[r].is_empty())
        .collect();
    order.sort_by_key(|&r| ranges[r].start);
    let mut pieces: Vec<&mut [u8]> = ranges.iter().map(|_| <&mut [u8]>::default()).collect();
    let (mut rest, mut cut) = (bytes, 0);
    for r in order {
        let range = in_bytes(&ranges[r], dtype);
        let (_, tail) = rest.split_at_mut(range.start - cut);
        let (piece, tail) = tail.split_at_mut(range.len());
        pieces[r] = piece;
        (rest, cut) = (tail, range.end);
    }
    pieces
}

/// One range per rank, as equal as whole cache lines allow.
pub(crate) fn even_split(len: usize, size: usize) -> Vec<Range<usize>> {
    let each = len.div_ceil(size).next_multiple_of(LINE);
    (0..size)
        .map(|r| (r * each).min(len)..((r + 1) * each).min(len))
        .collect()
}
