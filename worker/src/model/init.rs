//! Random initial values that depend on a key only: no global generator, no order of calls.

use super::context::mix;

/// `n` numbers of a normal distribution with mean 0 (Box and Muller 1958), a function of `key`.
#[must_use]
pub fn normal(n: usize, key: u64, std: f64) -> Vec<f32> {
    let uniform = |counter: u64| (mix(key ^ mix(counter)) >> 11) as f64 / (1u64 << 53) as f64;
    let mut values = Vec::with_capacity(n + 1);
    for pair in 0..n.div_ceil(2) as u64 {
        let radius = (-2.0 * (1.0 - uniform(2 * pair)).ln()).sqrt() * std;
        let angle = std::f64::consts::TAU * uniform(2 * pair + 1);
        values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    values.truncate(n);
    values
}

/// `n` numbers uniform in ±`bound`, a function of `key`.
#[must_use]
pub fn uniform(n: usize, key: u64, bound: f64) -> Vec<f32> {
    let unit = |counter: u64| (mix(key ^ mix(counter)) >> 11) as f64 / (1u64 << 53) as f64;
    let number = |counter: u64| (bound * (2.0 * unit(counter) - 1.0)) as f32;
    (0..n as u64).map(number).collect()
}

/// A key for a name, so that every parameter gets numbers of its own.
#[must_use]
pub fn key(seed: u64, name: &str) -> u64 {
    name.bytes()
        .fold(mix(seed), |key, byte| mix(key ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distribution() {
        let values = normal(100_001, key(1, "w"), 0.02);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        let var = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(
            mean.abs() < 3e-4 && (var.sqrt() - 0.02).abs() < 2e-4,
            "{mean} {var}"
        );
        assert_eq!(values[..9], normal(9, key(1, "w"), 0.02)[..]);
        assert_ne!(values[..9], normal(9, key(1, "v"), 0.02)[..]);
    }
}
