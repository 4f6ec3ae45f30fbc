//! How tasks' gradients relate: what the owners see when they combine them.

use serde::{Deserialize, Serialize};

/// Steps after which the running means of an [`Affinity`] forget: step n enters with the weight
/// 1/n, from this number on with this one's. So they are plain means at first and follow the
/// training later.
pub const AFFINITY_MEMORY: u64 = 100;

/// How the tasks' gradients on the backbone relate, in running means over steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Affinity {
    /// The tasks, in order of the job spec.
    pub tasks: Vec<TaskGradient>,
    /// Pairs of tasks that were in one step at least once, each once, in order of the job spec:
    /// the upper triangle of a symmetric matrix. Pairs never seen together are absent.
    pub pairs: Vec<TaskPair>,
}

/// One task's gradient.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskGradient {
    /// Name of the task.
    pub task: String,
    /// Mean L2 norm of its gradient, before the balancer weighs it.
    pub norm: f64,
    /// Mean weight that the balancer gave it.
    pub weight: f64,
    /// Steps that it was in: the evidence.
    pub steps: u64,
}

/// How the gradients of two tasks relate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskPair {
    /// Name of the task that comes first in the job spec.
    pub a: String,
    /// Name of the other.
    pub b: String,
    /// Mean cosine of their gradients: 1 is the same direction, -1 the opposite.
    pub cosine: f64,
    /// Standard deviation of the cosine from step to step.
    pub deviation: f64,
    /// Share of the steps in which the cosine was negative, 0 to 1.
    pub conflicts: f64,
    /// Steps that both were in: the evidence.
    pub steps: u64,
}

impl Affinity {
    /// The pair of two tasks, in whichever order they are named.
    #[must_use]
    pub fn pair(&self, a: &str, b: &str) -> Option<&TaskPair> {
        let is = |pair: &&TaskPair| (pair.a == a && pair.b == b) || (pair.a == b && pair.b == a);
        self.pairs.iter().find(is)
    }
}

impl TaskPair {
    /// Standard error of the mean cosine, as if steps were independent; none with a single step.
    #[must_use]
    pub fn error(&self) -> Option<f64> {
        // A mean that forgets after n steps is as sure as a plain one of 2n - 1.
        let sure = self.steps.min(2 * AFFINITY_MEMORY - 1);
        (sure > 1).then(|| self.deviation / (sure as f64).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_found_in_either_order() {
        // Promise: the matrix is symmetric, though it is stored as its upper triangle.
        let pair = TaskPair {
            a: "x".to_owned(),
            b: "y".to_owned(),
            steps: 4,
            deviation: 0.5,
            ..TaskPair::default()
        };
        let affinity = Affinity {
            tasks: Vec::new(),
            pairs: vec![pair.clone()],
        };
        assert_eq!(affinity.pair("x", "y"), Some(&pair));
        assert_eq!(affinity.pair("y", "x"), Some(&pair));
        assert_eq!(affinity.pair("x", "x"), None);
        assert_eq!(affinity.pair("x", "z"), None);
    }

    #[test]
    fn the_error_shrinks_with_evidence_up_to_what_is_remembered() {
        // Promise: one step proves nothing, and more steps than are remembered prove no more.
        let error = |steps| {
            TaskPair {
                steps,
                deviation: 0.5,
                ..TaskPair::default()
            }
            .error()
        };
        assert_eq!(error(1), None);
        assert_eq!(error(4), Some(0.25));
        assert_eq!(error(10_000), error(2 * AFFINITY_MEMORY - 1));
    }
}
