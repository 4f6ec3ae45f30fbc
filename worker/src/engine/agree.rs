//! What ranks agree on once per step: one small all-reduce, after which all know the same numbers
//! and so take the same decisions without asking anybody.
//!
//! Sums are exact ([`ExactSum`]): who computed which part changes no bit.

use super::Error;
use super::balancing::Decision;
use super::exact::{ExactSum, WIDTH};
use super::exchange::Exchange;
use super::headset::LossSum;
use super::kernel::{pair, pairs};
use super::lanes::Lanes;
use super::step::Sums;
use crate::agent::control::Told;

/// What ranks were told about stopping at a step boundary. They all do the same, though some may not
/// have heard of it yet: it travels as a number, and what keeps more counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Nothing.
    #[default]
    No,
    /// To hand over: after a snapshot that other workers hold too.
    Handover,
    /// The same, because the worker leaves.
    Leave,
    /// So were all ranks: nobody would hold the snapshot.
    LeaveAll,
    /// To stop after a checkpoint.
    Checkpoint,
}

/// Numbers by which ranks count who was told to leave and who to write a checkpoint, in one sum with
/// those told to hand over: there are fewer ranks than that, and an f64 holds it exactly.
const LEAVE: f64 = 65_536.0;
const CHECKPOINT: f64 = LEAVE * LEAVE;

impl Stop {
    /// As a number to be summed over ranks.
    fn write(self) -> f64 {
        match self {
            Self::No => 0.0,
            Self::Handover => 1.0,
            Self::Leave | Self::LeaveAll => LEAVE,
            Self::Checkpoint => CHECKPOINT,
        }
    }

    /// What a sum over so many ranks says.
    fn read(sum: f64, ranks: usize) -> Self {
        let leaving = (sum % CHECKPOINT / LEAVE).floor();
        if sum >= CHECKPOINT {
            Self::Checkpoint
        } else if leaving >= ranks as f64 {
            Self::LeaveAll
        } else if leaving > 0.0 {
            Self::Leave
        } else if sum > 0.0 {
            Self::Handover
        } else {
            Self::No
        }
    }
}

/// Whether to stop after a checkpoint.
impl From<bool> for Stop {
    fn from(checkpoint: bool) -> Self {
        match checkpoint {
            true => Self::Checkpoint,
            false => Self::No,
        }
    }
}

impl From<Told> for Stop {
    fn from(told: Told) -> Self {
        match told {
            // An abort is between a worker and its ranks; the others see that they lost a peer.
            Told::GoOn | Told::Abort => Self::No,
            Told::Handover => Self::Handover,
            Told::Leave => Self::Leave,
            Told::Checkpoint => Self::Checkpoint,
        }
    }
}

/// One step's numbers: this rank's at first, everybody's after [`Agreed::agree`].
#[derive(Clone, Debug, Default)]
pub(super) struct Agreed {
    /// What ranks were told about stopping.
    pub(super) stop: Stop,
    /// Tokens trained on.
    pub(super) tokens: u64,
    /// Sum of losses per task.
    losses: Vec<ExactSum>,
    /// The same of adaptations; empty if there are none.
    adaptation: Vec<ExactSum>,
    /// Scalar products of all pairs of rows of the gradient matrix (one row if tasks are together).
    pub(super) gram: Vec<ExactSum>,
    /// Rows.
    pub(super) rows: usize,
    /// Samples of each row, where a step's batch is cut into parts.
    pub(super) row_samples: Vec<f64>,
    /// Sum of squares of the gradient of each task's head.
    pub(super) heads: Vec<ExactSum>,
}

impl Agreed {
    pub(super) fn new(sums: &Sums, stop: Stop, lanes: &Lanes) -> Self {
        let rows = lanes.rows().len().max(1);
        Self {
            stop,
            tokens: sums.tokens,
            heads: vec![ExactSum::default(); sums.losses.len()],
            losses: sums.losses.clone(),
            adaptation: sums.adaptation.clone(),
            gram: vec![ExactSum::default(); pairs(rows)],
            rows,
            row_samples: sums.row_samples.clone(),
        }
    }

    /// Makes the numbers those of all ranks together.
    ///
    /// # Errors
    /// What the communicator says.
    pub(super) fn agree(&mut self, exchange: &mut Exchange) -> Result<(), Error> {
        let mut numbers = vec![self.stop.write(), self.tokens as f64];
        numbers.extend(&self.row_samples);
        let sums = self.losses.iter().chain(&self.gram).chain(&self.heads);
        let sums = sums.chain(&self.adaptation);
        sums.for_each(|sum| sum.write(&mut numbers));
        exchange.agree(&mut numbers)?;
        self.stop = Stop::read(numbers[0], exchange.comm().size());
        self.tokens = numbers[1] as u64;
        let places = self.losses.iter_mut();
        let places = places.chain(&mut self.gram).chain(&mut self.heads);
        let places = places.chain(&mut self.adaptation);
        let start = 2 + self.row_samples.len();
        self.row_samples.copy_from_slice(&numbers[2..start]);
        for (sum, numbers) in places.zip(numbers[start..].chunks_exact(WIDTH)) {
            *sum = ExactSum::read(numbers);
        }
        Ok(())
    }

    /// Sum of a task's losses.
    pub(super) fn loss(&self, task: usize) -> f64 {
        self.losses.get(task).map_or(0.0, ExactSum::value)
    }

    /// Losses of all tasks, given how many samples each had.
    pub(super) fn losses(&self, counts: &[u32]) -> Vec<LossSum> {
        of_samples(&self.losses, counts)
    }

    /// Losses of adaptations of all tasks; empty if there are none.
    pub(super) fn adaptation(&self, counts: &[u32]) -> Vec<LossSum> {
        of_samples(&self.adaptation, counts)
    }

    /// Scalar product of two rows.
    pub(super) fn product(&self, i: usize, j: usize) -> f64 {
        self.gram[pair(i, j, self.rows)].value()
    }

    /// Global L2 norm of the update: sqrt(wᵀGw) for the backbone, and the heads'.
    pub(super) fn norm(&self, decision: &Decision) -> f64 {
        let of_rows = || update_square(&decision.row_weights, |i, j| self.product(i, j));
        let mut square = decision.backbone_square.unwrap_or_else(of_rows);
        for (weight, sum) in decision.head_weights.iter().zip(&self.heads) {
            if *weight != 0.0 {
                square += weight * weight * sum.value();
            }
        }
        square.sqrt()
    }
}

fn of_samples(sums: &[ExactSum], counts: &[u32]) -> Vec<LossSum> {
    let pairs = sums.iter().zip(counts);
    pairs
        .map(|(sum, &count)| LossSum {
            sum: sum.value(),
            count: u64::from(count),
        })
        .collect()
}

/// wᵀGw: the square of the norm of the rows' weighted sum, from their scalar products.
pub(super) fn update_square(weights: &[f32], product: impl Fn(usize, usize) -> f64) -> f64 {
    let mut square = 0.0;
    for (i, a) in weights.iter().enumerate() {
        for (j, b) in weights.iter().enumerate() {
            let weight = f64::from(*a) * f64::from(*b);
            if weight != 0.0 {
                square += weight * product(i, j);
            }
        }
    }
    // Rounding can take a vanishing update below 0; what is no number stays so.
    if square < 0.0 { 0.0 } else { square }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(told: &[Stop]) -> Stop {
        Stop::read(told.iter().map(|stop| stop.write()).sum(), told.len())
    }

    // Promise: all ranks do the same whichever of them were told, and what keeps more counts; a
    // handover by workers that all leave is seen to be none.
    #[test]
    fn what_some_were_told_is_what_all_do() {
        use super::Stop::{Checkpoint, Handover, Leave, LeaveAll, No};
        assert_eq!(agreed(&[No, No]), No);
        assert_eq!(agreed(&[No, Handover]), Handover);
        assert_eq!(agreed(&[Handover, Leave, No]), Leave);
        assert_eq!(agreed(&[Leave, Leave]), LeaveAll);
        assert_eq!(agreed(&[Leave]), LeaveAll);
        assert_eq!(agreed(&[Handover; 900]), Handover);
        assert_eq!(agreed(&[Leave, Handover, Checkpoint]), Checkpoint);
        assert_eq!(agreed(&[Checkpoint, Leave, Leave]), Checkpoint);
    }
}
