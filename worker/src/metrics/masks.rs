//! Metrics of masks: how many pixels of each class were given which one, and what follows from it.

use espalier_spec::job::Metric;
use std::collections::BTreeMap;

/// A confusion matrix of pixels, in whole numbers: parts of a data set add up to that of all of it,
/// whatever they are and in whatever order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// Pixels of class t that were given class p: `counts[t * classes + p]`.
    counts: Vec<u64>,
}

impl Confusion {
    /// Of no pixel yet.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    /// Adds `pixels` of the class `truth` that were given the class `predicted`; none for a class that is
    /// none.
    pub fn add(&mut self, truth: usize, predicted: usize, pixels: u64) {
        if truth < self.classes && predicted < self.classes {
            self.counts[truth * self.classes + predicted] += pixels;
        }
    }

    /// Adds the pixels of a mask and of the one found, of the same size; those of the value `ignore` in
    /// `truth` do not count.
    pub fn compare(&mut self, truth: &[u8], predicted: &[u8], ignore: u8) {
        for (truth, predicted) in truth.iter().zip(predicted) {
            if *truth != ignore {
                self.add(usize::from(*truth), usize::from(*predicted), 1);
            }
        }
    }

    /// What is not 0: the class, the one that was given, pixels.
    pub fn cells(&self) -> impl Iterator<Item = (usize, usize, u64)> {
        let width = self.classes.max(1);
        let all = self.counts.iter().enumerate();
        all.filter(|(_, pixels)| **pixels > 0)
            .map(move |(at, pixels)| (at / width, at % width, *pixels))
    }

    /// The same pixels, all of them given one class.
    #[must_use]
    pub fn all_given(&self, class: usize) -> Self {
        let mut given = Self::new(self.classes);
        for (truth, _, pixels) in self.cells() {
            given.add(truth, class, pixels);
        }
        given
    }

    /// Intersection over union of each class's pixels: those that are of it and were given it, over those
    /// that are of it or were given it. None for a class without any.
    #[must_use]
    pub fn iou(&self) -> Vec<Option<f64>> {
        let mut both = vec![0; self.classes];
        let mut either = vec![0; self.classes];
        for (truth, predicted, pixels) in self.cells() {
            either[truth] += pixels;
            if truth == predicted {
                both[truth] += pixels;
            } else {
                either[predicted] += pixels;
            }
        }
        let of = |(both, either): (u64, u64)| (either > 0).then(|| ratio(both, either));
        both.into_iter().zip(either).map(of).collect()
    }

    /// Mean IoU over the classes that are there or were given, and the share of right pixels; both 0 if
    /// there are no pixels.
    #[must_use]
    pub fn scores(&self) -> BTreeMap<Metric, f64> {
        let known: Vec<f64> = self.iou().into_iter().flatten().collect();
        #[expect(clippy::cast_precision_loss, reason = "at most 256 classes")]
        let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
        let (mut right, mut all) = (0, 0);
        for (truth, predicted, pixels) in self.cells() {
            all += pixels;
            right += if truth == predicted { pixels } else { 0 };
        }
        BTreeMap::from([
            (Metric::Accuracy, ratio(right, all.max(1))),
            (Metric::MeanIou, mean),
        ])
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of pixels")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: what is ignored counts nowhere; a class that is only found counts as 0, one that is in
    // neither counts not at all.
    #[test]
    fn only_classes_that_are_there_or_found_count() {
        let mut confusion = Confusion::new(4);
        confusion.compare(&[0, 0, 1, 1, 255, 255], &[0, 2, 1, 1, 3, 0], 255);
        let iou = confusion.iou();
        assert_eq!(iou, [Some(0.5), Some(1.0), Some(0.0), None]);
        let scores = confusion.scores();
        assert_eq!(scores[&Metric::MeanIou], 0.5);
        assert_eq!(scores[&Metric::Accuracy], 0.75);
    }

    // Promise: parts add up to the whole, cell by cell, in any order.
    #[test]
    fn parts_add_up_to_the_whole() {
        let truth = [0, 1, 2, 2, 1, 0, 7, 2];
        let found = [0, 2, 2, 1, 1, 0, 2, 2];
        let mut whole = Confusion::new(3);
        whole.compare(&truth, &found, 7);
        let mut parts = Confusion::new(3);
        for range in [5..8, 0..2, 2..5] {
            let mut part = Confusion::new(3);
            part.compare(&truth[range.clone()], &found[range], 7);
            for (truth, predicted, pixels) in part.cells() {
                parts.add(truth, predicted, pixels);
            }
        }
        assert_eq!(parts, whole);
        assert_eq!(whole.cells().map(|(.., pixels)| pixels).sum::<u64>(), 7);
    }

    // Promise: the same class for every pixel is right where it is there, and all of no pixel is 0.
    #[test]
    fn one_class_for_all_is_a_baseline() {
        let mut confusion = Confusion::new(2);
        confusion.compare(&[0, 0, 0, 1], &[1, 1, 1, 1], 255);
        let given = confusion.all_given(0).scores();
        assert_eq!(given[&Metric::Accuracy], 0.75);
        assert_eq!(given[&Metric::MeanIou], 0.375);
        assert_eq!(Confusion::new(2).scores()[&Metric::MeanIou], 0.0);
    }
}
