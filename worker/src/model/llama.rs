//! Llama (Touvron et al. 2023, arXiv 2302.13971) as Hugging Face transformers has it, `LlamaModel`:
//! norms by root mean square (Zhang and Sennrich 2019), rotary positions (Su et al. 2021), shared heads
//! of keys and values (Ainslie et al. 2023), gated feed-forward parts (Shazeer 2020).
//!
//! Shapes: t tokens of the packed batch, l of one text, b samples, h hidden width, n heads of queries, m
//! of keys and values, d width of a head, i width of the feed-forward part, V words.

use super::attention::{Cache, Heads};
use super::block::Part;
use super::decoder::{Decoder, Vocabulary, positions};
use super::hf::defaults::initializer_range;
use super::hf::{self, Source};
use super::pool::pool;
use super::tuning::is_table_trained;
use super::virtual_tokens::{self, Room, VirtualTokens};
use super::{Backbone, Batch, Block, Context, Error, Options, ParamSpec, Table, rotary};
use espalier_spec::job::Pooling;
use serde::Deserialize;
use tch::{Kind, Tensor};

pub(super) const MODEL_TYPE: &str = "llama";

/// What names of weights begin with in files of a model with a head.
const PREFIX: &str = "model.";
/// Places of a layer's parameters: matrices, then norms; the final one in the last layer's block.
const QUERY: usize = 0;
const KEY_VALUE: usize = 1;
const OUT: usize = 2;
const GATE_UP: usize = 3;
const DOWN: usize = 4;
const NORMS: [usize; 2] = [5, 6];
const FINAL_NORM: usize = 7;
/// Dropout sites of one layer: that of its linear layers' updates and attention.
const SITES: u64 = 1;

/// The fields of `config.json` that matter here.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    max_position_embeddings: i64,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default = "rms_norm_eps")]
    rms_norm_eps: f64,
    #[serde(flatten)]
    rotary: rotary::Config,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    attention_dropout: f64,
    #[serde(default = "initializer_range")]
    initializer_range: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
}

fn silu() -> String {
    "silu".to_owned()
}
fn rms_norm_eps() -> f64 {
    1e-6
}

/// The decoder: layers of which the last has the final norm; in front of them is only the word table.
#[derive(Debug)]
pub(super) struct Llama {
    config: Config,
    heads: Heads,
    tokens: VirtualTokens,
    /// Angles of one position, f32 [d/2].
    frequencies: Tensor,
    pooling: Pooling,
    table: Table,
    blocks: Vec<Block>,
    extra: Vec<(String, Tensor)>,
    vocabulary: Vocabulary,
}

impl Llama {
    pub(super) fn load(source: &Source, options: &Options) -> Result<Self, Error> {
        let config: Config = source.config()?;
        let heads = check(source, &config, options)?;
        let frequencies = rotary::frequencies(source, &config.rotary, heads.width)?;
        let (h, depth) = (config.hidden_size, config.num_hidden_layers);
        let mut table = Table::new(
            "embed_tokens.weight",
            [config.vocab_size, h],
            is_table_trained(&options.tuning, depth),
            options.device,
        )?;
        let mut parts = Vec::with_capacity(depth);
        for index in 0..depth {
            let name = format!("layers.{index}");
            let mut params = layer(&name, &config, heads);
            if index + 1 == depth {
                params.push(ParamSpec::bias("norm.weight", &[h]));
            }
            parts.push((name, params));
        }
        let room = Room {
            width: h,
            layers: Some((0..depth, [heads.keys, heads.width])),
            positions: config.max_position_embeddings,
        };
        let tokens = virtual_tokens::add(source, options, &mut parts, &room)?;
        let std = config.initializer_range;
        let start = (PREFIX, std);
        let (blocks, mut extra) = hf::blocks(source, options, parts, start, Some(&mut table))?;
        let tied = config.tie_word_embeddings;
        Ok(Self {
            vocabulary: Vocabulary::new(source, options, (tied, std), &mut extra),
            frequencies: Tensor::f_from_slice(&frequencies)?.f_to_device(options.device)?,
            config,
            heads,
            tokens,
            pooling: options.pooling,
            table,
            blocks,
            extra,
        })
    }

    /// x / √(mean of x² + eps) · weight.
    fn norm(&self, x_th: &Tensor, weight: &Tensor) -> Result<Tensor, Error> {
        let squares = x_th.f_square()?;
        let mean = squares.f_mean_dim(&[-1i64][..], true, Kind::Float)?;
        let scale = mean.f_add_scalar(self.config.rms_norm_eps)?.f_rsqrt()?;
        Ok(x_th.f_mul(&scale)?.f_mul(weight)?)
    }

    /// Queries or keys [t, heads·d], turned by the angles of their places.
    fn turned(&self, x: &Tensor, places: &Tensor) -> Result<Tensor, Error> {
        let (rows, d) = (x.size()[0], self.heads.width);
        let places = places.f_to_kind(Kind::Float)?.f_unsqueeze(1)?;
        let angles = places.f_mul(&self.frequencies)?.f_unsqueeze(1)?;
        let (cos, sin) = (angles.f_cos()?, angles.f_sin()?);
        let x_tnd = x.f_view([rows, -1, d])?;
        let (one, other) = (
            x_tnd.f_narrow(-1, 0, d / 2)?,
            x_tnd.f_narrow(-1, d / 2, d / 2)?,
        );
        let first = one.f_mul(&cos)?.f_sub(&other.f_mul(&sin)?)?;
        let second = other.f_mul(&cos)?.f_add(&one.f_mul(&sin)?)?;
        Ok(Tensor::f_cat(&[first, second], -1)?.f_view([rows, -1])?)
    }

    /// Runs one layer over `x` [t, h]; `keys` are the rows' identities for dropout, `attend` takes
    /// queries, keys and values to [t, n·d].
    fn layer(
        &self,
        index: usize,
        x_th: &Tensor,
        places: &Tensor,
        (keys, ctx): (&[u64], &Context),
        attend: impl FnOnce([&Tensor; 3], u64) -> Result<Tensor, Error>,
    ) -> Result<Tensor, Error> {
        let block = &self.blocks[index];
        let site = 1 + index as u64 * SITES;
        let linear = |x: &Tensor, weight: usize| block.linear(x, (weight, None), keys, (ctx, site));
        let [before_attention, before_feed] = NORMS.map(|place| block.param(place));

        let normed_th = self.norm(x_th, before_attention)?;
        let q = self.turned(&linear(&normed_th, QUERY)?, places)?;
        let both = linear(&normed_th, KEY_VALUE)?;
        let width = self.heads.keys * self.heads.width;
        let k = self.turned(&both.f_narrow(-1, 0, width)?, places)?;
        let v = both.f_narrow(-1, width, width)?;
        let x_th = linear(&attend([&q, &k, &v], site)?, OUT)?.f_add(x_th)?;

        let both = linear(&self.norm(&x_th, before_feed)?, GATE_UP)?;
        let i = self.config.intermediate_size;
        let gate = both.f_narrow(-1, 0, i)?.f_silu()?;
        let inner_ti = gate.f_mul(&both.f_narrow(-1, i, i)?)?;
        let x_th = linear(&inner_ti, DOWN)?.f_add(&x_th)?;
        match index + 1 == self.blocks.len() {
            true => self.norm(&x_th, block.param(FINAL_NORM)),
            false => Ok(x_th),
        }
    }
}

impl Backbone for Llama {
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
    fn decoder(&self) -> Option<&dyn Decoder> {
        Some(self)
    }

    fn input(&self, batch: &Batch) -> Result<Tensor, Error> {
        batch.check_length(self.config.max_position_embeddings - self.tokens.count())?;
        self.table.gather(batch)
    }

    fn forward(
        &self,
        block: usize,
        x: &Tensor,
        batch: &Batch,
        ctx: &Context,
    ) -> Result<Tensor, Error> {
        let batch = batch.as_tokens()?;
        let layout = self.tokens.layout(batch);
        let places = self.tokens.positions(batch)?;
        let rest = (&layout.row_keys[..], ctx);
        let own = &self.blocks[block];
        let x_th = match block {
            0 => self.tokens.begin(own, x, batch)?,
            _ => x.shallow_clone(),
        };
        let x_th = self.layer(block, &x_th, &places, rest, |qkv, site| {
            self.heads.attend(qkv, own.prefix(), layout, (ctx, site))
        })?;
        match block + 1 < self.blocks.len() {
            true => Ok(x_th),
            false => self.tokens.end(x_th, batch),
        }
    }

    fn pool(&self, x: &Tensor, batch: &Batch) -> Result<Tensor, Error> {
        let batch = batch.as_tokens()?;
        let packed_bh = pool(self.pooling, x, &batch.layout)?;
        Ok(packed_bh.f_index_select(0, &batch.inverse)?)
    }
}

impl Decoder for Llama {
    fn positions(&self) -> usize {
        let positions = self.config.max_position_embeddings - self.tokens.count();
        positions.unsigned_abs() as usize
    }

    fn vocabulary(&self) -> Result<Tensor, Error> {
        self.vocabulary.matrix(&self.table, &self.extra)
    }

    fn cache(&self, tokens: usize) -> Result<Cache, Error> {
        let wanted = tokens as i64 + self.tokens.count();
        let limit = self.config.max_position_embeddings.min(wanted);
        let device = self.frequencies.device();
        let mut cache = Cache::new(self.heads, self.blocks.len(), limit, device)?;
        self.tokens.fill(&self.blocks, &mut cache)?;
        Ok(cache)
    }

    fn extend(&self, ids: &[u32], cache: &mut Cache) -> Result<Tensor, Error> {
        let rows = self.tokens.rows(ids.len(), cache);
        cache.check(rows)?;
        let mut x_lh = self.table.rows_of(ids)?;
        if rows > ids.len() {
            x_lh = virtual_tokens::before(&self.blocks[0], x_lh)?;
        }
        let places = positions(cache.length(), rows, x_lh.device())?;
        for index in 0..self.blocks.len() {
            let seen = &*cache;
            let rest = (&[][..], &Context::eval());
            x_lh = self.layer(index, &x_lh, &places, rest, |qkv, _| {
                seen.attend(index, qkv)
            })?;
        }
        cache.advance(rows);
        virtual_tokens::last(&x_lh, ids.len())
    }
}

/// Parameters of a layer, in the order of the places above.
fn layer(name: &str, config: &Config, heads: Heads) -> Vec<ParamSpec> {
    let (h, i) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (heads.queries * heads.width, heads.keys * heads.width);
    let full = |part: &str| format!("{name}.{part}.weight");
    let both = |parts: [&str; 2]| parts.map(full).to_vec();
    vec![
        ParamSpec::linear(full("self_attn.q_proj"), &[q, h]),
        ParamSpec::linear(full("self_attn.kv_proj"), &[2 * kv, h])
            .made_of(both(["self_attn.k_proj", "self_attn.v_proj"])),
        ParamSpec::linear(full("self_attn.o_proj"), &[h, q]).giving(Part::Attention, h),
        ParamSpec::linear(full("mlp.gate_up_proj"), &[2 * i, h])
            .made_of(both(["mlp.gate_proj", "mlp.up_proj"])),
        ParamSpec::linear(full("mlp.down_proj"), &[h, i]).giving(Part::Feed, h),
        ParamSpec::bias(full("input_layernorm"), &[h]),
        ParamSpec::bias(full("post_attention_layernorm"), &[h]),
    ]
}

/// Checks a configuration and takes from it what attention needs.
fn check(source: &Source, config: &Config, options: &Options) -> Result<Heads, Error> {
    let wrong = |message: String| Err(source.wrong("config.json", message));
    let (h, n) = (config.hidden_size, config.num_attention_heads);
    let m = config.num_key_value_heads.unwrap_or(n);
    let sizes = [h, n, m, config.vocab_size, config.intermediate_size];
    if sizes.iter().any(|size| *size <= 0)
        || config.max_position_embeddings <= 0
        || config.num_hidden_layers == 0
    {
        return wrong("sizes and numbers of layers, heads and positions must be above 0".into());
    }
    if n % m != 0 {
        return wrong(format!(
            "num_attention_heads {n} is no multiple of num_key_value_heads {m}"
        ));
    }
    if config.head_dim.is_none() && h % n != 0 {
        return wrong(format!(
            "hidden_size {h} is no multiple of num_attention_heads {n}"
        ));
    }
    let width = config.head_dim.unwrap_or(h / n);
    if width <= 0 || width % 2 != 0 {
        return wrong(format!("heads are {width} wide, expected an even number"));
    }
    if config.hidden_act != "silu" {
        let found = &config.hidden_act;
        return wrong(format!(
            "hidden_act {found:?} is not supported, only \"silu\""
        ));
    }
    if config.attention_bias || config.mlp_bias {
        return wrong("attention_bias true and mlp_bias true are not supported".into());
    }
    if options.pooling == Pooling::Pooler {
        return wrong("llama has no pooler: set backbone.pooling to last, mean, cls or max".into());
    }
    let dropout = options.dropout.unwrap_or(config.attention_dropout);
    if !(0.0..1.0).contains(&dropout) {
        return wrong(format!(
            "attention_dropout is {dropout}, expected at least 0 and below 1"
        ));
    }
    Ok(Heads {
        queries: n,
        keys: m,
        width,
        causal: true,
        dropout,
    })
}
