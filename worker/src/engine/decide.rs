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
        match self.balancing.needs() {
            Gradients::Losses | Gradients::Gram => {
                let facts = |facts| Facts {
                    gram: Some(&gram),
                    ..facts
                };
                let answer = self.balancing.ask(batch, &sums, facts)?;
                Ok(self.balancing.spread(batch, &answer))
            }
            Gradients::TwoBatches => {
                let cross = self.balancing.cross(agreed, &batch.counts);
                let facts = |facts| Facts {
                    gram: Some(&gram),
                    cross: Some(&cross),
                    ..facts
                };
                let answer = self.balancing.ask(batch, &sums, facts)?;
                Ok(self.balancing.spread(batch, &answer))
            }
            Gradients::Buffers => self.decide_by_buffers(batch, agreed, &sums),
            Gradients::Excess => {
                let excess = self.excess(agreed)?;
                let excess: Vec<f64> = agree(&excess, &mut self.exchange)?;
                let tasks = present(&batch.counts);
                let excess: Vec<f64> = tasks.iter().map(|task| excess[*task]).collect();
                let facts = |facts| Facts {
                    gram: Some(&gram),
                    excess: Some(&excess),
                    ..facts
                };
                let answer = self.balancing.ask(batch, &sums, facts)?;
                Ok(self.balancing.spread(batch, &answer))
            }
            Gradients::Elementwise => {
                let facts = |facts| Facts {
                    gram: Some(&gram),
                    ..facts
                };
                let answer = self.balancing.ask(batch, &sums, facts)?;
                let mut decision = self.balancing.spread(batch, &answer);
                let square = self.combine_elementwise(batch.step, &decision)?;
                let square = agree(&[square], &mut self.exchange)?;
                decision.backbone_square = square.first().copied();
                Ok(decision)
            }
            Gradients::Representation => Err(Error::Plan(
                "a balancer of shared features was given task gradients that travel apart"
                    .to_owned(),
            )),
        }
    }
}
