//! Summing what peers send, always as `((g0 + g1) + g2) + ...`, whatever arrives first.

use crate::flow::Intake;
use crate::memory::DType;

/// Bytes of a slice that are combined over all peers before the next ones: small enough for the
/// partial sum, the peer's bytes and the result to stay in the L2 cache.
const CHUNK: usize = 128 * 1024;

/// Bytes whose sum is taken aside while it goes to all ranks: they stay in the L1 cache.
const BLOCK: usize = 8 * 1024;

/// Adds every peer's version of one slice to this rank's own, chunk by chunk, in rank order.
///
/// With this rank at position r of the order, the partial sum of ranks below r is kept aside
/// (`partial`) until this rank's own values join it; from then on the sum lies in `own`.
/// (`a + b` and `b + a` have the same bits, so for r < 2 nothing needs to be kept aside.)
#[derive(Debug)]
pub(crate) struct Fold<'a> {
    own: &'a mut [u8],
    dtype: DType,
    rank: usize,
    size: usize,
    /// The peer whose bytes are combined now.
    source: usize,
    /// The chunk that is combined now: `own[start..start + len]`, `at` bytes of it done.
    start: usize,
    len: usize,
    at: usize,
    partial: Vec<u8>,
    /// Arrived bytes that are not yet combined: for links that can't lend theirs.
    staging: Vec<u8>,
    staged: usize,
}

#[derive(Clone, Copy)]
enum Step {
    /// partial = theirs
    Keep,
    /// partial = partial + theirs
    Grow,
    /// own = (partial + theirs) + own
    Join,
    /// own = own + theirs
    Add,
}

impl<'a> Fold<'a> {
    pub(crate) fn new(own: &'a mut [u8], dtype: DType, rank: usize, size: usize) -> Self {
        let len = if size > 1 { own.len().min(CHUNK) } else { 0 };
        let start = if size > 1 { 0 } else { own.len() };
        let partial = if rank >= 2 { vec![0; len] } else { Vec::new() };
        let source = usize::from(rank == 0);
        Fold {
            own,
            dtype,
            rank,
            size,
            source,
            start,
            len,
            at: 0,
            partial,
            staging: Vec::new(),
            staged: 0,
        }
    }

    fn step(&self) -> Step {
        if self.rank < 2 || self.source > self.rank {
            Step::Add
        } else if self.source + 1 == self.rank {
            Step::Join
        } else if self.source == 0 {
            Step::Keep
        } else {
            Step::Grow
        }
    }

    /// Combines whole elements only.
    fn combine(&mut self, theirs: &[u8]) {
        let step = self.step();
        let own = &mut self.own[self.start + self.at..][..theirs.len()];
        let partial = match step {
            Step::Add => &mut [],
            _ => &mut self.partial[self.at..][..theirs.len()],
        };
        match (step, self.dtype) {
            (Step::Keep, _) => partial.copy_from_slice(theirs),
            (Step::Grow, DType::F32) => add_f32(partial, theirs),
            (Step::Grow, DType::F64) => add_f64(partial, theirs),
            (Step::Join, DType::F32) => {
                add_f32(partial, theirs);
                add_f32(own, partial);
            }
            (Step::Join, DType::F64) => {
                add_f64(partial, theirs);
                add_f64(own, partial);
            }
            (Step::Add, DType::F32) => add_f32(own, theirs),
            (Step::Add, DType::F64) => add_f64(own, theirs),
            // `Call::check` lets no bytes come here.
            (_, DType::U8 | DType::BF16) => {}
        }
        self.at += theirs.len();
        if self.at == self.len {
            self.next_source();
        }
    }

    fn next_source(&mut self) {
        self.at = 0;
        self.source += 1;
        if self.source == self.rank {
            self.source += 1;
        }
        if self.source >= self.size {
            self.source = usize::from(self.rank == 0);
            self.start += self.len;
            self.len = (self.own.len() - self.start).min(CHUNK);
        }
    }
}

impl Intake for Fold<'_> {
    fn want(&self, peer: usize) -> usize {
        if peer == self.source {
            self.len - self.at - self.staged
        } else {
            0
        }
    }

    fn put(&mut self, peer: usize, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.want(peer)) / self.dtype.width() * self.dtype.width();
        if n > 0 {
            self.combine(&bytes[..n]);
        }
        n
    }

    fn space(&mut self, peer: usize) -> &mut [u8] {
        let want = self.want(peer);
        self.staging.resize(CHUNK, 0);
        &mut self.staging[self.staged..][..want]
    }

    fn filled(&mut self, _peer: usize, n: usize) {
        self.staged += n;
        let whole = self.staged / self.dtype.width() * self.dtype.width();
        if whole > 0 {
            let mut staging = std::mem::take(&mut self.staging);
            self.combine(&staging[..whole]);
            staging.copy_within(whole..self.staged, 0);
            self.staged -= whole;
            self.staging = staging;
        }
    }

    fn done(&self) -> bool {
        self.start == self.own.len()
    }
}

/// Sums equal parts of all ranks, in rank order, and puts the sum into each of them.
pub(crate) fn everywhere(parts: &mut [&mut [u8]], dtype: DType) {
    if let [first, second] = parts {
        return match dtype {
            DType::F32 => both_f32(first, second),
            DType::F64 => both_f64(first, second),
            // `Call::check` lets no bytes come here.
            DType::U8 | DType::BF16 => {}
        };
    }
    let mut block = [0; BLOCK];
    let len = parts.first().map_or(0, |part| part.len());
    for start in (0..len).step_by(BLOCK) {
        let at = start..len.min(start + BLOCK);
        let sum = &mut block[..at.len()];
        for (rank, part) in parts.iter().enumerate() {
            match (rank, dtype) {
                (0, _) => sum.copy_from_slice(&part[at.clone()]),
                (_, DType::F32) => add_f32(sum, &part[at.clone()]),
                (_, DType::F64) => add_f64(sum, &part[at.clone()]),
                (_, DType::U8 | DType::BF16) => {}
            }
        }
        for part in parts.iter_mut() {
            part[at.clone()].copy_from_slice(sum);
        }
    }
}

// Whole arrays in and out keep these loops free of bounds and overflow checks; they become
// packed additions at any optimisation level from 2 on.

fn add_f32(sum: &mut [u8], term: &[u8]) {
    for (a, b) in sum
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .zip(term.as_chunks::<4>().0)
    {
        *a = (f32::from_ne_bytes(*a) + f32::from_ne_bytes(*b)).to_ne_bytes();
    }
}

fn add_f64(sum: &mut [u8], term: &[u8]) {
    for (a, b) in sum
        .as_chunks_mut::<8>()
        .0
        .iter_mut()
        .zip(term.as_chunks::<8>().0)
    {
        *a = (f64::from_ne_bytes(*a) + f64::from_ne_bytes(*b)).to_ne_bytes();
    }
}

fn both_f32(a: &mut [u8], b: &mut [u8]) {
    let (a, b) = (a.as_chunks_mut::<4>().0, b.as_chunks_mut::<4>().0);
    for (a, b) in a.iter_mut().zip(b) {
        *a = (f32::from_ne_bytes(*a) + f32::from_ne_bytes(*b)).to_ne_bytes();
        *b = *a;
    }
}

fn both_f64(a: &mut [u8], b: &mut [u8]) {
    let (a, b) = (a.as_chunks_mut::<8>().0, b.as_chunks_mut::<8>().0);
    for (a, b) in a.iter_mut().zip(b) {
        *a = (f64::from_ne_bytes(*a) + f64::from_ne_bytes(*b)).to_ne_bytes();
        *b = *a;
    }
}
