//! Residual networks (He et al. 2016, arXiv 1512.03385), `ResNetModel` in Hugging Face transformers, with
//! basic or bottleneck layers.
//!
//! **Batch norms keep the statistics of the pretrained model**, as is usual where such models are trained
//! further: they are no parameters, training changes none, and a sample's features don't depend on its batch.
//! Scale and shift are trained. A random start has means of 0 and variances of 1, so its norms only scale; since they
//! then do not hold back a sum that every residual layer adds to, what each of L layers adds begins at 1/√L of its size.
//! After training they can be made those of another domain ([`Backbone::follow_batches`]).
//!
//! Blocks: the stem, then each residual layer. Shapes: b samples, c channels, y and x places.

use super::hf::{self, Source, Spread};
use super::{Backbone, Batch, Block, Context, Error, FeatureMap, Options, ParamSpec, Table, pool};
use espalier_spec::job::{Init, Pooling};
use serde::Deserialize;
use serde_json::Value;
use std::cell::Cell;
use tch::{Kind, Tensor};

pub(super) const MODEL_TYPE: &str = "resnet";

/// Of a bottleneck layer's output channels so many go through its middle.
const REDUCTION: i64 = 4;
const EPS: f64 = 1e-5;
/// There is no token of the class, and no last one.
const POOLINGS: [Pooling; 3] = [Pooling::Mean, Pooling::Max, Pooling::Pooler];
/// What models of this kind are made for, where a directory says nothing.
const USUAL_SIZE: i64 = 224;

/// The fields of `config.json` that matter here.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    #[serde(default = "three")]
    num_channels: i64,
    embedding_size: i64,
    hidden_sizes: Vec<i64>,
    depths: Vec<usize>,
    #[serde(default = "bottleneck")]
    layer_type: LayerType,
    #[serde(default = "relu")]
    hidden_act: String,
    #[serde(default)]
    downsample_in_first_stage: bool,
    #[serde(default)]
    downsample_in_bottleneck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LayerType {
    Basic,
    Bottleneck,
}

fn three() -> i64 {
    3
}
fn bottleneck() -> LayerType {
    LayerType::Bottleneck
}
fn relu() -> String {
    "relu".to_owned()
}

/// A convolution without bias and the batch norm behind it.
#[derive(Clone, Copy, Debug)]
struct Unit {
    inputs: i64,
    outputs: i64,
    /// Side of the kernel.
    kernel: i64,
    stride: i64,
}

/// A block: convolutions one after another, and one for the shortcut where shapes differ.
#[derive(Clone, Debug)]
struct Part {
    name: String,
    /// Hugging Face names of the units, within the block.
    names: Vec<String>,
    units: Vec<Unit>,
    /// The last of the units is the shortcut's.
    has_shortcut: bool,
}

/// The network.
#[derive(Debug)]
pub(super) struct ResNet {
    config: Config,
    image: [i64; 3],
    pooling: Pooling,
    parts: Vec<Part>,
    blocks: Vec<Block>,
    extra: Vec<(String, Tensor)>,
    /// Momentum with which statistics follow the batches, while they do.
    following: Cell<Option<f64>>,
}

impl ResNet {
    pub(super) fn load(source: &Source, options: &Options) -> Result<Self, Error> {
        let config: Config = source.config()?;
        check(source, &config)?;
        pool::check(source, options.pooling, &POOLINGS)?;
        let parts = parts(&config);
        let named = parts.iter().map(|part| (part.name.clone(), part.params()));
        let start = ("resnet.", Spread::ByOutputs);
        let (mut blocks, extra) = hf::blocks(source, options, named.collect(), start, None)?;
        if options.init == Init::Random {
            dampen(&parts, &mut blocks)?;
        }
        Ok(Self {
            image: image(source)?,
            config,
            pooling: options.pooling,
            parts,
            blocks,
            extra,
            following: Cell::new(None),
        })
    }

    /// Unit `unit` of a block.
    fn unit(&self, block: usize, unit: usize, x: &Tensor) -> Result<Tensor, Error> {
        let part = &self.parts[block];
        let p = |place: usize| self.blocks[block].param(place);
        let own = part.units[unit];
        let (stride, side) = ([own.stride; 2], [own.kernel / 2; 2]);
        let bias: Option<&Tensor> = None;
        let y = x.f_conv2d(p(unit), bias, stride, side, [1, 1], 1)?;
        // Matrices come first, then of each unit scale, shift, mean, variance.
        let first = part.units.len() + 4 * unit;
        let [weight, shift, mean, variance] = [0, 1, 2, 3].map(|n| Some(p(first + n)));
        let (follows, momentum) = match self.following.get() {
            Some(momentum) => (true, momentum),
            None => (false, 0.0),
        };
        Ok(y.f_batch_norm(weight, shift, mean, variance, follows, momentum, EPS, false)?)
    }
}

impl Part {
    /// The last unit before the sum.
    fn last(&self) -> usize {
        self.units.len() - 1 - usize::from(self.has_shortcut)
    }

    /// Parameters: the matrices of all units, then what their norms have.
    fn params(&self) -> Vec<ParamSpec> {
        let full = |unit: &str, end: &str| format!("{}.{unit}.{end}", self.name);
        let named = || self.names.iter().zip(&self.units);
        let matrices = named().map(|(name, unit)| {
            let shape = [unit.outputs, unit.inputs, unit.kernel, unit.kernel];
            ParamSpec::weight(full(name, "convolution.weight"), &shape)
        });
        let norms = named().flat_map(|(name, unit)| {
            let ends = ["weight", "bias", "running_mean", "running_var"];
            ends.map(|end| ParamSpec {
                trained: matches!(end, "weight" | "bias"),
                ..ParamSpec::bias(full(name, &format!("normalization.{end}")), &[unit.outputs])
            })
        });
        matrices.chain(norms).collect()
    }
}

impl Backbone for ResNet {
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
        self.config.hidden_sizes.last().copied().unwrap_or(0) as usize
    }
    fn extra(&self) -> &[(String, Tensor)] {
        &self.extra
    }
    fn feature_map(&self) -> Option<FeatureMap> {
        Some(FeatureMap::Channels)
    }
    fn follow_batches(&self, momentum: Option<f64>) -> bool {
        self.following.set(momentum);
        true
    }

    fn input(&self, batch: &Batch) -> Result<Tensor, Error> {
        batch.as_images()?.of_shape(self.image)
    }

    fn forward(&self, block: usize, x: &Tensor, _: &Batch, _: &Context) -> Result<Tensor, Error> {
        let part = &self.parts[block];
        if block == 0 {
            let y = self.unit(0, 0, x)?.f_relu()?;
            return Ok(y.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?);
        }
        let last = part.last();
        let mut y = x.shallow_clone();
        for unit in 0..last {
            y = self.unit(block, unit, &y)?.f_relu()?;
        }
        let y = self.unit(block, last, &y)?;
        let past = match part.has_shortcut {
            true => self.unit(block, last + 1, x)?,
            false => x.shallow_clone(),
        };
        Ok(y.f_add(&past)?.f_relu()?)
    }

    /// Over all places; the model's own pooler is their mean.
    fn pool(&self, x: &Tensor, _: &Batch) -> Result<Tensor, Error> {
        let places = [2i64, 3];
        Ok(match self.pooling {
            Pooling::Max => x.f_amax(&places[..], false)?,
            _ => x.f_mean_dim(&places[..], false, Kind::Float)?,
        })
    }
}

/// The stem and the residual layers, in order.
fn parts(config: &Config) -> Vec<Part> {
    let stem = Unit {
        inputs: config.num_channels,
        outputs: config.embedding_size,
        kernel: 7,
        stride: 2,
    };
    let mut parts = vec![Part {
        name: "embedder".to_owned(),
        names: vec!["embedder".to_owned()],
        units: vec![stem],
        has_shortcut: false,
    }];
    let mut before = config.embedding_size;
    for (stage, (&width, &depth)) in config.hidden_sizes.iter().zip(&config.depths).enumerate() {
        for layer in 0..depth {
            let shrinks = layer == 0 && (stage > 0 || config.downsample_in_first_stage);
            let stride = if shrinks { 2 } else { 1 };
            let name = format!("encoder.stages.{stage}.layers.{layer}");
            parts.push(residual(config, name, [before, width], stride));
            before = width;
        }
    }
    parts
}

fn residual(config: &Config, name: String, [inputs, outputs]: [i64; 2], stride: i64) -> Part {
    let unit = |inputs, outputs, kernel, stride| Unit {
        inputs,
        outputs,
        kernel,
        stride,
    };
    let middle = outputs / REDUCTION;
    let (first, second) = match config.downsample_in_bottleneck {
        true => (stride, 1),
        false => (1, stride),
    };
    let mut units = match config.layer_type {
        LayerType::Basic => vec![
            unit(inputs, outputs, 3, stride),
            unit(outputs, outputs, 3, 1),
        ],
        LayerType::Bottleneck => vec![
            unit(inputs, middle, 1, first),
            unit(middle, middle, 3, second),
            unit(middle, outputs, 1, 1),
        ],
    };
    let mut names: Vec<String> = (0..units.len()).map(|n| format!("layer.{n}")).collect();
    let has_shortcut = inputs != outputs || stride != 1;
    if has_shortcut {
        units.push(unit(inputs, outputs, 1, stride));
        names.push("shortcut".to_owned());
    }
    Part {
        name,
        names,
        units,
        has_shortcut,
    }
}

/// Makes what each residual layer adds begin smaller, by the scale of its last norm: 1/√L for L layers.
fn dampen(parts: &[Part], blocks: &mut [Block]) -> Result<(), Error> {
    let layers = parts.len().saturating_sub(1).max(1);
    let scale = 1.0 / (layers as f32).sqrt();
    for (part, block) in parts.iter().zip(blocks).skip(1) {
        let last = part.last();
        let name = format!("{}.{}.normalization.weight", part.name, part.names[last]);
        let values = vec![scale; part.units[last].outputs as usize];
        block.load(&name, &Tensor::f_from_slice(&values)?)?;
    }
    Ok(())
}

/// Channels, height and width of the images: of `config.json`, where it has an `image_size`; else of
/// `preprocessor_config.json`; else the usual 224 x 224.
///
/// # Errors
/// [`Error::Content`] for a configuration that is none.
pub(super) fn image(source: &Source) -> Result<[i64; 3], Error> {
    let config: Config = source.config()?;
    let own: Sizes = source.config()?;
    let preprocessor = std::fs::read(source.dir().join("preprocessor_config.json")).ok();
    // What else is wrong with that file, who reads images says.
    let preprocessor = preprocessor.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let sizes =
        ["crop_size", "size"].map(|field| preprocessor.as_ref()?.get(field).and_then(sides));
    let own = own.image_size.as_ref().and_then(sides);
    let found = own.or_else(|| sizes.into_iter().flatten().next());
    let [height, width] = found.unwrap_or([USUAL_SIZE; 2]);
    Ok([config.num_channels, height, width])
}

#[derive(Deserialize)]
struct Sizes {
    image_size: Option<Value>,
}

/// A size as preprocessors give it: a number, height and width, or the shorter edge.
fn sides(size: &Value) -> Option<[i64; 2]> {
    let field = |name: &str| size.get(name).and_then(Value::as_i64);
    let square = size.as_i64().or_else(|| field("shortest_edge"));
    let sides = square.map(|side| [side, side]);
    sides.or_else(|| Some([field("height")?, field("width")?]))
}

fn check(source: &Source, config: &Config) -> Result<(), Error> {
    let wrong = |message: String| Err(source.wrong("config.json", message));
    let (sizes, depths) = (&config.hidden_sizes, &config.depths);
    if sizes.is_empty() || sizes.len() != depths.len() || depths.contains(&0) {
        return wrong(
            "hidden_sizes and depths must be lists of the same length, with no depth of 0".into(),
        );
    }
    let all = sizes
        .iter()
        .chain([&config.num_channels, &config.embedding_size]);
    if all.copied().any(|size| size <= 0) {
        return wrong("num_channels, embedding_size and hidden_sizes must be above 0".into());
    }
    let is_divisible = |size: &i64| size % REDUCTION == 0;
    if config.layer_type == LayerType::Bottleneck && !sizes.iter().all(is_divisible) {
        return wrong(format!(
            "hidden_sizes of bottleneck layers must be multiples of {REDUCTION}"
        ));
    }
    if config.hidden_act != "relu" {
        let found = &config.hidden_act;
        return wrong(format!("hidden_act {found:?} is not supported: relu"));
    }
    Ok(())
}
