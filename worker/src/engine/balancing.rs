//! Between the step and the balancer: brings it the facts of a step, and spreads its weights over
//! tasks, rows and heads.

use super::Error;
use super::agree::Agreed;
use super::exact::{ExactSum, WIDTH};
use super::exchange::Exchange;
use super::kernel::{pair, pairs};
use super::lanes::RowId;
use crate::data::RankStep;
use espalier_balance::{Balancer, Buffers, Elementwise, Facts, Gradients, Gram, State, Weights};
use espalier_spec::job::Method;
use espalier_spec::{JobSpec, Plan};

/// What a step's gradients are multiplied by; the same on all ranks.
#[derive(Clone, Debug, Default)]
pub(super) struct Decision {
    /// w_k of every task; 0 for one that is not in the step.
    pub(super) weights: Vec<f64>,
    /// The same for the heads.
    pub(super) head_weights: Vec<f64>,
    /// For every row of the gradient matrix; 1 for the only one if tasks are together.
    pub(super) row_weights: Vec<f32>,
    /// Square of the norm of the backbone's update, where it is not wᵀGw of the gradients.
    pub(super) backbone_square: Option<f64>,
    /// Tasks left out because they are not finite.
    pub(super) skipped: Vec<usize>,
}

/// Counts since the job began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Incidents {
    /// Task gradients left out.
    pub skipped: u64,
    /// Why the balancer last fell back to equal weights.
    pub last_fallback: Option<String>,
}

/// The job's balancer.
#[derive(Debug)]
pub(super) struct Balancing {
    balancer: Box<dyn Balancer>,
    method: Method,
    balance_heads: bool,
    /// Weights can be had before the losses are known.
    is_static: bool,
    apart: bool,
    task_weights: Vec<f64>,
    names: Vec<String>,
    seed: u64,
    steps_per_epoch: u64,
    rows: Vec<RowId>,
    pub(super) incidents: Incidents,
}

impl Balancing {
    /// # Errors
    /// If the job's balancer breaks a rule.
    pub(super) fn new(spec: &JobSpec, plan: &Plan, steps_per_epoch: u64) -> Result<Self, Error> {
        let task_weights: Vec<f64> = spec.tasks.iter().map(|task| task.weight).collect();
        let how = &spec.balancer;
        let plain = matches!(how.method, Method::Mean | Method::Equal | Method::Fixed);
        Ok(Self {
            balancer: espalier_balance::build(how, &task_weights)?,
            method: how.method,
            balance_heads: how.balance_heads || how.method == Method::Mean,
            is_static: plain && !how.log_losses,
            apart: plan.exchange.apart,
            names: spec.tasks.iter().map(|task| task.name.clone()).collect(),
            task_weights,
            seed: spec.seed,
            steps_per_epoch: steps_per_epoch.max(1),
            rows: Vec::new(),
            incidents: Incidents::default(),
        })
    }

    /// The rows of the gradient matrix, once they are known.
    pub(super) fn set_rows(&mut self, rows: Vec<RowId>) {
        self.rows = rows;
    }

    /// Rows of the gradient matrix; none if tasks are together.
    pub(super) fn rows(&self) -> &[RowId] {
        &self.rows
    }

    /// Independent parts that a step's batch is cut into.
    pub(super) fn parts(&self) -> usize {
        match self.balancer.needs().gradients {
            Gradients::TwoBatches => 2,
            _ => 1,
        }
    }

    /// What the balancer needs of the gradients.
    pub(super) fn needs(&self) -> Gradients {
        self.balancer.needs().gradients
    }

    pub(super) fn buffers(&self) -> Option<&dyn Buffers> {
        self.balancer.buffers()
    }

    pub(super) fn elementwise(&self) -> Option<&dyn Elementwise> {
        self.balancer.elementwise()
    }

    /// Whether tasks share a gradient, so that weights must be known before backward.
    pub(super) fn is_early(&self) -> bool {
        !self.apart
    }

    /// Whether the balancer wants the losses of the batch after the step.
    pub(super) fn wants_losses_after(&self) -> bool {
        self.balancer.needs().losses_after
    }

    /// Factor on each sample's loss: the gradient of a task is that of its mean loss over the step,
    /// times its weight and share where the plain mean over samples is wanted.
    pub(super) fn loss_scales(&self, counts: &[u32]) -> Vec<f64> {
        let all: u32 = counts.iter().sum();
        let scale = |(count, weight): (&u32, &f64)| {
            if self.method == Method::Mean && !self.apart {
                weight / f64::from(all.max(1))
            } else {
                1.0 / f64::from((*count).max(1))
            }
        };
        counts.iter().zip(&self.task_weights).map(scale).collect()
    }

    /// Weights before backward; all ranks call it together. `features` are the scalar products of
    /// all pairs of tasks' gradients of the features, of this rank's samples; none where there are no
    /// samples.
    ///
    /// # Errors
    /// What communicator or balancer say.
    pub(super) fn early(
        &mut self,
        batch: &RankStep,
        losses: &[ExactSum],
        features: Option<&[ExactSum]>,
        exchange: &mut Exchange,
    ) -> Result<Decision, Error> {
        let tasks = losses.len();
        let answer = if self.needs() == Gradients::Representation {
            let nothing = vec![ExactSum::default(); pairs(tasks)];
            let sums = [losses, features.unwrap_or(&nothing)].concat();
            let numbers = agree(&sums, exchange)?;
            let (losses, products) = numbers.split_at(tasks);
            let present = present(&batch.counts);
            let of = |a: &usize| {
                let row = present.iter().map(|b| products[pair(*a, *b, tasks)]);
                row.collect::<Vec<_>>()
            };
            let gram = Gram::new(present.iter().flat_map(of).collect())?;
            let seen = Facts {
                gram: Some(&gram),
                ..Facts::default()
            };
            self.ask(batch, losses, seen)?
        } else if self.is_static {
            self.ask(batch, &vec![1.0; tasks], Facts::default())?
        } else {
            let losses = agree(losses, exchange)?;
            self.ask(batch, &losses, Facts::default())?
        };
        let mut decision = self.spread(batch, &answer);
        decision.row_weights = vec![1.0];
        if self.method == Method::Mean {
            // The losses' factors hold the weights already.
            decision.head_weights = vec![1.0; tasks];
        }
        Ok(decision)
    }

    /// Whether an early decision must still be applied to the gradient of the features.
    pub(super) fn scales_features(&self) -> bool {
        self.method != Method::Mean
    }

    /// Asks the balancer. `sums` are each task's sums of losses; `seen` is what was seen of the
    /// gradients.
    ///
    /// # Errors
    /// What the balancer says, with the tasks' names.
    pub(super) fn ask(
        &mut self,
        batch: &RankStep,
        sums: &[f64],
        seen: Facts<'_>,
    ) -> Result<Answer, Error> {
        self.ask_about(batch, present(&batch.counts), sums, seen)
    }

    /// Asks the balancer about some of the step's tasks.
    ///
    /// # Errors
    /// What the balancer says, with the tasks' names.
    pub(super) fn ask_about(
        &mut self,
        batch: &RankStep,
        tasks: Vec<usize>,
        sums: &[f64],
        seen: Facts<'_>,
    ) -> Result<Answer, Error> {
        let counts = tasks.iter().map(|task| u64::from(batch.counts[*task]));
        let samples: Vec<u64> = counts.collect();
        let mean = |(task, count): (&usize, &u64)| sums[*task] / *count as f64;
        let losses: Vec<f64> = tasks.iter().zip(&samples).map(mean).collect();
        let facts = Facts {
            samples: Some(&samples),
            gram: seen.gram,
            cross: seen.cross,
            excess: seen.excess,
            ..self.facts(batch, &tasks, &losses)
        };
        let weights = self.balancer.weights(&facts);
        let weights = weights.map_err(|error| self.named(error))?;
        self.note(batch.step, &weights);
        Ok(Answer { tasks, weights })
    }

    /// What is known of every step.
    pub(super) fn facts<'a>(
        &self,
        batch: &RankStep,
        tasks: &'a [usize],
        losses: &'a [f64],
    ) -> Facts<'a> {
        Facts {
            step: batch.step,
            seed: self.seed,
            epoch: batch.step / self.steps_per_epoch,
            tasks,
            losses,
            ..Facts::default()
        }
    }

    fn note(&mut self, step: u64, weights: &Weights) {
        self.incidents.skipped += weights.dropped.len() as u64;
        if let Some(fallback) = weights.fallback {
            tracing::debug!(step, "equal weights for this step: {fallback}");
            self.incidents.last_fallback = Some(format!("step {step}: {fallback}"));
        }
    }

    pub(super) fn named(&self, error: espalier_balance::Error) -> Error {
        use espalier_balance::Error as Balance;
        let name = |tasks: &[usize]| {
            let first = tasks.first().and_then(|task| self.names.get(*task));
            first.cloned().unwrap_or_default()
        };
        match error {
            Balance::LossNotFinite { tasks, step } => Error::LossNotFinite {
                task: name(&tasks),
                step,
            },
            Balance::GradientNotFinite { tasks, step } => Error::TaskGradientNotFinite {
                task: name(&tasks),
                step,
            },
            error => Error::Balance(error),
        }
    }

    /// Spreads an answer over tasks, heads and rows.
    pub(super) fn spread(&self, batch: &RankStep, answer: &Answer) -> Decision {
        let mut weights = vec![0.0; batch.counts.len()];
        let values = &answer.weights.values;
        for (task, value) in answer.tasks.iter().zip(values) {
            weights[*task] = *value;
        }
        let dropped = answer.weights.dropped.iter();
        let skipped: Vec<usize> = dropped.map(|place| answer.tasks[*place]).collect();
        let head = |(task, weight): (usize, &f64)| match batch.counts[task] {
            0 => 0.0,
            _ if skipped.contains(&task) => 0.0,
            _ if self.balance_heads => *weight,
            _ => 1.0,
        };
        Decision {
            head_weights: weights.iter().enumerate().map(head).collect(),
            row_weights: self
                .rows
                .iter()
                .map(|row| weights[row.task] as f32)
                .collect(),
            weights,
            backbone_square: None,
            skipped,
        }
    }

    /// Leaves more tasks of a step out, and counts them.
    pub(super) fn leave_out(&mut self, tasks: &[usize], decision: &mut Decision) {
        self.incidents.skipped += tasks.len() as u64;
        for task in tasks {
            decision.head_weights[*task] = 0.0;
        }
        decision.skipped.extend(tasks);
    }

    /// The Gram matrix of the tasks in the step.
    ///
    /// # Errors
    /// Never for sums that ranks agreed on.
    pub(super) fn gram(&self, agreed: &Agreed, counts: &[u32]) -> Result<Gram, Error> {
        let present = present(counts);
        let mut values = Vec::with_capacity(present.len() * present.len());
        for a in &present {
            values.extend(present.iter().map(|b| self.product(agreed, *a, *b)));
        }
        Ok(Gram::new(values)?)
    }

    /// J₁·J₂ᵀ of the two parts of the batch, row-major, each row's mean over its own samples.
    pub(super) fn cross(&self, agreed: &Agreed, counts: &[u32]) -> Vec<f64> {
        let place = |task: usize, part: usize| {
            let mut rows = self.rows.iter();
            rows.position(|row| row.task == task && row.part == part)
        };
        let factor = |task: usize, row: usize| {
            let own = agreed.row_samples.get(row).copied().unwrap_or(0.0);
            if own > 0.0 {
                f64::from(counts[task]) / own
            } else {
                0.0
            }
        };
        let present = present(counts);
        let mut values = Vec::with_capacity(present.len() * present.len());
        for &a in &present {
            for &b in &present {
                values.push(match (place(a, 0), place(b, 1)) {
                    (Some(i), Some(j)) => agreed.product(i, j) * factor(a, i) * factor(b, j),
                    _ => 0.0,
                });
            }
        }
        values
    }

    /// Scalar product of two tasks' gradients, over all their parts.
    fn product(&self, agreed: &Agreed, a: usize, b: usize) -> f64 {
        let mut sum = 0.0;
        let of = |task: usize| {
            let rows = self.rows.iter().enumerate();
            rows.filter(move |(_, row)| row.task == task)
                .map(|(i, _)| i)
        };
        for i in of(a) {
            sum += of(b).map(|j| agreed.product(i, j)).sum::<f64>();
        }
        sum
    }

    /// Scalar products of all tasks' gradients, K x K row-major; none with a task that is not in the
    /// step. None at all if tasks are together.
    pub(super) fn task_gram(&self, agreed: &Agreed, counts: &[u32]) -> Option<Vec<Option<f64>>> {
        if self.rows.is_empty() {
            return None;
        }
        let tasks = counts.len();
        let value = |place: usize| {
            let (a, b) = (place / tasks, place % tasks);
            (counts[a] > 0 && counts[b] > 0).then(|| self.product(agreed, a, b))
        };
        Some((0..tasks * tasks).map(value).collect())
    }

    /// Tells the balancer the losses of the batch after the step.
    ///
    /// # Errors
    /// What the communicator says.
    pub(super) fn observe(
        &mut self,
        batch: &RankStep,
        losses: &[ExactSum],
        exchange: &mut Exchange,
        decision: &Decision,
    ) -> Result<(), Error> {
        let sums = agree(losses, exchange)?;
        let mut tasks = present(&batch.counts);
        tasks.retain(|task| !decision.skipped.contains(task));
        let mean = |task: &usize| sums[*task] / f64::from(batch.counts[*task]);
        let means: Vec<f64> = tasks.iter().map(mean).collect();
        self.balancer.observe(&tasks, &means);
        Ok(())
    }

    /// Steps that fell back to equal weights.
    pub(super) fn fallbacks(&self) -> u64 {
        self.balancer.fallbacks()
    }

    /// All that later steps depend on.
    pub(super) fn state(&self) -> State {
        self.balancer.state()
    }

    /// Goes on from a state.
    ///
    /// # Errors
    /// If it belongs to another balancer.
    pub(super) fn restore(&mut self, state: &State) -> Result<(), Error> {
        Ok(self.balancer.restore(state)?)
    }
}

/// What the balancer said about the tasks of a step.
#[derive(Debug)]
pub(super) struct Answer {
    /// Tasks of the step.
    pub(super) tasks: Vec<usize>,
    /// Their weights.
    pub(super) weights: Weights,
}

/// Tasks with samples in the step.
pub(super) fn present(counts: &[u32]) -> Vec<usize> {
    let tasks = 0..counts.len();
    tasks.filter(|task| counts[*task] > 0).collect()
}

/// Sums over all ranks.
pub(super) fn agree(sums: &[ExactSum], exchange: &mut Exchange) -> Result<Vec<f64>, Error> {
    let mut numbers = Vec::with_capacity(sums.len() * WIDTH);
    sums.iter().for_each(|sum| sum.write(&mut numbers));
    exchange.agree(&mut numbers)?;
    let sums = numbers.chunks_exact(WIDTH);
    Ok(sums.map(|sum| ExactSum::read(sum).value()).collect())
}
