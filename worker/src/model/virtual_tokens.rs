//! Learned vectors that no token stands for: a prompt before the word vectors of every sample (Lester et al.
//! 2021, arXiv 2104.08691), and a prefix of keys and values in every layer (Li and Liang 2021, arXiv
//! 2101.00190).
//!
//! A prompt P [n, h] lengthens every sample of the packed batch by n rows from the first block to the last
//! layer, which leaves them out again: pooling and heads read the rows of tokens alone. Of a prefix a layer's
//! attention alone knows: keys become [K'; K] and values [V'; V], K' and V' [n, m·d]. Both take positions as
//! tokens do, so a sample's own first token stands at position n, as in PEFT.
//!
//! Nothing can merge them into the model, so a model that has them keeps them in folders of their own, laid out
//! as PEFT has them: `prompt/` and `prefix/`.
//!
//! Shapes: t rows of the packed batch, n virtual tokens, h hidden width, L layers, m heads of keys, d width of
//! a head.

mod start;

use super::attention::Cache;
use super::batch::TokenBatch;
use super::block::Role;
use super::hf::{Parts, Source};
use super::layout::Layout;
use super::{Block, Error, Options, ParamSpec};
use espalier_spec::job::Tuning;
use serde::Deserialize;
pub(super) use start::start;
use std::ops::Range;
use std::path::Path;
use tch::{Kind, Tensor};

/// Name of the folder with a model's prompt.
pub const PROMPT_DIR: &str = "prompt";
/// Name of the folder with a model's prefix.
pub const PREFIX_DIR: &str = "prefix";
/// PEFT's name of the file that says what is in such a folder.
pub const PEFT_META: &str = "adapter_config.json";
/// PEFT's name of the file with the numbers.
pub const PEFT_FILE: &str = "adapter_model.safetensors";
/// PEFT's name of the one tensor in it: a prompt [n, h], or a prefix [n, 2·L·m·d], each layer's keys before
/// its values. Also the name of a prompt's parameter here.
pub const EMBEDDINGS: &str = "prompt_embeddings";

/// Ends of the names of K' and V'.
const ENDS: [&str; 2] = ["prefix_key", "prefix_value"];

/// How many virtual tokens a model has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualTokens {
    /// Vectors before each sample's own.
    pub prompt: i64,
    /// Keys and values before those of each sample, in every layer.
    pub prefix: i64,
}

/// Where a model takes virtual tokens.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Width h of word vectors.
    pub(super) width: i64,
    /// Blocks that are layers, and heads m and width d of their keys; none if their attention takes no
    /// prefix.
    pub(super) layers: Option<(Range<usize>, [i64; 2])>,
    /// Most tokens of a sample.
    pub(super) positions: i64,
}

/// The learned prefix of a model.
#[derive(Debug)]
pub struct Prefix {
    /// f32 [n, 2·L·m·d]: of each layer its keys, then its values.
    pub values: Tensor,
    /// Layers L.
    pub layers: usize,
    /// Heads m of keys and values.
    pub heads: i64,
}

/// What matters here of a folder's configuration.
#[derive(Deserialize)]
struct Described {
    peft_type: String,
    num_virtual_tokens: u32,
}

/// The virtual tokens that the model of a directory has.
///
/// # Errors
/// [`Error::File`], [`Error::Content`].
pub fn virtual_tokens_of(dir: &Path) -> Result<VirtualTokens, Error> {
    Ok(VirtualTokens {
        prompt: described(dir, PROMPT_DIR, "PROMPT_TUNING")?,
        prefix: described(dir, PREFIX_DIR, "PREFIX_TUNING")?,
    })
}

/// Virtual tokens in a folder of a model's directory; 0 if there is no such folder.
fn described(dir: &Path, folder: &str, kind: &str) -> Result<i64, Error> {
    let file = format!("{folder}/{PEFT_META}");
    let text = match std::fs::read(dir.join(&file)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(source) => {
            return Err(Error::File {
                dir: dir.to_owned(),
                file,
                source,
            });
        }
    };
    let found: Described =
        serde_json::from_slice(&text).map_err(|e| wrong(dir, &file, e.to_string()))?;
    if found.peft_type != kind {
        let message = format!("peft_type is {:?}, expected {kind:?}", found.peft_type);
        return Err(wrong(dir, &file, message));
    }
    match found.num_virtual_tokens {
        0 => Err(wrong(
            dir,
            &file,
            "num_virtual_tokens is 0, expected at least 1".to_owned(),
        )),
        tokens => Ok(i64::from(tokens)),
    }
}

impl VirtualTokens {
    /// With those that a job asks for.
    pub(super) fn with(self, tuning: &Tuning) -> Self {
        match tuning {
            Tuning::Prompt(wanted) => Self {
                prompt: i64::from(wanted.tokens),
                ..self
            },
            Tuning::Prefix(wanted) => Self {
                prefix: i64::from(wanted.tokens),
                ..self
            },
            _ => self,
        }
    }

    /// Positions that they take.
    pub(super) fn count(self) -> i64 {
        self.prompt + self.prefix
    }

    /// Where the rows of a batch stand between the first block and the last layer.
    pub(super) fn layout(self, batch: &TokenBatch) -> &Layout {
        batch.layout_with(self.prompt)
    }

    /// The place of each of these rows in its sample, i64 `[rows]`.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn positions(self, batch: &TokenBatch) -> Result<Tensor, Error> {
        if self.count() == 0 {
            return Ok(batch.positions.shallow_clone());
        }
        let places = self.layout(batch).positions(self.prefix);
        Ok(Tensor::f_from_slice(&places)?.f_to_device(batch.positions.device())?)
    }

    /// Which text of a pair each of these rows belongs to; those of a prompt belong to the first.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn segments(self, batch: &TokenBatch) -> Result<Option<Tensor>, Error> {
        let Some(segments) = &batch.segments else {
            return Ok(None);
        };
        if self.prompt == 0 {
            return Ok(Some(segments.shallow_clone()));
        }
        let first = Tensor::f_zeros([self.prompt, 1], (Kind::Int64, segments.device()))?;
        let all = insert(&first, &segments.f_unsqueeze(1)?, &batch.layout)?;
        Ok(Some(all.f_flatten(0, -1)?))
    }

    /// Word vectors [t, h] with the prompt of the first block before those of each sample.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn begin(
        self,
        first: &Block,
        x_th: &Tensor,
        batch: &TokenBatch,
    ) -> Result<Tensor, Error> {
        match first.prompt() {
            Some(prompt_nh) => insert(prompt_nh, x_th, &batch.layout),
            None => Ok(x_th.shallow_clone()),
        }
    }

    /// Puts the prefix of every layer into a new cache.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn fill(self, blocks: &[Block], cache: &mut Cache) -> Result<(), Error> {
        let layers = blocks.iter().filter_map(Block::prefix);
        for (layer, prefix) in layers.enumerate() {
            cache.begin(layer, prefix)?;
        }
        Ok(())
    }

    /// Rows that `count` new tokens are to a cache: those of the prompt come before the first of them.
    pub(super) fn rows(self, count: usize, cache: &Cache) -> usize {
        let is_new = cache.length() == self.prefix;
        match is_new && count > 0 {
            true => count + self.prompt as usize,
            false => count,
        }
    }

    /// What the last layer gives, without the rows of the prompt: [t, h].
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn end(self, x: Tensor, batch: &TokenBatch) -> Result<Tensor, Error> {
        if self.prompt == 0 {
            return Ok(x);
        }
        let (layout, h) = (self.layout(batch), x.size()[1]);
        let mut own = Vec::with_capacity(layout.groups.len());
        for (part, group) in layout.split(&x)?.iter().zip(&layout.groups) {
            let (b, l) = (group.samples, group.length - self.prompt);
            let x_blh = part.f_view([b, group.length, h])?;
            let x_blh = x_blh.f_narrow(1, self.prompt, l)?;
            own.push(x_blh.f_reshape([b * l, h])?);
        }
        Ok(Tensor::f_cat(&own, 0)?)
    }
}

/// Word vectors [l, h] of a text with the prompt of the first block before them, if it has one.
///
/// # Errors
/// If libtorch refuses.
pub(super) fn before(first: &Block, x_lh: Tensor) -> Result<Tensor, Error> {
    match first.prompt() {
        Some(prompt_nh) => Ok(Tensor::f_cat(&[prompt_nh, &x_lh], 0)?),
        None => Ok(x_lh),
    }
}

/// The last `count` rows of `x` [l, h].
///
/// # Errors
/// If libtorch refuses.
pub(super) fn last(x_lh: &Tensor, count: usize) -> Result<Tensor, Error> {
    let (l, count) = (x_lh.size()[0], count as i64);
    Ok(x_lh.f_narrow(0, l - count, count)?)
}

/// Rows [t, w] of a packed batch with those of `before` [n, w] before each sample's own.
fn insert(before: &Tensor, x_tw: &Tensor, layout: &Layout) -> Result<Tensor, Error> {
    let size = before.size();
    let (n, w) = (size[0], size[1]);
    let mut all = Vec::with_capacity(layout.groups.len());
    for (part, group) in layout.split(x_tw)?.iter().zip(&layout.groups) {
        let (b, l) = (group.samples, group.length);
        let x_blw = part.f_reshape([b, l, w])?;
        let before_bnw = before.f_unsqueeze(0)?.f_expand([b, n, w], false)?;
        let both = Tensor::f_cat(&[&before_bnw, &x_blw], 1)?;
        all.push(both.f_reshape([b * (n + l), w])?);
    }
    Ok(Tensor::f_cat(&all, 0)?)
}

/// Adds the parameters of virtual tokens to those of all blocks: the ones that the model's directory has, and
/// the ones that the job asks for. Returns how many there are.
///
/// # Errors
/// [`Error::Content`] if there is no room for them, or the model has another number of them already.
pub(super) fn add(
    source: &Source,
    options: &Options,
    parts: &mut Parts,
    room: &Room,
) -> Result<VirtualTokens, Error> {
    let present = virtual_tokens_of(source.dir())?;
    let tokens = present.with(&options.tuning);
    let pairs = [
        (PROMPT_DIR, present.prompt, tokens.prompt),
        (PREFIX_DIR, present.prefix, tokens.prefix),
    ];
    for (folder, present, wanted) in pairs {
        if present != 0 && present != wanted {
            let message = format!(
                "the model has a {folder} of {present} tokens already, and tuning.{folder}.tokens is \
                 {wanted}: ask for {present} to train it on, or take the folder away to begin anew"
            );
            return Err(source.wrong(&format!("{folder}/{PEFT_META}"), message));
        }
    }
    if tokens.count() >= room.positions {
        let message = format!(
            "the model takes {} tokens, and prompt and prefix have {}: no room is left for a text",
            room.positions,
            tokens.count()
        );
        return Err(source.wrong("config.json", message));
    }
    if tokens.prompt > 0
        && let Some((_, first)) = parts.first_mut()
    {
        first.push(ParamSpec {
            role: Role::Prompt,
            ..ParamSpec::weight(EMBEDDINGS, &[tokens.prompt, room.width])
        });
    }
    if tokens.prefix > 0 {
        let Some((layers, [heads, width])) = &room.layers else {
            let message = format!(
                "tuning.prefix: attention of {} knows keys by their distance, and those of a prefix have \
                 none: use another tuning, such as prompt",
                source.model_type()
            );
            return Err(source.wrong("config.json", message));
        };
        for (name, specs) in &mut parts[layers.clone()] {
            specs.extend(ENDS.map(|end| ParamSpec {
                role: Role::Prefix(*heads),
                ..ParamSpec::weight(format!("{name}.{end}"), &[tokens.prefix, heads * width])
            }));
        }
    }
    Ok(tokens)
}

impl Block {
    /// The learned vectors before each sample's own, f32 [n, h], if the block has them.
    pub(super) fn prompt(&self) -> Option<&Tensor> {
        let mut params = self.params().iter();
        let own = params.find(|param| param.role == Role::Prompt)?;
        Some(&own.tensor)
    }

    /// The learned keys and values before those of each sample, f32 [n, m·d], if the block has them.
    pub(super) fn prefix(&self) -> Option<[&Tensor; 2]> {
        let is_own = |role: Role| matches!(role, Role::Prefix(_));
        let mut own = self.params().iter().filter(|param| is_own(param.role));
        Some([&own.next()?.tensor, &own.next()?.tensor])
    }
}

/// The learned prompt of a model, f32 [n, h], if it has one.
///
/// # Errors
/// If libtorch refuses.
pub fn prompt(blocks: &[Block]) -> Result<Option<Tensor>, Error> {
    let is_own = |role| role == Role::Prompt;
    Ok(on_host(blocks, is_own)?.pop())
}

/// The learned prefix of a model, if it has one.
///
/// # Errors
/// If libtorch refuses.
pub fn prefix(blocks: &[Block]) -> Result<Option<Prefix>, Error> {
    let mut params = blocks.iter().flat_map(Block::params);
    let heads = params.find_map(|param| match param.role {
        Role::Prefix(heads) => Some(heads),
        _ => None,
    });
    let Some(heads) = heads else {
        return Ok(None);
    };
    let all = on_host(blocks, |role| matches!(role, Role::Prefix(_)))?;
    let layers = all.len() / 2;
    let values = Tensor::f_stack(&all, 1)?.f_flatten(1, -1)?;
    Ok(Some(Prefix {
        values,
        layers,
        heads,
    }))
}

/// The values of all parameters of a role, as the host has them.
fn on_host(blocks: &[Block], is_own: impl Fn(Role) -> bool) -> Result<Vec<Tensor>, Error> {
    let mut own = Vec::new();
    for block in blocks {
        let params = block.params().iter().enumerate();
        for (index, _) in params.filter(|(_, param)| is_own(param.role)) {
            own.push(block.host(index)?);
        }
    }
    Ok(own)
}

fn wrong(dir: &Path, file: &str, message: String) -> Error {
    Error::Content {
        dir: dir.to_owned(),
        file: file.to_owned(),
        message,
    }
}
