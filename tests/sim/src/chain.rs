//! What the simulated jobs train: a model of one number per rank. Every step makes each rank's
//! number of all ranks' numbers and of the step's own, so that a step that is skipped, applied
//! twice or begun from parts of different steps shows in every number after it.

use crate::dice::mix;

/// One number per rank.
pub(crate) type Model = Vec<u64>;

/// What a job asks for, all from the seed in its spec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    /// Steps in all.
    pub(crate) total: u64,
    /// Steps between two snapshots.
    pub(crate) snapshot: u64,
    /// Steps between two checkpoints.
    pub(crate) checkpoint: u64,
    /// Milliseconds of a step.
    pub(crate) step: u64,
}

impl Length {
    pub(crate) fn of(seed: u64) -> Self {
        Self {
            total: 10 + seed % 97,
            snapshot: 1 + seed % 6,
            checkpoint: 9 + seed % 13,
            step: 10 + seed % 53,
        }
    }
}

pub(crate) fn beginning(seed: u64, ranks: usize) -> Model {
    (0..ranks as u64)
        .map(|rank| mix(mix(seed) ^ rank))
        .collect()
}

/// One step: `step` are done before it.
pub(crate) fn advance(model: &mut [u64], step: u64) {
    let all = digest(model);
    for (rank, part) in (0..).zip(model.iter_mut()) {
        *part = mix(*part ^ mix(all.wrapping_add(step)) ^ rank);
    }
}

/// What the exported model would hash to.
pub(crate) fn digest(model: &[u64]) -> u64 {
    let fold = |sum: u64, part: &u64| mix(sum.rotate_left(7) ^ part);
    model.iter().fold(model.len() as u64, fold)
}

/// The undisturbed run of a job, as far as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Reference(Vec<Model>);

impl Reference {
    pub(crate) fn new(seed: u64, ranks: usize) -> Self {
        Self(vec![beginning(seed, ranks)])
    }

    /// The model after so many steps.
    pub(crate) fn at(&mut self, step: u64) -> &Model {
        let step = step as usize;
        while self.0.len() <= step {
            let done = self.0.len() - 1;
            let mut model = self.0[done].clone();
            advance(&mut model, done as u64);
            self.0.push(model);
        }
        &self.0[step]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a step too many, too few or of mixed parts is another model.
    #[test]
    fn every_mistake_shows() {
        let mut undisturbed = Reference::new(3, 3);
        let right = undisturbed.at(5).clone();
        let mut twice = undisturbed.at(4).clone();
        advance(&mut twice, 4);
        assert_eq!(twice, right);
        advance(&mut twice, 4);
        assert_ne!(digest(&twice), digest(undisturbed.at(6)));
        let mut mixed = undisturbed.at(4).clone();
        mixed[1] = undisturbed.at(3)[1];
        advance(&mut mixed, 4);
        assert!(mixed.iter().zip(&right).all(|(one, other)| one != other));
    }
}
