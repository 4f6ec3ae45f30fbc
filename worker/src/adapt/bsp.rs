//! BSP: batch spectral penalization (Chen et al. 2019, ICML), on DANN.
//!
//! Adversarial features lose directions that tell classes apart; so the largest singular value of each
//! domain's features of the batch is kept small: L = L_DANN + penalty · (σ₁(F_s)² + σ₁(F_t)²).
//! σ₁² is uᵀ·F·Fᵀ·u with the first eigenvector u of F·Fᵀ, whose gradient is 2σ₁·u·vᵀ. Cost: that of DANN,
//! 2n²·f and two eigenvalue problems of n. Default: the paper's 1e-4.

use super::dann::Dann;
use super::{Layer, Method, Pairs};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

#[derive(Debug)]
pub(super) struct Bsp {
    pub(super) dann: Dann,
    pub(super) penalty: f64,
}

impl Method for Bsp {
    fn layers(&self) -> Vec<Layer> {
        self.dann.layers()
    }

    fn reverses(&self) -> bool {
        true
    }

    fn loss(&self, pairs: &Pairs<'_>, own: &[Linear<'_>]) -> Result<Tensor, TchError> {
        let spectra = largest(pairs.source)?.f_add(&largest(pairs.target)?)?;
        let adversarial = self.dann.loss(pairs, own)?;
        adversarial.f_add(&spectra.f_mul_scalar(self.penalty)?)
    }
}

/// σ₁² of rows `[n, f]`, a scalar.
fn largest(x: &Tensor) -> Result<Tensor, TchError> {
    let first = tch::no_grad(|| {
        let (_, vectors) = x.f_matmul(&x.f_transpose(0, 1)?)?.f_linalg_eigh("L")?;
        // Eigenvalues ascend.
        vectors.f_select(1, -1)
    })?;
    let along = x.f_transpose(0, 1)?.f_mv(&first)?;
    along.f_square()?.f_sum(Kind::Float)
}
