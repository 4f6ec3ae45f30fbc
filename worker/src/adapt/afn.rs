//! SAFN: stepwise adaptive feature norm (Xu et al. 2019, arXiv 1811.07456).
//!
//! Features of the target have small norms; those of both domains are to grow by `step`:
//! L = mean (|f_s| - (|f_s|' + step))² + the same of the target, where |f|' is the norm without a
//! gradient. The loss is always 2·step²; only its gradient, -2·step·f/|f| a sample over n, says something.
//! Cost: n·f. Defaults: the paper's step 1 and weight 0.05.

use super::{Method, Pairs};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

#[derive(Debug)]
pub(super) struct Afn {
    pub(super) step: f64,
}

impl Method for Afn {
    fn loss(&self, pairs: &Pairs<'_>, _: &[Linear<'_>]) -> Result<Tensor, TchError> {
        self.of(pairs.source)?.f_add(&self.of(pairs.target)?)
    }
}

impl Afn {
    fn of(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let norms = x.f_norm_scalaropt_dim(2.0, [1i64], false)?;
        let wanted = norms.f_detach()?.f_add_scalar(self.step)?;
        norms.f_sub(&wanted)?.f_square()?.f_mean(Kind::Float)
    }
}
