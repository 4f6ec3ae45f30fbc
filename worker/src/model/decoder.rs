//! What decoders have beside other backbones: a matrix that says which token comes next, and a way to
//! go on with a text token by token.

use super::attention::Cache;
use super::hf::Source;
use super::init::{key, normal};
use super::{Error, Options, Table};
use espalier_spec::job::Init;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// Hugging Face name of the vocabulary matrix.
pub const LM_HEAD: &str = "lm_head.weight";

/// A backbone that predicts the next token.
pub trait Decoder {
    /// Most tokens of a text.
    fn positions(&self) -> usize;

    /// The vocabulary matrix, f32 [V, h]: logits of the next token are rows times its transpose. Of a
    /// model with tied embeddings the word table, which must be whole.
    ///
    /// # Errors
    /// If the model's files have none, or libtorch refuses.
    fn vocabulary(&self) -> Result<Tensor, Error>;

    /// A cache for one text with room for `tokens`, or for all positions if they are fewer.
    ///
    /// # Errors
    /// If memory cannot be had.
    fn cache(&self, tokens: usize) -> Result<Cache, Error>;

    /// What the last block gives for tokens that follow those in the cache, [l, h]; the cache takes them
    /// up. The same numbers as a forward pass over the whole text, up to rounding.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no token, no room, or a token is not in the vocabulary.
    fn extend(&self, ids: &[u32], cache: &mut Cache) -> Result<Tensor, Error>;
}

/// Where a decoder's vocabulary matrix is.
#[derive(Debug)]
pub(super) struct Vocabulary {
    tied: bool,
    /// Seed and standard deviation, where it starts at random.
    random: Option<(u64, f64)>,
    dir: PathBuf,
}

impl Vocabulary {
    /// By a model's configuration; what of `extra` is only another name of the word table is dropped.
    pub(super) fn new(
        source: &Source,
        options: &Options,
        (tied, std): (bool, f64),
        extra: &mut Vec<(String, Tensor)>,
    ) -> Self {
        if tied {
            extra.retain(|(name, _)| name != LM_HEAD);
        }
        Self {
            tied,
            random: (options.init == Init::Random).then_some((options.seed, std)),
            dir: source.dir().to_owned(),
        }
    }

    /// The matrix; see [`Decoder::vocabulary`].
    pub(super) fn matrix(
        &self,
        table: &Table,
        extra: &[(String, Tensor)],
    ) -> Result<Tensor, Error> {
        if self.tied {
            return Ok(table.weight()?.shallow_clone());
        }
        let size = [table.rows() as i64, table.width() as i64];
        if let Some((seed, std)) = self.random {
            let values = normal(table.rows() * table.width(), key(seed, LM_HEAD), std);
            return Ok(Tensor::f_from_slice(&values)?.f_view(&size[..])?);
        }
        let found = extra.iter().find(|(name, _)| name == LM_HEAD);
        let Some((_, matrix)) = found else {
            return Err(Error::Content {
                dir: self.dir.clone(),
                file: super::weights::listing(&self.dir).to_owned(),
                message: format!(
                    "tensor {LM_HEAD} {size:?} is missing, and tie_word_embeddings is false: is this \
                     the directory of a model for causal language modelling?"
                ),
            });
        };
        if matrix.size() != size {
            return Err(Error::Shape {
                name: LM_HEAD.to_owned(),
                expected: size.to_vec(),
                found: matrix.size(),
            });
        }
        Ok(matrix.f_to_kind(Kind::Float)?)
    }
}

/// Positions of `count` tokens from `start` on, i64 `[count]`.
pub(super) fn positions(start: i64, count: usize, device: Device) -> Result<Tensor, Error> {
    Ok(Tensor::f_arange_start(
        start,
        start + count as i64,
        (Kind::Int64, device),
    )?)
}
