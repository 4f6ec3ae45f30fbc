//! The transformer encoder layer (Vaswani et al. 2017): self-attention and a feed-forward part, each
//! with a residual connection and a layer norm behind it (BERT) or in front of it (ViT).
//!
//! Shapes: t rows of the packed batch, h hidden width, i width of the feed-forward part.

use super::attention::Heads;
use super::block::Part;
use super::hf::Source;
use super::layout::Layout;
use super::{Block, Context, Error, ParamSpec};
use tch::Tensor;

/// Dropout sites of one layer: attention probabilities, attention output, feed-forward output.
const SITES: u64 = 3;

/// What the layers of an encoder have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layers {
    pub(super) hidden: i64,
    pub(super) heads: i64,
    pub(super) inner: i64,
    pub(super) activation: Activation,
    /// Norms stand in front of attention and feed-forward, not behind the residuals.
    pub(super) norm_first: bool,
    /// A row sees itself and those before it alone.
    pub(super) causal: bool,
    /// Matrices are stored as [in, out] (GPT-2).
    pub(super) transposed: bool,
    pub(super) eps: f64,
    /// Rate of what attention and feed-forward give.
    pub(super) dropout: f64,
    /// That rate holds of what attention gives, too, and not of the feed-forward part alone.
    pub(super) drops_attended: bool,
    /// Rate of attention probabilities.
    pub(super) attention_dropout: f64,
}

/// Between the two matrices of a feed-forward part.
#[derive(Clone, Copy, Debug)]
pub(super) enum Activation {
    Gelu,
    GeluTanh,
    Relu,
}

impl Activation {
    /// By the name that a configuration's `field` gives.
    ///
    /// # Errors
    /// [`Error::Content`] for one that is not known.
    pub(super) fn named(source: &Source, field: &str, name: &str) -> Result<Self, Error> {
        match name {
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            found => {
                let message = format!("{field} {found:?} is not supported: gelu, gelu_new, relu");
                Err(source.wrong("config.json", message))
            }
        }
    }
}

/// Hugging Face names of a layer's parts, without `.weight` and `.bias`, within the layer.
#[derive(Debug)]
pub(super) struct Names {
    /// Query, key and value, or what holds all three.
    pub(super) qkv: &'static [&'static str],
    /// Output of attention.
    pub(super) out: &'static str,
    /// The norms of attention and of the feed-forward part.
    pub(super) norms: [&'static str; 2],
    /// The matrices of the feed-forward part.
    pub(super) feed: [&'static str; 2],
}

impl Layers {
    /// Parameters of a layer: 0-3 the matrices (qkv, attention output, up, down), 4-11 biases and norms
    /// (qkv, output, norm, up, down, norm).
    pub(super) fn params(&self, layer: &str, names: &Names) -> Vec<ParamSpec> {
        let (h, i) = (self.hidden, self.inner);
        let name = |part: &str, end: &str| format!("{layer}.{part}.{end}");
        // What holds all three has one name, its own.
        let (fused, each) = match names.qkv {
            [one] => (*one, [].as_slice()),
            each => ("qkv", each),
        };
        let qkv = |end: &str| each.iter().map(|part| name(part, end)).collect();
        let matrix = |part: &str, [out, inner]: [i64; 2]| match self.transposed {
            true => ParamSpec::transposed(name(part, "weight"), &[inner, out]),
            false => ParamSpec::linear(name(part, "weight"), &[out, inner]),
        };
        let [up, down] = names.feed;
        let [norm_1, norm_2] = names.norms;
        vec![
            matrix(fused, [3 * h, h]).made_of(qkv("weight")),
            matrix(names.out, [h, h]).giving(Part::Attention, h),
            matrix(up, [i, h]),
            matrix(down, [h, i]).giving(Part::Feed, h),
            ParamSpec::bias(name(fused, "bias"), &[3 * h]).made_of(qkv("bias")),
            ParamSpec::bias(name(names.out, "bias"), &[h]),
            ParamSpec::bias(name(norm_1, "weight"), &[h]),
            ParamSpec::bias(name(norm_1, "bias"), &[h]),
            ParamSpec::bias(name(up, "bias"), &[i]),
            ParamSpec::bias(name(down, "bias"), &[h]),
            ParamSpec::bias(name(norm_2, "weight"), &[h]),
            ParamSpec::bias(name(norm_2, "bias"), &[h]),
        ]
    }

    /// Checks what a configuration says of the layers.
    ///
    /// # Errors
    /// [`Error::Content`], with the names of the fields: hidden width, heads, feed-forward width.
    pub(super) fn check(&self, source: &Source, fields: [&str; 3]) -> Result<(), Error> {
        let wrong = |message: String| Err(source.wrong("config.json", message));
        let [hidden, heads, inner] = fields;
        let (h, n) = (self.hidden, self.heads);
        if h <= 0 || n <= 0 || h % n != 0 {
            return wrong(format!("{hidden} {h} is no multiple of {heads} {n}"));
        }
        if self.inner <= 0 {
            return wrong(format!("{inner} must be above 0"));
        }
        for rate in [self.dropout, self.attention_dropout] {
            if !(0.0..1.0).contains(&rate) {
                return wrong(format!(
                    "a dropout rate is {rate}, expected at least 0 and below 1"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn norm(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor, Error> {
        let shape = [self.hidden];
        Ok(x.f_layer_norm(&shape[..], Some(weight), Some(bias), self.eps, false)?)
    }

    /// What attention needs to know.
    pub(super) fn heads(&self) -> Heads {
        Heads {
            queries: self.heads,
            keys: self.heads,
            width: self.hidden / self.heads,
            causal: self.causal,
            dropout: self.attention_dropout,
        }
    }

    /// Runs layer `index` (from 0), whose parameters are the first of `block`, over `x` [t, h].
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn forward(
        &self,
        (index, block): (usize, &Block),
        x_th: &Tensor,
        layout: &Layout,
        ctx: &Context,
    ) -> Result<Tensor, Error> {
        let heads = self.heads();
        let keys = &layout.row_keys[..];
        self.run((index, block), x_th, (keys, ctx), |qkv, site| {
            heads.attend(qkv, block.prefix(), layout, (ctx, site))
        })
    }

    /// The same with another attention: queries, keys and values [t, h] of all rows, and a dropout site,
    /// to [t, h]. `keys` are the rows' identities for dropout.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn run(
        &self,
        (index, block): (usize, &Block),
        x_th: &Tensor,
        (keys, ctx): (&[u64], &Context),
        attend: impl FnOnce([&Tensor; 3], u64) -> Result<Tensor, Error>,
    ) -> Result<Tensor, Error> {
        let p = |place: usize| block.param(place);
        let h = self.hidden;
        // Site 0 is the embeddings'.
        let site = 1 + index as u64 * SITES;
        let linear = |x: &Tensor, (weight, bias): (usize, usize)| {
            block.linear(x, (weight, Some(bias)), keys, (ctx, site))
        };
        let attention = |x_th: &Tensor| -> Result<Tensor, Error> {
            let qkv_t3h = linear(x_th, (0, 4))?;
            let part = |place: i64| qkv_t3h.f_narrow(-1, place * h, h);
            let attended_th = attend([&part(0)?, &part(1)?, &part(2)?], site)?;
            let y_th = linear(&attended_th, (1, 5))?;
            let rate = if self.drops_attended {
                self.dropout
            } else {
                0.0
            };
            ctx.dropout(y_th, keys, site + 1, rate)
        };
        let feed = |x_th: &Tensor| -> Result<Tensor, Error> {
            let up_ti = linear(x_th, (2, 8))?;
            let up_ti = match self.activation {
                Activation::Gelu => up_ti.f_gelu("none")?,
                Activation::GeluTanh => up_ti.f_gelu("tanh")?,
                Activation::Relu => up_ti.f_relu()?,
            };
            ctx.dropout(linear(&up_ti, (3, 9))?, keys, site + 2, self.dropout)
        };
        if self.norm_first {
            let x_th = attention(&self.norm(x_th, p(6), p(7))?)?.f_add(x_th)?;
            return Ok(feed(&self.norm(&x_th, p(10), p(11))?)?.f_add(&x_th)?);
        }
        let x_th = self.norm(&attention(x_th)?.f_add(x_th)?, p(6), p(7))?;
        self.norm(&feed(&x_th)?.f_add(&x_th)?, p(10), p(11))
    }
}
