//! Deep CORAL: correlation alignment (Sun and Saenko 2016, arXiv 1607.01719).
//!
//! L = |C_s - C_t|² / 4f², the squared Frobenius norm of the difference of the domains' covariances (n - 1
//! in the denominator); 0 where a domain has a single sample. The paper's; TLLib divides by f² and adds a difference of
//! means. The paper sets `weight` so that both losses are about equal at the end. Cost: 2n·f².

use super::{Method, Pairs};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

#[derive(Debug)]
pub(super) struct Coral;

impl Method for Coral {
    fn loss(&self, pairs: &Pairs<'_>, _: &[Linear<'_>]) -> Result<Tensor, TchError> {
        if pairs.counts().contains(&1) {
            return pairs.features()?.f_sum(Kind::Float)?.f_mul_scalar(0.0);
        }
        let width = pairs.source.size().last().copied().unwrap_or(1) as f64;
        let difference = covariance(pairs.source)?.f_sub(&covariance(pairs.target)?)?;
        difference
            .f_square()?
            .f_sum(Kind::Float)?
            .f_mul_scalar(0.25 / (width * width))
    }
}

/// `[f, f]` of rows `[n, f]`.
fn covariance(x: &Tensor) -> Result<Tensor, TchError> {
    let rows = x.size().first().copied().unwrap_or(0);
    let x = x.f_sub(&x.f_mean_dim(&[0i64][..], true, Kind::Float)?)?;
    let products = x.f_transpose(0, 1)?.f_matmul(&x)?;
    products.f_div_scalar((rows - 1).max(1) as f64)
}
