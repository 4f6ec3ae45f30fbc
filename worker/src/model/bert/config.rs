//! The members of the BERT family, by their `config.json`.

use super::relative::BUCKETS;
use crate::model::Error;
use crate::model::hf::Source;
use crate::model::hf::defaults::{gelu, initializer_range, layer_norm_eps};
use crate::model::layer::{Activation, Layers, Names};
use serde::Deserialize;

pub(in crate::model) const BERT: &str = "bert";
pub(in crate::model) const ROBERTA: &str = "roberta";
pub(in crate::model) const DISTILBERT: &str = "distilbert";
pub(in crate::model) const MPNET: &str = "mpnet";

const BERT_NAMES: Names = Names {
    qkv: &[
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ],
    out: "attention.output.dense",
    norms: ["attention.output.LayerNorm", "output.LayerNorm"],
    feed: ["intermediate.dense", "output.dense"],
};
const DISTILBERT_NAMES: Names = Names {
    qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    out: "attention.out_lin",
    norms: ["sa_layer_norm", "output_layer_norm"],
    feed: ["ffn.lin1", "ffn.lin2"],
};
const MPNET_NAMES: Names = Names {
    qkv: &["attention.attn.q", "attention.attn.k", "attention.attn.v"],
    out: "attention.attn.o",
    norms: ["attention.LayerNorm", "output.LayerNorm"],
    feed: ["intermediate.dense", "output.dense"],
};

/// What tells one member of the family from another.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) vocabulary: i64,
    /// Rows of the table of positions.
    pub(super) positions: i64,
    /// The position of a sample's first token.
    pub(super) first_position: i64,
    /// Rows of the table of token types, if there is one.
    pub(super) types: Option<i64>,
    /// Attention knows positions relative to each other.
    pub(super) relative: bool,
    pub(super) depth: usize,
    pub(super) layers: Layers,
    pub(super) names: &'static Names,
    /// Hugging Face name of the list of layers.
    pub(super) stack: &'static str,
    /// What names of weights begin with in files of a model with heads.
    pub(super) prefix: &'static str,
    pub(super) has_pooler: bool,
    pub(super) initializer_range: f64,
}

/// BERT, RoBERTa and MPNet.
#[derive(Debug, Deserialize)]
struct BertConfig {
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
    #[serde(default)]
    type_vocab_size: Option<i64>,
    #[serde(default)]
    relative_attention_num_buckets: Option<i64>,
    #[serde(default = "initializer_range")]
    initializer_range: f64,
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}

/// DistilBERT.
#[derive(Debug, Deserialize)]
struct DistilBertConfig {
    vocab_size: i64,
    dim: i64,
    n_layers: usize,
    n_heads: i64,
    hidden_dim: i64,
    #[serde(default = "gelu")]
    activation: String,
    #[serde(default = "tenth")]
    dropout: f64,
    #[serde(default = "tenth")]
    attention_dropout: f64,
    max_position_embeddings: i64,
    #[serde(default = "initializer_range")]
    initializer_range: f64,
}

fn absolute() -> String {
    "absolute".to_owned()
}
fn tenth() -> f64 {
    0.1
}

impl Shape {
    /// Reads and checks a directory's configuration; `dropout` takes the place of its rates.
    ///
    /// # Errors
    /// [`Error::Content`] naming the field.
    pub(super) fn read(source: &Source, dropout: Option<f64>) -> Result<Self, Error> {
        let mut shape = match source.model_type() {
            DISTILBERT => Self::distilbert(source)?,
            family => Self::bert(source, family)?,
        };
        if let Some(rate) = dropout {
            (shape.layers.dropout, shape.layers.attention_dropout) = (rate, rate);
        }
        let wrong = |message: &str| Err(source.wrong("config.json", message.to_owned()));
        if shape.vocabulary <= 0 || shape.positions <= shape.first_position {
            return wrong("vocab_size and max_position_embeddings must be above 0");
        }
        if shape.types.is_some_and(|types| types <= 0) {
            return wrong("type_vocab_size must be above 0");
        }
        if shape.depth == 0 {
            return wrong("the number of hidden layers must be above 0");
        }
        Ok(shape)
    }

    fn bert(source: &Source, family: &str) -> Result<Self, Error> {
        let config: BertConfig = source.config()?;
        if config.position_embedding_type != "absolute" {
            let found = &config.position_embedding_type;
            let message =
                format!("position_embedding_type {found:?} is not supported, only \"absolute\"");
            return Err(source.wrong("config.json", message));
        }
        let buckets = config.relative_attention_num_buckets.unwrap_or(BUCKETS);
        if family == MPNET && buckets != BUCKETS {
            let message = format!(
                "relative_attention_num_buckets {buckets} is not supported, only {BUCKETS}"
            );
            return Err(source.wrong("config.json", message));
        }
        let layers = Layers {
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            inner: config.intermediate_size,
            activation: Activation::named(source, "hidden_act", &config.hidden_act)?,
            norm_first: false,
            causal: false,
            transposed: false,
            eps: config.layer_norm_eps,
            dropout: config.hidden_dropout_prob,
            drops_attended: true,
            attention_dropout: config.attention_probs_dropout_prob,
        };
        let fields = ["hidden_size", "num_attention_heads", "intermediate_size"];
        layers.check(source, fields)?;
        Ok(Self {
            vocabulary: config.vocab_size,
            positions: config.max_position_embeddings,
            first_position: source.first_position(),
            types: (family != MPNET).then(|| config.type_vocab_size.unwrap_or(0)),
            relative: family == MPNET,
            depth: config.num_hidden_layers,
            layers,
            names: if family == MPNET {
                &MPNET_NAMES
            } else {
                &BERT_NAMES
            },
            stack: "encoder.layer",
            prefix: match family {
                ROBERTA => "roberta.",
                MPNET => "mpnet.",
                _ => "bert.",
            },
            has_pooler: true,
            initializer_range: config.initializer_range,
        })
    }

    fn distilbert(source: &Source) -> Result<Self, Error> {
        let config: DistilBertConfig = source.config()?;
        let layers = Layers {
            hidden: config.dim,
            heads: config.n_heads,
            inner: config.hidden_dim,
            activation: Activation::named(source, "activation", &config.activation)?,
            norm_first: false,
            causal: false,
            transposed: false,
            eps: layer_norm_eps(),
            dropout: config.dropout,
            // Its layers drop attention's probabilities and what the feed-forward part gives, no more.
            drops_attended: false,
            attention_dropout: config.attention_dropout,
        };
        layers.check(source, ["dim", "n_heads", "hidden_dim"])?;
        Ok(Self {
            vocabulary: config.vocab_size,
            positions: config.max_position_embeddings,
            first_position: 0,
            types: None,
            relative: false,
            depth: config.n_layers,
            layers,
            names: &DISTILBERT_NAMES,
            stack: "transformer.layer",
            prefix: "distilbert.",
            has_pooler: false,
            initializer_range: config.initializer_range,
        })
    }
}
