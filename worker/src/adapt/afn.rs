//! AFN: adaptive feature norm (Xu et al. 2019, arXiv 1811.07456), stepwise (SAFN) or hard (HAFN).
//!
//! Features of the target have small norms. Stepwise those of both domains are to grow by `step`:
//! L = mean (|f_s| - (|f_s|' + step))² + the same of the target, where |f|' is the norm without a
//! gradient. The loss is always 2·step²; only its gradient, -2·step·f/|f| a sample over n, says something.
//! With a `radius` R the mean norms of both are to be R: L = (mean |f_s| - R)² + the same of the target.
//! That one bounds them; stepwise those of a network from nothing grow without end.
//! Cost: n·f. Defaults: the paper's stepwise form, step 1 and weight 0.05.

use super::{Method, Pairs};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

#[derive(Debug)]
pub(super) struct Afn {
    pub(super) step: f64,
    /// 0: stepwise.
    pub(super) radius: f64,
}

impl Method for Afn {
    fn loss(&self, pairs: &Pairs<'_>, _: &[Linear<'_>]) -> Result<Tensor, TchError> {
        self.of(pairs.source)?.f_add(&self.of(pairs.target)?)
    }
}

impl Afn {
    fn of(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let norms = x.f_norm_scalaropt_dim(2.0, [1i64], false)?;
        if self.radius > 0.0 {
            let mean = norms.f_mean(Kind::Float)?;
            return mean.f_sub_scalar(self.radius)?.f_square();
        }
        let wanted = norms.f_detach()?.f_add_scalar(self.step)?;
        norms.f_sub(&wanted)?.f_square()?.f_mean(Kind::Float)
    }
}
