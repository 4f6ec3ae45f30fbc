//! Samples on which several tasks are right at once.

use super::{Values, part};

/// Counts the samples on which all tasks added so far are right.
#[derive(Clone, Debug, Default)]
pub struct Joint {
    tasks: usize,
    right: Vec<bool>,
}

impl Joint {
    /// Adds what a task should have and has predicted of each sample. A task whose predictions are not simply right or
    /// wrong, such as numbers, is not counted; nor is one with another number of samples than the first.
    pub fn add(&mut self, truth: &Values, predicted: &Values) {
        let Some(right) = right(truth, predicted) else {
            return;
        };
        if self.tasks == 0 {
            self.right = right;
        } else if self.right.len() == right.len() {
            let both = self.right.iter_mut().zip(right);
            both.for_each(|(all, own)| *all &= own);
        } else {
            return;
        }
        self.tasks += 1;
    }

    /// Share of samples on which all tasks are right: of a spoken sentence with intent and slots the sentence-level
    /// semantic frame accuracy (Goo et al. 2018, NAACL). None unless exactly `tasks` were counted, and more than one.
    #[must_use]
    pub fn share(&self, tasks: usize) -> Option<f64> {
        let is_whole = tasks > 1 && self.tasks == tasks && !self.right.is_empty();
        let count = self.right.iter().filter(|right| **right).count();
        is_whole.then(|| count as f64 / self.right.len() as f64)
    }
}

/// Whether each sample is predicted as it should be; none where that is a matter of degree.
fn right(truth: &Values, predicted: &Values) -> Option<Vec<bool>> {
    let each = |one: &[u32], other: &[u32]| one.iter().zip(other).map(|(t, p)| t == p).collect();
    match (truth, predicted) {
        (Values::Single { values: t, .. }, Values::Single { values: p, .. })
        | (Values::Ordered { values: t, .. }, Values::Ordered { values: p, .. }) => {
            Some(each(t, p))
        }
        (Values::Multi { classes, values: t }, Values::Multi { values: p, .. }) => {
            let rows = |values: &'_ [bool]| -> Vec<Vec<bool>> {
                values
                    .chunks(*classes.max(&1))
                    .map(<[bool]>::to_vec)
                    .collect()
            };
            Some(rows(t).iter().zip(rows(p)).map(|(t, p)| *t == p).collect())
        }
        (
            Values::Tags {
                ends, values: t, ..
            },
            Values::Tags {
                ends: found,
                values: p,
                ..
            },
        )
        | (
            Values::Text {
                ends, values: t, ..
            },
            Values::Text {
                ends: found,
                values: p,
                ..
            },
        ) => {
            let is_right = |place| part(ends, t, place) == part(found, p, place);
            Some((0..ends.len()).map(is_right).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::NO_TAG;
    use std::sync::Arc;

    fn single(values: &[u32]) -> Values {
        Values::Single {
            classes: 3,
            values: values.to_vec(),
        }
    }

    // Promise: a sample counts where every task is right about it; a word without a tag is a wrong one.
    #[test]
    fn all_tasks_must_be_right() {
        let tags = |values: &[u32]| Values::Tags {
            set: Arc::default(),
            ends: vec![2, 3, 5],
            values: values.to_vec(),
        };
        let mut joint = Joint::default();
        joint.add(&single(&[0, 1, 2]), &single(&[0, 1, 1]));
        assert_eq!(joint.share(1), None, "one task alone has its own metrics");
        joint.add(&tags(&[0, 1, 0, 1, 1]), &tags(&[0, 1, NO_TAG, 1, 1]));
        assert_eq!(joint.share(2), Some(1.0 / 3.0));
        assert_eq!(joint.share(3), None, "a task is missing");
    }

    // Promise: where one task has no right and wrong, or other samples, nothing is said.
    #[test]
    fn degrees_are_not_counted() {
        let mut joint = Joint::default();
        joint.add(&single(&[0, 1]), &single(&[0, 1]));
        joint.add(
            &Values::Numbers(vec![0.5, 1.0]),
            &Values::Numbers(vec![0.5, 1.0]),
        );
        assert_eq!(joint.share(2), None);
        joint.add(&single(&[0]), &single(&[0]));
        assert_eq!(joint.share(2), None);
        let labels = |values: &[bool]| Values::Multi {
            classes: 2,
            values: values.to_vec(),
        };
        joint.add(
            &labels(&[true, false, true, true]),
            &labels(&[true, false, true, false]),
        );
        assert_eq!(joint.share(2), Some(0.5));
    }
}
