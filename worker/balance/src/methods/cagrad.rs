//! Conflict-averse gradient descent.

use super::{Rule, Trouble, gram};
use crate::face::{Facts, Fallback};
use crate::gram::{Gram, dot};
use crate::solve::{Cholesky, complementary};

/// A worst combination of gradients shorter than this, in units of √(trace G), counts as 0
/// (TorchJD's norm_eps).
const STATIONARY: f64 = 1e-4;

/// CAGrad (Liu et al. 2021, arXiv 2110.14048): the direction of the best worst-task decrease
/// within c·‖g₀‖ of the mean gradient g₀: w* minimises aᵀGp + c‖g₀‖·√(aᵀGa) on the simplex
/// (p = 1/K), and the update is g₀ + c‖g₀‖/‖g_w‖·g_w. Times K here, and divided by 1 (`rescale`
/// 0), 1+c² (1, LibMTL's default) or 1+c (2). c = .5 (LibMTL; .4 for NYUv2). If g_w is 0 the tasks
/// cancel: equal weights, reported (TorchJD: no update). Exact: on a set of active tasks the
/// answer has a closed form; a few complementarity problems find the set.
#[derive(Debug)]
pub(crate) struct CaGrad {
    c: f64,
    divisor: f64,
}

impl CaGrad {
    pub(crate) fn new(c: f64, rescale: f64) -> Self {
        let divisor = match rescale {
            0.0 => 1.0,
            1.0 => 1.0 + c * c,
            _ => 1.0 + c,
        };
        Self { c, divisor }
    }
}

impl Rule for CaGrad {
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let gram = gram(facts)?;
        let k = gram.k();
        let trace = gram.trace();
        if trace <= 0.0 {
            return Err(Fallback::Stationary.into());
        }
        let unit = gram.scaled(&vec![1.0 / trace.sqrt(); k]);
        let mean = vec![1.0 / k as f64; k];
        let radius = self.c * unit.quadratic(&mean).sqrt();
        let mut weights = vec![1.0 / self.divisor; k];
        if radius > 0.0 {
            let worst = worst(&unit, &unit.times(&mean), radius)?;
            let factor = k as f64 * radius / self.divisor;
            weights
                .iter_mut()
                .zip(&worst)
                .for_each(|(w, z)| *w += factor * z);
        }
        Ok(weights)
    }
}

/// z = a/√(aᵀGa) for the a on the simplex that minimises bᵀa + r√(aᵀGa).
///
/// By its conditions, z ≥ 0, rGz + b - ν ≥ 0, complementary, and zᵀGz = 1. For a given ν that is
/// a complementarity problem, and zᵀGz grows with ν; on its active set ν has a closed form.
fn worst(gram: &Gram, b: &[f64], r: f64) -> Result<Vec<f64>, Fallback> {
    let k = gram.k();
    let mut m: Vec<f64> = gram.values().iter().map(|value| r * value).collect();
    for i in 0..k {
        // A hair, so that equal gradients have one answer; 0 gradients stay out unless they win.
        m[i * k + i] += r * (1e-12 * gram.get(i, i) + 1e-30);
    }
    let at = |nu: f64| -> Result<Vec<f64>, Fallback> {
        let q: Vec<f64> = b.iter().map(|value| value - nu).collect();
        complementary(&m, &q).ok_or(Fallback::NotSolved)
    };
    let mut low = b.iter().copied().fold(f64::INFINITY, f64::min);
    let mut high = (0..k)
        .map(|i| b[i] + r * gram.norm(i))
        .fold(f64::INFINITY, f64::min);
    let mut nu = high;
    let mut known: Option<Vec<usize>> = None;
    for _ in 0..200 {
        let z = at(nu)?;
        if z.iter().sum::<f64>() * STATIONARY > 1.0 {
            // Either the answer, or ν is still too high.
            if known.is_none() && low < high && nu > low {
                high = nu;
                nu = (low + high) / 2.0;
                if high - low > 1e-15 * high.abs().max(r) {
                    continue;
                }
            }
            return Err(Fallback::Stationary);
        }
        let set: Vec<usize> = (0..k).filter(|&i| z[i] > 0.0).collect();
        if known.as_ref() == Some(&set) || high - low <= 1e-16 * high.abs().max(r) {
            // Less than 1 at the highest ν: the best combination is 0.
            let square = gram.quadratic(&z);
            return if (square - 1.0).abs() < 1e-6 {
                Ok(z)
            } else {
                Err(Fallback::Stationary)
            };
        }
        if gram.quadratic(&z) < 1.0 {
            low = nu;
        } else {
            high = nu;
        }
        let exact = on_set(&m, b, &set, r, k);
        nu = match exact {
            Some(exact) if exact >= low && exact <= high => {
                known = Some(set);
                exact
            }
            _ => {
                known = None;
                (low + high) / 2.0
            }
        };
    }
    Err(Fallback::NotSolved)
}

/// The ν with zᵀGz = 1 if the active tasks are those of `set`: z = M⁻¹(ν1 - b), M = rG there.
fn on_set(m: &[f64], b: &[f64], set: &[usize], r: f64, k: usize) -> Option<f64> {
    if set.is_empty() {
        return None;
    }
    let factor = Cholesky::new(set.len(), |i, j| m[set[i] * k + set[j]]);
    let part: Vec<f64> = set.iter().map(|&i| b[i]).collect();
    let (ones, given) = (factor.solve(&vec![1.0; set.len()]), factor.solve(&part));
    let (aa, ab, bb) = (
        ones.iter().sum::<f64>(),
        given.iter().sum::<f64>(),
        dot(&given, &part),
    );
    // ν²·aa - 2ν·ab + bb = zᵀMz = r.
    let root = ab * ab - aa * (bb - r);
    (root >= 0.0 && aa > 0.0).then(|| (ab + root.sqrt()) / aa)
}
