//! Quadratic programs with lower bounds, as linear complementarity.

use super::Cholesky;

/// Finds x ≥ 0 with y = M x + q ≥ 0 and xᵀy = 0: the minimiser of ½xᵀMx + qᵀx over x ≥ 0.
///
/// M is K×K, row-major, symmetric positive definite. Exact up to rounding: the answer is that of
/// a linear system on the right set of free variables. Block principal pivoting with Murty's rule
/// as its backup (Júdice and Pires 1994), which is finite; a few factorisations of up to K³/3
/// operations. None if rounding keeps it from ending.
pub(crate) fn complementary(m: &[f64], q: &[f64]) -> Option<Vec<f64>> {
    let k = q.len();
    let eps = f64::EPSILON * k as f64;
    let mut free: Vec<bool> = q.iter().map(|&value| value < 0.0).collect();
    let (mut fewest, mut patience) = (k + 1, 3);
    for _ in 0..(50 + 10 * k) {
        let set: Vec<usize> = (0..k).filter(|&i| free[i]).collect();
        let x = solve_on(m, q, &set);
        let wrong: Vec<usize> = (0..k)
            .filter(|&i| {
                let row = &m[i * k..(i + 1) * k];
                if free[i] {
                    // Against what the others contribute, in the unit of this variable.
                    let size: f64 = row.iter().zip(&x).map(|(a, b)| (a * b).abs()).sum();
                    x[i] * row[i] < -eps * size
                } else {
                    let (mut y, mut size) = (q[i], q[i].abs());
                    for (a, b) in row.iter().zip(&x) {
                        y += a * b;
                        size += (a * b).abs();
                    }
                    y < -4.0 * eps * size
                }
            })
            .collect();
        if wrong.is_empty() {
            return Some(x.into_iter().map(|value| value.max(0.0)).collect());
        }
        if wrong.len() < fewest {
            (fewest, patience) = (wrong.len(), 3);
        } else if patience > 0 {
            patience -= 1;
        } else {
            // Murty: only the last one.
            let last = wrong[wrong.len() - 1];
            free[last] = !free[last];
            continue;
        }
        for i in wrong {
            free[i] = !free[i];
        }
    }
    None
}

/// x with (M x + q)_i = 0 on `set` and x_i = 0 elsewhere.
fn solve_on(m: &[f64], q: &[f64], set: &[usize]) -> Vec<f64> {
    let k = q.len();
    let mut x = vec![0.0; k];
    let factor = Cholesky::new(set.len(), |a, b| m[set[a] * k + set[b]]);
    let right: Vec<f64> = set.iter().map(|&i| -q[i]).collect();
    for (&i, value) in set.iter().zip(factor.solve(&right)) {
        x[i] = value;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::complementary;
    use crate::Gram;
    use crate::math::normal;

    #[test]
    fn the_conditions_hold() {
        // x ≥ 0, Mx + q ≥ 0 and xᵀ(Mx + q) = 0 on random problems of all sizes.
        for case in 0..300 {
            let k = 1 + case as usize % 24;
            let rows: Vec<Vec<f64>> = (0..k as u64)
                .map(|i| (0..k as u64 + 2).map(|j| normal(case, i, j)).collect())
                .collect();
            let gram = Gram::of_gradients(&rows).unwrap();
            let q: Vec<f64> = (0..k as u64).map(|i| normal(case, 999, i)).collect();
            let x = complementary(gram.values(), &q).expect("solved");
            let y: Vec<f64> = gram.times(&x).iter().zip(&q).map(|(a, b)| a + b).collect();
            for i in 0..k {
                assert!(x[i] >= 0.0 && y[i] > -1e-9, "{case}: {x:?} {y:?}");
                assert!((x[i] * y[i]).abs() < 1e-8, "{case}: {x:?} {y:?}");
            }
        }
    }
}
