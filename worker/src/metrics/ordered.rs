//! Metrics of classes that have an order. Both sides have the same number of samples, at least one.

/// Mean distance between the classes of a sample, in classes.
#[must_use]
pub fn class_mae(truth: &[u32], predicted: &[u32]) -> f64 {
    let pairs = truth.iter().zip(predicted);
    let sum: u64 = pairs.map(|(t, p)| u64::from(t.abs_diff(*p))).sum();
    #[expect(clippy::cast_precision_loss, reason = "counts of samples")]
    let mean = sum as f64 / truth.len().max(1) as f64;
    mean
}

/// Cohen's kappa with squared distances as weights (Cohen 1968): 1 - Σ w O / Σ w E, where w is
/// (i - j)^2, O how often classes i and j met, and E how often they would by chance
/// (scikit-learn's `cohen_kappa_score(labels=range(classes), weights="quadratic")`). Where both sides
/// are always the same class it is not defined; it is then taken as 0, as no relation can be seen.
#[must_use]
pub fn quadratic_kappa(classes: usize, truth: &[u32], predicted: &[u32]) -> f64 {
    let counts = |side: &[u32]| {
        let mut counts = vec![0_u64; classes];
        for class in side {
            if let Some(count) = counts.get_mut(*class as usize) {
                *count += 1;
            }
        }
        counts
    };
    let squared = |a: usize, b: usize| (a.abs_diff(b) as u64).pow(2);
    let pairs = truth.iter().zip(predicted);
    let seen: u64 = pairs.map(|(t, p)| squared(*t as usize, *p as usize)).sum();
    let (of_truth, of_predicted) = (counts(truth), counts(predicted));
    let mut chance = 0_u128;
    for (a, left) in of_truth.iter().enumerate() {
        for (b, right) in of_predicted.iter().enumerate() {
            chance += u128::from(squared(a, b)) * u128::from(*left) * u128::from(*right);
        }
    }
    if chance == 0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of samples")]
    let kappa = 1.0 - seen as f64 * truth.len() as f64 / chance as f64;
    kappa
}
