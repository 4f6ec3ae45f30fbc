//! Next tokens of a batch's samples: which rows predict one, which it is, and figures of a whole split.

use super::Error;
use super::trainer::Trainer;
use super::verdicts::Verdict;
use crate::data::{Input, Inputs, Split, TaskData};
use crate::metrics::Values;
use crate::model::{Batch, Leaves};
use espalier_spec::job::Metric;
use espalier_spec::report::TaskScores;
use std::collections::BTreeMap;
use std::ops::Range;
use tch::{TchError, Tensor};

/// Numbers of logits that are in memory at once, where one sample does not have more.
const LOGITS: u64 = 1 << 24;

/// The places of some samples that another token follows.
#[derive(Debug)]
pub(super) struct Next {
    rows: Vec<i64>,
    /// The tokens that follow, as heads take them.
    pub(super) targets: Values,
}

impl Next {
    /// Of `inputs`, which are samples `run` of the batch.
    pub(super) fn of<'a>(
        batch: &Batch,
        run: Range<usize>,
        inputs: impl Iterator<Item = &'a Input>,
    ) -> Self {
        let starts = match batch {
            Batch::Tokens(tokens) => tokens.first_rows(),
            Batch::Images(_) | Batch::Features(_) => Vec::new(),
        };
        let (mut rows, mut ends, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (start, input) in starts[run.start.min(starts.len())..].iter().zip(inputs) {
            for (place, id) in (0..).zip(input.following()) {
                rows.push(start + place);
                values.push(id);
            }
            ends.push(values.len() as u32);
        }
        Self {
            rows,
            targets: Values::Next { ends, values },
        }
    }

    /// The vectors of the places, [w, h], out of those of all rows.
    pub(super) fn vectors(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        let index = Tensor::f_from_slice(&self.rows)?.f_to_device(rows.device())?;
        rows.f_index_select(0, &index)
    }
}

/// Cuts a run of samples, with `tokens` of each, into parts whose logits fit into memory together.
pub(super) fn parts(
    run: Range<usize>,
    tokens: impl Fn(usize) -> u64,
    vocabulary: usize,
) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut room = 0u64;
    for index in run {
        let logits = tokens(index).saturating_mul(vocabulary as u64);
        match parts.last_mut() {
            Some(part) if logits <= room => {
                part.end = index + 1;
                room -= logits;
            }
            _ => {
                parts.push(index..index + 1);
                room = LOGITS.saturating_sub(logits);
            }
        }
    }
    parts
}

impl Trainer {
    /// Verdicts on samples whose next tokens a task predicts: mean loss, and places as the decision.
    pub(super) fn judge_next(
        &self,
        task: usize,
        batch: &[(u32, Input)],
        (packed, leaves): (&Batch, &Leaves),
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), Error> {
        let Some(rows) = &leaves.rows else {
            return Ok(());
        };
        let vocabulary = self.heads.head(task).outputs();
        for part in parts(0..batch.len(), |index| batch[index].1.cost(), vocabulary) {
            let samples = &batch[part.clone()];
            let next = Next::of(packed, part, samples.iter().map(|(_, input)| input));
            let losses = tch::no_grad(|| self.heads.next_losses(task, rows, &next))?;
            let losses = Vec::<f32>::try_from(&losses.f_contiguous()?)?;
            for ((sample, input), loss) in samples.iter().zip(losses) {
                let places = input.following().count() as u32;
                verdicts.push(Verdict {
                    sample: *sample,
                    loss,
                    decision: places.to_le_bytes().to_vec(),
                });
            }
        }
        Ok(())
    }
}

/// Loss per token over a whole split, in nats, and its perplexity; samples count by their places, in
/// order, whatever rank judged them. The baseline knows how frequent each token is in training.
pub(super) fn scores(verdicts: &[Verdict], task: &TaskData, split: &Split) -> TaskScores {
    let places = |verdict: &Verdict| {
        let bytes = verdict.decision.first_chunk().copied();
        f64::from(u32::from_le_bytes(bytes.unwrap_or_default()))
    };
    let tokens: f64 = verdicts.iter().map(places).sum();
    let sum: f64 = verdicts.iter().map(|v| f64::from(v.loss) * places(v)).sum();
    let loss = sum / tokens.max(1.0);
    let perplexity = |loss: f64| BTreeMap::from([(Metric::Perplexity, loss.exp())]);
    let baseline = match (task.train.inputs.as_ref(), split.inputs.as_ref()) {
        (Inputs::Stream(train), Inputs::Stream(split)) => {
            perplexity(frequency_loss(train.ids(), &split.ids()[1..]))
        }
        _ => BTreeMap::new(),
    };
    TaskScores {
        samples: verdicts.len() as u64,
        loss,
        metrics: perplexity(loss),
        baseline,
        class_iou: BTreeMap::new(),
    }
}

/// Mean of -log p over `tokens`, where p is a token's share of `train`, each counted once more than it is
/// there.
fn frequency_loss(train: &[u32], tokens: &[u32]) -> f64 {
    let most = train.iter().chain(tokens).max().copied().unwrap_or(0);
    let mut counts = vec![1u64; most as usize + 1];
    train.iter().for_each(|&id| counts[id as usize] += 1);
    let all = counts.iter().sum::<u64>() as f64;
    let surprise = |&id: &u32| (all / counts[id as usize] as f64).ln();
    tokens.iter().map(surprise).sum::<f64>() / tokens.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::NO_TOKEN;
    use crate::model::TokenBatch;
    use tch::Device;

    // Promise: each place predicts the token behind it, whatever the packing; the last one only where a
    // window says what follows.
    #[test]
    fn places_predict_what_follows() {
        let window = |ids: &[u32], next: u32| Input::Window {
            ids: ids.into(),
            next,
        };
        let inputs = [
            window(&[1, 2, 3], 4),
            window(&[9], NO_TOKEN),
            Input::Tokens([5, 6].as_slice().into()),
        ];
        let ids: Vec<_> = inputs.iter().map(|i| i.ids().unwrap().clone()).collect();
        let ids: Vec<&[u32]> = ids.iter().map(AsRef::as_ref).collect();
        let batch = TokenBatch::pack(&ids, &[0, 1, 2], Device::Cpu).unwrap();
        let next = Next::of(&Batch::Tokens(batch), 0..3, inputs.iter());
        // Packed shortest first: [9], [5, 6], [1, 2, 3].
        assert_eq!(next.rows, [3, 4, 5, 1]);
        let Values::Next { ends, values } = next.targets else {
            panic!("other targets");
        };
        assert_eq!((ends, values), (vec![3, 3, 4], vec![2, 3, 4, 6]));
    }

    // Promise: parts cover a run in order and never hold more logits than allowed, unless one sample does.
    #[test]
    fn parts_bound_the_logits() {
        let tokens = [100u64, 200, 300, 10_000, 1, 1];
        let vocabulary = (LOGITS / 400) as usize;
        let found = parts(0..6, |index| tokens[index], vocabulary);
        assert_eq!(found, [0..2, 2..3, 3..4, 4..6]);
    }

    #[test]
    fn frequencies_are_a_baseline() {
        // Promise: a token of half of the training text costs about ln 2.
        let train = [[0u32, 1]; 500].concat();
        assert!((frequency_loss(&train, &[0, 1, 1]) - 2f64.ln()).abs() < 1e-3);
        assert!(frequency_loss(&train, &[2]) > 6.0);
    }
}
