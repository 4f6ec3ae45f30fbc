//! GPT-2 (Radford et al. 2019) as Hugging Face transformers has it, `GPT2Model`.
//!
//! Shapes: t tokens of the packed batch, l of one text, b samples, h hidden width, V words.

use super::attention::Cache;
use super::decoder::{Decoder, Vocabulary, positions};
use super::hf::defaults::{initializer_range, yes};
use super::hf::{self, Source};
use super::layer::{Activation, Layers, Names};
use super::pool::pool;
use super::tuning::is_table_trained;
use super::virtual_tokens::{self, Room, VirtualTokens};
use super::{Backbone, Batch, Block, Context, Error, Options, ParamSpec, Table};
use espalier_spec::job::{Init, Pooling};
use serde::Deserialize;
use tch::Tensor;

pub(super) const MODEL_TYPE: &str = "gpt2";

/// What names of weights begin with in files of a model with a head.
const PREFIX: &str = "transformer.";
const NAMES: Names = Names {
    qkv: &["attn.c_attn"],
    out: "attn.c_proj",
    norms: ["ln_1", "ln_2"],
    feed: ["mlp.c_fc", "mlp.c_proj"],
};
/// Places of the final norm in the last layer's block, behind what every layer has.
const FINAL_NORM: [usize; 2] = [12, 13];

/// The fields of `config.json` that matter here.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    vocab_size: i64,
    n_positions: i64,
    n_embd: i64,
    n_layer: usize,
    n_head: i64,
    n_inner: Option<i64>,
    #[serde(default = "gelu_new")]
    activation_function: String,
    #[serde(default = "tenth")]
    resid_pdrop: f64,
    #[serde(default = "tenth")]
    embd_pdrop: f64,
    #[serde(default = "tenth")]
    attn_pdrop: f64,
    #[serde(default = "layer_norm_epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default = "initializer_range")]
    initializer_range: f64,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
}

fn gelu_new() -> String {
    "gelu_new".to_owned()
}
fn tenth() -> f64 {
    0.1
}
fn layer_norm_epsilon() -> f64 {
    1e-5
}

/// The decoder: embeddings, and layers of which the last has the final norm.
#[derive(Debug)]
pub(super) struct Gpt2 {
    layers: Layers,
    depth: usize,
    positions: i64,
    tokens: VirtualTokens,
    embedding_dropout: f64,
    pooling: Pooling,
    table: Table,
    blocks: Vec<Block>,
    extra: Vec<(String, Tensor)>,
    vocabulary: Vocabulary,
}

impl Gpt2 {
    pub(super) fn load(source: &Source, options: &Options) -> Result<Self, Error> {
        let config: Config = source.config()?;
        let layers = check(source, &config, options)?;
        let (h, depth) = (layers.hidden, config.n_layer);
        let mut table = Table::new(
            "wte.weight",
            [config.vocab_size, h],
            is_table_trained(&options.tuning, 1 + depth),
            options.device,
        )?;
        let places = ParamSpec::weight("wpe.weight", &[config.n_positions, h]);
        let mut parts = vec![("wpe".to_owned(), vec![places])];
        for index in 0..depth {
            let name = format!("h.{index}");
            let mut params = layers.params(&name, &NAMES);
            if index + 1 == depth {
                params.push(ParamSpec::bias("ln_f.weight", &[h]));
                params.push(ParamSpec::bias("ln_f.bias", &[h]));
            }
            parts.push((name, params));
        }
        let room = Room {
            width: h,
            layers: Some((1..1 + depth, [layers.heads, h / layers.heads])),
            positions: config.n_positions,
        };
        let tokens = virtual_tokens::add(source, options, &mut parts, &room)?;
        let std = config.initializer_range;
        let start = (PREFIX, std);
        let (mut blocks, mut extra) = hf::blocks(source, options, parts, start, Some(&mut table))?;
        if options.init == Init::Random {
            dampen(&mut blocks, depth)?;
        }
        let tied = config.tie_word_embeddings;
        Ok(Self {
            vocabulary: Vocabulary::new(source, options, (tied, std), &mut extra),
            layers,
            depth,
            positions: config.n_positions,
            tokens,
            embedding_dropout: options.dropout.unwrap_or(config.embd_pdrop),
            pooling: options.pooling,
            table,
            blocks,
            extra,
        })
    }

    /// The final norm, behind the last layer.
    fn finish(&self, layer: usize, x: Tensor) -> Result<Tensor, Error> {
        if layer + 1 < self.depth {
            return Ok(x);
        }
        let [weight, bias] = FINAL_NORM.map(|place| self.blocks[self.depth].param(place));
        self.layers.norm(&x, weight, bias)
    }

    /// Sum of words' and places' embeddings, [t, h].
    fn embed(&self, words_th: &Tensor, places: &Tensor) -> Result<Tensor, Error> {
        let table = self.blocks[0].param(0);
        let places_th = Tensor::f_embedding(table, places, -1, false, false)?;
        Ok(words_th.f_add(&places_th)?)
    }
}

impl Backbone for Gpt2 {
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
        self.layers.hidden as usize
    }
    fn extra(&self) -> &[(String, Tensor)] {
        &self.extra
    }
    fn decoder(&self) -> Option<&dyn Decoder> {
        Some(self)
    }

    fn input(&self, batch: &Batch) -> Result<Tensor, Error> {
        batch.check_length(self.positions - self.tokens.count())?;
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
        let Some(layer) = block.checked_sub(1) else {
            let words_th = self.tokens.begin(&self.blocks[0], x, batch)?;
            let x_th = self.embed(&words_th, &self.tokens.positions(batch)?)?;
            let (keys, rate) = (&layout.row_keys, self.embedding_dropout);
            return ctx.dropout(x_th, keys, 0, rate);
        };
        let own = (layer, &self.blocks[block]);
        let x_th = self.layers.forward(own, x, layout, ctx)?;
        let x_th = match layer + 1 < self.depth {
            true => x_th,
            false => self.tokens.end(x_th, batch)?,
        };
        self.finish(layer, x_th)
    }

    fn pool(&self, x: &Tensor, batch: &Batch) -> Result<Tensor, Error> {
        let batch = batch.as_tokens()?;
        let packed_bh = pool(self.pooling, x, &batch.layout)?;
        Ok(packed_bh.f_index_select(0, &batch.inverse)?)
    }
}

impl Decoder for Gpt2 {
    fn positions(&self) -> usize {
        (self.positions - self.tokens.count()).unsigned_abs() as usize
    }

    fn vocabulary(&self) -> Result<Tensor, Error> {
        self.vocabulary.matrix(&self.table, &self.extra)
    }

    fn cache(&self, tokens: usize) -> Result<Cache, Error> {
        let limit = self.positions.min(tokens as i64 + self.tokens.count());
        let device = self.table.device();
        let mut cache = Cache::new(self.layers.heads(), self.depth, limit, device)?;
        self.tokens.fill(&self.blocks, &mut cache)?;
        Ok(cache)
    }

    fn extend(&self, ids: &[u32], cache: &mut Cache) -> Result<Tensor, Error> {
        let rows = self.tokens.rows(ids.len(), cache);
        cache.check(rows)?;
        let words_lh = self.table.rows_of(ids)?;
        let words_lh = match rows > ids.len() {
            true => virtual_tokens::before(&self.blocks[0], words_lh)?,
            false => words_lh,
        };
        let places = positions(cache.length(), rows, words_lh.device())?;
        let mut x_lh = self.embed(&words_lh, &places)?;
        for layer in 0..self.depth {
            let own = (layer, &self.blocks[1 + layer]);
            let seen = &*cache;
            let rest = (&[][..], &Context::eval());
            x_lh = self
                .layers
                .run(own, &x_lh, rest, |qkv, _| seen.attend(layer, qkv))?;
            x_lh = self.finish(layer, x_lh)?;
        }
        cache.advance(rows);
        virtual_tokens::last(&x_lh, ids.len())
    }
}

/// Checks a configuration and takes from it what the layers need.
fn check(source: &Source, config: &Config, options: &Options) -> Result<Layers, Error> {
    let wrong = |message: &str| Err(source.wrong("config.json", message.to_owned()));
    if config.vocab_size <= 0 || config.n_positions <= 0 || config.n_layer == 0 {
        return wrong("vocab_size, n_positions and n_layer must be above 0");
    }
    if !config.scale_attn_weights || config.scale_attn_by_inverse_layer_idx {
        return wrong(
            "scale_attn_weights false and scale_attn_by_inverse_layer_idx true are not supported",
        );
    }
    if options.pooling == Pooling::Pooler {
        return wrong("gpt2 has no pooler: set backbone.pooling to last, mean, cls or max");
    }
    let activation = &config.activation_function;
    let layers = Layers {
        hidden: config.n_embd,
        heads: config.n_head,
        inner: config.n_inner.unwrap_or(4 * config.n_embd),
        activation: Activation::named(source, "activation_function", activation)?,
        norm_first: true,
        causal: true,
        transposed: true,
        eps: config.layer_norm_epsilon,
        dropout: options.dropout.unwrap_or(config.resid_pdrop),
        drops_attended: true,
        attention_dropout: options.dropout.unwrap_or(config.attn_pdrop),
    };
    layers.check(source, ["n_embd", "n_head", "n_inner"])?;
    Ok(layers)
}

/// GPT-2's random start: matrices that end in a residual are divided by √(2·layers), as many as there
/// are residuals.
fn dampen(blocks: &mut [Block], depth: usize) -> Result<(), Error> {
    let factor = 1.0 / (2.0 * depth as f64).sqrt();
    for block in blocks {
        for (name, values) in block.tensors()? {
            if name.ends_with("c_proj.weight") {
                block.load(&name, &values.f_mul_scalar(factor)?)?;
            }
        }
    }
    Ok(())
}
