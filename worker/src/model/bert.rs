//! The BERT family of encoders as Hugging Face transformers has them: BERT (Devlin et al. 2019),
//! RoBERTa (Liu et al. 2019), DistilBERT (Sanh et al. 2019), MPNet (Song et al. 2020).
//!
//! Shapes: t tokens of the packed batch, b samples, h hidden width, l length.

mod config;
mod relative;

use super::batch::TokenBatch;
use super::hf::{self, Source};
use super::pool::pool;
use super::tuning::is_table_trained;
use super::virtual_tokens::{self, Room, VirtualTokens};
use super::{Backbone, Batch, Block, Context, Error, Options, ParamSpec, Table};
use config::Shape;
pub(super) use config::{BERT, DISTILBERT, MPNET, ROBERTA};
use espalier_spec::job::Pooling;
use tch::Tensor;

/// The encoder: embeddings, layers and, if asked for, the model's own pooler as the last block.
#[derive(Debug)]
pub(super) struct Bert {
    shape: Shape,
    tokens: VirtualTokens,
    pooling: Pooling,
    table: Table,
    blocks: Vec<Block>,
    extra: Vec<(String, Tensor)>,
}

impl Bert {
    pub(super) fn load(source: &Source, options: &Options) -> Result<Self, Error> {
        let shape = Shape::read(source, options.dropout)?;
        let h = shape.layers.hidden;
        let wants_pooler = options.pooling == Pooling::Pooler;
        if wants_pooler && !shape.has_pooler {
            let message = format!(
                "{} has no pooler: set backbone.pooling to mean, cls or max",
                source.model_type()
            );
            return Err(source.wrong("config.json", message));
        }
        let count = 1 + shape.depth + usize::from(wants_pooler);
        let mut table = Table::new(
            "embeddings.word_embeddings.weight",
            [shape.vocabulary, h],
            is_table_trained(&options.tuning, count),
            options.device,
        )?;
        let mut parts = vec![("embeddings".to_owned(), embeddings(&shape))];
        for layer in 0..shape.depth {
            let name = format!("{}.{layer}", shape.stack);
            let params = shape.layers.params(&name, shape.names);
            parts.push((name, params));
        }
        if wants_pooler {
            let params = vec![
                ParamSpec::weight("pooler.dense.weight", &[h, h]),
                ParamSpec::bias("pooler.dense.bias", &[h]),
            ];
            parts.push(("pooler".to_owned(), params));
        }
        let heads = [shape.layers.heads, h / shape.layers.heads];
        let room = Room {
            width: h,
            layers: (!shape.relative).then_some((1..1 + shape.depth, heads)),
            positions: shape.positions - shape.first_position,
        };
        let tokens = virtual_tokens::add(source, options, &mut parts, &room)?;
        let start = (shape.prefix, shape.initializer_range);
        let (blocks, extra) = hf::blocks(source, options, parts, start, Some(&mut table))?;
        Ok(Self {
            shape,
            tokens,
            pooling: options.pooling,
            table,
            blocks,
            extra,
        })
    }

    fn embed(&self, words_th: &Tensor, batch: &TokenBatch, ctx: &Context) -> Result<Tensor, Error> {
        let layers = &self.shape.layers;
        let p = |place: usize| self.blocks[0].param(place);
        let positions = self.tokens.positions(batch)?;
        let positions = match self.shape.first_position {
            0 => positions,
            first => positions.f_add_scalar(first)?,
        };
        let positions_th = Tensor::f_embedding(p(0), &positions, -1, false, false)?;
        let words_th = self.tokens.begin(&self.blocks[0], words_th, batch)?;
        let mut x_th = words_th.f_add(&positions_th)?;
        let mut next = 1;
        if let Some(types) = self.shape.types {
            let types_th = match self.tokens.segments(batch)? {
                Some(segments) if types > 1 => {
                    Tensor::f_embedding(p(1), &segments, -1, false, false)?
                }
                // One text, or a model that tells none apart: type 0 everywhere.
                _ => p(1).f_narrow(0, 0, 1)?,
            };
            x_th = x_th.f_add(&types_th)?;
            next = 2;
        }
        let bias = self.shape.relative.then_some(next);
        next += usize::from(self.shape.relative);
        let x_th = layers.norm(&x_th, p(next), p(next + 1))?;
        let keys = &self.tokens.layout(batch).row_keys;
        let x_th = ctx.dropout(x_th, keys, 0, layers.dropout)?;
        match bias {
            Some(place) => relative::append(&x_th, p(place)),
            None => Ok(x_th),
        }
    }

    /// A layer with relative positions, whose numbers go along behind the rows but for the last.
    fn forward_relative(
        &self,
        index: usize,
        x: &Tensor,
        batch: &TokenBatch,
        ctx: &Context,
    ) -> Result<Tensor, Error> {
        let layers = &self.shape.layers;
        let (x_th, bias_rh) = relative::split(x)?;
        let layout = self.tokens.layout(batch);
        let keys = &layout.row_keys[..];
        let how = (layers.heads, layers.attention_dropout);
        let layer = (index - 1, &self.blocks[index]);
        let y_th = layers.run(layer, &x_th, (keys, ctx), |qkv, site| {
            relative::attend(qkv, &bias_rh, layout, how, (ctx, site))
        })?;
        match index < self.shape.depth {
            true => Ok(Tensor::f_cat(&[&y_th, &bias_rh], 0)?),
            false => self.tokens.end(y_th, batch),
        }
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
        self.shape.layers.hidden as usize
    }
    fn extra(&self) -> &[(String, Tensor)] {
        &self.extra
    }

    fn input(&self, batch: &Batch) -> Result<Tensor, Error> {
        let taken = self.shape.first_position + self.tokens.count();
        batch.check_length(self.shape.positions - taken)?;
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
        match block {
            0 => self.embed(x, batch, ctx),
            index if index <= self.shape.depth && self.shape.relative => {
                self.forward_relative(index, x, batch, ctx)
            }
            index if index <= self.shape.depth => {
                let layer = (index - 1, &self.blocks[index]);
                let layout = self.tokens.layout(batch);
                let x_th = self.shape.layers.forward(layer, x, layout, ctx)?;
                match index < self.shape.depth {
                    true => Ok(x_th),
                    false => self.tokens.end(x_th, batch),
                }
            }
            index => {
                let pooler = &self.blocks[index];
                let first_bh = pool(self.pooling, x, &batch.layout)?;
                Ok(first_bh
                    .f_linear(pooler.param(0), Some(pooler.param(1)))?
                    .f_tanh()?)
            }
        }
    }

    fn pool(&self, x: &Tensor, batch: &Batch) -> Result<Tensor, Error> {
        let batch = batch.as_tokens()?;
        let packed_bh = match self.pooling {
            Pooling::Pooler => x.shallow_clone(),
            _ => pool(self.pooling, x, &batch.layout)?,
        };
        Ok(packed_bh.f_index_select(0, &batch.inverse)?)
    }
}

/// Parameters of the embeddings without the word table, in the order of use: positions, types if
/// there are any, numbers of relative positions if there are any, norm.
fn embeddings(shape: &Shape) -> Vec<ParamSpec> {
    let h = shape.layers.hidden;
    let positions = ("position_embeddings", Some(shape.positions));
    let tables = [positions, ("token_type_embeddings", shape.types)];
    let tables = tables.into_iter().filter_map(|(name, rows)| {
        Some(ParamSpec::weight(
            format!("embeddings.{name}.weight"),
            &[rows?, h],
        ))
    });
    let norm =
        ["weight", "bias"].map(|end| ParamSpec::bias(format!("embeddings.LayerNorm.{end}"), &[h]));
    let relative = shape.relative.then(|| {
        let size = [relative::BUCKETS, shape.layers.heads];
        ParamSpec::weight("encoder.relative_attention_bias.weight", &size)
    });
    tables.chain(relative).chain(norm).collect()
}
