//! Follows how fast tasks' losses fall, or how their gradients agree, for the sampler `adaptive`: see
//! [`AdaptiveSpec`](espalier_spec::job::AdaptiveSpec).

use espalier_spec::InputGroups;
use espalier_spec::job::{AdaptiveBy, AdaptiveSpec};
use serde::{Deserialize, Serialize};

/// A task's draws are multiplied by no more than this, and by no less than its inverse.
const MOST: f64 = 10.0;

/// What a run must remember of what it follows: losses, or cosines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Followed {
    /// Sum of losses and count of samples (of cosines, and of steps) of each task in the stage that is
    /// running.
    running: Vec<(f64, u64)>,
    /// Mean loss of each task's first stage with samples.
    first: Vec<Option<f64>>,
    /// Moving average of each task's mean losses.
    mean: Vec<Option<f64>>,
    /// By what the draws of each task are multiplied, in each stage from the third on.
    factors: Vec<Vec<f64>>,
}

/// Follows the losses of a run's tasks.
#[derive(Clone, Debug)]
pub struct Follower {
    spec: AdaptiveSpec,
    groups: InputGroups,
    state: Followed,
}

impl Follower {
    /// For a run that has not begun.
    #[must_use]
    pub fn new(spec: AdaptiveSpec, groups: InputGroups, tasks: usize) -> Self {
        Self {
            spec,
            groups,
            state: Followed {
                running: vec![(0.0, 0); tasks],
                first: vec![None; tasks],
                mean: vec![None; tasks],
                factors: Vec::new(),
            },
        }
    }

    /// What to remember.
    #[must_use]
    pub fn state(&self) -> &Followed {
        &self.state
    }

    /// Goes on from what was remembered.
    pub fn restore(&mut self, state: Followed) {
        self.state = state;
    }

    /// By what the draws of each task are multiplied, in each stage from the third on that is known.
    #[must_use]
    pub fn factors(&self) -> &[Vec<f64>] {
        &self.state.factors
    }

    /// What it follows.
    #[must_use]
    pub fn by(&self) -> AdaptiveBy {
        self.spec.by
    }

    /// Takes in a step's losses, a sum and a count of samples for each task, or what [`agreements`] says;
    /// `done` steps are done with it. Says whether a stage is over: then the factors of the stage after the next one are known.
    pub fn observe(&mut self, done: u64, losses: &[(f64, u64)]) -> bool {
        for (running, (sum, count)) in self.state.running.iter_mut().zip(losses) {
            // A task that was skipped for what is no number tells nothing.
            if sum.is_finite() && *count > 0 {
                running.0 += sum;
                running.1 += count;
            }
        }
        if !done.is_multiple_of(self.spec.every_steps.max(1)) {
            return false;
        }
        let keep = self.spec.smoothing;
        let mut rates = Vec::with_capacity(losses.len());
        for (task, running) in self.state.running.iter_mut().enumerate() {
            let (sum, count) = std::mem::take(running);
            if count > 0 {
                let mean = sum / count as f64;
                let before = self.state.mean[task].unwrap_or(mean);
                self.state.mean[task] = Some(keep * before + (1.0 - keep) * mean);
                self.state.first[task].get_or_insert(mean);
            }
            rates.push(match (self.state.mean[task], self.state.first[task]) {
                (Some(now), _) if self.spec.by == AdaptiveBy::Affinity => (1.0 + now).max(0.0),
                (Some(now), Some(first)) => rate(now, first),
                _ => 1.0,
            });
        }
        let of_group = |task: usize| {
            let members: Vec<usize> = self.groups.members(self.groups.leader(task)).collect();
            let sum: f64 = members.iter().map(|member| rates[*member]).sum();
            sum / members.len().max(1) as f64
        };
        let factor = |task: usize| of_group(task).powf(self.spec.alpha).clamp(1.0 / MOST, MOST);
        let factors = (0..rates.len()).map(factor).collect();
        self.state.factors.push(factors);
        true
    }
}

/// Of each task the mean cosine between its gradient and that of each other task in a step, and 1; or 0 and 0
/// where there is none. `gram` are their scalar products, K x K row-major, none with a task that is not in the
/// step; none at all without other tasks.
#[must_use]
pub fn agreements(gram: Option<&[Option<f64>]>, tasks: usize) -> Vec<(f64, u64)> {
    let product = |a: usize, b: usize| gram?.get(a * tasks + b).copied().flatten();
    let cosine = |a: usize, b: usize| {
        let cosine = product(a, b)? / (product(a, a)?.sqrt() * product(b, b)?.sqrt());
        // A gradient of 0 has no direction.
        cosine.is_finite().then(|| cosine.clamp(-1.0, 1.0))
    };
    let of = |task: usize| {
        let others = (0..tasks).filter(|other| *other != task);
        let cosines: Vec<f64> = others.filter_map(|other| cosine(task, other)).collect();
        match cosines.len() {
            0 => (0.0, 0),
            count => (cosines.iter().sum::<f64>() / count as f64, 1),
        }
    };
    (0..tasks).map(of).collect()
}

/// The inverse training rate; 1 where a loss was 0 from the start.
fn rate(now: f64, first: f64) -> f64 {
    let rate = now / first;
    if rate.is_finite() && rate >= 0.0 {
        rate
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(alpha: f64, groups: InputGroups, tasks: usize) -> Follower {
        let spec = AdaptiveSpec {
            alpha,
            every_steps: 2,
            smoothing: 0.5,
            temperature: 1.0,
            by: AdaptiveBy::Losses,
        };
        Follower::new(spec, groups, tasks)
    }

    // Promise: a task whose loss falls is drawn less by the ratio of its smoothed loss to its first one,
    // to the power alpha; one without samples stays as it was; bounds hold.
    #[test]
    fn factors_follow_the_losses() {
        let mut follower = follower(2.0, InputGroups::apart(3), 3);
        assert!(!follower.observe(1, &[(4.0, 2), (3.0, 3), (0.0, 0)]));
        assert!(follower.observe(2, &[(4.0, 2), (3.0, 3), (f64::NAN, 1)]));
        assert!(!follower.observe(3, &[(2.0, 2), (2.0, 1), (1.0, 1)]));
        // Means 1 and 2, averages 1.5 of 2 and 1.5 of 1.
        assert!(follower.observe(4, &[(2.0, 2), (2.0, 1), (0.0, 0)]));
        assert_eq!(follower.factors(), [[1.0, 1.0, 1.0], [0.5625, 2.25, 1.0]]);
        let _ = follower.observe(5, &[(1e-9, 2), (1e9, 1), (1.0, 1)]);
        let _ = follower.observe(6, &[(0.0, 2), (1e9, 1), (1.0, 1)]);
        assert_eq!(follower.factors()[2][1..], [MOST, 1.0]);
    }

    // Promise: a task is drawn by 1 + the mean cosine with the others, to the power alpha, from those in the
    // step alone; one without a direction tells nothing.
    #[test]
    fn factors_follow_the_agreement() {
        // Gradients (2, 0), (3, 4) and (-1, 0): cosines 0.6, -1 and -0.6.
        let gram = [4.0, 6.0, -2.0, 6.0, 25.0, -3.0, -2.0, -3.0, 1.0].map(Some);
        let found = agreements(Some(&gram), 3);
        let near = |found: f64, expected: f64| (found - expected).abs() < 1e-12;
        for ((mean, count), expected) in found.iter().zip([-0.2, 0.0, -0.8]) {
            assert!(near(*mean, expected) && *count == 1, "{found:?}");
        }
        let two = [
            Some(4.0),
            None,
            Some(2.0),
            None,
            None,
            None,
            Some(2.0),
            None,
            Some(4.0),
        ];
        assert_eq!(agreements(Some(&two), 3), [(0.5, 1), (0.0, 0), (0.5, 1)]);
        let none = [Some(0.0), Some(0.0), Some(0.0), Some(1.0)];
        assert_eq!(agreements(Some(&none), 2), [(0.0, 0), (0.0, 0)]);
        assert_eq!(agreements(None, 2), [(0.0, 0), (0.0, 0)]);

        let mut follower = follower(2.0, InputGroups::apart(3), 3);
        follower.spec.by = AdaptiveBy::Affinity;
        let _ = follower.observe(1, &[(0.5, 1), (-1.0, 1), (0.0, 0)]);
        let _ = follower.observe(2, &[(0.5, 1), (-1.0, 1), (0.0, 0)]);
        assert_eq!(follower.factors(), [[2.25, 1.0 / MOST, 1.0]]);
        let _ = follower.observe(4, &[(-0.5, 1), (0.0, 1), (0.5, 1)]);
        // Averages 0, -0.5 and 0.5.
        assert_eq!(follower.factors()[1], [1.0, 0.25, 2.25]);
    }

    // Promise: tasks that are drawn together are drawn by the mean of their rates.
    #[test]
    fn groups_have_one_factor() {
        let task = |name: &str, group: Option<&str>| {
            serde_json::from_value(serde_json::json!({
                "name": name, "head": "regression", "data": {"train": "a.csv"}, "input_group": group
            }))
            .unwrap()
        };
        let tasks = [task("a", Some("g")), task("b", None), task("c", Some("g"))];
        let mut follower = follower(1.0, InputGroups::of(&tasks), 3);
        let _ = follower.observe(2, &[(1.0, 1), (1.0, 1), (1.0, 1)]);
        let _ = follower.observe(4, &[(0.0, 1), (1.0, 1), (2.0, 1)]);
        assert_eq!(follower.factors()[1], [1.0, 1.0, 1.0]);
    }

    // Promise: what is remembered goes on bit by bit.
    #[test]
    fn a_run_that_is_taken_up_has_the_same_factors() {
        let losses = |step: u64| [(1.0 / (step as f64 + 0.3), 3), (0.7 + step as f64 * 0.1, 2)];
        let mut once = follower(1.0, InputGroups::apart(2), 2);
        let mut before = once.clone();
        for step in 1..9 {
            let _ = once.observe(step, &losses(step));
        }
        for step in 1..4 {
            let _ = before.observe(step, &losses(step));
        }
        let json = serde_json::to_string(before.state()).unwrap();
        let mut after = follower(1.0, InputGroups::apart(2), 2);
        after.restore(serde_json::from_str(&json).unwrap());
        for step in 4..9 {
            let _ = after.observe(step, &losses(step));
        }
        assert_eq!(once.state(), after.state());
        assert_eq!(once.factors().len(), 4);
    }
}
