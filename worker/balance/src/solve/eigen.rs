//! Eigenvalues of symmetric matrices.

use crate::Gram;

/// G = V·Λ·Vᵀ by cyclic Jacobi rotations.
pub(crate) struct Eigen {
    /// Eigenvalues, largest first.
    pub(crate) values: Vec<f64>,
    /// Their unit vectors, one after another.
    pub(crate) vectors: Vec<Vec<f64>>,
}

impl Eigen {
    /// All of them. Jacobi's method is the slowest and the most exact one; 6 to 10 sweeps of 2K³
    /// operations each.
    pub(crate) fn new(gram: &Gram) -> Self {
        let n = gram.k();
        let mut a = gram.values().to_vec();
        let mut v = vec![0.0; n * n];
        for i in 0..n {
            v[i * n + i] = 1.0;
        }
        let top = (0..n).map(|i| a[i * n + i].abs()).fold(0.0, f64::max);
        let least = (1e-20 * top).max(f64::MIN_POSITIVE);
        for _ in 0..60 {
            let mut turned = false;
            for p in 0..n {
                for q in p + 1..n {
                    let off = a[p * n + q];
                    let (app, aqq) = (a[p * n + p], a[q * n + q]);
                    if off.abs() <= 1e-17 * (app.abs() * aqq.abs()).sqrt() || off.abs() < least {
                        continue;
                    }
                    turned = true;
                    rotate(&mut a, &mut v, n, (p, q));
                }
            }
            if !turned {
                break;
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
        Self {
            values: order.iter().map(|&i| a[i * n + i]).collect(),
            vectors: order
                .iter()
                .map(|&i| v[i * n..(i + 1) * n].to_vec())
                .collect(),
        }
    }

    /// How many eigenvalues are not lost in rounding: those above K·ε of the largest.
    pub(crate) fn rank(&self) -> usize {
        let top = self.values.first().copied().unwrap_or(0.0);
        let least = top * self.values.len() as f64 * f64::EPSILON;
        self.values.iter().filter(|&&value| value > least).count()
    }
}

/// Zeroes entry (p, q). `v` holds the vectors as rows, so that each turn works on two rows.
fn rotate(a: &mut [f64], v: &mut [f64], n: usize, (p, q): (usize, usize)) {
    let off = a[p * n + q];
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * off);
    let t = if theta.abs() > 1e100 {
        0.5 / theta
    } else {
        theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt())
    };
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    let (low, high) = a.split_at_mut(q * n);
    turn(&mut low[p * n..(p + 1) * n], &mut high[..n], c, s);
    // The matrix stays symmetric: its columns p and q follow from the rows.
    let (app, apq) = (a[p * n + p], a[p * n + q]);
    let (aqp, aqq) = (a[q * n + p], a[q * n + q]);
    for i in 0..n {
        a[i * n + p] = a[p * n + i];
        a[i * n + q] = a[q * n + i];
    }
    a[p * n + p] = c * app - s * apq;
    a[q * n + q] = s * aqp + c * aqq;
    a[p * n + q] = 0.0;
    a[q * n + p] = 0.0;
    let (low, high) = v.split_at_mut(q * n);
    turn(&mut low[p * n..(p + 1) * n], &mut high[..n], c, s);
}

fn turn(p: &mut [f64], q: &mut [f64], c: f64, s: f64) {
    for (x, y) in p.iter_mut().zip(q) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

/// G⁺ b, the pseudo-inverse without eigenvalues lost in rounding.
pub(crate) fn pseudo_inverse_times(gram: &Gram, b: &[f64]) -> Vec<f64> {
    let eigen = Eigen::new(gram);
    let mut x = vec![0.0; gram.k()];
    for (value, vector) in eigen.values.iter().zip(&eigen.vectors).take(eigen.rank()) {
        let share = crate::gram::dot(vector, b) / value;
        for (to, from) in x.iter_mut().zip(vector) {
            *to += share * from;
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::Eigen;
    use crate::math::normal;
    use crate::{Gram, gram::dot};

    #[test]
    fn vectors_are_eigenvectors() {
        // G v = λ v to rounding, vectors are orthonormal and the largest value comes first.
        for case in 0..40 {
            let k = 1 + case as usize % 16;
            let rows: Vec<Vec<f64>> = (0..k as u64)
                .map(|i| (0..9).map(|j| normal(case, i, j)).collect())
                .collect();
            let gram = Gram::of_gradients(&rows).unwrap();
            let eigen = Eigen::new(&gram);
            assert!(eigen.values.windows(2).all(|pair| pair[0] >= pair[1]));
            assert_eq!(eigen.rank(), k.min(9), "{:?}", eigen.values);
            for (i, v) in eigen.vectors.iter().enumerate() {
                for (left, right) in gram.times(v).iter().zip(v) {
                    assert!((left - eigen.values[i] * right).abs() < 1e-12 * gram.trace());
                }
                for (j, w) in eigen.vectors.iter().enumerate() {
                    assert!((dot(v, w) - f64::from(u8::from(i == j))).abs() < 1e-13);
                }
            }
        }
    }
}
