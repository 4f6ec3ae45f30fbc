//! The vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), `ViTModel` in Hugging Face
//! transformers.
//!
//! Shapes: b samples, c channels, s image size, p patches, l = 1 + p rows of a sample, h hidden
//! width; rows of a batch stand as t = b·l, samples in the order given.

use super::batch::ImageBatch;
use super::hf::defaults::{gelu, initializer_range, layer_norm_eps, yes};
use super::hf::{self, Source};
use super::layer::{Activation, Layers, Names};
use super::{
    Backbone, Batch, Block, Context, Error, FeatureMap, Frames, Options, ParamSpec, Table,
};
use espalier_spec::job::Pooling;
use serde::Deserialize;
use tch::{Kind, Tensor};

pub(super) const MODEL_TYPE: &str = "vit";

pub(super) const NAMES: Names = Names {
    qkv: &[
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ],
    out: "attention.output.dense",
    norms: ["layernorm_before", "layernorm_after"],
    feed: ["intermediate.dense", "output.dense"],
};
/// Places of the final norm in the last layer's block, behind what every layer has.
pub(super) const FINAL_NORM: [usize; 2] = [12, 13];

/// The fields of `config.json` that matter here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Config {
    pub(super) image_size: i64,
    patch_size: i64,
    #[serde(default = "three")]
    pub(super) num_channels: i64,
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

fn three() -> i64 {
    3
}

impl Config {
    /// Patches from left to right, behind the class token.
    pub(super) fn frames(&self) -> Frames {
        let side = self.image_size / self.patch_size.max(1);
        Frames::Patches {
            first: 1,
            rows: side,
            columns: side,
        }
    }
}

/// The encoder: patch embeddings, layers (the last with the final norm) and, if asked for, the pooler.
#[derive(Debug)]
pub(super) struct Vit {
    config: Config,
    layers: Layers,
    pooling: Pooling,
    blocks: Vec<Block>,
    extra: Vec<(String, Tensor)>,
}

impl Vit {
    pub(super) fn load(source: &Source, options: &Options) -> Result<Self, Error> {
        let config: Config = source.config()?;
        let layers = check(source, &config, options.dropout)?;
        let wants_pooler = options.pooling == Pooling::Pooler;
        let h = layers.hidden;
        let depth = config.num_hidden_layers;
        let mut parts = vec![("embeddings".to_owned(), embeddings(&config))];
        for index in 0..depth {
            let name = format!("encoder.layer.{index}");
            let mut params = layers.params(&name, &NAMES);
            if index + 1 == depth {
                params.push(ParamSpec::bias("layernorm.weight", &[h]));
                params.push(ParamSpec::bias("layernorm.bias", &[h]));
            }
            parts.push((name, params));
        }
        if wants_pooler {
            let params = vec![
                ParamSpec::weight("pooler.dense.weight", &[h, h]),
                ParamSpec::bias("pooler.dense.bias", &[h]),
            ];
            parts.push(("pooler".to_owned(), params));
        }
        let start = ("vit.", config.initializer_range);
        let (blocks, extra) = hf::blocks(source, options, parts, start, None)?;
        Ok(Self {
            config,
            layers,
            pooling: options.pooling,
            blocks,
            extra,
        })
    }

    /// Rows of a sample: the class token and a row for each patch.
    fn rows(&self) -> i64 {
        rows(&self.config)
    }

    fn embed(&self, x_bcss: &Tensor, batch: &ImageBatch, ctx: &Context) -> Result<Tensor, Error> {
        let p = |place: usize| self.blocks[0].param(place);
        let (h, b) = (self.layers.hidden, x_bcss.size()[0]);
        let stride = [self.config.patch_size; 2];
        let patches = x_bcss.f_conv2d(p(2), Some(p(3)), stride, [0, 0], [1, 1], 1)?;
        let patches_bph = patches.f_flatten(2, -1)?.f_transpose(1, 2)?;
        let class_b1h = p(0).f_expand([b, 1, h], false)?;
        let x_blh = Tensor::f_cat(&[&class_b1h, &patches_bph], 1)?.f_add(p(1))?;
        let x_th = x_blh.f_reshape([-1, h])?;
        let keys = &batch.layout(self.rows()).row_keys;
        ctx.dropout(x_th, keys, 0, self.layers.dropout)
    }
}

impl Backbone for Vit {
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

    /// A place for each patch, unless the pooler comes last.
    fn feature_map(&self) -> Option<FeatureMap> {
        let side = self.config.image_size / self.config.patch_size;
        (self.pooling != Pooling::Pooler).then_some(FeatureMap::Rows {
            before: 1,
            height: side,
            width: side,
        })
    }

    fn input(&self, batch: &Batch) -> Result<Tensor, Error> {
        let size = self.config.image_size;
        batch
            .as_images()?
            .of_shape([self.config.num_channels, size, size])
    }

    fn forward(
        &self,
        block: usize,
        x: &Tensor,
        batch: &Batch,
        ctx: &Context,
    ) -> Result<Tensor, Error> {
        let batch = batch.as_images()?;
        let depth = self.config.num_hidden_layers;
        match block {
            0 => self.embed(x, batch, ctx),
            index if index <= depth => {
                let own = &self.blocks[index];
                let layout = batch.layout(self.rows());
                let x = self.layers.forward((index - 1, own), x, layout, ctx)?;
                if index < depth {
                    return Ok(x);
                }
                let [weight, bias] = FINAL_NORM.map(|place| own.param(place));
                self.layers.norm(&x, weight, bias)
            }
            index => {
                let pooler = &self.blocks[index];
                let x_blh = x.f_view([-1, self.rows(), self.layers.hidden])?;
                Ok(x_blh
                    .f_select(1, 0)?
                    .f_linear(pooler.param(0), Some(pooler.param(1)))?
                    .f_tanh()?)
            }
        }
    }

    /// Of the class token, or over the patches without it.
    fn pool(&self, x: &Tensor, _: &Batch) -> Result<Tensor, Error> {
        if self.pooling == Pooling::Pooler {
            return Ok(x.shallow_clone());
        }
        let l = self.rows();
        let x_blh = x.f_view([-1, l, self.layers.hidden])?;
        let patches = || x_blh.f_narrow(1, 1, l - 1);
        Ok(match self.pooling {
            Pooling::Mean => patches()?.f_mean_dim(&[1i64][..], false, Kind::Float)?,
            Pooling::Max => patches()?.f_amax(&[1i64][..], false)?,
            Pooling::Last => x_blh.f_select(1, l - 1)?,
            Pooling::Cls | Pooling::Pooler => x_blh.f_select(1, 0)?,
        })
    }
}

fn rows(config: &Config) -> i64 {
    1 + (config.image_size / config.patch_size).pow(2)
}

/// Checks a configuration and takes from it what the layers need.
fn check(source: &Source, config: &Config, dropout: Option<f64>) -> Result<Layers, Error> {
    let wrong = |message: String| Err(source.wrong("config.json", message));
    let (size, patch) = (config.image_size, config.patch_size);
    if size <= 0 || patch <= 0 || size % patch != 0 {
        return wrong(format!(
            "image_size {size} is no multiple of patch_size {patch}"
        ));
    }
    if config.num_channels <= 0 || config.num_hidden_layers == 0 {
        return wrong("num_channels and num_hidden_layers must be above 0".into());
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

/// Parameters of the embeddings: class token, positions, patches' weight and bias.
fn embeddings(config: &Config) -> Vec<ParamSpec> {
    let (h, c, p) = (config.hidden_size, config.num_channels, config.patch_size);
    let projection = "embeddings.patch_embeddings.projection";
    vec![
        ParamSpec::weight("embeddings.cls_token", &[1, 1, h]),
        ParamSpec::weight("embeddings.position_embeddings", &[1, rows(config), h]),
        ParamSpec::weight(format!("{projection}.weight"), &[h, c, p, p]),
        ParamSpec::bias(format!("{projection}.bias"), &[h]),
    ]
}
