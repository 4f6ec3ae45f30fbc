//! MCC: minimum class confusion (Jin et al. 2020, arXiv 1912.03699).
//!
//! With P = softmax(g_t / temperature) `[n, c]` and weights w_i = n · (1 + exp(-H(P_i))) / Σ_j (…), the
//! confusion of classes is Pᵀ·diag(w)·P, each row brought to the sum 1; L is the mean over classes of what
//! lies off the diagonal. No gradient goes through w (TLLib). Cost: n·c². Default: the paper's temperature.

use super::pairs::entropies;
use super::{Method, Pairs};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

#[derive(Debug)]
pub(super) struct Mcc {
    pub(super) temperature: f64,
}

impl Method for Mcc {
    fn loss(&self, pairs: &Pairs<'_>, _: &[Linear<'_>]) -> Result<Tensor, TchError> {
        let logits = pairs.target_logits.f_div_scalar(self.temperature)?;
        let sure = entropies(&logits.f_detach()?)?;
        let sure = sure.f_neg()?.f_exp()?.f_add_scalar(1.0)?;
        let weights = sure.f_div(&sure.f_mean(Kind::Float)?)?.f_unsqueeze(1)?;
        let likely = logits.f_softmax(-1, Kind::Float)?;
        let confusion = likely
            .f_mul(&weights)?
            .f_transpose(0, 1)?
            .f_matmul(&likely)?;
        let sums = confusion.f_sum_dim_intlist(&[1i64][..], true, Kind::Float)?;
        let shares = confusion.f_div(&sums)?;
        let classes = likely.size().last().copied().unwrap_or(1) as f64;
        shares
            .f_sum(Kind::Float)?
            .f_sub(&shares.f_trace()?)?
            .f_div_scalar(classes)
    }
}
