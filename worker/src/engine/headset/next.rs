//! What heads cost that predict the next token.

use super::{Cost, Error, HeadSet, Run, Seen};
use crate::engine::next::{Next, parts};
use tch::Tensor;

impl HeadSet {
    /// Mean loss [b] over each sample's places that another token follows, from the vectors of all rows.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(in crate::engine) fn next_losses(
        &self,
        task: usize,
        rows: &Tensor,
        next: &Next,
    ) -> Result<Tensor, Error> {
        let outputs = self.outputs(task, &next.vectors(rows)?, None)?;
        Ok(self.heads[task].loss(&outputs, &next.targets)?)
    }

    /// Gives what samples cost whose next tokens a task predicts, in parts whose logits fit into memory.
    pub(super) fn next_costs(
        &self,
        (task, run): Run,
        rows: &Tensor,
        seen: Seen<'_>,
        give: &mut impl FnMut(Cost) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let tokens = |index: usize| seen.samples[index].input.cost();
        for part in parts(run, tokens, self.heads[task].outputs()) {
            let inputs = seen.samples[part.clone()].iter().map(|s| &s.input);
            let next = Next::of(&seen.micro.batch, part.clone(), inputs);
            give(Cost {
                task,
                target: part.end..part.end,
                losses: self.next_losses(task, rows, &next)?,
                rows: part,
                adaptation: None,
            })?;
        }
        Ok(())
    }
}
