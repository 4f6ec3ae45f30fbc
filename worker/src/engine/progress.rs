//! How fast a run is and how far.

use super::headset::LossSum;
use super::step::{StepReport, StepTimes};
use espalier_spec::Step;
use espalier_spec::job::TaskSpec;
use espalier_spec::report::{ExchangeStats, Progress};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Progress is told this often at most.
const EVERY: Duration = Duration::from_millis(250);
/// Speed is measured over this long.
const WINDOW: Duration = Duration::from_secs(5);

/// Watches a run's steps.
#[derive(Debug)]
pub(super) struct Meter {
    total: u64,
    told: Option<Instant>,
    /// Steps of the window: when they ended, samples and tokens.
    window: VecDeque<(Instant, u64, u64)>,
    /// Losses since progress was last told.
    losses: Vec<LossSum>,
    /// The same of adaptations.
    adaptation: Vec<LossSum>,
    /// Times since progress was last told, of so many steps.
    times: StepTimes,
    steps: u32,
    /// Bytes sent until progress was last told.
    sent: u64,
}

impl Meter {
    pub(super) fn new(total: u64, tasks: usize) -> Self {
        let window = VecDeque::from([(Instant::now(), 0, 0)]);
        Self {
            total,
            told: None,
            window,
            losses: vec![LossSum::default(); tasks],
            adaptation: vec![LossSum::default(); tasks],
            times: StepTimes::default(),
            steps: 0,
            sent: 0,
        }
    }

    /// What the exchange cost since this was asked last; `sent` is what was sent since the job
    /// began here.
    pub(super) fn exchange(&mut self, sent: u64) -> ExchangeStats {
        let steps = self.steps.max(1);
        let times = std::mem::take(&mut self.times);
        let bytes = sent.saturating_sub(self.sent) / u64::from(steps);
        (self.sent, self.steps) = (sent, 0);
        let mean = |time: Duration| time.as_secs_f64() / f64::from(steps);
        ExchangeStats {
            bytes_sent_per_step: bytes,
            seconds_per_step: mean(times.exchange),
            exposed_seconds_per_step: mean(times.waited),
            balance_seconds_per_step: mean(times.balancing),
            ..ExchangeStats::default()
        }
    }

    /// Forgets the time that passed: it was not training.
    pub(super) fn restart(&mut self) {
        self.window = VecDeque::from([(Instant::now(), 0, 0)]);
    }

    /// Takes in a step; returns progress if it is time to tell.
    pub(super) fn step(
        &mut self,
        done: u64,
        report: &StepReport,
        totals: (u64, u64),
        rate: f64,
        tasks: &[TaskSpec],
    ) -> Option<Progress> {
        let now = Instant::now();
        self.window.push_back((now, report.samples, report.tokens));
        while self.window.len() > 2 && self.window.get(1).is_some_and(|w| now - w.0 > WINDOW) {
            self.window.pop_front();
        }
        self.steps += 1;
        self.times.total += report.times.total;
        self.times.waited += report.times.waited;
        self.times.exchange += report.times.exchange;
        self.times.balancing += report.times.balancing;
        let own = self.losses.iter_mut().zip(&report.losses);
        let adaptation = self.adaptation.iter_mut().zip(&report.adaptation);
        for (sum, step) in own.chain(adaptation) {
            sum.sum += step.sum;
            sum.count += step.count;
        }
        if done < self.total && self.told.is_some_and(|told| now - told < EVERY) {
            return None;
        }
        self.told = Some(now);
        let seconds = self
            .window
            .front()
            .map_or(0.0, |first| (now - first.0).as_secs_f64());
        let over = |sum: u64| {
            if seconds > 0.0 {
                sum as f64 / seconds
            } else {
                0.0
            }
        };
        let steps = self.window.len() as f64 - 1.0;
        let pace = seconds / steps.max(1.0);
        let mean = |(task, loss): (&TaskSpec, &LossSum)| {
            (loss.count > 0).then(|| (task.name.clone(), loss.sum / loss.count as f64))
        };
        // Beside a task's loss that of its adaptation, such as `digit.dann`.
        let adapted = |(task, loss): (&TaskSpec, &LossSum)| {
            let (name, mean) = mean((task, loss))?;
            let method = task.adaptation.as_ref()?.method;
            Some((format!("{name}.{method}"), mean))
        };
        let own = tasks.iter().zip(&self.losses).filter_map(mean);
        let adapted = tasks.iter().zip(&self.adaptation).filter_map(adapted);
        let progress = Progress {
            step: Step(done),
            total_steps: self.total,
            samples: totals.0,
            tokens: totals.1,
            samples_per_second: over(self.window.iter().skip(1).map(|w| w.1).sum()),
            tokens_per_second: over(self.window.iter().skip(1).map(|w| w.2).sum()),
            eta_seconds: (steps >= 2.0).then(|| pace * self.total.saturating_sub(done) as f64),
            learning_rate: rate,
            gradient_norm: report.gradient_norm,
            losses: own.chain(adapted).collect(),
            ..Progress::default()
        };
        self.losses.fill(LossSum::default());
        self.adaptation.fill(LossSum::default());
        Some(progress)
    }
}
