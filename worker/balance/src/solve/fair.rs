//! G w = w^(-β): Nash's bargaining solution (β = 1) and alpha-fairness (β = 1/α).

use super::Cholesky;
use crate::face::Fallback;
use crate::gram::{Gram, dot};

/// Weights above this, in units of 1/‖g_k‖, mean that there is no solution.
const UNBOUNDED: f64 = 1e7;

/// Finds w > 0 with (G w)_k = w_k^(-β) for all k, by damped Newton on the strictly convex
/// ½wᵀGw - Σ ψ(w_k), ψ' = w^(-β). All G_kk have to be above 0. Relative residual below 1e-12;
/// about 10 steps of K³/3 operations.
///
/// # Errors
/// [`Fallback::Stationary`] if the gradients cancel (some w ≥ 0 has G w = 0: the weights would
/// be infinite).
pub(crate) fn fair(gram: &Gram, beta: f64) -> Result<Vec<f64>, Fallback> {
    let k = gram.k();
    // In units of what each task alone would have; then C y = r y^-β with C_kk = r_k.
    let unit: Vec<f64> = (0..k)
        .map(|i| match beta {
            1.0 => 1.0 / gram.norm(i),
            _ => libm::pow(gram.get(i, i), -1.0 / (1.0 + beta)),
        })
        .collect();
    let c = gram.scaled(&unit);
    let r: Vec<f64> = (0..k).map(|i| c.get(i, i)).collect();
    let raised = |y: f64| {
        if beta == 1.0 {
            1.0 / y
        } else {
            libm::pow(y, -beta)
        }
    };
    // The gradient of the objective, and what pulls each weight up in it.
    let slopes = |y: &[f64]| -> (Vec<f64>, Vec<f64>) {
        let pull: Vec<f64> = y.iter().zip(&r).map(|(y, r)| r * raised(*y)).collect();
        let slope = c.times(y).iter().zip(&pull).map(|(a, b)| a - b).collect();
        (slope, pull)
    };
    let mut y = vec![1.0; k];
    let mut best = (f64::INFINITY, y.clone());
    for _ in 0..200 {
        let (slope, pull) = slopes(&y);
        let residual = (0..k)
            .map(|i| {
                // Where large terms cancel, no more than their rounding can be asked for.
                let terms = c.row(i).iter().zip(&y).map(|(c, y)| (c * y).abs());
                slope[i].abs() / pull[i].max(1e-3 * terms.sum::<f64>())
            })
            .fold(0.0, f64::max);
        if residual < best.0 {
            best = (residual, y.clone());
        } else if best.0 < 1e-10 {
            // Rounding is reached.
            break;
        }
        if residual < 1e-15 {
            break;
        }
        if y.iter().any(|&value| value > UNBOUNDED) {
            return Err(Fallback::Stationary);
        }
        let factor = Cholesky::new(k, |i, j| {
            let curve = if i == j { beta * pull[i] / y[i] } else { 0.0 };
            c.get(i, j) + curve
        });
        let step: Vec<f64> = factor.solve(&slope).iter().map(|v| -v).collect();
        let room = y
            .iter()
            .zip(&step)
            .filter(|(_, step)| **step < 0.0)
            .map(|(y, step)| -0.95 * y / step)
            .fold(1.0, f64::min);
        let moved = |t: f64| -> Vec<f64> { y.iter().zip(&step).map(|(y, s)| y + t * s).collect() };
        let mut t = room;
        if residual > 1e-5 {
            // By the slope along the way: the objective itself loses small tasks in rounding.
            let fall = -dot(&slope, &step);
            while t > 1e-10 && dot(&slopes(&moved(t)).0, &step) > 0.1 * fall {
                t *= 0.5;
            }
        }
        y = moved(t);
    }
    if best.0 > 1e-10 {
        return Err(Fallback::NotSolved);
    }
    Ok(best.1.iter().zip(&unit).map(|(y, d)| y * d).collect())
}

#[cfg(test)]
mod tests {
    use super::fair;
    use crate::Gram;
    use crate::face::Fallback;
    use crate::math::normal;

    #[test]
    fn the_equation_holds() {
        // (G w)_k w_k^β = 1 to 1e-12 for all fairnesses, sizes and scales of tasks.
        for case in 0..400 {
            let k = 1 + case as usize % 12;
            let rows: Vec<Vec<f64>> = (0..k as u64)
                .map(|i| {
                    let size = libm::exp(3.0 * normal(case, i, 77));
                    (0..k as u64 + 3)
                        .map(|j| size * normal(case, i, j))
                        .collect()
                })
                .collect();
            let gram = Gram::of_gradients(&rows).unwrap();
            for beta in [0.2, 0.5, 1.0, 2.0] {
                let w = fair(&gram, beta).expect("solved");
                for (i, rate) in gram.times(&w).iter().enumerate() {
                    let pull = libm::pow(w[i], -beta);
                    let terms = gram.row(i).iter().zip(&w).map(|(g, w)| (g * w).abs());
                    let residual = (rate - pull) / pull.max(1e-3 * terms.sum::<f64>());
                    assert!(residual.abs() < 1e-12, "{case} {beta}: {residual:e}");
                }
            }
        }
    }

    #[test]
    fn opposites_have_no_solution() {
        // Gradients that cancel are recognised, not answered with huge weights.
        let gram = Gram::of_gradients(&[vec![1.0, 2.0], vec![-2.0, -4.0]]).unwrap();
        assert_eq!(fair(&gram, 1.0), Err(Fallback::Stationary));
        assert_eq!(fair(&gram, 0.5), Err(Fallback::Stationary));
    }
}
