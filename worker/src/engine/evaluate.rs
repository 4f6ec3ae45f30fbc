//! Evaluation of a split: samples are dealt to ranks, decisions gathered, scored by all alike.

use super::described;
use super::selection::{self, Figures};
use super::trainer::Trainer;
use super::verdicts::{Verdict, decisions, decode, encode};
use super::words::Words;
use super::{Error, maps, next, ranking};
use crate::agent::watched::{Phase, enter};
use crate::data::{Input, Split, TaskData};
use crate::heads::{self, Level};
use crate::metrics::{self, Baseline, Joint, NO_TAG, Nearest, Values, part};
use crate::model::{Batch, Context, Leaves};
use espalier_comm::CommunicatorExt;
use espalier_spec::Step;
use espalier_spec::job::{HeadKind, Metric};
use espalier_spec::report::{Evaluation, TaskScores};
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::Tensor;

/// Samples between two signs of life while batches are made.
const SIGN: usize = 1024;

/// Which samples are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Validation files: during training.
    Validation,
    /// Test files: at the end.
    Test,
}

impl Which {
    /// The name in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Which::Validation => "validation",
            Which::Test => "test",
        }
    }

    fn of(self, task: &TaskData) -> Option<&Split> {
        match self {
            Which::Validation => task.validation.as_ref(),
            Which::Test => task.test.as_ref(),
        }
    }
}

/// Whether a head reads a split's inputs as they are, each by itself.
fn reads_plainly(head: HeadKind) -> bool {
    !matches!(
        head,
        HeadKind::CausalLm | HeadKind::Entailment | HeadKind::Ranking | HeadKind::Span
    )
}

impl Trainer {
    /// Evaluates all tasks that have such a split; none if no task has, and nothing else says how good
    /// the model is. All ranks get the same figures, bit by bit.
    ///
    /// # Errors
    /// If a sample cannot be read or a peer is lost.
    pub fn evaluate(&mut self, which: Which, step: Step) -> Result<Option<Evaluation>, Error> {
        let all = vec![true; self.tasks.len()];
        self.evaluate_due((which, step), &all, &mut Figures::new())
    }

    /// The same of tasks that are `due`, which says so of each; `last` has what each task gave to the selection
    /// before, and gets what these give now.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub(super) fn evaluate_due(
        &mut self,
        (which, step): (Which, Step),
        due: &[bool],
        last: &mut Figures,
    ) -> Result<Option<Evaluation>, Error> {
        let tasks = Arc::clone(&self.tasks);
        let mut scores = BTreeMap::new();
        for own in self.evaluated_together(which, due) {
            scores.extend(self.evaluate_tasks(&own, which)?);
        }
        let figures = match self.selects_without_labels(which) {
            true => self.unlabelled(due)?,
            false => self.by_metric(&scores),
        };
        if scores.is_empty() && figures.is_empty() {
            return Ok(None);
        }
        for (task, _) in tasks.iter().zip(due).filter(|(_, due)| **due) {
            last.remove(&task.name);
        }
        for (index, figure) in figures {
            let figure = figure.is_finite().then_some(figure);
            last.insert(tasks[index].name.clone(), figure);
        }
        Ok(Some(Evaluation {
            step,
            split: which.as_str().to_owned(),
            tasks: scores,
            selection: selection::mean(&self.spec, last),
            best: false,
        }))
    }

    /// The tasks that are due, in their order; those whose samples are the same go through the backbone once.
    fn evaluated_together(&self, which: Which, due: &[bool]) -> Vec<Vec<usize>> {
        let mut all: Vec<Vec<usize>> = Vec::new();
        for (index, task) in self.tasks.iter().enumerate().filter(|(at, _)| due[*at]) {
            let Some(split) = which.of(task) else {
                continue;
            };
            let is_same = |first: usize| {
                let leader = &self.tasks[first];
                self.groups.leader(first) == self.groups.leader(index)
                    && reads_plainly(leader.head)
                    && reads_plainly(task.head)
                    && which
                        .of(leader)
                        .is_some_and(|own| own.is_same_inputs(split))
            };
            match all.iter_mut().find(|own| is_same(own[0])) {
                Some(own) => own.push(index),
                None => all.push(vec![index]),
            }
        }
        all
    }

    /// Figures of tasks whose samples are the same.
    fn evaluate_tasks(
        &mut self,
        own: &[usize],
        which: Which,
    ) -> Result<Vec<(String, TaskScores)>, Error> {
        let tasks = Arc::clone(&self.tasks);
        let split_of = |index: usize| which.of(&tasks[index]);
        let Some(first) = split_of(own[0]) else {
            return Ok(Vec::new());
        };
        let verdicts = match tasks[own[0]].head {
            HeadKind::Entailment => vec![self.judge_pairs(own[0], first)?],
            HeadKind::Ranking => vec![self.judge_ranks(own[0], first)?],
            _ => self.judge_all(own, which, first)?,
        };
        let mut scores = Vec::new();
        let mut joint = Joint::default();
        for (&index, verdicts) in own.iter().zip(verdicts) {
            let mut all = Vec::new();
            for part in self.exchange.comm().all_gather_bytes(encode(&verdicts))? {
                decode(&part, &mut all)?;
            }
            all.sort_by_key(|verdict| verdict.sample);
            if let Some(split) = split_of(index) {
                let found = self.score(index, (split, all), which, &mut joint)?;
                scores.push((tasks[index].name.clone(), found));
            }
        }
        // Of some of a group's tasks it would say less than its name.
        let leader = self.groups.leader(own[0]);
        if own.len() == self.groups.members(leader).count()
            && let Some(share) = joint.share(own.len())
        {
            for (_, found) in &mut scores {
                found.metrics.insert(Metric::JointAccuracy, share);
            }
        }
        Ok(scores)
    }

    /// Verdicts of each of the tasks on this rank's samples of a split, which is the same for all of them. All ranks
    /// call it together.
    fn judge_all(
        &mut self,
        own: &[usize],
        which: Which,
        split: &Split,
    ) -> Result<Vec<Vec<Verdict>>, Error> {
        let tasks = Arc::clone(&self.tasks);
        let mut vectors = Vec::new();
        for &index in own {
            vectors.push(self.class_vectors(index)?);
        }
        let mut verdicts: Vec<Vec<Verdict>> = own.iter().map(|_| Vec::new()).collect();
        let batches = self.batches(split)?;
        // Rank 0 is dealt the first sample, so none has more than it.
        let most = split.len().div_ceil(self.exchange.comm().size());
        let most = most.div_ceil(self.evaluation_batch());
        for pass in 0..self.equally_many(batches.len(), most) {
            let batch = batches.get(pass).map_or(&[][..], Vec::as_slice);
            let Some((packed, leaves)) = self.seen(batch)? else {
                continue;
            };
            for (place, &index) in own.iter().enumerate() {
                // Labels are the task's own.
                let split = which.of(&tasks[index]).unwrap_or(split);
                let vectors = vectors[place].as_ref();
                let seen = (&packed, &leaves);
                self.judge(index, (split, vectors), (batch, seen), &mut verdicts[place])?;
            }
        }
        Ok(verdicts)
    }

    /// Figures from the verdicts on all samples, in order.
    fn score(
        &mut self,
        index: usize,
        (split, all): (&Split, Vec<Verdict>),
        which: Which,
        joint: &mut Joint,
    ) -> Result<TaskScores, Error> {
        let task = Arc::clone(&self.tasks[index]);
        if task.head == HeadKind::CausalLm {
            return Ok(next::scores(&all, &task, split));
        }
        if task.head == HeadKind::Segmentation {
            return Ok(maps::scores(&all, &task));
        }
        if task.head == HeadKind::Ranking {
            return Ok(ranking::scores(&all));
        }
        let truth = task.values(split, 0..split.len());
        let (predicted, more) = match (&task.classes, &truth) {
            (Some(classes), Values::Single { values, .. }) => {
                self.among_classes(index, &classes.seen, (values.as_slice(), &all[..]), which)?
            }
            _ => (decisions(&truth, &all), BTreeMap::new()),
        };
        let loss = all.iter().map(|v| f64::from(v.loss)).sum::<f64>() / all.len().max(1) as f64;
        let train = task.values(&task.train, task.train.labelled());
        let mut figures = metrics::scores(&truth, &predicted)?;
        figures.extend(more);
        joint.add(&truth, &predicted);
        Ok(TaskScores {
            samples: all.len() as u64,
            loss,
            metrics: figures,
            baseline: Baseline::fit(&train).scores(&truth)?,
            class_iou: BTreeMap::new(),
        })
    }

    /// Decisions among described classes, and their figures. Validation chooses the calibration, if the job
    /// gives none and it has samples of unseen classes, too.
    fn among_classes(
        &mut self,
        index: usize,
        seen: &[bool],
        (truth, verdicts): (&[u32], &[Verdict]),
        which: Which,
    ) -> Result<(Values, BTreeMap<Metric, f64>), Error> {
        let nearest = verdicts.iter().map(|v| described::read(&v.decision));
        let nearest: Vec<Nearest> = nearest.collect();
        let spec = self.spec.tasks[index].zero_shot.as_ref();
        let is_given = spec.is_some_and(|spec| spec.calibration.is_some());
        if which == Which::Validation
            && !is_given
            && let Some(calibration) = metrics::calibrate(truth, &nearest, seen)
        {
            self.heads.set_calibration(index, calibration)?;
        }
        let calibration = self.heads.calibration(index)?;
        let values = Values::Single {
            classes: seen.len(),
            values: nearest.iter().map(|one| one.class(calibration)).collect(),
        };
        Ok((
            values,
            metrics::zero_shot(truth, &nearest, seen, calibration),
        ))
    }

    /// Samples of a batch of an evaluation.
    pub(super) fn evaluation_batch(&self) -> usize {
        self.spec.evaluation.batch_size.max(1) as usize
    }

    /// This rank's batches: samples in order of length, dealt out one by one.
    pub(super) fn batches(&self, split: &Split) -> Result<Vec<Vec<(u32, Input)>>, Error> {
        let comm = self.exchange.comm();
        let mut costs = Vec::with_capacity(split.len());
        for index in 0..split.len() {
            if index.is_multiple_of(SIGN) {
                enter(Phase::Evaluating);
            }
            costs.push((split.cost(index)?, index));
        }
        costs.sort_unstable();
        let mine = costs.iter().skip(comm.rank()).step_by(comm.size());
        let mut batches = vec![Vec::new()];
        for &(_, index) in mine {
            let is_full = |batch: &Vec<_>| batch.len() >= self.evaluation_batch();
            if batches.last().is_some_and(is_full) {
                // Samples may have to be read and decoded first.
                enter(Phase::Evaluating);
                batches.push(Vec::new());
            }
            if let Some(batch) = batches.last_mut() {
                batch.push((index as u32, split.input(index)?));
            }
        }
        batches.retain(|batch| !batch.is_empty());
        Ok(batches)
    }

    /// What the backbone makes of a batch; nothing where nothing is left for this rank. All ranks call it together.
    fn seen(&mut self, batch: &[(u32, Input)]) -> Result<Option<(Batch, Leaves)>, Error> {
        enter(Phase::Evaluating);
        self.exchange.unless_aborted()?;
        let inputs: Vec<&Input> = batch.iter().map(|(_, input)| input).collect();
        let packed = match inputs.is_empty() {
            true => None,
            false => Some(self.batch(&inputs, &vec![0; inputs.len()])?),
        };
        let leaves = self.features(packed.as_ref(), &Context::eval())?;
        Ok(packed.zip(leaves))
    }

    /// Adds a task's verdicts on a batch.
    fn judge(
        &mut self,
        index: usize,
        (split, vectors): (&Split, Option<&Tensor>),
        (batch, (packed, leaves)): (&[(u32, Input)], (&Batch, &Leaves)),
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), Error> {
        let head = self.heads.head(index);
        if head.level() == Level::Token {
            return self.judge_next(index, batch, (packed, leaves), verdicts);
        }
        if head.level() == Level::Place {
            return self.judge_maps(index, (split, batch), leaves, verdicts);
        }
        if head.kind() == HeadKind::Span {
            return self.judge_spans((index, split), batch, (packed, leaves), verdicts);
        }
        let words = match (head.level(), &leaves.rows) {
            (Level::Word, Some(rows)) => {
                let inputs = batch.iter().map(|(_, input)| input);
                Some((rows, Words::of(packed, 0..batch.len(), inputs)))
            }
            _ => None,
        };
        let frames = match (head.level(), &leaves.rows) {
            (Level::Frame, Some(rows)) => tch::no_grad(|| self.heads.frames(rows))?,
            _ => None,
        };
        let (losses, decided) = tch::no_grad(|| {
            let which = batch.iter().map(|(sample, _)| *sample as usize);
            let targets = self.tasks[index].values(split, which);
            let (outputs, targets) = match &words {
                Some((rows, words)) => {
                    let outputs = self.heads.outputs(index, &words.vectors(rows)?, None)?;
                    (outputs, words.kept(targets))
                }
                None => {
                    let read = frames.as_ref().unwrap_or(&leaves.features);
                    let outputs = self.heads.outputs(index, read, vectors)?;
                    (outputs, targets)
                }
            };
            let losses = Vec::<f32>::try_from(&head.loss(&outputs, &targets)?.f_contiguous()?)?;
            let decided = match &words {
                Some((_, words)) => head.decide_texts(&outputs, &words.ends())?,
                None => head.decide(&outputs)?,
            };
            Ok::<_, Error>((losses, decided))
        })?;
        let tags = match (&words, &decided) {
            (Some((_, words)), Values::Single { values, .. }) => words.spread(values.clone()),
            _ => Vec::new(),
        };
        let near = match (vectors, &self.tasks[index].classes) {
            (Some(vectors), Some(classes)) => {
                let cosines = tch::no_grad(|| {
                    let features = self.heads.projected(index, &leaves.features)?;
                    Ok::<_, Error>(heads::cosines(&features, vectors)?)
                })?;
                described::nearest(&cosines, &classes.seen)?
            }
            _ => Vec::new(),
        };
        for (place, (sample, _)) in batch.iter().enumerate() {
            let decision = match &decided {
                _ if vectors.is_some() => near.get(place).map(described::write).unwrap_or_default(),
                _ if words.is_some() => {
                    let own = tags.get(place).into_iter().flatten();
                    own.flat_map(|tag| tag.unwrap_or(NO_TAG).to_le_bytes())
                        .collect()
                }
                Values::Text { ends, values, .. } => {
                    let own = part(ends, values, place).iter();
                    own.flat_map(|character| character.to_le_bytes()).collect()
                }
                // A head decides on words one by one; masks and answers are judged by themselves.
                Values::Tags { .. }
                | Values::Masks { .. }
                | Values::Next { .. }
                | Values::Spans { .. }
                | Values::Answers(_) => Vec::new(),
                Values::Single { values, .. } | Values::Ordered { values, .. } => {
                    values[place].to_le_bytes().to_vec()
                }
                Values::Multi { classes, values } => values[place * classes..(place + 1) * classes]
                    .iter()
                    .map(|&v| u8::from(v))
                    .collect(),
                Values::Numbers(values) => values[place].to_le_bytes().to_vec(),
            };
            verdicts.push(Verdict {
                sample: *sample,
                loss: losses[place],
                decision,
            });
        }
        Ok(())
    }
}
