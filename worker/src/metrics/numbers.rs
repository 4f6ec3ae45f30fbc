//! Metrics of numbers, in 64 bits. Both sides have the same number of samples.

/// Mean squared error.
#[must_use]
pub fn mse(truth: &[f64], predicted: &[f64]) -> f64 {
    mean(
        truth.iter().zip(predicted).map(|(t, p)| (t - p) * (t - p)),
        truth.len(),
    )
}

/// Pearson's correlation. Where one side is constant it is not defined; it is then taken as 0: no
/// relation can be seen. (SciPy gives NaN, which no best checkpoint could be chosen by.)
#[must_use]
pub fn pearson(truth: &[f64], predicted: &[f64]) -> f64 {
    let (mean_t, mean_p) = (
        mean(truth.iter().copied(), truth.len()),
        mean(predicted.iter().copied(), predicted.len()),
    );
    let (mut both, mut square_t, mut square_p) = (0.0, 0.0, 0.0);
    for (t, p) in truth.iter().zip(predicted) {
        let (t, p) = (t - mean_t, p - mean_p);
        both += t * p;
        square_t += t * t;
        square_p += p * p;
    }
    // The mean of equal numbers may differ from them by rounding; so test for equality directly.
    if constant(truth) || constant(predicted) || square_t == 0.0 || square_p == 0.0 {
        return 0.0;
    }
    // Rounding may carry the quotient just over 1.
    (both / (square_t.sqrt() * square_p.sqrt())).clamp(-1.0, 1.0)
}

/// Spearman's rank correlation: Pearson's of the ranks, where equal values share their mean rank.
/// 0 where one side is constant.
#[must_use]
pub fn spearman(truth: &[f64], predicted: &[f64]) -> f64 {
    pearson(&ranks(truth), &ranks(predicted))
}

fn constant(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

/// The rank of each value, from 1; equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut done = 0;
    for tie in order.chunk_by(|a, b| values[*a] == values[*b]) {
        #[expect(clippy::cast_precision_loss, reason = "counts of samples")]
        let rank = done as f64 + (tie.len() as f64 + 1.0) / 2.0;
        for index in tie {
            ranks[*index] = rank;
        }
        done += tie.len();
    }
    ranks
}

#[expect(clippy::cast_precision_loss, reason = "counts of samples")]
fn mean(values: impl Iterator<Item = f64>, count: usize) -> f64 {
    if count == 0 {
        0.0
    } else {
        values.sum::<f64>() / count as f64
    }
}
