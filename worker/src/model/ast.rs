//! The audio spectrogram transformer (Gong, Chung and Glass 2021, arXiv 2104.01778), `ASTModel` in Hugging
//! Face transformers: a vision transformer over overlapping patches of a log-mel spectrogram.
//!
//! Shapes: b samples, f mel bins, t frames, y x patches (over frequency and time), l = 2 + y·x rows of a
//! sample (class token, distillation token, patches row by row), h hidden width; rows of a batch stand as
//! b·l, samples in the order given.

use super::batch::ImageBatch;
use super::hf::defaults::{gelu, initializer_range, layer_norm_eps, yes};
use super::hf::{self, Source};
use super::layer::{Activation, Layers};
use super::vit::{FINAL_NORM, NAMES};
use super::{Backbone, Batch, Block, Context, Error, Frames, Options, ParamSpec, Table};
use espalier_spec::job::Pooling;
use serde::Deserialize;
use tch::{Kind, Tensor};

pub(super) const MODEL_TYPE: &str = "audio-spectrogram-transformer";

/// Rows of a sample before its patches: class token and distillation token.
const TOKENS: i64 = 2;

/// The fields of `config.json` that matter here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Config {
    pub(super) num_mel_bins: i64,
    /// Frames.
    pub(super) max_length: i64,
    #[serde(default = "sixteen")]
    patch_size: i64,
    #[serde(default = "ten")]
    frequency_stride: i64,
    #[serde(default = "ten")]
    time_stride: i64,
    hidden_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    intermediate_size: i64,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default)]
    hidden_dropout_prob: f64,
    #[serde(default)]
    attention_probs_dropout_prob: f64,
    #[serde(default = "initializer_range")]
    initializer_range: f64,
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "yes")]
    qkv_bias: bool,
}

fn sixteen() -> i64 {
    16
}

fn ten() -> i64 {
    10
}

impl Config {
    /// Patches over frequency and over time.
    fn patches(&self) -> [i64; 2] {
        let count = |size: i64, stride: i64| (size - self.patch_size).max(0) / stride.max(1) + 1;
        [
            count(self.num_mel_bins, self.frequency_stride),
            count(self.max_length, self.time_stride),
        ]
    }

    /// Rows of a sample.
    fn rows(&self) -> i64 {
        let [high, wide] = self.patches();
        TOKENS + high * wide
    }

    /// Patches over time, behind the tokens.
    pub(super) fn frames(&self) -> Frames {
        let [rows, columns] = self.patches();
        Frames::Patches {
            first: TOKENS,
            rows,
            columns,
        }
    }
}

/// The encoder: patch embeddings and layers (the last with the final norm).
#[derive(Debug)]
pub(super) struct Ast {
    config: Config,
    layers: Layers,
    pooling: Pooling,
    blocks: Vec<Block>,
    extra: Vec<(String, Tensor)>,
}

impl Ast {
    pub(super) fn load(source: &Source, options: &Options) -> Result<Self, Error> {
        let config: Config = source.config()?;
        let layers = check(source, &config, options.dropout)?;
        let depth = config.num_hidden_layers;
        let mut parts = vec![("embeddings".to_owned(), embeddings(&config))];
        for index in 0..depth {
            let name = format!("encoder.layer.{index}");
            let mut params = layers.params(&name, &NAMES);
            if index + 1 == depth {
                params.push(ParamSpec::bias("layernorm.weight", &[layers.hidden]));
                params.push(ParamSpec::bias("layernorm.bias", &[layers.hidden]));
            }
            parts.push((name, params));
        }
        let start = ("audio_spectrogram_transformer.", config.initializer_range);
        let (blocks, extra) = hf::blocks(source, options, parts, start, None)?;
        Ok(Self {
            config,
            layers,
            pooling: options.pooling,
            blocks,
            extra,
        })
    }

    fn embed(&self, x_b1ft: &Tensor, batch: &ImageBatch, ctx: &Context) -> Result<Tensor, Error> {
        let p = |place: usize| self.blocks[0].param(place);
        let (h, b) = (self.layers.hidden, x_b1ft.size()[0]);
        let stride = [self.config.frequency_stride, self.config.time_stride];
        let patches = x_b1ft.f_conv2d(p(3), Some(p(4)), stride, [0, 0], [1, 1], 1)?;
        let patches = patches.f_flatten(2, -1)?.f_transpose(1, 2)?;
        let token = |place: usize| p(place).f_expand([b, 1, h], false);
        let x_blh = Tensor::f_cat(&[&token(0)?, &token(1)?, &patches], 1)?.f_add(p(2))?;
        let keys = &batch.layout(self.config.rows()).row_keys;
        ctx.dropout(x_blh.f_reshape([-1, h])?, keys, 0, self.layers.dropout)
    }
}

impl Backbone for Ast {
    fn blocks(&self) -> &[Block] {
        &self.blocks
    }
    fn blocks_mut(&mut self) -> &mut [Block] {
        &mut self.blocks
    }
    fn table(&self) -> Option<&Table> {
        None
    }
    fn table_mut(&mut self) -> Option<&mut Table> {
        None
    }
    fn width(&self) -> usize {
        self.layers.hidden as usize
    }
    fn extra(&self) -> &[(String, Tensor)] {
        &self.extra
    }
    fn frames(&self) -> Option<Frames> {
        Some(self.config.frames())
    }

    /// Spectrograms [b, 1, f, t]; transformers takes them as [b, t, f].
    fn input(&self, batch: &Batch) -> Result<Tensor, Error> {
        let shape = [1, self.config.num_mel_bins, self.config.max_length];
        batch.as_images()?.of_shape(shape)
    }

    fn forward(
        &self,
        block: usize,
        x: &Tensor,
        batch: &Batch,
        ctx: &Context,
    ) -> Result<Tensor, Error> {
        let batch = batch.as_images()?;
        if block == 0 {
            return self.embed(x, batch, ctx);
        }
        let own = &self.blocks[block];
        let layout = batch.layout(self.config.rows());
        let x = self.layers.forward((block - 1, own), x, layout, ctx)?;
        if block < self.config.num_hidden_layers {
            return Ok(x);
        }
        let [weight, bias] = FINAL_NORM.map(|place| own.param(place));
        self.layers.norm(&x, weight, bias)
    }

    /// Of the class and distillation tokens, their mean (`pooler_output` of transformers), or over the
    /// patches without them.
    fn pool(&self, x: &Tensor, _: &Batch) -> Result<Tensor, Error> {
        let l = self.config.rows();
        let x_blh = x.f_view([-1, l, self.layers.hidden])?;
        let patches = || x_blh.f_narrow(1, TOKENS, l - TOKENS);
        let mean = |rows: Tensor| rows.f_mean_dim(&[1i64][..], false, Kind::Float);
        Ok(match self.pooling {
            Pooling::Mean => mean(patches()?)?,
            Pooling::Max => patches()?.f_amax(&[1i64][..], false)?,
            Pooling::Last => x_blh.f_select(1, l - 1)?,
            Pooling::Cls | Pooling::Pooler => mean(x_blh.f_narrow(1, 0, TOKENS)?)?,
        })
    }
}

/// Checks a configuration and takes from it what the layers need.
fn check(source: &Source, config: &Config, dropout: Option<f64>) -> Result<Layers, Error> {
    let wrong = |message: String| Err(source.wrong("config.json", message));
    let patch = config.patch_size;
    for (field, value, least) in [
        ("patch_size", patch, 1),
        ("frequency_stride", config.frequency_stride, 1),
        ("time_stride", config.time_stride, 1),
        ("num_mel_bins", config.num_mel_bins, patch),
        ("max_length", config.max_length, patch),
    ] {
        if value < least {
            return wrong(format!("{field} is {value}, expected at least {least}"));
        }
    }
    if config.num_hidden_layers == 0 {
        return wrong("num_hidden_layers must be above 0".into());
    }
    if !config.qkv_bias {
        return wrong("qkv_bias false is not supported".into());
    }
    let layers = Layers {
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        inner: config.intermediate_size,
        activation: Activation::named(source, "hidden_act", &config.hidden_act)?,
        norm_first: true,
        causal: false,
        transposed: false,
        eps: config.layer_norm_eps,
        dropout: dropout.unwrap_or(config.hidden_dropout_prob),
        drops_attended: true,
        attention_dropout: dropout.unwrap_or(config.attention_probs_dropout_prob),
    };
    let fields = ["hidden_size", "num_attention_heads", "intermediate_size"];
    layers.check(source, fields)?;
    Ok(layers)
}

/// Parameters of the embeddings: class token, distillation token, positions, patches' weight and bias.
fn embeddings(config: &Config) -> Vec<ParamSpec> {
    let (h, p) = (config.hidden_size, config.patch_size);
    let projection = "embeddings.patch_embeddings.projection";
    vec![
        ParamSpec::weight("embeddings.cls_token", &[1, 1, h]),
        ParamSpec::weight("embeddings.distillation_token", &[1, 1, h]),
        ParamSpec::weight("embeddings.position_embeddings", &[1, config.rows(), h]),
        ParamSpec::weight(format!("{projection}.weight"), &[h, 1, p, p]),
        ParamSpec::bias(format!("{projection}.bias"), &[h]),
    ]
}
