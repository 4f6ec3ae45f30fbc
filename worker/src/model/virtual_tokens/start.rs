//! Where virtual tokens start: as a model's directory has them, or anew.

use super::{EMBEDDINGS, ENDS, PEFT_FILE, PEFT_META, PREFIX_DIR, PROMPT_DIR, VirtualTokens};
use super::{prefix, virtual_tokens_of};
use crate::model::hf::Source;
use crate::model::init::{key, normal};
use crate::model::{Block, Error, Options, Table, mix};
use espalier_spec::job::{Init, PromptInit, Tuning};
use tch::{Kind, Tensor};

/// Standard deviation of a prefix's start.
const SPREAD: f64 = 0.02;
const TOKENIZER: &str = "tokenizer.json";

/// Starts the virtual tokens of all blocks: as the model's directory has them, or anew (always with a random
/// start). Does nothing where there are none.
///
/// # Errors
/// [`Error::Content`] if a file lacks them or has another shape, or a text to start at has no tokens; or if
/// libtorch refuses.
pub(in crate::model) fn start(
    source: &Source,
    options: &Options,
    table: Option<&Table>,
    blocks: &mut [Block],
) -> Result<(), Error> {
    let present = match options.init {
        Init::Pretrained => virtual_tokens_of(source.dir())?,
        Init::Random => VirtualTokens::default(),
    };
    if let Some(shape) = blocks.iter().find_map(Block::prompt).map(Tensor::size) {
        let values = match (present.prompt, table) {
            (0, Some(table)) => table.rows_of(&words(source, options, shape[0], table.rows())?)?,
            _ => saved(source, PROMPT_DIR, &shape)?,
        };
        for block in blocks.iter_mut().filter(|block| block.prompt().is_some()) {
            block.load(EMBEDDINGS, &values)?;
        }
    }
    let Some(own) = prefix(blocks)? else {
        return Ok(());
    };
    let size = own.values.size();
    let values = match present.prefix {
        0 => None,
        _ => Some(saved(source, PREFIX_DIR, &size)?),
    };
    let parts = 2 * own.layers as i64;
    let mut place = 0;
    for block in blocks.iter_mut().filter(|block| block.prefix().is_some()) {
        for end in ENDS {
            let name = format!("{}.{end}", block.name());
            let part = match &values {
                Some(all) => all.f_view([size[0], parts, -1])?.f_select(1, place)?,
                None => {
                    let (n, w) = (size[0], size[1] / parts);
                    let count = (n * w).unsigned_abs() as usize;
                    let start = normal(count, key(options.seed, &name), SPREAD);
                    Tensor::f_from_slice(&start)?.f_view([n, w])?
                }
            };
            block.load(&name, &part)?;
            place += 1;
        }
    }
    Ok(())
}

/// The tokens at whose word vectors a prompt of `count` starts.
fn words(source: &Source, options: &Options, count: i64, rows: usize) -> Result<Vec<u32>, Error> {
    let count = count.unsigned_abs() as usize;
    let Tuning::Prompt(prompt) = &options.tuning else {
        return Ok(vec![0; count]);
    };
    let text = match &prompt.init {
        PromptInit::Random => {
            let key = key(options.seed, EMBEDDINGS);
            let drawn = |place: u64| (mix(key ^ mix(place)) % rows.max(1) as u64) as u32;
            return Ok((0..count as u64).map(drawn).collect());
        }
        PromptInit::Text(text) => text,
    };
    let unusable = |e: Box<dyn std::error::Error + Send + Sync>| {
        let message = format!("tuning.prompt.init.text: {e}");
        source.wrong(TOKENIZER, message)
    };
    let tokenizer = tokenizers::Tokenizer::from_file(source.dir().join(TOKENIZER));
    let mut tokenizer = tokenizer.map_err(unusable)?;
    tokenizer.with_padding(None);
    let encoded = tokenizer.encode_fast(text.as_str(), false);
    let encoded = encoded.map_err(unusable)?;
    let ids = encoded.get_ids();
    if ids.is_empty() {
        let message = format!("tuning.prompt.init.text {text:?} has no tokens: expected words");
        return Err(source.wrong(TOKENIZER, message));
    }
    Ok(ids.iter().copied().cycle().take(count).collect())
}

/// What a folder of the model's directory has.
fn saved(source: &Source, folder: &str, shape: &[i64]) -> Result<Tensor, Error> {
    let file = format!("{folder}/{PEFT_FILE}");
    let tensors = Tensor::read_safetensors(source.dir().join(&file));
    let tensors = tensors.map_err(|e| source.wrong(&file, e.to_string()))?;
    let Some((_, values)) = tensors.iter().find(|(name, _)| name == EMBEDDINGS) else {
        let message = format!("tensor {EMBEDDINGS} {shape:?} is missing");
        return Err(source.wrong(&file, message));
    };
    if values.size() != shape {
        let message = format!(
            "tensor {EMBEDDINGS} has shape {:?}, expected {shape:?} by {folder}/{PEFT_META} and config.json",
            values.size()
        );
        return Err(source.wrong(&file, message));
    }
    Ok(values.f_to_kind(Kind::Float)?)
}
