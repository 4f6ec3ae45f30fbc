//! How many samples of each task were drawn before a step: a function of the step alone.

use super::order::OrderTask;
use espalier_spec::job::{AdaptiveSpec, Sampler};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, PoisonError, RwLock};

/// Parts of equal length that a run with changing shares is cut into.
const STAGES: u64 = 32;
/// Weights that are no integers are rounded to 1 / ONE: far coarser than machines' floating point may
/// differ.
const ONE: f64 = (1 << 20) as f64;
/// Weights stay below this.
const MOST: u64 = 1 << 60;

/// Shares of tasks in the batches, as integers, so that every machine computes the same counts.
#[derive(Clone, Debug)]
pub(super) struct Sampling {
    batch: u64,
    /// In order; the last one has no end.
    stages: Vec<Stage>,
    steps: u64,
    /// In place of them, where shares follow losses.
    growing: Option<Growing>,
}

/// Stages of equal length, of which the later ones become known while the run goes on.
#[derive(Clone, Debug)]
struct Growing {
    every: u64,
    /// Weights before they are multiplied by factors.
    base: Vec<f64>,
    stages: Arc<RwLock<Vec<Stage>>>,
}

/// Steps of the same shares.
#[derive(Clone, Debug)]
struct Stage {
    /// Its first step.
    first: u64,
    /// Samples of each task drawn before it.
    before: Vec<u64>,
    weights: Vec<u64>,
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    Task(usize),
    Split {
        left: Box<Node>,
        left_weight: u128,
        right: Box<Node>,
        right_weight: u128,
    },
}

impl Sampling {
    /// For `tasks`, none of which is drawn where `leads` says no, in a run of `steps` steps of `batch`
    /// samples.
    pub(super) fn new(
        (batch, steps): (u32, u64),
        tasks: &[OrderTask<'_>],
        leads: impl Fn(usize) -> bool,
        sampler: &Sampler,
    ) -> Self {
        let batch = u64::from(batch);
        let steps = steps.max(1);
        let growing = match sampler {
            Sampler::Adaptive(given) => Some(Growing::new(*given, tasks, &leads)),
            _ => None,
        };
        let count = match sampler {
            Sampler::Annealed { .. } => steps.min(STAGES),
            _ => 1,
        };
        let mut stages: Vec<Stage> = Vec::new();
        for index in 0..count {
            let progress = index as f64 / count.saturating_sub(1).max(1) as f64;
            let weights: Vec<u64> = tasks
                .iter()
                .enumerate()
                .map(|(task, of)| match leads(task) {
                    true => weight(of, sampler, progress),
                    false => 0,
                })
                .collect();
            let first = index * steps / count;
            let before = match stages.last() {
                Some(last) => last.cursors(first, batch),
                None => vec![0; tasks.len()],
            };
            stages.push(Stage {
                root: tree(&weights),
                first,
                before,
                weights,
            });
        }
        let sampling = Self {
            batch,
            stages,
            steps,
            growing,
        };
        sampling.grow(&[]);
        sampling
    }

    /// The same, with nothing known of later stages, and from then on apart from this one.
    pub(super) fn afresh(&self) -> Self {
        let growing = self.growing.as_ref().map(|growing| Growing {
            stages: Arc::default(),
            ..growing.clone()
        });
        let fresh = Self {
            growing,
            ..self.clone()
        };
        fresh.grow(&[]);
        fresh
    }

    /// Makes the factors of all stages from the third on known: those of the draws of each task. The
    /// first two have none.
    pub(super) fn grow(&self, factors: &[Vec<f64>]) {
        let Some(growing) = &self.growing else { return };
        let ones = vec![vec![1.0; growing.base.len()]; 2];
        let mut stages: Vec<Stage> = Vec::new();
        for (index, factors) in (0u64..).zip(ones.iter().chain(factors)) {
            let first = index * growing.every;
            let before = match stages.last() {
                Some(last) => last.cursors(first, self.batch),
                None => vec![0; growing.base.len()],
            };
            let weights = growing.weights(factors);
            stages.push(Stage {
                root: tree(&weights),
                first,
                before,
                weights,
            });
        }
        *growing
            .stages
            .write()
            .unwrap_or_else(PoisonError::into_inner) = stages;
    }

    /// Samples of each task drawn before step `step`.
    pub(super) fn cursors(&self, step: u64) -> Vec<u64> {
        if let Some(growing) = &self.growing {
            return growing.cursors(step, self.batch);
        }
        let stages = self.stages.iter().rev();
        let stage = stages.take(self.stages.len() - 1).find(|s| s.first <= step);
        stage.unwrap_or(&self.stages[0]).cursors(step, self.batch)
    }

    /// The share of a task in the batches, in the mean over the run.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share for people and for the planner"
    )]
    pub(super) fn share(&self, task: usize) -> f64 {
        let ends = self.stages.iter().skip(1).map(|stage| stage.first);
        let ends = ends.chain([self.steps]);
        let stages = self.stages.iter().zip(ends);
        let part = |(stage, end): (&Stage, u64)| {
            let all: u128 = stage.weights.iter().map(|w| u128::from(*w)).sum();
            let own = stage.weights.get(task).copied().unwrap_or(0);
            let length = (end - stage.first) as f64 / self.steps as f64;
            length * own as f64 / all.max(1) as f64
        };
        stages.map(part).sum()
    }
}

impl Growing {
    fn new(given: AdaptiveSpec, tasks: &[OrderTask<'_>], leads: &impl Fn(usize) -> bool) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "samples are below 2^32")]
        let base = |(task, of): (usize, &OrderTask<'_>)| match leads(task) {
            true => (of.samples.max(1) as f64).powf(1.0 / given.temperature),
            false => 0.0,
        };
        Self {
            every: given.every_steps.max(AdaptiveSpec::LEAST),
            base: tasks.iter().enumerate().map(base).collect(),
            stages: Arc::default(),
        }
    }

    fn weights(&self, factors: &[f64]) -> Vec<u64> {
        let weight = |(base, factor): (&f64, &f64)| match *base > 0.0 {
            true => rounded(base * factor),
            false => 0,
        };
        self.base.iter().zip(factors).map(weight).collect()
    }

    /// A stage is known a whole stage before its first step, and batches are prepared fewer steps ahead
    /// than that: [`AdaptiveSpec::LEAST`].
    fn cursors(&self, step: u64, batch: u64) -> Vec<u64> {
        let stages = self.stages.read().unwrap_or_else(PoisonError::into_inner);
        // What is drawn before a stage's first step is known by the stage before.
        let index = step.saturating_sub(1) / self.every;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        debug_assert!(index < stages.len(), "step {step} is asked for too early");
        let stage = stages.get(index).or(stages.last());
        stage.map_or_else(Vec::new, |stage| stage.cursors(step, batch))
    }
}

impl Stage {
    fn cursors(&self, step: u64, batch: u64) -> Vec<u64> {
        let mut drawn = vec![0; self.before.len()];
        let count = u128::from(step - self.first) * u128::from(batch);
        deal(&self.root, count, &mut drawn);
        for (drawn, before) in drawn.iter_mut().zip(&self.before) {
            *drawn = drawn.saturating_add(*before);
        }
        drawn
    }
}

/// A task's weight; proportional and uniform ones are exact. `progress` is 0 at the start of the run
/// and 1 at its end.
fn weight(task: &OrderTask<'_>, sampler: &Sampler, progress: f64) -> u64 {
    let samples = task.samples.max(1);
    #[expect(clippy::cast_precision_loss, reason = "samples are below 2^32")]
    let power = |samples: u64, exponent: f64| rounded((samples as f64).powf(exponent));
    match sampler {
        // Shares to start with, for the planner.
        Sampler::Adaptive(given) => power(samples, 1.0 / given.temperature),
        Sampler::Proportional => samples,
        Sampler::Uniform => 1,
        Sampler::Temperature(temperature) => power(samples, 1.0 / temperature),
        Sampler::Capped { cap, temperature } => power(samples.min(*cap).max(1), 1.0 / temperature),
        Sampler::Annealed { from, to } => power(samples, from + (to - from) * progress),
        Sampler::Probabilities(given) => {
            let sum: f64 = given.values().sum();
            let own = given.get(task.name).copied().unwrap_or(0.0);
            rounded(own / sum * ONE)
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive; casts of floats saturate"
)]
fn rounded(weight: f64) -> u64 {
    ((weight * ONE).round() as u64).clamp(1, MOST)
}

/// Huffman's tree: the two lightest nodes are joined until one is left; ties by order of tasks.
fn tree(weights: &[u64]) -> Node {
    let mut heap = BinaryHeap::new();
    let mut nodes: Vec<Option<Node>> = Vec::new();
    for (index, &weight) in weights.iter().enumerate() {
        // A task that another one leads has no draws.
        if weight > 0 {
            heap.push(Reverse((u128::from(weight), index)));
        }
        nodes.push(Some(Node::Task(index)));
    }
    while let Some(Reverse((light, first))) = heap.pop() {
        let left = nodes[first].take().unwrap_or(Node::Task(0));
        let Some(Reverse((heavy, second))) = heap.pop() else {
            return left;
        };
        let right = nodes[second].take().unwrap_or(Node::Task(0));
        heap.push(Reverse((light + heavy, nodes.len())));
        nodes.push(Some(Node::Split {
            left: Box::new(left),
            left_weight: light,
            right: Box::new(right),
            right_weight: heavy,
        }));
    }
    Node::Task(0)
}

fn deal(node: &Node, count: u128, drawn: &mut [u64]) {
    match node {
        Node::Task(index) => {
            if let Some(slot) = drawn.get_mut(*index) {
                *slot = u64::try_from(count).unwrap_or(u64::MAX);
            }
        }
        Node::Split {
            left,
            left_weight,
            right,
            right_weight,
        } => {
            let weight = left_weight + right_weight;
            // Quotient and remainder apart: the product stays below 2^128 for any count.
            let (whole, rest) = (count / weight, count % weight);
            let to_left = whole * left_weight + (2 * rest * left_weight + weight) / (2 * weight);
            deal(left, to_left, drawn);
            deal(right, count - to_left, drawn);
        }
    }
}
