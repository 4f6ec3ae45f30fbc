//! What a frozen backbone makes of every sample, computed once: later epochs and evaluations run the
//! heads alone; or what its frozen lowest blocks make of it (`prefix`).
//!
//! Samples are sorted by cost and computed in groups that depend on the data alone; groups are dealt to
//! ranks. So every number is the same on any number of ranks, and in a run that was resumed.

use super::Error;
use super::prefix::Prefix;
use super::trainer::Trainer;
use crate::data::{Features, Input, Inputs, Split, TaskData};
use crate::model::Context;
use crate::torch;
use espalier_comm::CommunicatorExt;
use espalier_spec::adaptation::Adapt;
use espalier_spec::job::{Files, HeadKind, OnBadSample, OnMissingLabel, TaskSpec, TooLong, Tuning};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Samples of one forward pass.
const GROUP: usize = 32;
/// Groups of each rank between two exchanges.
const ROUND: usize = 8;
/// Features of more bytes than this are kept in files, not in memory, unless a test wants less.
const IN_MEMORY: usize = 1 << 30;
/// Progress is logged this often at most.
const EVERY: Duration = Duration::from_secs(10);

/// What is computed of every sample.
#[derive(Debug)]
pub(super) enum Cached {
    /// The features of a backbone that is frozen whole.
    Features,
    /// What its lowest blocks make of it.
    Prefix(Prefix),
}

/// Where what is too much for memory is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spill<'a> {
    /// More bytes than this are too much.
    above: usize,
    /// The directory of its files.
    dir: &'a Path,
}

/// What decides on the inputs of a split: tasks that agree in it share its features.
type Identity<'a> = (
    &'a Files,
    [Option<&'a str>; 2],
    Option<u64>,
    (OnBadSample, TooLong),
    Option<&'a str>,
);

impl Trainer {
    /// The tasks whose samples steps and evaluations take.
    #[must_use]
    pub fn tasks(&self) -> &Arc<Vec<Arc<TaskData>>> {
        &self.tasks
    }

    /// Computes the features of all samples, if the backbone is frozen and a run that draws `draws`
    /// samples sees about every one: from then on [`Trainer::tasks`] holds features in place of inputs.
    /// Where the lowest blocks are frozen, computes what these make of all samples. What is too much for
    /// memory goes to files in `dir`. All ranks call it together. Says whether it did.
    ///
    /// # Errors
    /// If a sample cannot be read, a file cannot be written, or a peer is lost.
    pub fn cache_features(&mut self, draws: u64, dir: &Path) -> Result<bool, Error> {
        self.cache_features_within(IN_MEMORY, draws, dir)
    }

    /// The same where more than `in_memory` bytes are too much for memory.
    ///
    /// # Errors
    /// As [`Trainer::cache_features`].
    pub fn cache_features_within(
        &mut self,
        in_memory: usize,
        draws: u64,
        dir: &Path,
    ) -> Result<bool, Error> {
        let spill = Spill {
            above: in_memory,
            dir,
        };
        if !self.is_worth_caching(draws) {
            return self.cache_prefix(draws, spill);
        }
        let splits = self.tasks.iter().flat_map(|task| task.splits());
        let numbers = splits.map(Split::len).sum::<usize>() * self.backbone.width();
        let tasks = self.cache_all(&Cached::Features, numbers * size_of::<f32>(), spill)?;
        self.take_features(tasks);
        Ok(true)
    }

    /// Whether every sample has features of its own that never change, and they are wanted once or
    /// more.
    fn is_worth_caching(&self, draws: u64) -> bool {
        !self.cached
            && self.spec.backbone.cache_features
            && self.spec.tuning == Tuning::Heads
            && !self.heads.wants_rows()
            && self.are_steady()
            && draws >= self.one_pass()
    }

    /// Whether the samples of all tasks are the same in every epoch, and nothing is read beside them but a target.
    pub(super) fn are_steady(&self) -> bool {
        let mut tasks = self.tasks.iter().zip(&self.spec.tasks);
        tasks.all(|(task, spec)| is_steady(task, spec))
    }

    /// Draws in which about every sample is seen once.
    pub(super) fn one_pass(&self) -> u64 {
        self.tasks.iter().map(|task| task.one_pass()).sum()
    }

    /// All tasks with what is cached of their samples, `bytes` bytes in all.
    pub(super) fn cache_all(
        &mut self,
        what: &Cached,
        bytes: usize,
        spill: Spill<'_>,
    ) -> Result<Vec<Arc<TaskData>>, Error> {
        let spill = (bytes > spill.above).then_some(spill.dir);
        let begun = Instant::now();
        let (tasks, specs) = (Arc::clone(&self.tasks), self.spec.tasks.clone());
        let mut known: Vec<(Identity<'_>, Arc<Features>)> = Vec::new();
        let mut cached = Vec::with_capacity(tasks.len());
        for (task, spec) in tasks.iter().zip(&specs) {
            let mut found = [const { None }; 4];
            for (place, (split, inputs)) in found.iter_mut().zip(splits_of(task, spec)) {
                let Some(split) = split else {
                    continue;
                };
                let same = known
                    .iter()
                    .find(|(other, _)| inputs.as_ref() == Some(other));
                let features = match same {
                    Some((_, features)) => Arc::clone(features),
                    None => {
                        let features = Arc::new(self.features_of(what, task, split, spill)?);
                        known.extend(inputs.map(|inputs| (inputs, Arc::clone(&features))));
                        features
                    }
                };
                *place = Some(features);
            }
            cached.push(Arc::new(match what {
                Cached::Features => task.with_features(found),
                Cached::Prefix(_) => task.begun(found),
            }));
        }
        tracing::info!(
            bytes,
            in_memory = spill.is_none(),
            seconds = begun.elapsed().as_secs_f64(),
            "what the frozen blocks make of the samples is computed"
        );
        Ok(cached)
    }

    /// What is cached of a split.
    fn features_of(
        &mut self,
        what: &Cached,
        task: &TaskData,
        split: &Split,
        spill: Option<&Path>,
    ) -> Result<Features, Error> {
        let comm = self.exchange.comm();
        let (rank, size) = (comm.rank(), comm.size());
        let mut order = Vec::with_capacity(split.len());
        for index in 0..split.len() {
            order.push((split.cost(index)?, index));
        }
        order.sort_unstable();
        let mut features = match what {
            Cached::Features => Features::new(split.len(), self.backbone.width(), spill)?,
            Cached::Prefix(prefix) => prefix.room(split, spill)?,
        };
        let groups: Vec<&[(u64, usize)]> = order.chunks(GROUP).collect();
        let mut told = Instant::now();
        let mut done = 0;
        for round in groups.chunks(size * ROUND) {
            let mut bytes = Vec::new();
            for turn in 0..round.len().div_ceil(size) {
                // A rank whose groups are done still takes part in what all ranks do together.
                let group = round.get(turn * size + rank).copied().unwrap_or_default();
                self.append_features(what, split, group, &mut bytes)?;
            }
            let parts = self.exchange.comm().all_gather_bytes(bytes)?;
            for (rank, part) in parts.iter().enumerate() {
                let samples = round.iter().skip(rank).step_by(size).copied().flatten();
                let mut rest = part.as_slice();
                for (_, index) in samples {
                    let width = features.width(*index) * size_of::<f32>();
                    let broken = || Error::Plan("a peer sent broken features".to_owned());
                    let (row, more) = rest.split_at_checked(width).ok_or_else(broken)?;
                    features.put(*index, row)?;
                    rest = more;
                    done += 1;
                }
            }
            if told.elapsed() >= EVERY {
                told = Instant::now();
                let percent = 100 * done / split.len().max(1);
                tracing::info!(
                    task = task.name,
                    split = split.name(),
                    percent,
                    "computing what the frozen blocks make of the samples"
                );
            }
        }
        Ok(features)
    }

    /// Adds the features of some samples; of none, where there is nothing left for this rank.
    fn append_features(
        &mut self,
        what: &Cached,
        split: &Split,
        group: &[(u64, usize)],
        bytes: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let inputs = group.iter().map(|(_, index)| split.input(*index));
        let inputs = inputs.collect::<Result<Vec<Input>, _>>()?;
        let inputs: Vec<&Input> = inputs.iter().collect();
        if let Cached::Prefix(prefix) = what {
            return self.append_prefix(prefix, &inputs, bytes);
        }
        let packed = match inputs.is_empty() {
            true => None,
            false => Some(self.batch(&inputs, &vec![0; inputs.len()])?),
        };
        if let Some(leaves) = self.features(packed.as_ref(), &Context::eval())? {
            let numbers = torch::numbers(&leaves.features)?;
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Ok(())
    }
}

/// Whether a task's samples are the same in every epoch, and nothing is read beside them but a target. AdaBN
/// changes blocks that are frozen.
fn is_steady(task: &TaskData, spec: &TaskSpec) -> bool {
    let streams = |split: &Split| matches!(*split.inputs, Inputs::Stream(_));
    let reads_classes = task.classes.as_ref().is_some_and(|c| !c.texts.is_empty());
    let reads_more = reads_classes || task.brings_more();
    let adaptation = spec.adaptation.as_ref();
    let moves = adaptation.is_some_and(|own| own.method == Adapt::Adabn);
    task.augment.is_none() && !reads_more && !moves && !task.splits().any(streams)
}

/// The splits of a task, and what decides on their inputs.
fn splits_of<'a>(
    task: &'a TaskData,
    spec: &'a TaskSpec,
) -> [(Option<&'a Split>, Option<Identity<'a>>); 4] {
    let [train, validation, test, target] = identities(spec);
    [
        (Some(&task.train), train),
        (task.validation.as_ref(), validation),
        (task.test.as_ref(), test),
        (task.target.as_ref(), target),
    ]
}

/// What decides on the inputs of a task's training, validation, test and target samples; nothing known of a target
/// whose rows may be left out, as labels that it need not have don't decide on them.
fn identities<'a>(spec: &'a TaskSpec) -> [Option<Identity<'a>>; 4] {
    let data = &spec.data;
    // What is left out is another column there.
    let [input, pair] = match spec.head {
        HeadKind::Span => [Some("question"), Some("context")],
        HeadKind::Tags => [Some("tokens"), None],
        _ => [None, None],
    };
    let columns = [
        data.columns.input.as_deref().or(input),
        data.columns.pair.as_deref().or(pair),
    ];
    // Where labels decide which rows there are, they are a task's own.
    let own = |is_own: bool| is_own.then_some(spec.name.as_str());
    // A text may be too long for its frames, a mask may be damaged, tags may be wrong.
    let skips = data.on_bad_sample == OnBadSample::Skip;
    let judged = [HeadKind::Ctc, HeadKind::Segmentation, HeadKind::Tags];
    let left_out = judged.contains(&spec.head) && skips;
    let drops = data.on_missing_label == OnMissingLabel::Skip || left_out;
    let thinned = data.samples_per_class.is_some();
    let wrong = spec.head == HeadKind::Span && skips;
    let policies = (data.on_bad_sample, data.too_long);
    let of = |files, most, own| (files, columns, most, policies, own);
    let kept = own(wrong || thinned || (drops && spec.input_group.is_none()));
    let train = of(&data.train, data.max_train_samples, kept);
    let rest = |files: Option<&'a Files>| files.map(|files| of(files, None, own(wrong || drops)));
    let adaptation = spec.adaptation.as_ref().filter(|_| !skips && !drops);
    [
        Some(train),
        rest(data.validation.as_ref()),
        rest(data.test.as_ref()),
        adaptation.map(|adaptation| of(&adaptation.target.train, None, None)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn task(head: &str, on_bad_sample: &str) -> TaskSpec {
        let files = json!({"train": "a.jsonl", "test": "b.jsonl", "on_bad_sample": on_bad_sample});
        serde_json::from_value(json!({"name": head, "head": head, "data": files})).unwrap()
    }

    // Promise: samples share what blocks make of them only where they are the same rows of the same columns:
    // words have a column of their own, and damaged masks leave out rows that others keep.
    #[test]
    fn only_the_same_inputs_are_shared() {
        let same = |one: &TaskSpec, other: &TaskSpec| {
            [0, 2].map(|split| identities(one)[split] == identities(other)[split])
        };
        let class = task("single_label", "skip");
        assert_eq!(same(&class, &task("multi_label", "skip")), [true; 2]);
        assert_eq!(same(&class, &task("tags", "skip")), [false; 2]);
        assert_eq!(same(&class, &task("segmentation", "skip")), [false; 2]);
        let class = task("single_label", "fail");
        assert_eq!(same(&class, &task("segmentation", "fail")), [true; 2]);
        let mut words = class.clone();
        words.data.columns.input = Some("tokens".to_owned());
        assert_eq!(same(&words, &task("tags", "fail")), [true; 2]);
        let mut whole = class.clone();
        whole.data.too_long = TooLong::Error;
        assert_eq!(same(&class, &whole), [false; 2]);
        let mut words = task("single_label", "skip");
        words.data.columns.input = Some("tokens".to_owned());
        assert_eq!(same(&words, &task("tags", "skip")), [false; 2]);
    }

    // Promise: a target shares what blocks make of it with a task that trains on the same files, unless rows of one of
    // them may be left out.
    #[test]
    fn a_target_is_shared_with_who_trains_on_it() {
        let adapted = |on_bad_sample: &str| {
            let mut adapted = task("single_label", on_bad_sample);
            let spec = json!({"method": "mcc", "target": {"train": "t.jsonl"}});
            adapted.adaptation = serde_json::from_value(spec).unwrap();
            adapted
        };
        let mut other = task("single_label", "fail");
        other.data.train = serde_json::from_value(json!("t.jsonl")).unwrap();
        let target = |spec: &TaskSpec| identities(spec)[3].is_some();
        assert!(target(&adapted("fail")) && !target(&adapted("skip")) && !target(&other));
        assert_eq!(identities(&adapted("fail"))[3], identities(&other)[0]);
        other.data.max_train_samples = Some(3);
        assert_ne!(identities(&adapted("fail"))[3], identities(&other)[0]);
    }
}
