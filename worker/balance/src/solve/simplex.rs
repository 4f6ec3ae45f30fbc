//! Problems on the simplex { a ≥ 0, Σ a = 1 }.

use super::complementary;
use crate::face::Fallback;
use crate::gram::Gram;

/// The a on the simplex with the smallest aᵀGa: the shortest vector in the convex hull of the
/// gradients. Exact; where several a give it, tasks with equal gradients share equally.
///
/// # Errors
/// [`Fallback::NotSolved`] if rounding keeps the solver from ending.
pub(crate) fn min_norm(gram: &Gram) -> Result<Vec<f64>, Fallback> {
    let k = gram.k();
    let norms = gram.norms();
    let nothing = norms.iter().filter(|&&norm| norm == 0.0).count();
    if nothing > 0 {
        // Zero is in the hull.
        let share = |norm: &f64| f64::from(u8::from(*norm == 0.0)) / nothing as f64;
        return Ok(norms.iter().map(share).collect());
    }
    // Adding (1ᵀa)² changes nothing on the simplex and makes zero no solution off it; then a is
    // the minimiser of ½aᵀMa - 1ᵀa over a ≥ 0, but for its length. In units of the norms, so
    // that tasks of very different size do not drown each other.
    let least = norms.iter().copied().fold(f64::INFINITY, f64::min);
    let r: Vec<f64> = norms.iter().map(|norm| least / norm).collect();
    let mut m = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..k {
            let hair = if i == j { 1e-12 } else { 0.0 };
            m[i * k + j] = gram.get(i, j) / (norms[i] * norms[j]) + r[i] * r[j] + hair;
        }
    }
    let q: Vec<f64> = r.iter().map(|value| -value).collect();
    let x = complementary(&m, &q).ok_or(Fallback::NotSolved)?;
    let a: Vec<f64> = x.iter().zip(&r).map(|(x, r)| x * r).collect();
    let sum: f64 = a.iter().sum();
    Ok(a.iter().map(|value| value / sum).collect())
}

/// The point of the simplex nearest to `y` (Held, Wolfe and Crowder 1974).
pub(crate) fn onto_simplex(y: &[f64]) -> Vec<f64> {
    let mut sorted = y.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (mut sum, mut level) = (0.0, 0.0);
    for (count, value) in (1..).zip(&sorted) {
        sum += value;
        let candidate = (sum - 1.0) / f64::from(count);
        if candidate < *value {
            level = candidate;
        }
    }
    y.iter().map(|value| (value - level).max(0.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::{min_norm, onto_simplex};
    use crate::Gram;
    use crate::math::normal;

    #[test]
    fn no_corner_is_nearer() {
        // At the shortest vector every gradient's product with it is at least its square.
        for case in 0..300 {
            let k = 1 + case as usize % 20;
            let rows: Vec<Vec<f64>> = (0..k as u64)
                .map(|i| {
                    let size = libm::exp(2.0 * normal(case, i, 77));
                    (0..8).map(|j| size * (normal(case, i, j) + 0.3)).collect()
                })
                .collect();
            let gram = Gram::of_gradients(&rows).unwrap();
            let a = min_norm(&gram).expect("solved");
            assert!((a.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let square = gram.quadratic(&a);
            for (i, product) in gram.times(&a).iter().enumerate() {
                let slack = 1e-9 * gram.norm(i) * gram.norm(i).min(1.0);
                assert!(
                    *product > square - slack.max(1e-10),
                    "{case}: {product} {square}"
                );
            }
        }
    }

    #[test]
    fn the_nearest_point_is_found() {
        // Points of the simplex stay, others go to its face or corner.
        assert_eq!(onto_simplex(&[0.25, 0.75]), [0.25, 0.75]);
        assert_eq!(onto_simplex(&[3.0, 0.0]), [1.0, 0.0]);
        assert_eq!(onto_simplex(&[1.0, 1.0, -5.0]), [0.5, 0.5, 0.0]);
        assert_eq!(onto_simplex(&[-7.0]), [1.0]);
    }
}
