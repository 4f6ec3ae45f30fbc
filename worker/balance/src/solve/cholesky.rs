//! Cholesky's factor of a symmetric positive definite matrix.

/// L with L·Lᵀ = D·M·D, D = 1/√M_ii, so that scales of rows do not matter.
pub(crate) struct Cholesky {
    n: usize,
    lower: Vec<f64>,
    scale: Vec<f64>,
    /// Smallest pivot of the scaled matrix: about 1 over its condition.
    pub(crate) least_pivot: f64,
}

impl Cholesky {
    /// Factors the matrix with the entries `at(i, j)`, of which only j ≤ i are asked for. A pivot
    /// lost to rounding is replaced by the smallest that rounding leaves.
    pub(crate) fn new(n: usize, at: impl Fn(usize, usize) -> f64) -> Self {
        let scale: Vec<f64> = (0..n)
            .map(|i| {
                let diagonal = at(i, i);
                if diagonal > 0.0 {
                    1.0 / diagonal.sqrt()
                } else {
                    1.0
                }
            })
            .collect();
        let mut lower = vec![0.0; n * n];
        let mut least_pivot = 1.0_f64;
        for i in 0..n {
            for j in 0..=i {
                let (head, tail) = lower.split_at(i * n);
                let row_j = if j < i {
                    &head[j * n..j * n + j]
                } else {
                    &tail[..j]
                };
                let known: f64 = tail[..j].iter().zip(row_j).map(|(a, b)| a * b).sum();
                let rest = at(i, j) * scale[i] * scale[j] - known;
                lower[i * n + j] = if i == j {
                    least_pivot = least_pivot.min(rest);
                    rest.max(1e-15).sqrt()
                } else {
                    rest / lower[j * n + j]
                };
            }
        }
        Self {
            n,
            lower,
            scale,
            least_pivot,
        }
    }

    /// M⁻¹ b.
    pub(crate) fn solve(&self, b: &[f64]) -> Vec<f64> {
        let (n, lower) = (self.n, &self.lower);
        let mut x: Vec<f64> = b.iter().zip(&self.scale).map(|(v, d)| v * d).collect();
        for i in 0..n {
            let known: f64 = (0..i).map(|j| lower[i * n + j] * x[j]).sum();
            x[i] = (x[i] - known) / lower[i * n + i];
        }
        for i in (0..n).rev() {
            let value = x[i] / lower[i * n + i];
            x[i] = value;
            for j in 0..i {
                x[j] -= lower[i * n + j] * value;
            }
        }
        x.iter().zip(&self.scale).map(|(v, d)| v * d).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Cholesky;

    #[test]
    fn it_solves() {
        // M x = b is solved to rounding however differently the rows are scaled.
        let m = [[4e8, 2e4, 0.0], [2e4, 3.0, 1e-4], [0.0, 1e-4, 2e-8]];
        let factor = Cholesky::new(3, |i, j| m[i][j]);
        let x = factor.solve(&[1e4, 2.0, 3e-4]);
        for (row, b) in m.iter().zip([1e4, 2.0, 3e-4]) {
            let sum: f64 = row.iter().zip(&x).map(|(a, b)| a * b).sum();
            assert!((sum / b - 1.0).abs() < 1e-13, "{sum} {b}");
        }
        assert!(factor.least_pivot > 0.1);
    }
}
