//! Small mathematics: what is the same to the bit on every machine.

/// Losses below this count as this where they are divided by or logged.
pub(crate) const SMALLEST_LOSS: f64 = 1e-8;

/// softmax(x), stable.
pub(crate) fn softmax(x: &[f64]) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let raised: Vec<f64> = x.iter().map(|v| libm::exp(v - top)).collect();
    let sum: f64 = raised.iter().sum();
    raised.iter().map(|v| v / sum).collect()
}

/// Mixes 64 bits (the finaliser of SplitMix64).
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 64 random bits: a function of the numbers alone.
pub(crate) fn bits(numbers: &[u64]) -> u64 {
    numbers
        .iter()
        .fold(0x9e37_79b9_7f4a_7c15, |state: u64, number| {
            mixed(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ mixed(number.wrapping_add(state)))
        })
}

/// A uniform number in [0, 1).
pub(crate) fn uniform(numbers: &[u64]) -> f64 {
    unit(bits(numbers))
}

/// The number at `index` of the stream of uniform numbers that `bits` begins (SplitMix64): cheap
/// where there is one per coordinate.
pub(crate) fn in_stream(bits: u64, index: u64) -> f64 {
    let at = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    unit(mixed(bits.wrapping_add(at)))
}

fn unit(bits: u64) -> f64 {
    // 53 bits are exact in an f64.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// A standard normal number (Box and Muller).
pub(crate) fn normal(seed: u64, step: u64, which: u64) -> f64 {
    let a = 1.0 - uniform(&[seed, step, which, 0]);
    let b = uniform(&[seed, step, which, 1]);
    (-2.0 * libm::log(a)).sqrt() * libm::cos(2.0 * std::f64::consts::PI * b)
}

/// A random order of 0..n: a function of the numbers alone (Fisher and Yates).
pub(crate) fn shuffled(n: usize, seed: u64, step: u64, which: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // Scaled rather than reduced; the bias of 2^-64·i is of no matter.
        let draw = u128::from(bits(&[seed, step, which, i as u64]));
        let j = ((draw * (i as u128 + 1)) >> 64) as usize;
        order.swap(i, j);
    }
    order
}

/// One learned number per task, by Adam with PyTorch's constants (betas .9 and .999, eps 1e-8,
/// weight decay added to the gradient). Each task counts its own steps.
#[derive(Clone, Debug)]
pub(crate) struct Learned {
    rate: f64,
    decay: f64,
    pub(crate) value: Vec<f64>,
    pub(crate) first: Vec<f64>,
    pub(crate) second: Vec<f64>,
    pub(crate) steps: Vec<f64>,
}

impl Learned {
    pub(crate) fn new(tasks: usize, start: f64, rate: f64, decay: f64) -> Self {
        Self {
            rate,
            decay,
            value: vec![start; tasks],
            first: vec![0.0; tasks],
            second: vec![0.0; tasks],
            steps: vec![0.0; tasks],
        }
    }

    /// The numbers of some tasks.
    pub(crate) fn of(&self, tasks: &[usize]) -> Vec<f64> {
        tasks.iter().map(|&task| self.value[task]).collect()
    }

    /// One step of descent of one task's number.
    pub(crate) fn descend(&mut self, task: usize, gradient: f64) {
        let gradient = gradient + self.decay * self.value[task];
        self.steps[task] += 1.0;
        self.first[task] = 0.9 * self.first[task] + 0.1 * gradient;
        self.second[task] = 0.999 * self.second[task] + 0.001 * (gradient * gradient);
        let correct = |beta: f64| 1.0 - libm::pow(beta, self.steps[task]);
        let mean = self.first[task] / correct(0.9);
        let root = (self.second[task] / correct(0.999)).sqrt();
        self.value[task] -= self.rate * mean / (root + 1e-8);
    }
}

/// Weights on the simplex, per task, of which a step sees only its own tasks' share.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    pub(crate) value: Vec<f64>,
}

impl Shares {
    pub(crate) fn new(tasks: usize) -> Self {
        Self {
            value: vec![1.0 / tasks as f64; tasks],
        }
    }

    /// The shares of the present tasks, brought to a sum of 1, and their sum before.
    pub(crate) fn take(&self, tasks: &[usize]) -> (Vec<f64>, f64) {
        let part: Vec<f64> = tasks.iter().map(|&task| self.value[task]).collect();
        let sum: f64 = part.iter().sum();
        if sum > 0.0 {
            (part.iter().map(|v| v / sum).collect(), sum)
        } else {
            (vec![1.0 / tasks.len() as f64; tasks.len()], sum)
        }
    }

    /// Gives the present tasks new shares of what they had together.
    pub(crate) fn put(&mut self, tasks: &[usize], shares: &[f64], sum: f64) {
        for (&task, share) in tasks.iter().zip(shares) {
            self.value[task] = share * sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{bits, normal, shuffled, softmax, uniform};

    #[test]
    fn random_numbers_look_random() {
        // Means and spreads are those of the distributions, and any number changed changes all.
        let n = 20_000;
        let draws: Vec<f64> = (0..n).map(|i| uniform(&[7, 3, i])).collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let draws: Vec<f64> = (0..n).map(|i| normal(7, i, 1)).collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        let spread = draws.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!(
            mean.abs() < 0.03 && (spread - 1.0).abs() < 0.04,
            "{mean} {spread}"
        );
        assert_ne!(bits(&[0, 1]), bits(&[1, 0]));
        assert_ne!(bits(&[0]), bits(&[0, 0]));
    }

    #[test]
    fn orders_are_fair_and_repeatable() {
        // Each of the six orders of three comes about as often, and the same numbers give the same.
        let mut counts = std::collections::BTreeMap::new();
        for step in 0..6000 {
            *counts.entry(shuffled(3, 1, step, 0)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(
            counts.values().all(|&c| (850..1150).contains(&c)),
            "{counts:?}"
        );
        assert_eq!(shuffled(9, 4, 5, 6), shuffled(9, 4, 5, 6));
    }

    #[test]
    fn softmax_does_not_overflow() {
        // Large logits are as good as small ones.
        assert_eq!(softmax(&[1e6, 1e6]), [0.5, 0.5]);
        assert_eq!(softmax(&[0.0, 1e6]), [0.0, 1.0]);
    }
}
