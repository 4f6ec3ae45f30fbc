//! Evaluation of tasks that rank texts: every text of a split among those that belong to any of them.

use super::Error;
use super::trainer::Trainer;
use super::verdicts::Verdict;
use crate::agent::watched::{Phase, enter};
use crate::data::{Input, Split};
use crate::heads;
use crate::metrics::{Values, random_rank_scores, rank_scores};
use crate::model::Context;
use crate::torch;
use espalier_comm::CommunicatorExt;
use espalier_spec::report::TaskScores;
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// What belongs to the samples of a split, each text once: the same one twice would be its own rival.
struct Pool {
    texts: Vec<Input>,
    /// For each sample the place of what belongs to it.
    own: Vec<u32>,
}

impl Pool {
    fn of(split: &Split) -> Result<Self, Error> {
        let (mut texts, mut own) = (Vec::new(), Vec::with_capacity(split.len()));
        let mut places: BTreeMap<Arc<[u32]>, u32> = BTreeMap::new();
        for sample in 0..split.len() {
            let text = split.partners(sample)?.into_iter().next();
            let none = || Error::Plan(format!("nothing belongs to sample {sample}"));
            let text = text.ok_or_else(none)?;
            // Splits hold fewer than 2^32 samples.
            let next = texts.len() as u32;
            let ids = text.ids().cloned().unwrap_or_default();
            let place = *places.entry(ids).or_insert(next);
            if place == next {
                texts.push(text);
            }
            own.push(place);
        }
        Ok(Self { texts, own })
    }
}

impl Trainer {
    /// Verdicts on this rank's samples of a split: the loss among all candidates, and rank and number of candidates
    /// as the decision. All ranks call it together.
    ///
    /// # Errors
    /// If a text cannot be tokenised, or a peer is lost.
    pub(super) fn judge_ranks(
        &mut self,
        task: usize,
        split: &Split,
    ) -> Result<Vec<Verdict>, Error> {
        let pool = Pool::of(split)?;
        let candidates = self.unit_vectors(&pool.texts)?;
        let batches = self.batches(split)?;
        // Rank 0 is dealt the first sample, so none has more than it.
        let most = split.len().div_ceil(self.exchange.comm().size());
        let most = most.div_ceil(self.evaluation_batch());
        let mut verdicts = Vec::new();
        for pass in 0..self.equally_many(batches.len(), most) {
            let batch = batches.get(pass).map_or(&[][..], Vec::as_slice);
            let inputs: Vec<&Input> = batch.iter().map(|(_, input)| input).collect();
            let Some(features) = self.pooled(&inputs)? else {
                continue;
            };
            let own = batch.iter().map(|(sample, _)| pool.own[*sample as usize]);
            let own: Vec<u32> = own.collect();
            let outputs = tch::no_grad(|| self.heads.ranked(task, &features, &candidates))?;
            let ranks = ranks(&outputs, &own)?;
            let targets = Values::Single {
                classes: pool.texts.len(),
                values: own,
            };
            let losses = tch::no_grad(|| self.heads.head(task).loss(&outputs, &targets))?;
            let losses = Vec::<f32>::try_from(&losses.f_contiguous()?)?;
            for (((sample, _), loss), rank) in batch.iter().zip(losses).zip(ranks) {
                let decision = [rank, pool.texts.len() as u32].map(u32::to_le_bytes);
                verdicts.push(Verdict {
                    sample: *sample,
                    loss,
                    decision: decision.concat(),
                });
            }
        }
        Ok(verdicts)
    }

    /// Features [n, h] of texts at length 1, in order; each rank computes its part, and all get all.
    fn unit_vectors(&mut self, texts: &[Input]) -> Result<Tensor, Error> {
        let comm = self.exchange.comm();
        let (rank, size) = (comm.rank(), comm.size());
        // In order of length, dealt out one by one, as samples are.
        let mut order: Vec<(u64, usize)> = texts.iter().map(Input::cost).zip(0..).collect();
        order.sort_unstable();
        let mine = order.iter().skip(rank).step_by(size);
        let mine: Vec<&Input> = mine.map(|(_, place)| &texts[*place]).collect();
        let batches: Vec<&[&Input]> = mine.chunks(self.evaluation_batch()).collect();
        let most = texts.len().div_ceil(size).div_ceil(self.evaluation_batch());
        let mut bytes = Vec::new();
        for pass in 0..self.equally_many(batches.len(), most) {
            let inputs = batches.get(pass).copied().unwrap_or_default();
            if let Some(features) = self.pooled(inputs)? {
                let rows = tch::no_grad(|| heads::unit(&features))?;
                let numbers = torch::numbers(&rows)?;
                bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
        }
        let width = self.backbone.width().max(1);
        let mut all = vec![0.0_f32; texts.len() * width];
        let parts = self.exchange.comm().all_gather_bytes(bytes)?;
        for (rank, part) in parts.iter().enumerate() {
            let (words, _) = part.as_chunks::<4>();
            let places = order.iter().skip(rank).step_by(size);
            for ((_, place), row) in places.zip(words.chunks_exact(width)) {
                let own = all.iter_mut().skip(place * width);
                for (number, word) in own.zip(row) {
                    *number = f32::from_le_bytes(*word);
                }
            }
        }
        let all = Tensor::f_from_slice(&all)?.f_view([-1, width as i64])?;
        Ok(all.f_to_device(self.device)?)
    }

    /// Features [n, h] of texts; none where there are none. Where parameters are sharded all ranks call it
    /// together.
    fn pooled(&mut self, inputs: &[&Input]) -> Result<Option<Tensor>, Error> {
        enter(Phase::Evaluating);
        self.exchange.unless_aborted()?;
        let packed = match inputs.is_empty() {
            true => None,
            false => Some(self.batch(inputs, &vec![0; inputs.len()])?),
        };
        let leaves = self.features(packed.as_ref(), &Context::eval())?;
        Ok(leaves.map(|leaves| leaves.features))
    }
}

/// The rank, from 1, of the candidate `own` of each row of outputs [b, m]: one more than others have larger outputs.
/// An output that is no number is smaller than none, so its candidate is the last.
fn ranks(outputs: &Tensor, own: &[u32]) -> Result<Vec<u32>, Error> {
    let places: Vec<i64> = own.iter().copied().map(i64::from).collect();
    let places = Tensor::f_from_slice(&places)?.f_to_device(outputs.device())?;
    let own_b1 = outputs.f_gather(1, &places.f_unsqueeze(1)?, false)?;
    let behind_bm = outputs.f_le_tensor(&own_b1)?;
    let behind_b = behind_bm.f_sum_dim_intlist(&[1i64][..], false, Kind::Int64)?;
    let all = outputs.size().last().copied().unwrap_or(0);
    let behind = Vec::<i64>::try_from(&behind_b.f_contiguous()?)?;
    // It is itself among those that are not before it.
    let rank = |behind: i64| (all - behind + 1).unsigned_abs() as u32;
    Ok(behind.into_iter().map(rank).collect())
}

/// Mean loss over a split's samples, and figures of their ranks. The baseline knows nothing: all orders of the
/// candidates are as likely.
pub(super) fn scores(verdicts: &[Verdict]) -> TaskScores {
    let numbers = |verdict: &Verdict| match verdict.decision.as_chunks::<4>().0 {
        [rank, candidates] => (u32::from_le_bytes(*rank), u32::from_le_bytes(*candidates)),
        // It came broken: the worst that there is.
        _ => (u32::MAX, u32::MAX),
    };
    let ranks: Vec<u32> = verdicts.iter().map(|verdict| numbers(verdict).0).collect();
    let candidates = verdicts.first().map_or(1, |verdict| numbers(verdict).1);
    let loss = verdicts.iter().map(|v| f64::from(v.loss)).sum::<f64>();
    TaskScores {
        samples: verdicts.len() as u64,
        loss: loss / verdicts.len().max(1) as f64,
        metrics: rank_scores(&ranks),
        baseline: random_rank_scores(candidates),
        class_iou: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_spec::job::Metric;

    // Promise: a candidate is before all that are less near; of equal ones none is before the other, and what is no
    // number is last.
    #[test]
    fn ranks_count_what_is_nearer() {
        let rows = [0.5_f32, 0.9, 0.1, 0.2, 0.2, 0.2, f32::NAN, 0.0, 1.0];
        let outputs = Tensor::from_slice(&rows).view([3, 3]);
        assert_eq!(ranks(&outputs, &[0, 1, 0]).unwrap(), [2, 1, 4]);
    }

    // Promise: figures are those of all samples, whatever rank judged them, beside those of a random order.
    #[test]
    fn figures_of_ranks() {
        let verdict = |(sample, rank): (u32, u32)| Verdict {
            sample,
            loss: 0.5,
            decision: [rank, 2].map(u32::to_le_bytes).concat(),
        };
        let verdicts: Vec<Verdict> = [(0, 1), (1, 2)].map(verdict).into();
        let found = scores(&verdicts);
        assert_eq!((found.samples, found.loss), (2, 0.5));
        assert_eq!(found.metrics[&Metric::Mrr], 0.75);
        assert_eq!(found.metrics[&Metric::RecallAt1], 0.5);
        assert_eq!(found.baseline, found.metrics);
    }
}
