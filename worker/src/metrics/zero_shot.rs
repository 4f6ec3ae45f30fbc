//! Figures of classes some of which nobody trained: generalised zero-shot learning, by the conventions of
//! Xian et al. 2019 (arXiv 1707.00600): shares of right predictions are averaged over classes.

use espalier_spec::job::Metric;
use std::collections::BTreeMap;

/// What a sample is nearest to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nearest {
    /// The nearest class trained on, and its cosine.
    pub seen: (u32, f32),
    /// The nearest unseen class, and its cosine; none where all classes were trained on.
    pub unseen: Option<(u32, f32)>,
}

impl Nearest {
    /// The nearest of all classes, after `calibration` was taken from the cosine of the seen one; of
    /// equal ones the seen one.
    #[must_use]
    pub fn class(&self, calibration: f64) -> u32 {
        match self.unseen {
            Some((class, cosine)) if f64::from(cosine) > f64::from(self.seen.1) - calibration => {
                class
            }
            _ => self.seen.0,
        }
    }
}

/// The figures of samples whose classes are `truth`; `seen` says of each class whether it was trained
/// on. Those of unseen classes are left out where no sample has one.
#[must_use]
pub fn zero_shot(
    truth: &[u32],
    nearest: &[Nearest],
    seen: &[bool],
    calibration: f64,
) -> BTreeMap<Metric, f64> {
    let among_all = |wanted| right(truth, nearest, seen, wanted, |n| Some(n.class(calibration)));
    let among_unseen = right(truth, nearest, seen, false, |n| Some(n.unseen?.0));
    let mut figures = BTreeMap::new();
    let mut tell = |metric, found: Option<Estimate>| {
        figures.extend(found.map(|mean| (metric, mean.value)));
    };
    tell(Metric::SeenAccuracy, among_all(true));
    tell(Metric::UnseenAccuracy, among_all(false));
    tell(Metric::ZeroShotAccuracy, among_unseen);
    tell(
        Metric::HarmonicMean,
        harmonic(truth, nearest, seen, calibration),
    );
    figures
}

/// The calibration nearest to 0 whose harmonic mean on these samples is within one standard error of the best one
/// (the rule of Breiman et al. 1984 for pruning trees): the mean is nearly flat over a wide range, and where in it
/// the best lies is chance. None where there are not samples of both kinds of classes.
#[must_use]
pub fn calibrate(truth: &[u32], nearest: &[Nearest], seen: &[bool]) -> Option<f64> {
    let tried =
        |calibration: f64| Some((calibration, harmonic(truth, nearest, seen, calibration)?));
    let still = tried(0.0)?;
    // Predictions change only where a seen and an unseen class are equally near.
    let gap = |one: &Nearest| Some(f64::from(one.seen.1) - f64::from(one.unseen?.1));
    let mut gaps: Vec<f64> = nearest.iter().filter_map(gap).collect();
    gaps.sort_by(f64::total_cmp);
    gaps.dedup();
    let middles = gaps.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
    let mut candidates: Vec<f64> = middles.collect();
    candidates.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    // As many as are worth the time, evenly spread over the order.
    const MOST: usize = 512;
    let step = candidates.len().div_ceil(MOST).max(1);
    let candidates = candidates.into_iter().step_by(step);
    let all: Vec<_> = std::iter::once(still)
        .chain(candidates.filter_map(tried))
        .collect();
    // From the far end, so that of equal ones the nearest to 0 is the best.
    let best = all.iter().rev().map(|(_, mean)| mean);
    let best = best.max_by(|a, b| a.value.total_cmp(&b.value))?;
    let enough = best.value - best.error;
    let chosen = all.iter().find(|(_, mean)| mean.value >= enough)?;
    Some(chosen.0)
}

/// A mean and its standard error.
#[derive(Clone, Copy)]
struct Estimate {
    value: f64,
    error: f64,
}

/// The harmonic mean of seen and unseen accuracy; none without samples of both.
fn harmonic(
    truth: &[u32],
    nearest: &[Nearest],
    seen: &[bool],
    calibration: f64,
) -> Option<Estimate> {
    let of = |wanted| right(truth, nearest, seen, wanted, |n| Some(n.class(calibration)));
    let (a, b) = (of(true)?, of(false)?);
    let sum = a.value + b.value;
    if sum <= 0.0 {
        return Some(Estimate {
            value: 0.0,
            error: 0.0,
        });
    }
    // Errors of both go through the derivatives of 2ab / (a + b).
    let by_a = 2.0 * (b.value / sum).powi(2);
    let by_b = 2.0 * (a.value / sum).powi(2);
    Some(Estimate {
        value: 2.0 * a.value * b.value / sum,
        error: (by_a * a.error).hypot(by_b * b.error),
    })
}

/// The share of right `answer`s among samples of seen classes, or of unseen ones; none without any.
fn right(
    truth: &[u32],
    nearest: &[Nearest],
    seen: &[bool],
    wanted: bool,
    answer: impl Fn(&Nearest) -> Option<u32>,
) -> Option<Estimate> {
    let is_seen = |class: u32| seen.get(class as usize).copied().unwrap_or(false);
    let samples = truth.iter().zip(nearest);
    let samples = samples.filter(|(class, _)| is_seen(**class) == wanted);
    mean_over_classes(samples.map(|(class, one)| (*class, answer(one) == Some(*class))))
}

/// The mean over classes of the share of right ones, its error that of as many binomial shares.
fn mean_over_classes(samples: impl Iterator<Item = (u32, bool)>) -> Option<Estimate> {
    let mut counts: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for (class, is_right) in samples {
        let (right, all) = counts.entry(class).or_default();
        *right += u32::from(is_right);
        *all += 1;
    }
    if counts.is_empty() {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "classes")]
    let classes = counts.len() as f64;
    let (mut value, mut variance) = (0.0, 0.0);
    for (right, all) in counts.values() {
        let share = f64::from(*right) / f64::from(*all);
        value += share;
        variance += share * (1.0 - share) / f64::from(*all);
    }
    Some(Estimate {
        value: value / classes,
        error: variance.sqrt() / classes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(seen: (u32, f32), unseen: (u32, f32)) -> Nearest {
        Nearest {
            seen,
            unseen: Some(unseen),
        }
    }

    // Promise: shares are averaged over classes; unseen samples are told among unseen classes, and among all.
    #[test]
    fn figures_by_hand() {
        let seen = [true, true, false, false];
        let truth = [0, 0, 1, 2, 3, 3];
        let nearest = [
            near((0, 0.9), (2, 0.1)),
            near((1, 0.9), (2, 0.1)),
            near((1, 0.5), (3, 0.6)),
            near((0, 0.7), (2, 0.6)),
            near((0, 0.2), (3, 0.8)),
            near((0, 0.8), (2, 0.5)),
        ];
        let found = zero_shot(&truth, &nearest, &seen, 0.0);
        // Class 0: one of two, class 1: none; class 2: none, class 3: one of two.
        let expected = [
            (Metric::SeenAccuracy, 0.25),
            (Metric::UnseenAccuracy, 0.25),
            (Metric::HarmonicMean, 0.25),
            (Metric::ZeroShotAccuracy, 0.75),
        ];
        for (metric, value) in expected {
            assert!(
                (found[&metric] - value).abs() < 1e-12,
                "{metric:?}: {found:?}"
            );
        }
        // 0.2 off the seen ones finds class 2, and loses nothing else; of so many samples that it is no chance.
        let (truth, nearest) = (truth.repeat(20), nearest.repeat(20));
        let calibration = calibrate(&truth, &nearest, &seen).unwrap();
        assert!(calibration > 0.1 && calibration < 0.3, "{calibration}");
        let better = zero_shot(&truth, &nearest, &seen, calibration);
        assert!(
            (better[&Metric::UnseenAccuracy] - 0.75).abs() < 1e-12,
            "{better:?}"
        );
    }

    // Promise: of calibrations that differ by no more than chance the smallest is taken, not the one that happens to be best.
    #[test]
    fn the_smallest_as_good_as_the_best() {
        let seen = [true, false];
        // 40 samples of each class. 0.1 off finds all of the unseen but one, for which 0.5 off costs no seen one.
        let truth: Vec<u32> = (0..80).map(|row| row / 40).collect();
        let nearest: Vec<Nearest> = (0..80)
            .map(|row| match row {
                0..40 => near((0, 0.9), (1, 0.2)),
                40 => near((0, 0.9), (1, 0.5)),
                _ => near((0, 0.6), (1, 0.55)),
            })
            .collect();
        let best = zero_shot(&truth, &nearest, &seen, 0.5)[&Metric::HarmonicMean];
        assert!((best - 1.0).abs() < 1e-12, "{best}");
        let calibration = calibrate(&truth, &nearest, &seen).unwrap();
        assert!(
            calibration > 0.4,
            "no error, no other is as good: {calibration}"
        );
        // With two seen samples that nothing finds, the best has an error, and one sample is within it.
        let mut nearest = nearest;
        nearest[0] = near((0, 0.1), (1, 0.9));
        nearest[1] = nearest[0];
        let calibration = calibrate(&truth, &nearest, &seen).unwrap();
        assert!((0.05..0.3).contains(&calibration), "{calibration}");
    }

    // Promise: without samples of unseen classes there are no figures of them, and nothing to calibrate by.
    #[test]
    fn seen_classes_alone() {
        let nearest = [Nearest {
            seen: (1, 0.5),
            unseen: None,
        }];
        let found = zero_shot(&[1], &nearest, &[true, true], 0.3);
        assert_eq!(found, BTreeMap::from([(Metric::SeenAccuracy, 1.0)]));
        assert_eq!(calibrate(&[1], &nearest, &[true, true]), None);
    }
}
