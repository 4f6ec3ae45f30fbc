//! Entropy minimisation (Grandvalet and Bengio 2004): decisions are moved out of where samples are dense.
//!
//! L = mean H(softmax(g_t)), in nats. Cost: n·c. Alone it may settle on one class for all;
//! `information_maximisation` is against that.

use super::pairs::entropies;
use super::{Method, Pairs};
use crate::heads::Linear;
use tch::{Kind, TchError, Tensor};

#[derive(Debug)]
pub(super) struct Entropy;

impl Method for Entropy {
    fn loss(&self, pairs: &Pairs<'_>, _: &[Linear<'_>]) -> Result<Tensor, TchError> {
        entropies(pairs.target_logits)?.f_mean(Kind::Float)
    }
}
