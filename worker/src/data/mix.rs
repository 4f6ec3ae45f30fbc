//! Counter-based randomness: numbers that are functions of their inputs and of nothing else.

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits in which every
/// bit of the input changes half the bits of the output.
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A key from a seed and a name.
pub(super) fn key(seed: u64, name: &str) -> u64 {
    name.bytes()
        .fold(mix(seed ^ name.len() as u64), |key, byte| {
            mix(key ^ u64::from(byte))
        })
}

/// A keyed permutation of 0..n that is computed place by place: a Feistel network over the next
/// power of two, walked along its cycle until it lands below n (Black and Rogaway 2002). It takes
/// no memory and, from 129 places on, two turns of the network on average at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    n: u64,
    key: u64,
    left_bits: u32,
    right_bits: u32,
}

impl Permutation {
    const ROUNDS: u64 = 4;

    /// The permutation of 0..n under `key`; n at most 2^32.
    pub(super) fn new(n: u64, key: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        // Below 8 bits the network reaches some orders more often than others; walking further in a
        // larger one costs microseconds.
        let bits = bits.max(8);
        Self {
            n,
            key,
            left_bits: bits / 2,
            right_bits: bits - bits / 2,
        }
    }

    /// Where `index` goes; `index` must be below n.
    pub(super) fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.n, "a place of 0..n");
        let mut value = self.network(index);
        // The network is a bijection of a finite set: the cycle leads back below n.
        while value >= self.n {
            value = self.network(value);
        }
        value
    }

    fn network(&self, value: u64) -> u64 {
        let mask = |bits: u32| (1_u64 << bits) - 1;
        let mut left = value >> self.right_bits;
        let mut right = value & mask(self.right_bits);
        for round in 0..Self::ROUNDS {
            left ^= self.round(2 * round, right) & mask(self.left_bits);
            right ^= self.round(2 * round + 1, left) & mask(self.right_bits);
        }
        (left << self.right_bits) | right
    }

    fn round(&self, number: u64, half: u64) -> u64 {
        mix(mix(self.key ^ number) ^ half) >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every place of 0..n is hit exactly once, whatever n and key.
        #[test]
        fn permutation_is_a_bijection(n in 1_u64..3000, key: u64) {
            let permutation = Permutation::new(n, key);
            let mut seen: Vec<u64> = (0..n).map(|i| permutation.at(i)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }
    }

    /// All orders of a small set come up about equally often: no place sticks.
    #[test]
    fn permutation_is_uniform_enough() {
        let (n, keys) = (5, 60_000);
        let mut counts = std::collections::BTreeMap::new();
        for key in 0..keys {
            let permutation = Permutation::new(n, mix(key));
            let order: Vec<u64> = (0..n).map(|i| permutation.at(i)).collect();
            *counts.entry(order).or_insert(0_u64) += 1;
        }
        assert_eq!(counts.len(), 120);
        let expected = keys / 120;
        let (least, most) = (counts.values().min(), counts.values().max());
        assert!(least > Some(&(expected * 3 / 4)), "{least:?}");
        assert!(most < Some(&(expected * 4 / 3)), "{most:?}");
    }
}
