//! Evaluation of classes that are read together with each text: every sample in as many pairs as there are
//! classes and templates.

use super::trainer::Trainer;
use super::verdicts::Verdict;
use super::{Error, described};
use crate::agent::watched::{Phase, enter};
use crate::data::{Input, Split};
use crate::heads;
use crate::model::Context;
use std::sync::Arc;
use tch::Tensor;

impl Trainer {
    /// Verdicts on this rank's samples of a split, by a task whose classes are hypotheses. All ranks call it
    /// together.
    ///
    /// # Errors
    /// If a pair cannot be tokenised, or a peer is lost.
    pub(super) fn judge_pairs(
        &mut self,
        index: usize,
        split: &Split,
    ) -> Result<Vec<Verdict>, Error> {
        let tasks = Arc::clone(&self.tasks);
        let Some(classes) = &tasks[index].classes else {
            return Ok(Vec::new());
        };
        let each = classes.hypotheses.len();
        let dealt = self.batches(split)?.into_iter().flatten();
        let mine: Vec<usize> = dealt.map(|(sample, _)| sample as usize).collect();
        let own = mine.len() * each;
        // Rank 0 is dealt the first sample, so none has more than it.
        let most = split.len().div_ceil(self.exchange.comm().size()) * each;
        let size = self.evaluation_batch();
        let mut pairs: Vec<f32> = Vec::with_capacity(own);
        for pass in 0..self.equally_many(own.div_ceil(size), most.div_ceil(size)) {
            enter(Phase::Evaluating);
            let places = (pass * size).min(own)..((pass + 1) * size).min(own);
            let pair =
                |place: usize| split.paired(mine[place / each], &classes.hypotheses[place % each]);
            let inputs = places.map(pair).collect::<Result<Vec<Input>, _>>()?;
            let inputs: Vec<&Input> = inputs.iter().collect();
            let packed = match inputs.is_empty() {
                true => None,
                false => Some(self.batch(&inputs, &vec![0; inputs.len()])?),
            };
            if let Some(leaves) = self.features(packed.as_ref(), &Context::eval())? {
                let outputs = tch::no_grad(|| self.heads.outputs(index, &leaves.features, None))?;
                let outputs = outputs.f_contiguous()?.f_flatten(0, -1)?;
                pairs.extend(Vec::<f32>::try_from(&outputs)?);
            }
        }
        if mine.is_empty() {
            return Ok(Vec::new());
        }
        let of_classes = (classes.seen.len(), classes.templates.len());
        let outputs: Tensor = heads::over_templates(&pairs, of_classes)?;
        let targets = tasks[index].values(split, mine.iter().copied());
        let losses = tch::no_grad(|| self.heads.head(index).loss(&outputs, &targets))?;
        let losses = Vec::<f32>::try_from(&losses.f_contiguous()?)?;
        let near = described::nearest(&outputs, &classes.seen)?;
        let verdicts = mine.iter().zip(losses).zip(&near);
        Ok(verdicts
            .map(|((sample, loss), near)| Verdict {
                sample: *sample as u32,
                loss,
                decision: described::write(near),
            })
            .collect())
    }
}
