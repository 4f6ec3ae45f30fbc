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
    let is_seen = |class: u32| seen.get(class as usize).copied().unwrap_or(false);
    let all = |wanted: bool| {
        let pairs = truth
            .iter()
            .zip(nearest)
            .filter(|(t, _)| is_seen(**t) == wanted);
        mean_over_classes(pairs.map(|(t, n)| (*t, n.class(calibration) == *t)))
    };
    let among_unseen = || {
        let pairs = truth.iter().zip(nearest).filter(|(t, _)| !is_seen(**t));
        mean_over_classes(pairs.map(|(t, n)| (*t, n.unseen.is_some_and(|(class, _)| class == *t))))
    };
    let mut figures = BTreeMap::new();
    let of_seen = all(true);
    let of_unseen = all(false);
    figures.extend(of_seen.map(|value| (Metric::SeenAccuracy, value)));
    figures.extend(of_unseen.map(|value| (Metric::UnseenAccuracy, value)));
    figures.extend(among_unseen().map(|value| (Metric::ZeroShotAccuracy, value)));
    if let (Some(a), Some(b)) = (of_seen, of_unseen) {
        figures.insert(Metric::HarmonicMean, harmonic(a, b));
    }
    figures
}

/// The calibration with the best harmonic mean on these samples, of equal ones the nearest to 0; none
/// where there are not samples of both kinds of classes.
#[must_use]
pub fn calibrate(truth: &[u32], nearest: &[Nearest], seen: &[bool]) -> Option<f64> {
    let harmonic = |calibration: f64| {
        let figures = zero_shot(truth, nearest, seen, calibration);
        figures.get(&Metric::HarmonicMean).copied()
    };
    harmonic(0.0)?;
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
    let mut best = (0.0, harmonic(0.0)?);
    for calibration in candidates.into_iter().step_by(step) {
        match harmonic(calibration) {
            Some(value) if value > best.1 => best = (calibration, value),
            _ => {}
        }
    }
    Some(best.0)
}

/// 2ab / (a + b); 0 where both are.
fn harmonic(a: f64, b: f64) -> f64 {
    if a + b > 0.0 {
        2.0 * a * b / (a + b)
    } else {
        0.0
    }
}

fn mean_over_classes(samples: impl Iterator<Item = (u32, bool)>) -> Option<f64> {
    let mut counts: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for (class, is_right) in samples {
        let (right, all) = counts.entry(class).or_default();
        *right += u32::from(is_right);
        *all += 1;
    }
    if counts.is_empty() {
        return None;
    }
    let shares = counts
        .values()
        .map(|(right, all)| f64::from(*right) / f64::from(*all));
    #[expect(clippy::cast_precision_loss, reason = "classes")]
    let mean = shares.sum::<f64>() / counts.len() as f64;
    Some(mean)
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
        // 0.2 off the seen ones finds class 2, and loses nothing else.
        let calibration = calibrate(&truth, &nearest, &seen).unwrap();
        assert!(calibration > 0.1 && calibration < 0.3, "{calibration}");
        let better = zero_shot(&truth, &nearest, &seen, calibration);
        assert!(
            (better[&Metric::UnseenAccuracy] - 0.75).abs() < 1e-12,
            "{better:?}"
        );
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
