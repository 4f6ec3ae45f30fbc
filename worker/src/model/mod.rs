//! Backbones: pretrained models cut into blocks.
//!
//! A backbone is `input → block 0 → block 1 → … → pool`. Each block keeps its parameters in one flat
//! buffer and its gradients in a second one; the autograd graph is cut between blocks, so backward
//! runs block by block and whatever follows a block's gradient (its exchange) can start early.
//! Nothing here knows ranks.
//!
//! Shapes in names: t tokens of the packed batch, b samples, h hidden width, n heads, l length,
//! d width of a head.

mod ast;
mod attention;
mod batch;
mod bert;
mod block;
mod bottleneck;
mod context;
mod convnet;
mod decoder;
mod error;
mod extend;
mod frames;
mod gpt2;
mod hf;
pub mod init;
mod layer;
mod layout;
mod llama;
mod lora;
mod map;
mod mask;
mod pass;
mod pool;
mod resnet;
mod rotary;
mod script;
mod table;
mod tuning;
mod virtual_tokens;
mod vit;
mod weights;

pub use attention::Cache;
pub use batch::{Batch, ImageBatch, Start, TokenBatch, images};
pub use block::{Block, Param, ParamSpec, Part};
pub use bottleneck::{ADAPTERS_FILE, ADAPTERS_META, adapters_of};
pub use context::{Context, mix};
pub use decoder::{Decoder, LM_HEAD};
pub use error::Error;
pub use frames::Frames;
pub use hf::{Modality, Source};
pub use layout::{Group, Layout};
pub use map::FeatureMap;
pub use pass::{Leaves, Moment, Pass, lowest};
pub use script::{TORCHSCRIPT, forbid as forbid_scripts, write as write_script};
pub use table::Table;
pub use virtual_tokens::{
    EMBEDDINGS, PEFT_FILE, PEFT_META, PREFIX_DIR, PROMPT_DIR, Prefix, VirtualTokens, prefix, prompt,
};

use espalier_spec::job::{Init, Pooling, Tuning};
use tch::{Device, Tensor};

/// How a backbone is to be built.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the weights start.
    pub init: Init,
    /// Seed of random weights.
    pub seed: u64,
    /// Which blocks are trained.
    pub tuning: Tuning,
    /// How token vectors become one vector.
    pub pooling: Pooling,
    /// Dropout rate in place of the configuration's.
    pub dropout: Option<f64>,
    /// Where it computes.
    pub device: Device,
}

/// Names and values of some of a block's tensors.
pub type OfBlock = fn(&Block) -> Result<Vec<(String, Tensor)>, Error>;

/// A shared model in blocks.
pub trait Backbone: std::fmt::Debug + Send {
    /// The blocks, first to last.
    fn blocks(&self) -> &[Block];
    /// The blocks, first to last.
    fn blocks_mut(&mut self) -> &mut [Block];
    /// The row-sparse table in front of block 0, if there is one.
    fn table(&self) -> Option<&Table>;
    /// The row-sparse table in front of block 0, if there is one.
    fn table_mut(&mut self) -> Option<&mut Table>;
    /// Width h of the features.
    fn width(&self) -> usize;
    /// The input of block 0 for a batch.
    ///
    /// # Errors
    /// [`Error::Input`] if the batch is none for this backbone.
    fn input(&self, batch: &Batch) -> Result<Tensor, Error>;
    /// Runs one block.
    ///
    /// # Errors
    /// If libtorch refuses.
    fn forward(
        &self,
        block: usize,
        x: &Tensor,
        batch: &Batch,
        ctx: &Context,
    ) -> Result<Tensor, Error>;
    /// Features of the last block's output, f32 [b, h], in the order the samples were given in.
    ///
    /// # Errors
    /// If libtorch refuses.
    fn pool(&self, x: &Tensor, batch: &Batch) -> Result<Tensor, Error>;
    /// Tensors of the model's file that are no parameters here; exported as they came.
    fn extra(&self) -> &[(String, Tensor)];

    /// How frames are read out of the last block's output, if it keeps an order of time or from left to
    /// right.
    fn frames(&self) -> Option<Frames> {
        None
    }

    /// Whether the last block's output has a vector for every token: what heads of words read.
    fn gives_rows(&self) -> bool {
        true
    }

    /// How the last block's output holds a map of features; none where it holds none.
    fn feature_map(&self) -> Option<FeatureMap> {
        None
    }

    /// Lets batch norms normalise every batch by its own statistics, while the kept ones follow them: kept =
    /// (1 - momentum)·kept + momentum·the batch's; none: by the kept ones, as usual. False if there are no
    /// batch norms.
    fn follow_batches(&self, _momentum: Option<f64>) -> bool {
        false
    }

    /// What it has beside others, if it predicts the next token.
    fn decoder(&self) -> Option<&dyn Decoder> {
        None
    }

    /// All tensors as they are, with their names: what [`Block::load`] takes back.
    ///
    /// # Errors
    /// If the model is not whole or libtorch refuses.
    fn tensors(&self) -> Result<Vec<(String, Tensor)>, Error> {
        self.collect(Block::tensors)
    }

    /// All tensors of the model with their Hugging Face names, low-rank updates merged in.
    ///
    /// # Errors
    /// If the model is not whole or libtorch refuses.
    fn export(&self) -> Result<Vec<(String, Tensor)>, Error> {
        self.collect(Block::export)
    }

    /// What each block has, between the table and what came along.
    ///
    /// # Errors
    /// If the model is not whole or libtorch refuses.
    fn collect(&self, of_block: OfBlock) -> Result<Vec<(String, Tensor)>, Error> {
        let mut all = Vec::new();
        if let Some(table) = self.table() {
            all.push((table.name().to_owned(), table.weight()?.shallow_clone()));
        }
        for block in self.blocks() {
            all.extend(of_block(block)?);
        }
        all.extend(
            self.extra()
                .iter()
                .map(|(name, t)| (name.clone(), t.shallow_clone())),
        );
        Ok(all)
    }
}

/// Builds the backbone of a directory.
///
/// # Errors
/// [`Error::Architecture`] for one that nobody here knows; else what is wrong with its files.
pub fn build(source: &Source, options: &Options) -> Result<Box<dyn Backbone>, Error> {
    match source.model_type() {
        bert::BERT | bert::ROBERTA | bert::DISTILBERT | bert::MPNET => {
            Ok(Box::new(bert::Bert::load(source, options)?))
        }
        resnet::MODEL_TYPE => Ok(Box::new(resnet::ResNet::load(source, options)?)),
        gpt2::MODEL_TYPE => Ok(Box::new(gpt2::Gpt2::load(source, options)?)),
        llama::MODEL_TYPE => Ok(Box::new(llama::Llama::load(source, options)?)),
        vit::MODEL_TYPE => Ok(Box::new(vit::Vit::load(source, options)?)),
        ast::MODEL_TYPE => Ok(Box::new(ast::Ast::load(source, options)?)),
        convnet::MODEL_TYPE => Ok(Box::new(convnet::ConvNet::load(source, options)?)),
        TORCHSCRIPT => Ok(Box::new(script::Script::load(source, options)?)),
        found => Err(Error::Architecture {
            dir: source.dir().to_owned(),
            found: found.to_owned(),
            supported: "bert, roberta, distilbert, mpnet, gpt2, llama, vit, audio-spectrogram-transformer, \
                        resnet, espalier-convnet, espalier-torchscript",
        }),
    }
}

#[cfg(test)]
mod tests;
