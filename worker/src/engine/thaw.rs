//! Which blocks are trained at a step: all that ever are, or, with gradual unfreezing (ULMFiT; Howard
//! and Ruder 2018, arXiv 1801.06146), more and more of them from the top. A pure function of the step.

use crate::data::total_steps;
use espalier_spec::job::{TrainingSpec, Tuning};

/// From which step on each block of a backbone is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thaw {
    /// Steps from one block to the next; none if blocks do not wait.
    every: Option<u64>,
    /// Blocks that are trained from the first step on.
    start: u64,
    /// Blocks of the backbone.
    count: usize,
}

impl Thaw {
    /// For a backbone of `count` blocks and an epoch of `samples` samples.
    pub(super) fn new(
        tuning: &Tuning,
        training: &TrainingSpec,
        samples: u64,
        count: usize,
    ) -> Self {
        let Tuning::Gradual(gradual) = tuning else {
            return Self {
                every: None,
                start: 0,
                count,
            };
        };
        let epochs = || {
            let of_epochs = TrainingSpec {
                steps: None,
                epochs: Some(gradual.every_epochs.unwrap_or(1.0)),
                ..training.clone()
            };
            total_steps(&of_epochs, samples)
        };
        Self {
            every: Some(gradual.every_steps.unwrap_or_else(epochs).max(1)),
            start: u64::from(gradual.start),
            count,
        }
    }

    /// The step, from 0, at which block `index` is trained first; the table waits with block 0, and
    /// heads do not wait.
    pub(super) fn since(&self, index: usize) -> u64 {
        let Some(every) = self.every else { return 0 };
        if index >= self.count {
            return 0;
        }
        let from_top = (self.count - index) as u64;
        from_top.saturating_sub(self.start).saturating_mul(every)
    }

    /// The lowest block that is trained at `step`, from 0; the number of blocks if none is. What was
    /// frozen for good is frozen still.
    pub(super) fn first(&self, step: u64) -> usize {
        let Some(every) = self.every else { return 0 };
        let trained = self.start.saturating_add(step / every);
        let trained = usize::try_from(trained).unwrap_or(usize::MAX);
        self.count.saturating_sub(trained)
    }

    /// Blocks that a run of `total` steps never trains.
    pub(super) fn never(&self, total: u64) -> usize {
        self.first(total.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_spec::job::GradualSpec;

    fn thaw(gradual: GradualSpec, samples: u64, count: usize) -> Thaw {
        let training = TrainingSpec {
            batch_size: 8,
            steps: Some(100),
            ..TrainingSpec::default()
        };
        Thaw::new(&Tuning::Gradual(gradual), &training, samples, count)
    }

    // Promise: heads alone at first, then one block more every so many steps, from the top to the
    // embeddings; `since` and `first` say the same.
    #[test]
    fn blocks_are_unfrozen_from_the_top() {
        let every_two = GradualSpec {
            every_steps: Some(2),
            ..GradualSpec::default()
        };
        let thaw = thaw(every_two, 80, 3);
        let firsts: Vec<usize> = (0..9).map(|step| thaw.first(step)).collect();
        assert_eq!(firsts, [3, 3, 2, 2, 1, 1, 0, 0, 0]);
        for step in 0..9 {
            for index in 0..4 {
                assert_eq!(thaw.since(index) <= step, index >= thaw.first(step));
            }
        }
        assert_eq!((thaw.never(7), thaw.never(4)), (0, 2));
    }

    // Promise: without a number it is an epoch; blocks to start with do not wait.
    #[test]
    fn an_epoch_is_the_default() {
        let usual = thaw(GradualSpec::default(), 81, 3);
        assert_eq!(
            [0, 1, 2, 3].map(|index| usual.since(index)),
            [33, 22, 11, 0]
        );
        let half = GradualSpec {
            every_epochs: Some(0.5),
            start: 2,
            ..GradualSpec::default()
        };
        let half = thaw(half, 80, 3);
        assert_eq!([0, 1, 2].map(|index| half.since(index)), [5, 0, 0]);
        let many = GradualSpec {
            start: 9,
            ..GradualSpec::default()
        };
        assert_eq!(thaw(many, 80, 3).first(0), 0);
    }

    #[test]
    fn nothing_waits_without_it() {
        let training = TrainingSpec::default();
        let thaw = Thaw::new(&Tuning::LastBlocks(1), &training, 80, 3);
        assert_eq!((thaw.first(0), thaw.since(0), thaw.never(1)), (0, 0, 0));
    }
}
