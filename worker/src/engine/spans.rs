//! Answers of a batch's samples in their contexts: which are learned, and which are found.

use super::Error;
use super::headset::{HeadSet, Seen};
use super::trainer::Trainer;
use super::verdicts::Verdict;
use super::words::Words;
use crate::data::{Input, Split, TaskData};
use crate::metrics::Values;
use crate::model::{Batch, Leaves};
use tch::Tensor;

/// Where the answers to learn stand among the places of their samples, as heads take them.
fn targets(inputs: &[&Input]) -> Values {
    let (mut ends, mut values) = (Vec::new(), Vec::new());
    let mut end = 0;
    for input in inputs {
        end += input.first().len() as u32;
        ends.push(end);
        values.push(input.passage().map_or([0, 0], |passage| passage.target));
    }
    Values::Spans { ends, values }
}

impl HeadSet {
    /// Outputs [w, 2] for all places of `inputs`, which are the samples `places` of a batch, and loss [b] of
    /// each sample, from the vectors of all rows.
    ///
    /// # Errors
    /// If libtorch refuses.
    fn span_losses(
        &self,
        task: usize,
        (batch, rows): (&Batch, &Tensor),
        places: impl IntoIterator<Item = usize>,
        inputs: &[&Input],
    ) -> Result<(Tensor, Tensor), Error> {
        let words = Words::of(batch, places, inputs.iter().copied());
        let outputs = self.outputs(task, &words.vectors(rows)?, None)?;
        let losses = self.head(task).loss(&outputs, &targets(inputs))?;
        Ok((outputs, losses))
    }

    /// Losses [b] of the samples `places` of a micro-batch. What they are asked is the task's own: of an
    /// input group, the inputs drawn are those of the task that leads it, which may know of no contexts.
    ///
    /// # Errors
    /// If libtorch refuses, or a sample cannot be read.
    pub(super) fn trained_spans(
        &self,
        (data, task): (&TaskData, usize),
        rows: &Tensor,
        seen: Seen<'_>,
        places: &[usize],
    ) -> Result<Tensor, Error> {
        let own = |place: &usize| {
            let sample = seen.samples[*place].at.sample as usize;
            data.train.input(sample)
        };
        let inputs = places.iter().map(own).collect::<Result<Vec<_>, _>>()?;
        let inputs: Vec<&Input> = inputs.iter().collect();
        let from = (&seen.micro.batch, rows);
        let (_, losses) = self.span_losses(task, from, places.iter().copied(), &inputs)?;
        Ok(losses)
    }
}

impl Trainer {
    /// Verdicts on samples whose answers a task finds: its loss, and the answer's text as the decision.
    pub(super) fn judge_spans(
        &self,
        (task, split): (usize, &Split),
        batch: &[(u32, Input)],
        (packed, leaves): (&Batch, &Leaves),
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), Error> {
        let Some(rows) = &leaves.rows else {
            return Ok(());
        };
        let inputs: Vec<&Input> = batch.iter().map(|(_, input)| input).collect();
        let (outputs, losses) = tch::no_grad(|| {
            self.heads
                .span_losses(task, (packed, rows), 0..batch.len(), &inputs)
        })?;
        let losses = Vec::<f32>::try_from(&losses.f_contiguous()?)?;
        let mut start = 0;
        for ((sample, input), loss) in batch.iter().zip(losses) {
            let count = input.first().len() as i64;
            let own = outputs.f_narrow(0, start, count)?;
            start += count;
            let found = match self.heads.head(task).decide(&own)? {
                Values::Spans { values, .. } => values.first().copied().unwrap_or_default(),
                _ => [0, 0],
            };
            let context = split.context(*sample as usize).unwrap_or_default();
            let passage = input.passage();
            let answer = passage.and_then(|passage| passage.answer(context, found));
            verdicts.push(Verdict {
                sample: *sample,
                loss,
                decision: answer.map_or_else(Vec::new, |answer| answer.text.as_bytes().to_vec()),
            });
        }
        Ok(())
    }
}
