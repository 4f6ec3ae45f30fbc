//! Sums that do not depend on order: what ranks agree on is the same to the bit however the work
//! was cut among them.
//!
//! A number is cut into digits of 32 bits at fixed places and each digit is added to a bin of its
//! own, where nothing is ever rounded (a small superaccumulator; Kulisch 2013, Neal 2015, arXiv
//! 1505.05571). Bins are whole numbers in f64, so a communicator can sum them over ranks, exactly.

/// Bits of a digit.
const DIGIT: i32 = 32;
/// Exponent of the lowest digit: what is below 2^-224 is dropped.
const LOWEST: i32 = -224;
/// Bins for digits, up to 2^160.
const BINS: usize = 12;
/// Numbers that a sum is sent as.
pub const WIDTH: usize = BINS + 1;

/// An exact sum of up to two million numbers with magnitudes from 2^-224 to 2^160.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExactSum {
    bins: [f64; BINS],
    /// Numbers added that were not finite or too large.
    lost: f64,
}

impl ExactSum {
    /// Adds a number.
    pub fn add(&mut self, value: f64) {
        if value == 0.0 {
            return;
        }
        if !value.is_finite() || value.abs() >= power(LOWEST + DIGIT * BINS as i32) {
            self.lost += 1.0;
            return;
        }
        // The number of the highest digit that the value has a bit in.
        let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let top = (exponent - LOWEST).div_euclid(DIGIT);
        let mut rest = value;
        // 53 bits reach into three digits at most.
        for place in (top - 2..=top).rev() {
            let Ok(bin) = usize::try_from(place) else {
                break;
            };
            let unit = power(LOWEST + DIGIT * place);
            let digit = (rest / unit).trunc();
            self.bins[bin] += digit;
            rest -= digit * unit;
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        for (bin, more) in self.bins.iter_mut().zip(other.bins) {
            *bin += more;
        }
        self.lost += other.lost;
    }

    /// The sum; not a number if something added was not finite.
    #[must_use]
    pub fn value(&self) -> f64 {
        if self.lost > 0.0 {
            return f64::NAN;
        }
        let places = (0..BINS as i32).rev();
        places
            .zip(self.bins.iter().rev())
            .map(|(place, bin)| bin * power(LOWEST + DIGIT * place))
            .sum()
    }

    /// Appends the sum in the form that ranks add up.
    pub fn write(&self, numbers: &mut Vec<f64>) {
        numbers.extend(self.bins);
        numbers.push(self.lost);
    }

    /// Back from that form; zero if there are too few numbers.
    #[must_use]
    pub fn read(numbers: &[f64]) -> Self {
        let mut sum = Self::default();
        if let Some((bins, [lost, ..])) = numbers.split_first_chunk::<BINS>() {
            (sum.bins, sum.lost) = (*bins, *lost);
        }
        sum
    }
}

/// 2^exponent for normal exponents.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| sum.add(*value));
        sum
    }

    proptest! {
        /// Promise: order and cuts change no bit, also on the way between ranks.
        #[test]
        fn order_does_not_matter(
            values in proptest::collection::vec((-1e3f64..1e3, -40i32..40), 1..60),
            cut in 0usize..60,
        ) {
            let values: Vec<f64> = values.iter().map(|(v, e)| v * power(*e)).collect();
            let mut backwards = values.clone();
            backwards.reverse();
            prop_assert_eq!(sum(&values), sum(&backwards));
            let (left, right) = values.split_at(cut.min(values.len()));
            let mut numbers = Vec::new();
            sum(left).write(&mut numbers);
            let mut whole = ExactSum::read(&numbers);
            whole.merge(&sum(right));
            prop_assert_eq!(whole.value().to_bits(), sum(&values).value().to_bits());
        }

        /// Promise: one number comes back as it was.
        #[test]
        fn one_number_is_itself(value in -1e30f64..1e30) {
            prop_assert_eq!(sum(&[value]).value(), value);
        }
    }

    // Promise: nothing is lost to cancellation.
    #[test]
    fn cancellation_is_exact() {
        let left = sum(&[1e30, 1.0, -1e30, 1e-12]).value();
        assert!((left - (1.0 + 1e-12)).abs() < 1e-15, "{left}");
        assert_eq!(sum(&[]).value(), 0.0);
    }

    // Promise: what is not finite is noticed by all.
    #[test]
    fn not_finite_is_seen() {
        for bad in [f64::NAN, f64::INFINITY, 1e60] {
            assert!(sum(&[1.0, bad]).value().is_nan());
        }
    }
}
