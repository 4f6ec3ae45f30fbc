//! Forward passes alone: for evaluations, and for balancers that look at a step's losses again.

use super::Error;
use super::balancing::Decision;
use super::costs::Tally;
use super::exact::ExactSum;
use super::exchange::Held;
use super::headset::Seen;
use super::lanes::Slot;
use super::trainer::Trainer;
use crate::data::{RankStep, Sample};
use crate::model::{Batch, Context, Leaves, Moment, Pass};
use espalier_spec::exchange::Sharding;

impl Trainer {
    /// How many passes this rank makes of its `own` where the rank with the most has `most`: a pass
    /// gathers what is sharded, so all ranks make equally many.
    pub(super) fn equally_many(&self, own: usize, most: usize) -> usize {
        match self.exchange.how().sharding {
            Sharding::Full => most,
            _ => own,
        }
    }

    /// What heads read of a batch, without a graph. Where parameters are sharded all ranks call it together,
    /// those that have no batch left with none.
    ///
    /// # Errors
    /// What model and communicator say.
    pub(super) fn features(
        &mut self,
        batch: Option<&Batch>,
        ctx: &Context,
    ) -> Result<Option<Leaves>, Error> {
        let ids = match batch {
            Some(Batch::Tokens(tokens)) => tokens.host_ids.as_slice(),
            _ => &[],
        };
        self.fetch_rows(ids.iter().copied())?;
        let backbone = self.backbone.as_ref();
        let wants_rows = self.heads.wants_rows();
        let held = Held {
            blocks: backbone.blocks(),
            owners: &self.owners,
        };
        let exchange = &mut self.exchange;
        let features = match batch {
            Some(batch) => tch::no_grad(|| {
                let pass = Pass::forward(backbone, batch, ctx, |moment| match moment {
                    Moment::Forward(index) => exchange.need(index, Some(index + 1), &held),
                    Moment::ForwardDone(index) => exchange.release(index, &held.blocks[index]),
                    _ => Ok(()),
                })?;
                Ok::<_, Error>(Some(pass.leaves(wants_rows)?))
            })?,
            None => {
                exchange.pass_by(&held)?;
                None
            }
        };
        exchange.gathered(self.owners.len() - 1)?;
        self.heads.block().push()?;
        self.drop_rows()?;
        Ok(features)
    }

    /// Losses of the step's batch with the new parameters, for balancers that learn from them.
    pub(super) fn look_again(
        &mut self,
        batch: &RankStep,
        decision: &Decision,
    ) -> Result<(), Error> {
        let ctx = self.context(batch.step);
        let mut losses = vec![ExactSum::default(); self.tasks.len()];
        let micros = self.micros(batch, Slot::ALL);
        for pass in 0..self.equally_many(micros.len(), self.passes) {
            let samples: &[&Sample] = micros.get(pass).map_or(&[], Vec::as_slice);
            let micro = match samples {
                [] => None,
                samples => Some(self.micro(samples, &[Slot::ALL])?),
            };
            let batch = micro.as_ref().map(|micro| &micro.batch);
            if let (Some(leaves), Some(micro)) = (self.features(batch, &ctx)?, &micro) {
                let seen = Seen {
                    samples,
                    micro,
                    leaves: &leaves,
                };
                let mut tally = Tally {
                    losses: &mut losses,
                    adaptation: &mut [],
                };
                self.heads.measure(seen, &self.tasks, &ctx, &mut tally)?;
            }
        }
        self.balancing
            .observe(batch, &losses, &mut self.exchange, decision)
    }
}
