//! BERT (Devlin et al. 2019), the encoder of `BertModel` in Hugging Face transformers.
//!
//! Shapes: t tokens of the packed batch, b samples, h hidden width, n heads, l length, d = h/n.

use super::batch::TokenBatch;
use super::hf::{self, Source};
use super::tuning::{is_table_trained, is_trained, tune};
use super::{Backbone, Batch, Block, Context, Error, Options, ParamSpec, Table};
use espalier_spec::job::{Pooling, Tuning};
use serde::Deserialize;
use tch::{Kind, Tensor};

pub(super) const MODEL_TYPE: &str = "bert";

/// Dropout sites of one layer: attention probabilities, attention output, feed-forward output.
const SITES: u64 = 3;

/// The fields of `config.json` that matter here.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    vocab_size: i64,
    hidden_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    intermediate_size: i64,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "tenth")]
    hidden_dropout_prob: f64,
    #[serde(default = "tenth")]
    attention_probs_dropout_prob: f64,
    max_position_embeddings: i64,
    type_vocab_size: i64,
    #[serde(default = "initializer_range")]
    initializer_range: f64,
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}

fn gelu() -> String {
    "gelu".to_owned()
}
fn absolute() -> String {
    "absolute".to_owned()
}
fn tenth() -> f64 {
    0.1
}
fn initializer_range() -> f64 {
    0.02
}
fn layer_norm_eps() -> f64 {
    1e-12
}

#[derive(Clone, Copy, Debug)]
enum Activation {
    Gelu,
    GeluTanh,
    Relu,
}

/// The encoder: embeddings, layers and, if asked for, BERT's own pooler as the last block.
#[derive(Debug)]
pub(super) struct Bert {
    config: Config,
    activation: Activation,
    pooling: Pooling,
    table: Table,
    blocks: Vec<Block>,
    extra: Vec<(String, Tensor)>,
}

impl Bert {
    pub(super) fn load(source: &Source, options: &Options) -> Result<Self, Error> {
        let mut config: Config = source.config()?;
        let activation = check(source, &config)?;
        if let Some(rate) = options.dropout {
            (
                config.hidden_dropout_prob,
                config.attention_probs_dropout_prob,
            ) = (rate, rate);
        }
        let has_pooler = options.pooling == Pooling::Pooler;
        let count = 1 + config.num_hidden_layers + usize::from(has_pooler);
        let tuning = &options.tuning;
        let mut table = Table::new(
            "embeddings.word_embeddings.weight",
            [config.vocab_size, config.hidden_size],
            is_table_trained(tuning, count),
            options.device,
        )?;
        let mut names = vec!["embeddings".to_owned()];
        let mut specs = vec![embeddings(&config)];
        for layer in 0..config.num_hidden_layers {
            let name = format!("encoder.layer.{layer}");
            specs.push(layer_params(&config, &name));
            names.push(name);
        }
        if has_pooler {
            let h = config.hidden_size;
            names.push("pooler".to_owned());
            specs.push(vec![
                ParamSpec::weight("pooler.dense.weight", &[h, h]),
                ParamSpec::bias("pooler.dense.bias", &[h]),
            ]);
        }
        tune(tuning, source.dir(), &mut specs)?;
        let mut blocks = Vec::with_capacity(count);
        for (index, (name, specs)) in names.into_iter().zip(specs).enumerate() {
            let trained = is_trained(tuning, index, count);
            blocks.push(Block::new(name, specs, trained, options.device)?);
        }
        let start = (options.init, options.seed, config.initializer_range);
        let extra = hf::start(source, start, "bert.", Some(&mut table), &mut blocks)?;
        if let Tuning::Lora(lora) = tuning {
            for block in &mut blocks {
                block.start_updates(lora, options.seed)?;
            }
        }
        Ok(Self {
            config,
            activation,
            pooling: options.pooling,
            table,
            blocks,
            extra,
        })
    }

    fn norm(&self, x_th: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor, Error> {
        let (shape, eps) = ([self.config.hidden_size], self.config.layer_norm_eps);
        Ok(x_th.f_layer_norm(&shape[..], Some(weight), Some(bias), eps, false)?)
    }

    fn embed(&self, words_th: &Tensor, batch: &TokenBatch, ctx: &Context) -> Result<Tensor, Error> {
        let block = &self.blocks[0];
        let [positions, types] = [block.param(0), block.param(1)];
        let [norm_weight, norm_bias] = [block.param(2), block.param(3)];
        let positions_th = Tensor::f_embedding(positions, &batch.positions, -1, false, false)?;
        // One segment: token type 0 everywhere.
        let x_th = words_th
            .f_add(&positions_th)?
            .f_add(&types.f_narrow(0, 0, 1)?)?;
        let x_th = self.norm(&x_th, norm_weight, norm_bias)?;
        ctx.dropout(x_th, &batch.row_keys, 0, self.config.hidden_dropout_prob)
    }

    fn layer(
        &self,
        index: usize,
        x_th: &Tensor,
        batch: &TokenBatch,
        ctx: &Context,
    ) -> Result<Tensor, Error> {
        let block = &self.blocks[index];
        let p = |place: usize| block.param(place);
        let site = 1 + (index as u64 - 1) * SITES;
        let rate = self.config.hidden_dropout_prob;

        let linear = |x: &Tensor, places| block.linear(x, places, &batch.row_keys, (ctx, site));

        let qkv_th = linear(x_th, (0, 4))?;
        let attended_th = self.attend(&qkv_th, batch, ctx, site)?;
        let y_th = linear(&attended_th, (1, 5))?;
        let y_th = ctx.dropout(y_th, &batch.row_keys, site + 1, rate)?;
        let x_th = self.norm(&y_th.f_add(x_th)?, p(6), p(7))?;

        let up_ti = linear(&x_th, (2, 8))?;
        let up_ti = match self.activation {
            Activation::Gelu => up_ti.f_gelu("none")?,
            Activation::GeluTanh => up_ti.f_gelu("tanh")?,
            Activation::Relu => up_ti.f_relu()?,
        };
        let y_th = linear(&up_ti, (3, 9))?;
        let y_th = ctx.dropout(y_th, &batch.row_keys, site + 2, rate)?;
        self.norm(&y_th.f_add(&x_th)?, p(10), p(11))
    }

    /// Attention within each sample: samples of one length at a time, so there is nothing to mask.
    fn attend(
        &self,
        qkv_t3h: &Tensor,
        batch: &TokenBatch,
        ctx: &Context,
        site: u64,
    ) -> Result<Tensor, Error> {
        let n = self.config.num_attention_heads;
        let (h, d) = (self.config.hidden_size, self.config.hidden_size / n);
        let rate = self.config.attention_probs_dropout_prob;
        let keys = if ctx.train && rate > 0.0 {
            batch.attention_keys(n)
        } else {
            Vec::new()
        };
        let mut outputs = Vec::with_capacity(batch.groups.len());
        for (place, (part, group)) in batch.split(qkv_t3h)?.iter().zip(&batch.groups).enumerate() {
            let (b, l) = (group.samples, group.length);
            let qkv_3bnld = part.f_view([b, l, 3, n, d])?.f_permute([2, 0, 3, 1, 4])?;
            let unbound = qkv_3bnld.f_unbind(0)?;
            let [q, k, v] = [&unbound[0], &unbound[1], &unbound[2]];
            let y_bnld = if let Some(keys) = keys.get(place) {
                let scores_bnll = q
                    .f_matmul(&k.f_transpose(-2, -1)?)?
                    .f_mul_scalar(1.0 / (d as f64).sqrt())?;
                let probs_bnll = scores_bnll.f_softmax(-1, Kind::Float)?;
                ctx.dropout(probs_bnll, keys, site, rate)?.f_matmul(v)?
            } else {
                let mask: Option<&Tensor> = None;
                Tensor::f_scaled_dot_product_attention(q, k, v, mask, 0.0, false, None, false)?
            };
            outputs.push(y_bnld.f_transpose(1, 2)?.f_reshape([b * l, h])?);
        }
        Ok(Tensor::f_cat(&outputs, 0)?)
    }

    /// Features of each sample in packed order, [b, h].
    fn pool_groups(&self, x_th: &Tensor, batch: &TokenBatch) -> Result<Tensor, Error> {
        let mut features = Vec::with_capacity(batch.groups.len());
        for (part, group) in batch.split(x_th)?.iter().zip(&batch.groups) {
            let x_blh = part.f_view([group.samples, group.length, self.config.hidden_size])?;
            features.push(match self.pooling {
                Pooling::Mean => x_blh.f_mean_dim(&[1i64][..], false, Kind::Float)?,
                Pooling::Cls | Pooling::Pooler => x_blh.f_select(1, 0)?,
                Pooling::Max => x_blh.f_amax(&[1i64][..], false)?,
            });
        }
        Ok(Tensor::f_cat(&features, 0)?)
    }
}

impl Backbone for Bert {
    fn blocks(&self) -> &[Block] {
        &self.blocks
    }
    fn blocks_mut(&mut self) -> &mut [Block] {
        &mut self.blocks
    }
    fn table(&self) -> Option<&Table> {
        Some(&self.table)
    }
    fn table_mut(&mut self) -> Option<&mut Table> {
        Some(&mut self.table)
    }
    fn width(&self) -> usize {
        self.config.hidden_size as usize
    }
    fn extra(&self) -> &[(String, Tensor)] {
        &self.extra
    }

    fn input(&self, batch: &Batch) -> Result<Tensor, Error> {
        if let Batch::Tokens(tokens) = batch
            && let Some(group) = tokens.groups.last()
            && group.length > self.config.max_position_embeddings
        {
            return Err(Error::Input(format!(
                "a sample has {} tokens, the model takes {} at most: lower backbone.max_tokens",
                group.length, self.config.max_position_embeddings
            )));
        }
        self.table.gather(batch)
    }

    fn forward(
        &self,
        block: usize,
        x: &Tensor,
        batch: &Batch,
        ctx: &Context,
    ) -> Result<Tensor, Error> {
        let Batch::Tokens(batch) = batch else {
            return Err(Error::Input("a text model was given images".into()));
        };
        match block {
            0 => self.embed(x, batch, ctx),
            index if index <= self.config.num_hidden_layers => self.layer(index, x, batch, ctx),
            index => {
                let pooler = &self.blocks[index];
                let first_bh = self.pool_groups(x, batch)?;
                Ok(first_bh
                    .f_linear(pooler.param(0), Some(pooler.param(1)))?
                    .f_tanh()?)
            }
        }
    }

    fn pool(&self, x: &Tensor, batch: &Batch) -> Result<Tensor, Error> {
        let Batch::Tokens(batch) = batch else {
            return Err(Error::Input("a text model was given images".into()));
        };
        let packed_bh = match self.pooling {
            Pooling::Pooler => x.shallow_clone(),
            _ => self.pool_groups(x, batch)?,
        };
        Ok(packed_bh.f_index_select(0, &batch.inverse)?)
    }
}

fn check(source: &Source, config: &Config) -> Result<Activation, Error> {
    let wrong = |message: String| Err(source.wrong("config.json", message));
    let Config {
        hidden_size: h,
        num_attention_heads: n,
        ..
    } = *config;
    if h <= 0 || n <= 0 || h % n != 0 {
        return wrong(format!(
            "hidden_size {h} is no multiple of num_attention_heads {n}"
        ));
    }
    if config.vocab_size <= 0
        || config.intermediate_size <= 0
        || config.max_position_embeddings <= 0
    {
        return wrong(
            "vocab_size, intermediate_size and max_position_embeddings must be above 0".into(),
        );
    }
    if config.type_vocab_size <= 0 {
        return wrong("type_vocab_size must be above 0".into());
    }
    for (name, rate) in [
        ("hidden_dropout_prob", config.hidden_dropout_prob),
        (
            "attention_probs_dropout_prob",
            config.attention_probs_dropout_prob,
        ),
    ] {
        if !(0.0..1.0).contains(&rate) {
            return wrong(format!("{name} is {rate}, expected at least 0 and below 1"));
        }
    }
    if config.num_hidden_layers == 0 {
        return wrong("num_hidden_layers must be above 0".into());
    }
    if config.position_embedding_type != "absolute" {
        let found = &config.position_embedding_type;
        return wrong(format!(
            "position_embedding_type {found:?} is not supported, only \"absolute\""
        ));
    }
    match config.hidden_act.as_str() {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        found => wrong(format!(
            "hidden_act {found:?} is not supported: gelu, gelu_new, relu"
        )),
    }
}

/// Parameters of the embeddings without the word table, in the order of use: positions, types, norm.
fn embeddings(config: &Config) -> Vec<ParamSpec> {
    let h = config.hidden_size;
    vec![
        ParamSpec::weight(
            "embeddings.position_embeddings.weight",
            &[config.max_position_embeddings, h],
        ),
        ParamSpec::weight(
            "embeddings.token_type_embeddings.weight",
            &[config.type_vocab_size, h],
        ),
        ParamSpec::bias("embeddings.LayerNorm.weight", &[h]),
        ParamSpec::bias("embeddings.LayerNorm.bias", &[h]),
    ]
}

/// Parameters of a layer: 0-3 the matrices (qkv, attention output, up, down), 4-11 biases and norms.
fn layer_params(config: &Config, layer: &str) -> Vec<ParamSpec> {
    let (h, i) = (config.hidden_size, config.intermediate_size);
    let name = |rest: &str| format!("{layer}.{rest}");
    let qkv = |part: &str| {
        let names = ["query", "key", "value"].map(|q| name(&format!("attention.self.{q}.{part}")));
        (name(&format!("attention.self.qkv.{part}")), names.to_vec())
    };
    let (weight, weights) = qkv("weight");
    let (bias, biases) = qkv("bias");
    vec![
        ParamSpec::linear(weight, &[3 * h, h]).made_of(weights),
        ParamSpec::linear(name("attention.output.dense.weight"), &[h, h]),
        ParamSpec::linear(name("intermediate.dense.weight"), &[i, h]),
        ParamSpec::linear(name("output.dense.weight"), &[h, i]),
        ParamSpec::bias(bias, &[3 * h]).made_of(biases),
        ParamSpec::bias(name("attention.output.dense.bias"), &[h]),
        ParamSpec::bias(name("attention.output.LayerNorm.weight"), &[h]),
        ParamSpec::bias(name("attention.output.LayerNorm.bias"), &[h]),
        ParamSpec::bias(name("intermediate.dense.bias"), &[i]),
        ParamSpec::bias(name("output.dense.bias"), &[h]),
        ParamSpec::bias(name("output.LayerNorm.weight"), &[h]),
        ParamSpec::bias(name("output.LayerNorm.bias"), &[h]),
    ]
}
