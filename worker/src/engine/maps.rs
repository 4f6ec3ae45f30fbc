//! Evaluation of tasks that give every pixel a class: a confusion matrix of each sample, and the figures of a
//! whole split.

use super::Error;
use super::next::parts;
use super::trainer::Trainer;
use super::verdicts::Verdict;
use crate::data::{Input, Split, TaskData};
use crate::metrics::{Confusion, Values};
use crate::model::Leaves;
use espalier_spec::report::TaskScores;
use std::collections::BTreeMap;

/// Bytes of a cell of a confusion matrix on its way: class, class given, pixels.
const CELL: usize = 6;

impl Trainer {
    /// Verdicts on samples whose pixels a task labels: mean loss, and the confusion matrix as the decision.
    pub(super) fn judge_maps(
        &self,
        task: usize,
        (split, batch): (&Split, &[(u32, Input)]),
        leaves: &Leaves,
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), Error> {
        let (Some(rows), Some(size)) = (&leaves.rows, split.labels.mask_size()) else {
            return Ok(());
        };
        let head = self.heads.head(task);
        let pixels = (size[0] * size[1]) as u64;
        for run in parts(0..batch.len(), |_| pixels, head.outputs()) {
            let samples = &batch[run.clone()];
            let which = samples.iter().map(|(sample, _)| *sample as usize);
            let targets = self.tasks[task].values(split, which);
            let (losses, found) = tch::no_grad(|| {
                let places: Vec<usize> = run.clone().collect();
                let outputs = self
                    .heads
                    .map_outputs(task, rows, (&run, &places[..]), size)?;
                let losses = head.loss(&outputs, &targets)?.f_contiguous()?;
                Ok::<_, Error>((Vec::<f32>::try_from(&losses)?, head.decide(&outputs)?))
            })?;
            let (
                Values::Masks {
                    classes,
                    ignore,
                    values: truth,
                    ..
                },
                Values::Masks { values: found, .. },
            ) = (&targets, &found)
            else {
                continue;
            };
            let masks = truth.iter().zip(found);
            for (((sample, _), loss), (truth, found)) in samples.iter().zip(losses).zip(masks) {
                let mut confusion = Confusion::new(*classes);
                confusion.compare(truth, found, *ignore);
                verdicts.push(Verdict {
                    sample: *sample,
                    loss,
                    decision: write(&confusion),
                });
            }
        }
        Ok(())
    }
}

/// Mean loss over a split's samples, and the figures of all their pixels together: whole numbers, so which rank
/// judged which sample changes no bit. The baseline gives every pixel the class that most of training have.
pub(super) fn scores(verdicts: &[Verdict], task: &TaskData) -> TaskScores {
    let classes = task.labels.len();
    let mut confusion = Confusion::new(classes);
    for verdict in verdicts {
        read(&verdict.decision, &mut confusion);
    }
    let counts = task.train.labels.counts(classes);
    let most = (0..classes).rev().max_by_key(|class| counts[*class]);
    let baseline = confusion.all_given(most.unwrap_or(0));
    let named = task.labels.names().iter().zip(confusion.iou());
    let class_iou = named.filter_map(|(name, iou)| Some((name.clone(), iou?)));
    let loss = verdicts.iter().map(|v| f64::from(v.loss)).sum::<f64>();
    TaskScores {
        samples: verdicts.len() as u64,
        loss: loss / verdicts.len().max(1) as f64,
        metrics: confusion.scores(),
        baseline: baseline.scores(),
        class_iou: class_iou.collect::<BTreeMap<_, _>>(),
    }
}

/// The cells of a sample's confusion matrix that are not 0. Classes are bytes, and an image has fewer than 2^32
/// pixels.
fn write(confusion: &Confusion) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (truth, found, pixels) in confusion.cells() {
        bytes.extend([truth as u8, found as u8]);
        bytes.extend((pixels as u32).to_le_bytes());
    }
    bytes
}

/// Adds what `write` wrote.
fn read(bytes: &[u8], confusion: &mut Confusion) {
    let (cells, _) = bytes.as_chunks::<CELL>();
    for [truth, found, pixels @ ..] in cells {
        let pixels = u32::from_le_bytes(*pixels);
        confusion.add(usize::from(*truth), usize::from(*found), pixels.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: what ranks tell each other of their samples adds up to the confusion matrix of all.
    #[test]
    fn verdicts_add_up_to_the_whole() {
        let masks: [(&[u8], &[u8]); 3] = [
            (&[0, 1, 2, 255], &[0, 2, 2, 1]),
            (&[255, 255], &[0, 1]),
            (&[1, 1, 1, 0, 0], &[1, 0, 1, 0, 2]),
        ];
        let (mut whole, mut told) = (Confusion::new(3), Confusion::new(3));
        for (truth, found) in masks {
            whole.compare(truth, found, 255);
            let mut own = Confusion::new(3);
            own.compare(truth, found, 255);
            read(&write(&own), &mut told);
        }
        assert_eq!(told, whole);
        assert_eq!(write(&Confusion::new(3)), Vec::<u8>::new());
    }
}
