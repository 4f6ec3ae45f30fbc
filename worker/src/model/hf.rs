//! Hugging Face directories: `config.json` and `model.safetensors`.

use super::init::{key, normal};
use super::tuning::{is_trained, tune};
use super::virtual_tokens::{self, VirtualTokens, virtual_tokens_of};
use super::weights::Weights;
use super::{Block, Error, Frames, LM_HEAD, Options, ParamSpec, Table, bottleneck, extend};
use espalier_spec::job::{Init, Tuning};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tch::Tensor;

const CONFIG: &str = "config.json";
/// Its field that says how many tokens there are.
const VOCABULARY: &str = "vocab_size";

/// What a backbone reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    /// Token ids of a text.
    Text,
    /// Numbers of an image, [channels, height, width].
    Image([i64; 3]),
}

/// A model directory whose configuration has been read.
#[derive(Clone, Debug)]
pub struct Source {
    dir: PathBuf,
    config: Value,
    model_type: String,
    /// Virtual tokens, which take positions.
    tokens: VirtualTokens,
    /// Tokens that its files have rows for, where its configuration was given more.
    stored: Option<i64>,
}

impl Source {
    /// Reads a directory's configuration.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Content`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        let text = std::fs::read(dir.join(CONFIG)).map_err(|source| Error::File {
            dir: dir.clone(),
            file: CONFIG.to_owned(),
            source,
        })?;
        let content = |message: String| Error::Content {
            dir: dir.clone(),
            file: CONFIG.to_owned(),
            message,
        };
        let config: Value = serde_json::from_slice(&text).map_err(|e| content(e.to_string()))?;
        let model_type = config.get("model_type").and_then(Value::as_str);
        let model_type = model_type
            .ok_or_else(|| content("field model_type is missing: is this a model?".to_owned()))?
            .to_owned();
        Ok(Self {
            tokens: virtual_tokens_of(&dir)?,
            dir,
            config,
            model_type,
            stored: None,
        })
    }

    /// The same for a job with this tuning, whose virtual tokens take positions, too.
    #[must_use]
    pub fn tuned(mut self, tuning: &Tuning) -> Self {
        self.tokens = self.tokens.with(tuning);
        self
    }

    /// The same decoder with room for `tokens` tokens, if its vocabulary has fewer. Rows that its files
    /// lack begin as the mean of those that they have.
    ///
    /// # Errors
    /// [`Error::Content`] if the model is no decoder or does not say how many tokens it has.
    pub fn with_vocabulary(mut self, tokens: u32) -> Result<Self, Error> {
        let kinds = [super::gpt2::MODEL_TYPE, super::llama::MODEL_TYPE];
        if !kinds.contains(&self.model_type.as_str()) {
            let message = format!(
                "model_type is {}, but backbone.extend_vocabulary is for decoders ({}): remove it",
                self.model_type,
                kinds.join(", ")
            );
            return Err(self.wrong(CONFIG, message));
        }
        let Some(stored) = self.config.get(VOCABULARY).and_then(Value::as_i64) else {
            let message = format!("field {VOCABULARY} is missing or no number");
            return Err(self.wrong(CONFIG, message));
        };
        if i64::from(tokens) > stored {
            self.config[VOCABULARY] = tokens.into();
            self.stored = Some(stored);
        }
        Ok(self)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its kind of model.
    #[must_use]
    pub fn model_type(&self) -> &str {
        &self.model_type
    }

    /// What it reads.
    ///
    /// # Errors
    /// [`Error::Content`] if an image model does not say its image's shape.
    pub fn modality(&self) -> Result<Modality, Error> {
        let (channels, size) = match self.model_type.as_str() {
            super::convnet::MODEL_TYPE => {
                let config: super::convnet::Config = self.config()?;
                (config.num_channels, config.image_size.sides())
            }
            super::vit::MODEL_TYPE => {
                let config: super::vit::Config = self.config()?;
                (config.num_channels, [config.image_size; 2])
            }
            super::ast::MODEL_TYPE => {
                let config: super::ast::Config = self.config()?;
                (1, [config.num_mel_bins, config.max_length])
            }
            super::resnet::MODEL_TYPE => return Ok(Modality::Image(super::resnet::image(self)?)),
            super::TORCHSCRIPT => {
                let shape = super::script::image(self)?;
                return Ok(shape.map_or(Modality::Text, Modality::Image));
            }
            _ => return Ok(Modality::Text),
        };
        Ok(Modality::Image([channels, size[0], size[1]]))
    }

    /// Frames that its model gives of an input, if any; see [`Frames`].
    ///
    /// # Errors
    /// [`Error::Content`] naming the field that is missing or wrong.
    pub fn frames(&self) -> Result<Option<Frames>, Error> {
        Ok(match self.model_type.as_str() {
            super::convnet::MODEL_TYPE => {
                let config: super::convnet::Config = self.config()?;
                config.frames()
            }
            super::vit::MODEL_TYPE => {
                let config: super::vit::Config = self.config()?;
                Some(config.frames())
            }
            super::ast::MODEL_TYPE => {
                let config: super::ast::Config = self.config()?;
                Some(config.frames())
            }
            _ => None,
        })
    }

    /// Longest input by the configuration, in tokens, beside virtual ones.
    #[must_use]
    pub fn max_positions(&self) -> Option<u64> {
        let positions = ["max_position_embeddings", "n_positions"];
        let mut positions = positions.iter().filter_map(|name| self.config.get(name));
        let positions = positions.next()?.as_u64()?;
        let taken = self.first_position().saturating_add(self.tokens.count());
        Some(positions.saturating_sub(taken.unsigned_abs()))
    }

    /// The tokens that end a text, by the configuration; empty if it names none.
    #[must_use]
    pub fn end_tokens(&self) -> Vec<u32> {
        let ids = match self.config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().collect(),
            Some(id) => vec![id],
            None => Vec::new(),
        };
        let ids = ids.into_iter().filter_map(Value::as_u64);
        ids.filter_map(|id| u32::try_from(id).ok()).collect()
    }

    /// Tokens that it has rows for once those that its files lack are added; none if they lack none.
    fn tokens_to_come(&self) -> Option<usize> {
        self.stored?;
        let tokens = self.config.get(VOCABULARY)?.as_u64()?;
        usize::try_from(tokens).ok()
    }

    /// The position of a text's first token: RoBERTa and MPNet count from behind that of their padding,
    /// which for MPNet is always 1.
    pub(super) fn first_position(&self) -> i64 {
        if self.model_type == super::bert::MPNET {
            return 2;
        }
        if self.model_type != super::bert::ROBERTA {
            return 0;
        }
        let padding = self.config.get("pad_token_id").and_then(Value::as_i64);
        padding.unwrap_or(1).max(0).saturating_add(1)
    }

    /// Parameters of a part of the model whose size is all that matters.
    ///
    /// # Errors
    /// [`Error::Content`] naming the field that is missing or wrong.
    pub(super) fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_value(self.config.clone()).map_err(|e| self.wrong(CONFIG, e.to_string()))
    }

    pub(super) fn wrong(&self, file: &str, message: String) -> Error {
        Error::Content {
            dir: self.dir.clone(),
            file: file.to_owned(),
            message,
        }
    }
}

/// Defaults of fields that `config.json` of several families has.
pub(super) mod defaults {
    pub(in crate::model) fn gelu() -> String {
        "gelu".to_owned()
    }
    pub(in crate::model) fn initializer_range() -> f64 {
        0.02
    }
    pub(in crate::model) fn layer_norm_eps() -> f64 {
        1e-12
    }
    pub(in crate::model) fn yes() -> bool {
        true
    }
}

/// Fills a block; every parameter must be there in its shape.
fn fill(weights: &mut Weights<'_>, block: &mut Block) -> Result<(), Error> {
    for (name, shape) in block.model_names() {
        let values = weights.take(&name, &shape)?;
        block.load(&name, &values)?;
    }
    Ok(())
}

/// How wide the normal distribution is that weights begin with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spread {
    /// The standard deviation, as `initializer_range` of Hugging Face's configurations.
    Of(f64),
    /// 1/√(3n) where each output reads n numbers: that of PyTorch's linear and convolutional layers, which draw
    /// uniformly from ±1/√n.
    ByInputs,
    /// √(2/n) where n numbers are made of each input: He's normal distribution by outputs (He et al. 2015, arXiv
    /// 1502.01852), with which torchvision and transformers start convolutions of residual networks.
    ByOutputs,
}

impl Spread {
    fn deviation(self, shape: &[i64]) -> f64 {
        match self {
            Self::Of(deviation) => deviation,
            Self::ByInputs => {
                let inputs: i64 = shape.iter().skip(1).product();
                1.0 / (3.0 * inputs.max(1) as f64).sqrt()
            }
            Self::ByOutputs => {
                let places: i64 = shape.iter().skip(2).product();
                let outputs = shape.first().copied().unwrap_or(1) * places;
                (2.0 / outputs.max(1) as f64).sqrt()
            }
        }
    }
}

impl From<f64> for Spread {
    fn from(deviation: f64) -> Self {
        Self::Of(deviation)
    }
}

/// Random start of a block: weights normal, biases and means 0, weights of norms and variances 1.
pub(super) fn randomize(block: &mut Block, seed: u64, spread: Spread) -> Result<(), Error> {
    for (name, shape) in block.model_names() {
        let count = shape.iter().product::<i64>() as usize;
        // GPT-2 calls its norms ln_1, ln_2 and ln_f.
        let parts = name.split('.');
        let is_norm = name.to_ascii_lowercase().contains("norm")
            || parts.into_iter().any(|part| part.starts_with("ln_"));
        let is_zero = name.ends_with("bias") || name.ends_with("running_mean");
        let values = match (is_zero, is_norm) {
            (true, _) => vec![0.0; count],
            (false, true) => vec![1.0; count],
            (false, false) => normal(count, key(seed, &name), spread.deviation(&shape)),
        };
        block.load(&name, &Tensor::f_from_slice(&values)?.f_view(&shape[..])?)?;
    }
    Ok(())
}

/// Random start of a table.
pub(super) fn randomize_table(table: &mut Table, seed: u64, spread: Spread) -> Result<(), Error> {
    let size = table.weight()?.size();
    let count = table.rows() * table.width();
    let values = normal(count, key(seed, table.name()), spread.deviation(&size));
    table.load(&Tensor::f_from_slice(&values)?.f_view(&size[..])?)
}

/// Names and parameters of a backbone's blocks, in order.
pub(super) type Parts = Vec<(String, Vec<ParamSpec>)>;

/// Blocks, and the tensors that are left over.
pub(super) type Built = (Vec<Block>, Vec<(String, Tensor)>);

/// Builds the blocks of a backbone, fills them and the table by the job's choice, and starts low-rank
/// updates and virtual tokens. `prefix` is what names of weights begin with in files of a model with heads, `spread`
/// what a random start is drawn from. Returns the blocks and the tensors left over.
///
/// # Errors
/// If the tuning does not fit the model, a file of the directory is wrong, or memory cannot be had.
pub(super) fn blocks(
    source: &Source,
    options: &Options,
    parts: Parts,
    (prefix, spread): (&str, impl Into<Spread>),
    mut table: Option<&mut Table>,
) -> Result<Built, Error> {
    let tuning = &options.tuning;
    let count = parts.len();
    let (names, mut specs): (Vec<String>, Vec<Vec<ParamSpec>>) = parts.into_iter().unzip();
    tune(tuning, source.dir(), &mut specs)?;
    let mut blocks = Vec::with_capacity(count);
    for (index, (name, specs)) in names.into_iter().zip(specs).enumerate() {
        let trained = is_trained(tuning, index, count);
        blocks.push(Block::new(name, specs, trained, options.device)?);
    }
    let how = (options.init, options.seed, spread.into());
    let extra = start(source, how, prefix, table.as_deref_mut(), &mut blocks)?;
    virtual_tokens::start(source, options, table.as_deref(), &mut blocks)?;
    if let Tuning::Lora(lora) = tuning {
        for block in &mut blocks {
            block.start_updates(lora, options.seed)?;
        }
    }
    Ok((blocks, extra))
}

/// Fills blocks and table by the job's choice, starts adapters, and returns the tensors left over.
fn start(
    source: &Source,
    (init, seed, spread): (Init, u64, Spread),
    prefix: &str,
    table: Option<&mut Table>,
    blocks: &mut [Block],
) -> Result<Vec<(String, Tensor)>, Error> {
    let extra = match init {
        Init::Pretrained => {
            let mut weights = Weights::open(source, prefix)?;
            if let Some(table) = table {
                let stored = source.stored.unwrap_or(table.rows() as i64);
                let values = weights.take(table.name(), &[stored, table.width() as i64])?;
                table.load(&extend::extended(&values, table.rows())?)?;
            }
            for block in blocks.iter_mut() {
                fill(&mut weights, block)?;
            }
            let mut extra = weights.rest()?;
            if let Some(tokens) = source.tokens_to_come() {
                let matrix = extra.iter_mut().find(|(name, _)| name == LM_HEAD);
                if let Some((_, matrix)) = matrix {
                    *matrix = extend::extended(matrix, tokens)?;
                }
            }
            extra
        }
        Init::Random => {
            if let Some(table) = table {
                randomize_table(table, seed, spread)?;
            }
            for block in blocks.iter_mut() {
                randomize(block, seed, spread)?;
            }
            Vec::new()
        }
    };
    bottleneck::start(source.dir(), (init, seed), blocks)?;
    Ok(extra)
}
