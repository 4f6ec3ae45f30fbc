//! A small convolutional network for small images, trained from scratch: to show that nothing here
//! is text-only.
//!
//! Each block is a convolution of `kernel_size` (3), group norm with one group (Wu and He 2018) and GELU;
//! every block after the first halves the image by its stride, or, with `max_pool`, every block by the largest
//! of two by two behind it. Features are the mean over positions; with `dense_size` they are that many numbers of one
//! more layer that reads all positions, as in LeNet (LeCun et al. 1998): a matrix, group norm and GELU.
//!
//! Shapes: b samples, c channels, y and x places.

use super::hf::{self, Source};
use super::{
    Backbone, Batch, Block, Context, Error, FeatureMap, Frames, Options, ParamSpec, Table,
};
use serde::Deserialize;
use tch::{Kind, Tensor};

pub(super) const MODEL_TYPE: &str = "espalier-convnet";

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

    /// What is left of a side behind the last convolution.
    fn halved(&self, side: i64) -> i64 {
        let first = usize::from(!self.max_pool);
        (first..self.hidden_sizes.len()).fold(side, |s, _| (s + 1) / 2)
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
        let mut parts = Vec::with_capacity(config.hidden_sizes.len());
        let (mut before, kernel) = (config.num_channels, config.kernel_size);
        for (index, &channels) in config.hidden_sizes.iter().enumerate() {
            let name = format!("stage.{index}");
            let params = vec![
                ParamSpec::weight(
                    format!("{name}.conv.weight"),
                    &[channels, before, kernel, kernel],
                ),
                ParamSpec::bias(format!("{name}.conv.bias"), &[channels]),
                ParamSpec::bias(format!("{name}.norm.weight"), &[channels]),
                ParamSpec::bias(format!("{name}.norm.bias"), &[channels]),
            ];
            parts.push((name, params));
            before = channels;
        }
        if let Some(size) = config.dense_size {
            let params = vec![
                ParamSpec::weight("dense.weight", &[size, config.flat()]),
                ParamSpec::bias("dense.bias", &[size]),
                ParamSpec::bias("dense.norm.weight", &[size]),
                ParamSpec::bias("dense.norm.bias", &[size]),
            ];
            parts.push(("dense".to_owned(), params));
        }
        let (blocks, extra) = hf::blocks(source, options, parts, ("", 0.1), None)?;
        Ok(Self {
            config,
            blocks,
            extra,
        })
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

    fn forward(&self, block: usize, x: &Tensor, _: &Batch, _: &Context) -> Result<Tensor, Error> {
        let p = |place: usize| self.blocks[block].param(place);
        let dense = block == self.config.hidden_sizes.len();
        let pooled = self.config.max_pool;
        let y = if dense {
            x.f_flatten(1, -1)?.f_linear(p(0), Some(p(1)))?
        } else {
            let stride = if block == 0 || pooled { 1i64 } else { 2 };
            let around = self.config.kernel_size / 2;
            x.f_conv2d(p(0), Some(p(1)), [stride; 2], [around; 2], [1, 1], 1)?
        };
        let y = y.f_group_norm(1, Some(p(2)), Some(p(3)), 1e-5, false)?;
        let y = y.f_gelu("none")?;
        if pooled && !dense {
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
