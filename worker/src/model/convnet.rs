//! A small convolutional network for small images, trained from scratch: to show that nothing here
//! is text-only.
//!
//! Each block is a convolution of `kernel_size` (3), group norm with one group (Wu and He 2018; not with
//! `norm: false`) and `hidden_act` (GELU, or ReLU); every block after the first halves the image by its stride, or, with
//! `max_pool`, every block by the largest of two by two behind it. Features are the mean over positions; with
//! `dense_size` they are that many numbers of one more layer that reads all positions, as in LeNet (LeCun et al. 1998):
//! a matrix, norm and activation. `channel_dropout` is the share of the last convolution's channels that training drops
//! as wholes (Tompson et al. 2015). Weights begin as those of PyTorch's layers, biases at 0.
//!
//! Shapes: b samples, c channels, y and x places.

use super::hf::{self, Source, Spread};
use super::{
    Backbone, Batch, Block, Context, Error, FeatureMap, Frames, Options, ParamSpec, Table, pool,
};
use espalier_spec::job::Pooling;
use serde::Deserialize;
use tch::{Kind, Tensor};

pub(super) const MODEL_TYPE: &str = "espalier-convnet";
/// The place of this model that drops; heads have others.
const CHANNELS: u64 = 0;

/// `config.json` of this model.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Config {
    /// Channels of the image.
    pub num_channels: i64,
    /// Height and width of the image.
    pub image_size: ImageSize,
    /// Channels of each block's output.
    pub hidden_sizes: Vec<i64>,
    /// Height and width of every convolution: odd.
    #[serde(default = "kernel_size")]
    pub kernel_size: i64,
    /// Rows and columns of zeros around what a convolution reads; default: as many as keep the size.
    #[serde(default)]
    pub padding: Option<i64>,
    /// Whether a group norm follows each convolution and the layer that reads all positions.
    #[serde(default = "yes")]
    pub norm: bool,
    /// What follows that.
    #[serde(default)]
    pub hidden_act: Activation,
    /// Share of the last convolution's channels that training drops.
    #[serde(default)]
    pub channel_dropout: f64,
    /// Halve by pooling in place of strides.
    #[serde(default)]
    pub max_pool: bool,
    /// Features, if a layer that reads all positions makes them.
    #[serde(default)]
    pub dense_size: Option<i64>,
}

impl Config {
    /// Numbers of a sample behind the last convolution.
    fn flat(&self) -> i64 {
        let sides = self.image_size.sides().into_iter();
        let places: i64 = sides.map(|side| self.halved(side)).product();
        places * self.hidden_sizes.last().copied().unwrap_or(0)
    }

    /// What is left of a side behind the last convolution; 0 or less: it is too small.
    fn halved(&self, side: i64) -> i64 {
        (0..self.hidden_sizes.len()).fold(side, |side, block| {
            let wide = side + 2 * self.around() - self.kernel_size;
            let left = wide.div_euclid(self.stride(block)) + 1;
            if self.max_pool { (left + 1) / 2 } else { left }
        })
    }

    fn around(&self) -> i64 {
        self.padding.unwrap_or(self.kernel_size / 2)
    }

    fn stride(&self, block: usize) -> i64 {
        if block == 0 || self.max_pool { 1 } else { 2 }
    }

    fn is_last(&self, block: usize) -> bool {
        block + 1 == self.hidden_sizes.len()
    }

    /// Places from left to right behind the last convolution; none where a layer reads all of them.
    pub(super) fn frames(&self) -> Option<Frames> {
        let [rows, columns] = self.image_size.sides().map(|side| self.halved(side));
        let frames = Frames::Maps { rows, columns };
        self.dense_size.is_none().then_some(frames)
    }
}

fn kernel_size() -> i64 {
    3
}

fn yes() -> bool {
    true
}

/// `hidden_act`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Activation {
    /// Of the error function, not an approximation.
    #[default]
    Gelu,
    /// Nothing below 0.
    Relu,
}

/// `image_size`: one number, or height and width.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum ImageSize {
    /// Height and width are the same.
    Square(i64),
    /// Height, width.
    Sides([i64; 2]),
}

impl ImageSize {
    /// Height and width.
    pub(super) fn sides(self) -> [i64; 2] {
        match self {
            ImageSize::Square(side) => [side, side],
            ImageSize::Sides(sides) => sides,
        }
    }
}

#[derive(Debug)]
pub(super) struct ConvNet {
    config: Config,
    blocks: Vec<Block>,
    extra: Vec<(String, Tensor)>,
}

impl ConvNet {
    pub(super) fn load(source: &Source, options: &Options) -> Result<Self, Error> {
        let config: Config = source.config()?;
        pool::check(source, options.pooling, &[Pooling::Mean])?;
        let positive = |n: &i64| *n > 0;
        if config.hidden_sizes.is_empty() || !config.hidden_sizes.iter().all(positive) {
            let message = "hidden_sizes must name the channels of one block or more".to_owned();
            return Err(source.wrong("config.json", message));
        }
        if config.kernel_size <= 0 || config.kernel_size % 2 == 0 {
            let message = format!(
                "kernel_size is {}, expected an odd number",
                config.kernel_size
            );
            return Err(source.wrong("config.json", message));
        }
        if config.dense_size.is_some_and(|size| size <= 0) {
            let message = "dense_size must be above 0; without it features are means".to_owned();
            return Err(source.wrong("config.json", message));
        }
        if config.num_channels <= 0 || config.image_size.sides().iter().any(|side| *side <= 0) {
            let message = "num_channels and image_size must be above 0".to_owned();
            return Err(source.wrong("config.json", message));
        }
        if config.padding.is_some_and(|around| around < 0) {
            let message = "padding must be 0 or more".to_owned();
            return Err(source.wrong("config.json", message));
        }
        if !(0.0..1.0).contains(&config.channel_dropout) {
            let message = "channel_dropout must be 0 or more and below 1".to_owned();
            return Err(source.wrong("config.json", message));
        }
        let sides = config.image_size.sides().into_iter();
        if sides.map(|side| config.halved(side)).any(|left| left <= 0) {
            let message = format!(
                "nothing of image_size is left behind {} convolutions of {} without padding",
                config.hidden_sizes.len(),
                config.kernel_size
            );
            return Err(source.wrong("config.json", message));
        }
        let norm = |name: &str, size: i64| {
            let names = ["weight", "bias"].map(|part| format!("{name}.norm.{part}"));
            names
                .into_iter()
                .filter(|_| config.norm)
                .map(move |name| ParamSpec::bias(name, &[size]))
        };
        let mut parts = Vec::with_capacity(config.hidden_sizes.len());
        let (mut before, kernel) = (config.num_channels, config.kernel_size);
        for (index, &channels) in config.hidden_sizes.iter().enumerate() {
            let name = format!("stage.{index}");
            let mut params = vec![
                ParamSpec::weight(
                    format!("{name}.conv.weight"),
                    &[channels, before, kernel, kernel],
                ),
                ParamSpec::bias(format!("{name}.conv.bias"), &[channels]),
            ];
            params.extend(norm(&name, channels));
            parts.push((name, params));
            before = channels;
        }
        if let Some(size) = config.dense_size {
            let mut params = vec![
                ParamSpec::weight("dense.weight", &[size, config.flat()]),
                ParamSpec::bias("dense.bias", &[size]),
            ];
            params.extend(norm("dense", size));
            parts.push(("dense".to_owned(), params));
        }
        let (blocks, extra) = hf::blocks(source, options, parts, ("", Spread::ByInputs), None)?;
        Ok(Self {
            config,
            blocks,
            extra,
        })
    }
}

impl ConvNet {
    /// `x` [b, c, y, x] without the channels of each sample that training drops.
    fn thinned(&self, x: Tensor, batch: &Batch, ctx: &Context) -> Result<Tensor, Error> {
        let share = self.config.channel_dropout;
        if share == 0.0 {
            return Ok(x);
        }
        let kept = x.f_new_ones(&x.size()[..2], (x.kind(), x.device()))?;
        let kept = ctx.dropout(kept, &batch.as_images()?.keys, CHANNELS, share)?;
        Ok(x.f_mul(&kept.f_unsqueeze(2)?.f_unsqueeze(3)?)?)
    }
}

impl Backbone for ConvNet {
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
        let last = self.config.hidden_sizes.last().copied();
        self.config.dense_size.or(last).unwrap_or(0) as usize
    }
    fn extra(&self) -> &[(String, Tensor)] {
        &self.extra
    }
    fn frames(&self) -> Option<Frames> {
        self.config.frames()
    }
    fn feature_map(&self) -> Option<FeatureMap> {
        let is_dense = self.config.dense_size.is_some();
        (!is_dense).then_some(FeatureMap::Channels)
    }

    fn input(&self, batch: &Batch) -> Result<Tensor, Error> {
        let [height, width] = self.config.image_size.sides();
        batch
            .as_images()?
            .of_shape([self.config.num_channels, height, width])
    }

    fn forward(
        &self,
        block: usize,
        x: &Tensor,
        batch: &Batch,
        ctx: &Context,
    ) -> Result<Tensor, Error> {
        let (config, p) = (&self.config, |place: usize| self.blocks[block].param(place));
        let dense = block == config.hidden_sizes.len();
        let y = if dense {
            x.f_flatten(1, -1)?.f_linear(p(0), Some(p(1)))?
        } else {
            let (stride, around) = (config.stride(block), config.around());
            x.f_conv2d(p(0), Some(p(1)), [stride; 2], [around; 2], [1, 1], 1)?
        };
        let y = match config.norm {
            true => y.f_group_norm(1, Some(p(2)), Some(p(3)), 1e-5, false)?,
            false => y,
        };
        let y = match config.hidden_act {
            Activation::Gelu => y.f_gelu("none")?,
            Activation::Relu => y.f_relu()?,
        };
        if dense {
            return Ok(y);
        }
        let y = match config.is_last(block) {
            true => self.thinned(y, batch, ctx)?,
            false => y,
        };
        if config.max_pool {
            // Rounds up, as a stride of 2 does.
            return Ok(y.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], true)?);
        }
        Ok(y)
    }

    fn pool(&self, x: &Tensor, _: &Batch) -> Result<Tensor, Error> {
        if self.config.dense_size.is_some() {
            return Ok(x.shallow_clone());
        }
        Ok(x.f_mean_dim(&[2i64, 3][..], false, Kind::Float)?)
    }
}
