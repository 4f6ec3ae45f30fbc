//! TorchScript modules as backbones: a directory with `config.json` (`model_type: espalier-torchscript`)
//! and what `torch.jit.save` wrote. Everything in the module is one block.
//!
//! The module computes with its own parameters, and the block's buffers become their memory
//! ([`Block::adopt`]): what owners write is what it reads, what autograd accumulates is what travels. It
//! always runs as in evaluation: its dropout is off and its batch norms keep their statistics, so that
//! features are a function of the sample and the parameters alone. Graphs run as they are written, not as
//! libtorch would rewrite them after some calls, which would change bits between a run and its resume.

use super::convnet::ImageSize;
use super::hf::Source;
use super::pool::pool;
use super::tuning::{is_trained, tune};
use super::{Backbone, Batch, Block, Context, Error, Options, ParamSpec, Table};
use espalier_spec::job::{Init, Pooling};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{CModule, Device, Kind, TchError, Tensor};

/// What `config.json` calls such a directory.
pub const TORCHSCRIPT: &str = "espalier-torchscript";

const CONFIG: &str = "config.json";
/// Samples and tokens of the inputs that a module is tried with.
const TRIED: [i64; 2] = [2, 3];

/// Whether this process loads no modules.
static FORBIDDEN: AtomicBool = AtomicBool::new(false);
/// What whoever brings one is told then.
const WHY: &str = "a TorchScript module is a program that can read and write whatever this worker can: \
                   it is not let in unless the worker is started with --allow-modules";

/// Lets this process load no module from now on: the language of TorchScript opens and writes files.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

fn is_forbidden() -> bool {
    FORBIDDEN.load(Ordering::Relaxed)
}

/// The fields of `config.json`.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    #[serde(default = "model")]
    file: String,
    width: i64,
    modality: Modality,
    #[serde(default)]
    input: Option<Takes>,
    #[serde(default)]
    num_channels: Option<i64>,
    #[serde(default)]
    image_size: Option<ImageSize>,
}

fn model() -> String {
    "model.pt".to_owned()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Modality {
    Text,
    Image,
    Audio,
}

/// What `forward` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Takes {
    /// Token ids i64 [b, l].
    #[serde(rename = "ids")]
    Ids,
    /// Token ids and, as many, i64 ones: samples of a call have one length, so nothing is masked.
    #[serde(rename = "ids+mask")]
    IdsAndMask,
    /// Pixels f32 [b, channels, height, width].
    #[serde(rename = "pixels")]
    Pixels,
    /// Spectrograms f32 [b, 1, mel bins, frames].
    #[serde(rename = "mel")]
    Mel,
}

impl Config {
    fn read(source: &Source) -> Result<Self, Error> {
        let config: Self = source.config()?;
        let wrong = |message: String| Err(source.wrong(CONFIG, message));
        if config.width <= 0 {
            return wrong(format!("width is {}, expected at least 1", config.width));
        }
        if config.file.is_empty() || config.file.contains(['/', '\\']) {
            let file = &config.file;
            return wrong(format!(
                "file is {file:?}, expected a name in this directory"
            ));
        }
        let (takes, expected) = (config.takes(), config.modality.takes());
        if !expected.contains(&takes) {
            return wrong(
                "input does not fit modality: text takes ids+mask or ids, image pixels, audio mel"
                    .to_owned(),
            );
        }
        Ok(config)
    }

    fn takes(&self) -> Takes {
        self.input.unwrap_or(self.modality.takes()[0])
    }
}

impl Modality {
    /// What may be given, the default first.
    fn takes(self) -> &'static [Takes] {
        match self {
            Self::Text => &[Takes::IdsAndMask, Takes::Ids],
            Self::Image => &[Takes::Pixels],
            Self::Audio => &[Takes::Mel],
        }
    }
}

/// Channels, height and width of its inputs; none for texts.
///
/// # Errors
/// [`Error::Content`] for a configuration that is none.
pub(super) fn image(source: &Source) -> Result<Option<[i64; 3]>, Error> {
    let config = Config::read(source)?;
    let channels = match config.modality {
        Modality::Text => return Ok(None),
        Modality::Image => config.num_channels.unwrap_or(3),
        Modality::Audio => 1,
    };
    let size = config.image_size.map(ImageSize::sides);
    match size.filter(|sides| channels > 0 && sides.iter().all(|side| *side > 0)) {
        Some([height, width]) => Ok(Some([channels, height, width])),
        None => {
            let message = "num_channels and image_size must be above 0; image_size is a number, or \
                           height and width, for sounds mel bins and frames";
            Err(source.wrong(CONFIG, message.to_owned()))
        }
    }
}

/// A module.
#[derive(Debug)]
pub(super) struct Script {
    module: CModule,
    takes: Takes,
    /// Channels, height and width of its inputs, unless they are texts.
    image: Option<[i64; 3]>,
    width: i64,
    /// It gives several rows of each sample, which are pooled here.
    gives_rows: bool,
    pooling: Pooling,
    blocks: [Block; 1],
}

impl Script {
    pub(super) fn load(source: &Source, options: &Options) -> Result<Self, Error> {
        // Before it is opened: already that runs parts of it.
        if is_forbidden() {
            let dir = source.dir().to_owned();
            return Err(Error::Forbidden { dir, why: WHY });
        }
        let config = Config::read(source)?;
        if options.init == Init::Random {
            let message = "a TorchScript module starts with the parameters in its file; remove \
                           backbone.init";
            return Err(source.wrong(CONFIG, message.to_owned()));
        }
        if options.pooling == Pooling::Pooler {
            let message = "a TorchScript module has no pooler of its own that is known; set \
                           backbone.pooling to mean, cls, max or last";
            return Err(source.wrong(CONFIG, message.to_owned()));
        }
        if options.device != Device::Cpu {
            let message =
                "a TorchScript module computes on the CPU only; set resources.device to cpu";
            return Err(source.wrong(CONFIG, message.to_owned()));
        }
        let (module, block) = open(source, &config.file, options)?;
        let mut script = Self {
            module,
            takes: config.takes(),
            image: image(source)?,
            width: config.width,
            gives_rows: false,
            pooling: options.pooling,
            blocks: [block],
        };
        script.gives_rows = script.tried(source, &config.file, options.device)?;
        Ok(script)
    }

    /// Whether the module gives rows; it is tried to see whether it gives what `config.json` says.
    fn tried(&self, source: &Source, file: &str, device: Device) -> Result<bool, Error> {
        let [b, l] = TRIED;
        let input = match self.image {
            None => Tensor::f_zeros([b, l], (Kind::Int64, device))?,
            Some([c, h, w]) => Tensor::f_zeros([b, c, h, w], (Kind::Float, device))?,
        };
        let inputs = format!("{:?}", input.size());
        let wrong = |message: String| source.wrong(file, message);
        let output = tch::no_grad(|| self.call(&input)).map_err(|cause| {
            wrong(format!(
                "forward failed on inputs of {inputs}: it must take what `input` and `image_size` \
                 of config.json say and return one tensor: {}",
                first_lines(&cause)
            ))
        })?;
        let (size, h) = (output.size(), self.width);
        let is_rows = match size[..] {
            [samples, width] if samples == b && width == h => Some(false),
            [samples, _, width] if samples == b && width == h => Some(true),
            _ => None,
        };
        let is_rows = is_rows.filter(|is_rows| !is_rows || self.image.is_some() || size[1] == l);
        match is_rows {
            Some(is_rows) if output.f_kind()? == Kind::Float => Ok(is_rows),
            Some(_) => Err(wrong(format!(
                "forward gives {:?}, expected 32-bit floats",
                output.f_kind()?
            ))),
            None => Err(wrong(format!(
                "forward gives {size:?} for inputs of {inputs}, expected [{b}, {h}] or [{b}, {}, \
                 {h}], {h} being the width that config.json says",
                if self.image.is_some() {
                    "rows".to_owned()
                } else {
                    l.to_string()
                }
            ))),
        }
    }

    /// Calls the module with samples of one length.
    fn call(&self, x: &Tensor) -> Result<Tensor, TchError> {
        tch::jit::f_set_graph_executor_optimize(false)?;
        match self.takes {
            Takes::IdsAndMask => self.module.forward_ts(&[x, &x.f_ones_like()?]),
            Takes::Ids | Takes::Pixels | Takes::Mel => self.module.forward_ts(&[x]),
        }
    }

    /// The same, as rows [b * rows, h] or features [b, h].
    fn rows(&self, x: &Tensor) -> Result<Tensor, Error> {
        let (y, samples, h) = (self.call(x)?, x.size()[0], self.width);
        let size = y.size();
        let fits = match (self.gives_rows, &size[..]) {
            (true, &[b, l, width]) => {
                (b, width) == (samples, h) && (self.image.is_some() || l == x.size()[1])
            }
            (false, &[b, width]) => (b, width) == (samples, h),
            _ => false,
        };
        if !fits {
            let given = x.size();
            return Err(Error::Input(format!(
                "the TorchScript module gave {size:?} for inputs of {given:?}, other than when it was \
                 tried: what it gives must not depend on the batch"
            )));
        }
        Ok(y.f_reshape([-1, h])?)
    }
}

impl Backbone for Script {
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
        self.width.unsigned_abs() as usize
    }
    fn extra(&self) -> &[(String, Tensor)] {
        &[]
    }
    fn gives_rows(&self) -> bool {
        self.gives_rows
    }

    fn input(&self, batch: &Batch) -> Result<Tensor, Error> {
        match self.image {
            None => Ok(batch.as_tokens()?.ids.shallow_clone()),
            Some(shape) => batch.as_images()?.of_shape(shape),
        }
    }

    fn forward(&self, _: usize, x: &Tensor, batch: &Batch, _: &Context) -> Result<Tensor, Error> {
        if self.image.is_some() {
            return self.rows(x);
        }
        let layout = &batch.as_tokens()?.layout;
        let mut rows = Vec::with_capacity(layout.groups.len());
        for (ids, group) in layout.split(x)?.iter().zip(&layout.groups) {
            rows.push(self.rows(&ids.f_view([group.samples, group.length])?)?);
        }
        Ok(Tensor::f_cat(&rows, 0)?)
    }

    fn pool(&self, x: &Tensor, batch: &Batch) -> Result<Tensor, Error> {
        match batch {
            Batch::Tokens(tokens) => {
                let packed_bh = match self.gives_rows {
                    true => pool(self.pooling, x, &tokens.layout)?,
                    false => x.shallow_clone(),
                };
                Ok(packed_bh.f_index_select(0, &tokens.inverse)?)
            }
            _ if self.gives_rows => {
                let images = batch.as_images()?;
                let rows = x.size()[0] / images.keys.len().max(1) as i64;
                pool(self.pooling, x, images.layout(rows))
            }
            _ => Ok(x.shallow_clone()),
        }
    }
}

/// Reads a module, and makes a block of its parameters.
fn open(source: &Source, file: &str, options: &Options) -> Result<(CModule, Block), Error> {
    let (path, wrong) = (source.dir().join(file), |m: String| source.wrong(file, m));
    // Told apart from a file that is there and no module.
    std::fs::File::open(&path).map_err(|cause| Error::File {
        dir: source.dir().to_owned(),
        file: file.to_owned(),
        source: cause,
    })?;
    let mut module = CModule::load_on_device(&path, options.device).map_err(|cause| {
        wrong(format!(
            "not a TorchScript module: write it with torch.jit.save: {}",
            first_lines(&cause)
        ))
    })?;
    module.f_set_eval()?;
    let named = module.named_parameters()?;
    let (mut specs, mut known) = (Vec::new(), BTreeMap::new());
    let mut same = Vec::new();
    for (name, tensor) in &named {
        let kind = tensor.f_kind()?;
        if kind != Kind::Float {
            let message = format!("parameter {name} is {kind:?}, expected 32-bit floats");
            return Err(wrong(format!(
                "{message}: call .float() before it is saved"
            )));
        }
        // A parameter may have several names.
        if tensor.numel() > 0
            && let Some(first) = known.insert(tensor.data_ptr() as usize, name.as_str())
        {
            known.insert(tensor.data_ptr() as usize, first);
            same.push((name.as_str(), first));
            continue;
        }
        let size = tensor.size();
        let spec = match size.len() {
            0 | 1 => ParamSpec::bias(name, &size),
            _ => ParamSpec::weight(name, &size),
        };
        specs.push(ParamSpec {
            trained: tensor.requires_grad(),
            ..spec
        });
    }
    if specs.is_empty() {
        return Err(wrong(
            "the module has no parameters; a traced function keeps none: trace or script an nn.Module"
                .to_owned(),
        ));
    }
    let mut specs = [specs];
    let may: Vec<bool> = specs[0].iter().map(|spec| spec.trained).collect();
    tune(&options.tuning, source.dir(), &mut specs)?;
    let [mut specs] = specs;
    // What the module's author froze stays frozen, whatever the job says.
    for (spec, may) in specs.iter_mut().zip(may) {
        spec.trained &= may;
    }
    let trained = is_trained(&options.tuning, 0, 1);
    let mut block = Block::new("module", specs, trained, options.device)?;
    for (name, tensor) in &named {
        if !same.iter().any(|(other, _)| *other == name.as_str()) {
            block.adopt(name, tensor.shallow_clone())?;
        }
    }
    // Now they have moved; what has not moved along is another parameter over the same memory.
    let place = |wanted: &str| named.iter().find(|(name, _)| name == wanted);
    for (name, first) in same {
        let places = [name, first].map(|name| place(name).map(|(_, t)| t.data_ptr() as usize));
        if places[0] != places[1] {
            return Err(wrong(format!(
                "parameters {name} and {first} share memory but are two; make them one before the \
                 module is saved"
            )));
        }
    }
    Ok((module, block))
}

/// What libtorch says without its stack of calls.
fn first_lines(cause: &TchError) -> String {
    const LINES: usize = 3;
    let text = cause.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.take(LINES).collect::<Vec<_>>().join(" ")
}

/// Writes the module of directory `source` with other parameters into directory `target`.
///
/// # Errors
/// What libtorch or the system refuses.
pub fn write(
    source: &Path,
    target: &Path,
    config: &serde_json::Map<String, Value>,
    tensors: &[(String, Tensor)],
) -> Result<(), TchError> {
    let file = config.get("file").and_then(Value::as_str);
    let file = file.map_or_else(model, str::to_owned);
    // The configuration is read anew for an export: it may be another one by now.
    if is_forbidden() {
        return Err(TchError::FileFormat(WHY.to_owned()));
    }
    if file.contains(['/', '\\']) {
        let message = format!("file is {file:?} in {CONFIG}, expected a name in this directory");
        return Err(TchError::FileFormat(message));
    }
    let module = CModule::load(source.join(&file))?;
    for (name, mut parameter) in module.named_parameters()? {
        // One that is not there goes by its first name.
        if let Some((_, values)) = tensors.iter().find(|(other, _)| *other == name) {
            tch::no_grad(|| parameter.f_copy_(values))?;
        }
    }
    let path = target.join(&file);
    module.save(&path)?;
    Ok(std::fs::File::open(&path)?.sync_all()?)
}

#[cfg(test)]
mod tests;
