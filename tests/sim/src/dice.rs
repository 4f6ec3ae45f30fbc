//! Chance from a seed, and what is to happen when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// SplitMix64 (Steele, Lea and Flood 2014): small, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

/// The mixing step of SplitMix64: a bijection that spreads every bit over all others.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// A number below `sides`, which is not 0.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (mix(self.0) >> 16) % sides
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll(high - low + 1)
    }

    pub(crate) fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    /// An index below `length`, which is not 0.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        self.roll(length as u64) as usize
    }
}

/// What is to happen, by time; what happens at the same millisecond, in an order that the seed
/// chooses.
#[derive(Debug)]
pub(crate) struct Agenda<T> {
    heap: BinaryHeap<Entry<T>>,
    pushed: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: u64,
    tie: u64,
    number: u64,
    what: T,
}

impl<T> Agenda<T> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            pushed: 0,
        }
    }

    pub(crate) fn push(&mut self, at: u64, tie: u64, what: T) {
        self.pushed += 1;
        let number = self.pushed;
        self.heap.push(Entry {
            at,
            tie,
            number,
            what,
        });
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, T)> {
        self.heap.pop().map(|entry| (entry.at, entry.what))
    }
}

impl<T> Entry<T> {
    fn key(&self) -> (u64, u64, u64) {
        (self.at, self.tie, self.number)
    }
}

// The heap gives the greatest first; the earliest is to be the greatest.
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: time never goes back, and what ties is ordered by its tie.
    #[test]
    fn earliest_first() {
        let mut agenda = Agenda::new();
        for (at, tie, what) in [(5, 0, 'd'), (1, 9, 'b'), (1, 3, 'a'), (4, 0, 'c')] {
            agenda.push(at, tie, what);
        }
        let order: String = std::iter::from_fn(|| agenda.pop())
            .map(|(_, w)| w)
            .collect();
        assert_eq!(order, "abcd");
    }
}
