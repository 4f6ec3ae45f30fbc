//! Gaussian kernels between all samples of both domains, and the distance of the domains under them.

use tch::{Kind, TchError, Tensor};

/// Several Gaussian kernels, each of twice the bandwidth of the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernels {
    /// How many.
    pub(super) count: usize,
    /// Bandwidth of the first, in mean squared distances.
    pub(super) smallest: f64,
}

impl Kernels {
    /// Σ_k exp(-|x_i - x_j|² / (2 · 2^k · smallest · mean |x_i - x_j|²)) `[m, m]` of `x` `[m, f]`; no
    /// gradient goes through the mean, which is over all pairs, a sample with itself included (TLLib).
    pub(super) fn of(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let squares = squared_distances(x)?;
        let mean = squares
            .f_detach()?
            .f_mean(Kind::Float)?
            .f_clamp_min(1e-12)?;
        let relative = squares.f_div(&mean)?;
        let mut sum: Option<Tensor> = None;
        let mut bandwidth = self.smallest;
        for _ in 0..self.count.max(1) {
            let kernel = gaussian(&relative, bandwidth)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&kernel)?,
                None => kernel,
            });
            bandwidth *= 2.0;
        }
        // At least one kernel was added.
        Ok(sum.unwrap_or(relative))
    }
}

/// exp(-d² / (2 s²)) of squared distances, s² = `bandwidth`.
pub(super) fn gaussian(squares: &Tensor, bandwidth: f64) -> Result<Tensor, TchError> {
    squares.f_mul_scalar(-0.5 / bandwidth)?.f_exp()
}

/// |x_i - x_j|² of all rows `[m, m]`.
pub(super) fn squared_distances(x: &Tensor) -> Result<Tensor, TchError> {
    // Distances do not depend on the origin; near it less is cancelled.
    let x = x.f_sub(&x.f_detach()?.f_mean_dim(&[0i64][..], true, Kind::Float)?)?;
    let norms = x
        .f_square()?
        .f_sum_dim_intlist(&[1i64][..], true, Kind::Float)?;
    let products = x.f_matmul(&x.f_transpose(0, 1)?)?;
    norms
        .f_add(&norms.f_transpose(0, 1)?)?
        .f_sub(&products.f_mul_scalar(2.0)?)?
        .f_clamp_min(0.0)
}

/// Squared distance of the means of the first n and the other m samples under a kernel `[n + m, n + m]`:
/// 1/n² · Σ k(s, s') + 1/m² · Σ k(t, t') - 2/nm · Σ k(s, t), with each sample beside itself, so that it is never
/// below 0, and 0 for two parts that are the same.
pub(super) fn discrepancy(kernel: &Tensor, [source, target]: [i64; 2]) -> Result<Tensor, TchError> {
    let all = |count: i64, sign: f64| {
        let share = sign / count.max(1) as f64;
        Tensor::f_full([count, 1], share, (Kind::Float, kernel.device()))
    };
    let sign = Tensor::f_cat(&[all(source, 1.0)?, all(target, -1.0)?], 0)?;
    sign.f_transpose(0, 1)?
        .f_matmul(&kernel.f_matmul(&sign)?)?
        .f_sum(Kind::Float)
}
