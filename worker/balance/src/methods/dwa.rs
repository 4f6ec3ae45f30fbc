//! Dynamic weight average.

use super::{Rule, Trouble, keeps};
use crate::face::Facts;
use crate::math::softmax;

/// DWA (Liu et al. 2019, arXiv 1803.10704): w = K·softmax(r/T), r_k = L_k(t-1)/L_k(t-2) the ratio
/// of a task's mean losses over the last two windows; weights of 1 until every present task has
/// two. T = 2 (paper). A window is an epoch (paper) or `window` steps (nash-mtl: 25). O(K).
#[derive(Debug)]
pub(crate) struct Dwa {
    temperature: f64,
    window: f64,
    /// The window that is open, one number.
    open: Vec<f64>,
    sum: Vec<f64>,
    count: Vec<f64>,
    last: Vec<f64>,
    before: Vec<f64>,
    closed: Vec<f64>,
}

impl Dwa {
    pub(crate) fn new(tasks: usize, temperature: f64, window: f64) -> Self {
        let zeros = || vec![0.0; tasks];
        Self {
            temperature,
            window,
            open: vec![0.0],
            sum: zeros(),
            count: zeros(),
            last: zeros(),
            before: zeros(),
            closed: zeros(),
        }
    }

    fn close(&mut self) {
        for task in 0..self.sum.len() {
            if self.count[task] > 0.0 {
                self.before[task] = self.last[task];
                self.last[task] = self.sum[task] / self.count[task];
                self.closed[task] += 1.0;
                self.sum[task] = 0.0;
                self.count[task] = 0.0;
            }
        }
    }
}

impl Rule for Dwa {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let now = if self.window > 0.0 {
            (facts.step as f64 / self.window).floor()
        } else {
            facts.epoch as f64
        };
        if now != self.open[0] {
            self.open[0] = now;
            self.close();
        }
        for (&task, loss) in facts.tasks.iter().zip(facts.losses) {
            self.sum[task] += loss;
            self.count[task] += 1.0;
        }
        let k = facts.tasks.len();
        let ready = |&task: &usize| self.closed[task] >= 2.0 && self.before[task] != 0.0;
        if !facts.tasks.iter().all(ready) {
            return Ok(vec![1.0; k]);
        }
        let rates: Vec<f64> = facts
            .tasks
            .iter()
            .map(|&task| self.last[task] / self.before[task] / self.temperature)
            .collect();
        Ok(softmax(&rates).into_iter().map(|w| k as f64 * w).collect())
    }

    keeps!("open": open, "sum": sum, "count": count, "last": last, "before": before,
        "closed": closed);
}

#[cfg(test)]
mod tests {
    use super::{Dwa, Rule};
    use crate::face::Facts;

    #[test]
    fn the_ratio_of_the_last_two_epochs_counts() {
        // T = 2, losses (1, 2, 2) and then (.5, 1.9, 1): .922418 1.155165 .922418.
        let mut dwa = Dwa::new(3, 2.0, 0.0);
        let mut answer = Vec::new();
        for (epoch, losses) in [[1.0, 2.0, 2.0], [0.5, 1.9, 1.0], [9.0, 9.0, 9.0]]
            .iter()
            .enumerate()
        {
            let facts = Facts {
                epoch: epoch as u64,
                tasks: &[0, 1, 2],
                losses,
                ..Facts::default()
            };
            answer.push(dwa.weights(&facts).unwrap());
        }
        assert_eq!(answer[..2], [vec![1.0; 3], vec![1.0; 3]]);
        for (found, expected) in answer[2].iter().zip([0.922418, 1.155165, 0.922418]) {
            assert!((found - expected).abs() < 1e-6, "{answer:?}");
        }
    }
}
