//! Which samples are in which step: pure functions of the seed and the step.
//!
//! **How many of each task.** Let N = S·B be the samples drawn before step S. A binary tree splits
//! N among the tasks: at each node, the left side gets N·w_left/w rounded to the nearest integer,
//! the right side the rest. Rounding never makes a side fall as N grows, so the difference between
//! two steps is a count for each task, and the counts of a step sum to B exactly. The tree is
//! Huffman's over the weights, whose weights at least double every two levels; so a task's draws
//! never differ from S·B·p_k by 2 or more (by more than one half, for two tasks). Nothing has to be
//! walked: the state at any step costs one pass over the tree.
//!
//! **Which of them.** Draw c of a task with n samples is sample π(c mod n) of epoch c div n, where π
//! is a permutation of 0..n keyed by (seed, task's name, epoch) and computed place by place. So an
//! epoch holds every sample exactly once, the cursor is the number of samples drawn, and a task's
//! order doesn't change with other tasks, batch size, ranks or shards. With draw c of a task that has
//! a target goes draw c of its target, found in the same way.

use super::mix::{Permutation, key, mix};
use super::sampling::Sampling;
use espalier_spec::InputGroups;
use espalier_spec::job::{Sampler, TrainingSpec};

/// One sample of one draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SampleRef {
    /// Index of the task in the job; of the one that leads, if tasks share inputs.
    pub task: u16,
    /// Index of the sample in the task's training split, or in its target.
    pub sample: u32,
    /// Passes over the task's samples that were complete before this draw.
    pub epoch: u32,
    /// Whether it is one of the task's target: of another domain, without a label.
    pub target: bool,
}

/// All samples of one step, by task and then in order of draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepBatch {
    /// Steps done before it.
    pub step: u64,
    /// The samples; as many as the job's batch size.
    pub samples: Vec<SampleRef>,
    /// Beside each sample the one of the task's target that is drawn with it; empty where no task has
    /// a target.
    pub targets: Vec<Option<SampleRef>>,
}

impl StepBatch {
    /// Samples drawn for each of `tasks` tasks in this step, over all shards.
    #[must_use]
    pub fn counts(&self, tasks: usize) -> Vec<u32> {
        let mut counts = vec![0; tasks];
        for sample in &self.samples {
            if let Some(count) = counts.get_mut(usize::from(sample.task)) {
                *count += 1;
            }
        }
        counts
    }
}

/// The order of a job's samples.
#[derive(Clone, Debug)]
pub struct Order {
    batch: u64,
    tasks: Vec<TaskOrder>,
    sampling: Sampling,
    groups: InputGroups,
}

#[derive(Clone, Debug)]
struct TaskOrder {
    samples: u64,
    /// Samples of the target.
    target: Option<u64>,
    key: u64,
}

/// A task as the order sees it.
#[derive(Clone, Debug)]
pub struct OrderTask<'a> {
    /// Name of the task.
    pub name: &'a str,
    /// Training samples; at least 1.
    pub samples: u64,
    /// Samples of its target, of which one is drawn with every training sample; none if it has none.
    pub target: Option<u64>,
}

impl Order {
    /// The order for `tasks` (at least one), each with inputs of its own, in a run of `steps` steps of
    /// `batch` samples.
    #[must_use]
    pub fn new(seed: u64, length: (u32, u64), tasks: &[OrderTask<'_>], sampler: &Sampler) -> Self {
        Self::of_groups(
            seed,
            length,
            tasks,
            InputGroups::apart(tasks.len()),
            sampler,
        )
    }

    /// The same where tasks may share inputs: only for those that lead a group samples are drawn.
    #[must_use]
    pub fn of_groups(
        seed: u64,
        (batch, steps): (u32, u64),
        tasks: &[OrderTask<'_>],
        groups: InputGroups,
        sampler: &Sampler,
    ) -> Self {
        let of = |task: &OrderTask<'_>| TaskOrder {
            samples: task.samples.max(1),
            target: task.target.map(|samples| samples.max(1)),
            key: key(seed, task.name),
        };
        Self {
            batch: u64::from(batch),
            sampling: Sampling::new((batch, steps), tasks, |task| groups.leads(task), sampler),
            tasks: tasks.iter().map(of).collect(),
            groups,
        }
    }

    /// The same order for a run of its own, of which nothing is known yet but its start. Where shares
    /// follow losses ([`Order::follow`]), runs must not hear of each other.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self {
            sampling: self.sampling.afresh(),
            ..self.clone()
        }
    }

    /// Makes known by what the draws of each task are multiplied in each stage from the third on
    /// ([`super::Follower`]). Steps whose stages are not known must not be asked for.
    pub fn follow(&self, factors: &[Vec<f64>]) {
        self.sampling.grow(factors);
    }

    /// Training samples of all groups together: an epoch.
    #[must_use]
    pub fn samples(&self) -> u64 {
        let all = self.tasks.iter().enumerate();
        all.filter(|(task, _)| self.groups.leads(*task))
            .map(|(_, task)| task.samples)
            .sum()
    }

    /// Which tasks share inputs.
    #[must_use]
    pub fn groups(&self) -> &InputGroups {
        &self.groups
    }

    /// Samples of each task in a step, over all shards: a drawn sample is one for every task of its
    /// group.
    #[must_use]
    pub fn counts(&self, batch: &StepBatch) -> Vec<u32> {
        let mut counts = batch.counts(self.tasks.len());
        self.groups.spread(&mut counts);
        counts
    }

    /// p_k: the share of task `task`, or of its group, in the batches, in the mean over the run.
    #[must_use]
    pub fn share(&self, task: usize) -> f64 {
        self.sampling.share(self.groups.leader(task))
    }

    /// Samples of each task drawn before step `step`.
    #[must_use]
    pub fn cursors(&self, step: u64) -> Vec<u64> {
        self.sampling.cursors(step)
    }

    /// A key for what is random about one draw of a sample: a function of (seed, task's name, epoch,
    /// sample).
    #[must_use]
    pub fn draw_key(&self, at: SampleRef) -> u64 {
        let task = self.tasks.get(usize::from(at.task));
        task.map_or(0, |task| task.draw_key(at))
    }

    /// A key for what is random about one pass over a task's samples: a function of (seed, task's name,
    /// epoch).
    #[must_use]
    pub fn pass_key(&self, at: SampleRef) -> u64 {
        const PASS: u64 = 0x7061_7373_206f_7665;
        let task = self.tasks.get(usize::from(at.task));
        task.map_or(0, |task| mix(mix(task.key ^ PASS) ^ u64::from(at.epoch)))
    }

    /// The samples of step `step` (that is, with `step` steps done before it).
    #[must_use]
    pub fn batch(&self, step: u64) -> StepBatch {
        let (from, to) = (self.cursors(step), self.cursors(step.saturating_add(1)));
        let mut samples = Vec::with_capacity(usize::try_from(self.batch).unwrap_or(0));
        let mut targets = Vec::new();
        let adapts = self.tasks.iter().any(|task| task.target.is_some());
        for (index, task) in self.tasks.iter().enumerate() {
            for draw in from[index]..to[index] {
                samples.push(task.sample(index, draw));
                if adapts {
                    targets.push(task.target(index, draw));
                }
            }
        }
        StepBatch {
            step,
            samples,
            targets,
        }
    }
}

impl TaskOrder {
    /// See [`Order::draw_key`].
    fn draw_key(&self, at: SampleRef) -> u64 {
        const AUGMENT: u64 = 0x6175_676d_656e_7421;
        let draw = u64::from(at.epoch) << 32 | u64::from(at.sample);
        mix(mix(self.own_key(at.target) ^ AUGMENT) ^ mix(draw))
    }

    /// The key of the task's samples, or of those of its target.
    fn own_key(&self, target: bool) -> u64 {
        const TARGET: u64 = 0x7461_7267_6574_2121;
        match target {
            true => mix(self.key ^ TARGET),
            false => self.key,
        }
    }

    fn sample(&self, index: usize, draw: u64) -> SampleRef {
        self.drawn(index, draw, self.samples, false)
    }

    /// The sample of the target that is drawn with a draw's sample.
    fn target(&self, index: usize, draw: u64) -> Option<SampleRef> {
        let samples = self.target?;
        Some(self.drawn(index, draw, samples, true))
    }

    fn drawn(&self, index: usize, draw: u64, samples: u64, target: bool) -> SampleRef {
        let (epoch, place) = (draw / samples, draw % samples);
        let permutation = Permutation::new(samples, mix(self.own_key(target) ^ mix(epoch)));
        #[expect(
            clippy::cast_possible_truncation,
            reason = "tasks, samples fit: see dataset"
        )]
        SampleRef {
            task: index as u16,
            sample: permutation.at(place) as u32,
            epoch: u32::try_from(epoch).unwrap_or(u32::MAX),
            target,
        }
    }
}

/// The places 0..n (at most 2^32) in an order that is a function of (seed, task's name): that in which a task's
/// target is read as a whole, whatever the order of its files.
#[must_use]
pub fn shuffled(n: usize, seed: u64, name: &str) -> Vec<usize> {
    const WHOLE: u64 = 0x7768_6f6c_6521_2121;
    let permutation = Permutation::new(n as u64, mix(key(seed, name) ^ WHOLE));
    let places = 0..n as u64;
    places.map(|place| permutation.at(place) as usize).collect()
}

/// Steps that a job trains: `steps`, else as many as make `epochs` (default 1) passes over
/// `samples`, the training samples of all tasks together; at least 1.
#[must_use]
pub fn total_steps(training: &TrainingSpec, samples: u64) -> u64 {
    if let Some(steps) = training.steps {
        return steps;
    }
    let batch = u64::from(training.batch_size.max(1));
    let epochs = training.epochs.unwrap_or(1.0);
    if epochs == epochs.trunc() && (0.0..1e9).contains(&epochs) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked"
        )]
        return samples.saturating_mul(epochs as u64).div_ceil(batch).max(1);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "rounding is wanted, and casts of floats saturate"
    )]
    let steps = (samples as f64 * epochs / batch as f64).ceil() as u64;
    steps.max(1)
}

#[cfg(test)]
mod tests;
