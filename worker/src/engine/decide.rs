//! How a step's weights are found where owners have the tasks' gradients apart.

use super::Error;
use super::agree::Agreed;
use super::balancing::{Decision, agree, present};
use super::trainer::Trainer;
use crate::data::RankStep;
use espalier_balance::{Facts, Gradients};

impl Trainer {
    /// Asks the balancer for this step's weights, with all that it needs.
    ///
    /// # Errors
    /// What balancer and communicator say.
    pub(super) fn decide(&mut self, batch: &RankStep, agreed: &Agreed) -> Result<Decision, Error> {
        let sums: Vec<f64> = (0..self.tasks.len())
            .map(|task| agreed.loss(task))
            .collect();
        let gram = self.balancing.gram(agreed, &batch.counts)?;
        let seen = Facts {
            gram: Some(&gram),
            ..Facts::default()
        };
        let needs = self.balancing.needs();
        let answer = match needs {
            Gradients::Losses | Gradients::Gram | Gradients::Elementwise => {
                self.balancing.ask(batch, &sums, seen)?
            }
            Gradients::TwoBatches => {
                let cross = self.balancing.cross(agreed, &batch.counts);
                let seen = Facts {
                    cross: Some(&cross),
                    ..seen
                };
                self.balancing.ask(batch, &sums, seen)?
            }
            Gradients::Excess => {
                let excess = self.excess(agreed)?;
                let excess: Vec<f64> = agree(&excess, &mut self.exchange)?;
                let tasks = present(&batch.counts);
                let excess: Vec<f64> = tasks.iter().map(|task| excess[*task]).collect();
                let seen = Facts {
                    excess: Some(&excess),
                    ..seen
                };
                self.balancing.ask(batch, &sums, seen)?
            }
            Gradients::Buffers => return self.decide_by_buffers(batch, agreed, &sums),
            Gradients::Representation => {
                return Err(Error::Plan(
                    "a balancer of shared features was given task gradients that travel apart"
                        .to_owned(),
                ));
            }
        };
        let mut decision = self.balancing.spread(batch, &answer);
        if needs == Gradients::Elementwise {
            let square = self.combine_elementwise(batch.step, &decision)?;
            let square = agree(&[square], &mut self.exchange)?;
            decision.backbone_square = square.first().copied();
        }
        Ok(decision)
    }
}
