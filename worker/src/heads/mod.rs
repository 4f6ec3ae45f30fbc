//! Heads: the task-specific part of the model, what it learns from, and what it answers.
//!
//! A head is one linear layer, `[C, H]` and `[C]` (ordered classes share one direction, `[1, H]`), on top of the backbone's pooled features
//! `[B, H]`. It owns no tensors: its parameters are views of the flat block that holds all heads of
//! a job, named `heads.<task>.weight` and `heads.<task>.bias`, and are passed in. The head of classes that
//! are known by what they are has a scale instead (`label_embedding`), and where they are vectors a map
//! `[d, H]` into their space; the head that ranks texts has a factor that is not trained (`ranking`). One
//! file per kind: another kind is one more file, and one more line in [`build`].
//!
//! The head of classes of pixels reads every place of a map of features instead (`segmentation`).
//!
//! Shapes: B samples, H hidden size, C outputs (classes, or 1 for regression). All tensors are
//! 32-bit floats.
//!
//! **Losses are per sample**, not reduced: the caller sums them over ranks and divides by the number
//! of the task's samples in the whole step. That is `mean` of PyTorch, except with class weights:
//! there `torch.nn.CrossEntropyLoss` divides by the sum of the weights of the batch's targets, which
//! makes a sample's gradient depend on its neighbours. Here a sample weighs the same in any batch;
//! balanced weights have mean 1 over the training samples, so both agree over an epoch.

mod adapter;
mod causal_lm;
mod contrastive;
mod ctc;
mod entailment;
mod init;
mod label_embedding;
mod multi_label;
mod ordinal;
mod ranking;
mod regression;
mod segmentation;
mod single_label;
mod span;
mod tags;
mod weights;

pub use adapter::{ADAPTER, TaskAdapter, adapter};
pub use causal_lm::CausalLm;
pub use contrastive::{contrastive, dampened};
pub use ctc::Ctc;
pub use entailment::{Entailment, over_templates};
pub use init::{Parameter, calibration, layer, parameters, space};
pub use label_embedding::{LARGEST_SCALE, LabelEmbedding, class_vectors, cosines, scaled, unit};
pub use multi_label::MultiLabel;
pub use ordinal::Ordinal;
pub use ranking::{Ranking, ranked};
pub use regression::Regression;
pub use segmentation::{Segmentation, shares, upsampled};
pub use single_label::SingleLabel;
pub use span::{BestSpan, Span};
pub use tags::Tags;
pub use weights::class_weights;

use crate::metrics::Values;
use espalier_spec::job::{ClassWeights, HeadKind, TaskSpec};
use serde_json::{Map, Value};
use tch::{Device, Kind, TchError, Tensor};

/// One task's head.
pub trait Head: Send + Sync {
    /// What it predicts.
    fn kind(&self) -> HeadKind;

    /// Number of outputs C.
    fn outputs(&self) -> usize;

    /// What its parameters are, and how they begin.
    fn shape(&self) -> Shape {
        Shape::Linear {
            directions: self.outputs(),
            biases: vec![0.0; self.outputs()],
        }
    }

    /// What has one row of outputs.
    fn level(&self) -> Level {
        Level::Sample
    }

    /// Loss of each sample `[B]`, differentiable in `outputs` `[B, C]` (`[W, C]` at the level of words,
    /// `[B, T, C]` at that of frames, `[B, C, height, width]` at that of places).
    ///
    /// # Errors
    /// Targets of another kind or number; errors of torch.
    fn loss(&self, outputs: &Tensor, targets: &Values) -> Result<Tensor, Error>;

    /// The decision for each row (each sample, at the level of frames), as metrics take it, from `outputs`.
    ///
    /// # Errors
    /// Outputs of another shape; errors of torch.
    fn decide(&self, outputs: &Tensor) -> Result<Values, Error>;

    /// The decision for each row, where the rows are words of texts that end at `ends` and a text's words are decided on
    /// together; most heads decide row by row.
    ///
    /// # Errors
    /// Outputs of another shape, or of another number of words; errors of torch.
    fn decide_texts(&self, outputs: &Tensor, _ends: &[u32]) -> Result<Values, Error> {
        self.decide(outputs)
    }

    /// What a person is shown for each sample, `[B, C]` row-major: probabilities of classes, or the
    /// number itself.
    ///
    /// # Errors
    /// Outputs of another shape; errors of torch.
    fn scores(&self, outputs: &Tensor) -> Result<Vec<f32>, Error>;

    /// The fields of a Hugging Face `config.json` that describe this head: `problem_type`,
    /// `num_labels`, `id2label`, `label2id`.
    fn config(&self) -> Map<String, Value>;
}

/// The parameters of a head.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A linear layer.
    Linear {
        /// Rows of the weight: one for each output, or one for all.
        directions: usize,
        /// First values of the biases, one for each output.
        biases: Vec<f32>,
    },
    /// Cosines with vectors of classes.
    Cosine {
        /// First logarithm of what they are multiplied by.
        scale: f32,
        /// What is taken from those of classes that were trained on; not trained itself.
        calibration: f32,
    },
}

/// What a head has one row of outputs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A sample: it reads pooled features `[B, H]`.
    Sample,
    /// A word, or a token of a context: it reads the vectors of words' first tokens `[W, H]`, those of one
    /// sample after those of the other.
    Word,
    /// A token that another one follows: it reads the vectors of all of them `[W, H]`, those of one sample
    /// after those of the other.
    Token,
    /// A frame: it reads those of all samples `[B, T, W]`, which may be wider than features.
    Frame,
    /// A place of an image: it reads the map of features `[B, height', width', H]`, and its outputs are
    /// brought to the image's size.
    Place,
}

/// A head's parameters: views of the flat block of all heads.
#[derive(Debug)]
pub struct Linear<'a> {
    /// Weights `[C, H]`, or `[1, H]` for all outputs.
    pub weight: &'a Tensor,
    /// Biases `[C]`; none of a head that has none.
    pub bias: Option<&'a Tensor>,
}

impl Linear<'_> {
    /// Outputs `[B, C]` from pooled `features` `[B, H]`. With `mask` `[B, H]` (0 for what is dropped,
    /// 1 / (1 - rate) for what is kept), the features are multiplied by it first; the caller makes it
    /// from its counters, so that dropout doesn't depend on ranks.
    ///
    /// # Errors
    /// Shapes that don't fit; errors of torch.
    pub fn forward(&self, features: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, Error> {
        let dropped = mask.map(|mask| features.f_mul(mask)).transpose()?;
        let features = dropped.as_ref().unwrap_or(features);
        let one_for_all = |bias: &&Tensor| self.weight.size().first() != bias.size().first();
        match self.bias.filter(one_for_all) {
            Some(bias) => Ok(features
                .f_linear::<&Tensor>(self.weight, None)?
                .f_add(bias)?),
            None => Ok(features.f_linear(self.weight, self.bias)?),
        }
    }
}

/// Errors of heads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A class weight for a class that isn't one.
    #[error("task {task}: loss.class_weights names `{class}`, which is not in the label set{}", suggestion.as_deref().map(|s| format!(" (did you mean `{s}`?)")).unwrap_or_default())]
    UnknownClass {
        /// Name of the task.
        task: String,
        /// The class.
        class: String,
        /// The nearest class.
        suggestion: Option<String>,
    },
    /// A class weight that can't be one.
    #[error(
        "task {task}: loss.class_weights gives `{class}` the weight {weight}; expected a finite number of at least 0"
    )]
    ClassWeight {
        /// Name of the task.
        task: String,
        /// The class.
        class: String,
        /// The weight.
        weight: f64,
    },
    /// Next tokens by a backbone that predicts none.
    #[error(
        "task {task}: the head `causal_lm` needs a backbone that predicts the next token (gpt2, llama); use one, or another head"
    )]
    NoDecoder {
        /// Name of the task.
        task: String,
    },
    /// Texts out of frames by a backbone that has none.
    #[error(
        "task {task}: the head `ctc` needs a backbone that keeps the order of time or of columns \
         (espalier-convnet without dense_size, vit, audio-spectrogram-transformer); use one, or another head"
    )]
    NoFrames {
        /// Name of the task.
        task: String,
    },
    /// Words of a backbone that gives one vector for all of them.
    #[error(
        "task {task}: the head `{head}` reads a vector of each token, but this backbone gives one of each text; use another backbone or head"
    )]
    NoWords {
        /// Name of the task.
        task: String,
        /// The head.
        head: &'static str,
    },
    /// A class for every pixel by a backbone that leaves no map of features.
    #[error(
        "task {task}: the head `segmentation` needs a backbone of images that leaves a map of features (vit without pooler, resnet, espalier-convnet without dense_size); use one, or another head"
    )]
    NoMap {
        /// Name of the task.
        task: String,
    },
    /// A loss setting that the kind of head doesn't have.
    #[error(
        "task {task}: {setting} applies to {applies} heads, but this is a {kind} head; remove it"
    )]
    Setting {
        /// Name of the task.
        task: String,
        /// The field.
        setting: &'static str,
        /// The kinds that have it.
        applies: &'static str,
        /// The task's kind.
        kind: &'static str,
    },
    /// Label smoothing out of range.
    #[error("task {task}: loss.label_smoothing is {found}; expected at least 0 and below 1")]
    Smoothing {
        /// Name of the task.
        task: String,
        /// What was given.
        found: f64,
    },
    /// Targets that don't fit the outputs.
    #[error("targets don't fit the head: expected {expected}, found {found}")]
    Targets {
        /// What the head takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// Outputs of another shape.
    #[error("outputs don't fit the head: expected shape [samples, {expected}], found {found:?}")]
    Outputs {
        /// Number of outputs.
        expected: usize,
        /// Shape that was given.
        found: Vec<i64>,
    },
    /// torch failed.
    #[error("torch: {0}")]
    Torch(#[from] TchError),
}

/// Makes the head of a task. `classes` are the names of its classes (empty for regression), and
/// `counts` how many training samples have each of them.
///
/// # Errors
/// Settings of the loss that are out of range, name unknown classes or belong to another kind.
pub fn build(task: &TaskSpec, classes: &[String], counts: &[u64]) -> Result<Box<dyn Head>, Error> {
    let smoothing = task.loss.label_smoothing;
    if !(0.0..1.0).contains(&smoothing) {
        return Err(Error::Smoothing {
            task: task.name.clone(),
            found: smoothing,
        });
    }
    let refuse = |setting: &'static str, applies: &'static str, kind: &'static str| {
        Err(Error::Setting {
            task: task.name.clone(),
            setting,
            applies,
            kind,
        })
    };
    let classes = classes.to_vec();
    match task.head {
        HeadKind::SingleLabel => {
            let weights = class_weights(task, &classes, counts)?;
            Ok(Box::new(SingleLabel::new(classes, weights, smoothing)))
        }
        HeadKind::MultiLabel if smoothing > 0.0 => {
            refuse("loss.label_smoothing", "single_label", "multi_label")
        }
        HeadKind::MultiLabel => {
            let weights = class_weights(task, &classes, counts)?;
            Ok(Box::new(MultiLabel::new(classes, weights)))
        }
        HeadKind::Regression if smoothing > 0.0 => {
            refuse("loss.label_smoothing", "single_label", "regression")
        }
        HeadKind::Regression if task.loss.class_weights != ClassWeights::None => refuse(
            "loss.class_weights",
            "single_label and multi_label",
            "regression",
        ),
        HeadKind::Regression => Ok(Box::new(Regression)),
        HeadKind::Tags if smoothing > 0.0 => refuse("loss.label_smoothing", "single_label", "tags"),
        HeadKind::Tags if task.loss.class_weights != ClassWeights::None => {
            refuse("loss.class_weights", "single_label and multi_label", "tags")
        }
        HeadKind::Tags => Ok(Box::new(Tags::new(classes))),
        HeadKind::Ordinal if smoothing > 0.0 => {
            refuse("loss.label_smoothing", "single_label", "ordinal")
        }
        HeadKind::Ordinal if task.loss.class_weights != ClassWeights::None => refuse(
            "loss.class_weights",
            "single_label and multi_label",
            "ordinal",
        ),
        HeadKind::Ordinal => Ok(Box::new(Ordinal::new(classes))),
        HeadKind::LabelEmbedding if smoothing > 0.0 => {
            refuse("loss.label_smoothing", "single_label", "label_embedding")
        }
        HeadKind::LabelEmbedding if task.loss.class_weights != ClassWeights::None => refuse(
            "loss.class_weights",
            "single_label and multi_label",
            "label_embedding",
        ),
        HeadKind::LabelEmbedding => {
            let given = task.zero_shot.as_ref().and_then(|spec| spec.calibration);
            #[expect(clippy::cast_possible_truncation, reason = "parameters are 32-bit")]
            let calibration = given.unwrap_or(0.0) as f32;
            Ok(Box::new(LabelEmbedding::new(classes, calibration)))
        }
        HeadKind::Ctc if smoothing > 0.0 => refuse("loss.label_smoothing", "single_label", "ctc"),
        HeadKind::Ctc if task.loss.class_weights != ClassWeights::None => {
            refuse("loss.class_weights", "single_label and multi_label", "ctc")
        }
        HeadKind::Ctc => Ok(Box::new(Ctc::new(classes))),
        HeadKind::Entailment if smoothing > 0.0 => {
            refuse("loss.label_smoothing", "single_label", "entailment")
        }
        HeadKind::Entailment if task.loss.class_weights != ClassWeights::None => refuse(
            "loss.class_weights",
            "single_label and multi_label",
            "entailment",
        ),
        HeadKind::Entailment => Ok(Box::new(Entailment::new(classes))),
        HeadKind::Segmentation if smoothing > 0.0 => {
            refuse("loss.label_smoothing", "single_label", "segmentation")
        }
        HeadKind::Segmentation => {
            let weights = class_weights(task, &classes, counts)?;
            let ignore = task.segmentation.unwrap_or_default().ignore_index;
            Ok(Box::new(Segmentation::new(classes, weights, ignore)))
        }
        HeadKind::Span if smoothing > 0.0 => refuse("loss.label_smoothing", "single_label", "span"),
        HeadKind::Span if task.loss.class_weights != ClassWeights::None => {
            refuse("loss.class_weights", "single_label and multi_label", "span")
        }
        HeadKind::Span => {
            let most = task.span.unwrap_or_default().max_answer_tokens;
            Ok(Box::new(Span::new(most as usize)))
        }
        HeadKind::Ranking if smoothing > 0.0 => {
            refuse("loss.label_smoothing", "single_label", "ranking")
        }
        HeadKind::Ranking if task.loss.class_weights != ClassWeights::None => refuse(
            "loss.class_weights",
            "single_label and multi_label",
            "ranking",
        ),
        HeadKind::Ranking => Ok(Box::new(Ranking)),
        // Its size is the vocabulary's, which only a decoder has.
        HeadKind::CausalLm => Err(Error::NoDecoder {
            task: task.name.clone(),
        }),
    }
}

/// Checks that `outputs` is `[B, width]` and returns B.
fn samples(outputs: &Tensor, width: usize) -> Result<usize, Error> {
    match outputs.size().as_slice() {
        [rows, columns] if usize::try_from(*columns) == Ok(width) => {
            Ok(usize::try_from(*rows).unwrap_or(0))
        }
        shape => Err(Error::Outputs {
            expected: width,
            found: shape.to_vec(),
        }),
    }
}

/// Means `[B]` of losses `[W]` over each sample's rows, which end at `ends`; 0 for a sample that has none.
fn means(losses_w: &Tensor, ends: &[u32]) -> Result<Tensor, Error> {
    let (mut sample_of, mut shares) = (Vec::new(), Vec::new());
    let mut start = 0;
    for (sample, &end) in (0_i64..).zip(ends) {
        let count = end.saturating_sub(start);
        #[expect(clippy::cast_precision_loss, reason = "rows of a text")]
        shares.resize(end as usize, 1.0 / count.max(1) as f32);
        sample_of.resize(end as usize, sample);
        start = end;
    }
    let device = losses_w.device();
    let sample_of = Tensor::f_from_slice(&sample_of)?.f_to_device(device)?;
    let shares = Tensor::f_from_slice(&shares)?.f_to_device(device)?;
    let count = i64::try_from(ends.len()).unwrap_or(i64::MAX);
    let zeros = Tensor::f_zeros([count], (Kind::Float, device))?;
    Ok(zeros.f_index_add(0, &sample_of, &losses_w.f_mul(&shares)?)?)
}

/// The numbers of a tensor, row-major, on the host.
fn numbers(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    let host = tensor
        .f_detach()?
        .f_to_device(Device::Cpu)?
        .f_to_kind(Kind::Float)?;
    Ok(Vec::<f32>::try_from(
        &host.f_contiguous()?.f_flatten(0, -1)?,
    )?)
}

/// A small table of numbers as a tensor beside `outputs`.
fn beside(outputs: &Tensor, values: &[f32]) -> Result<Tensor, Error> {
    Ok(Tensor::f_from_slice(values)?.f_to_device(outputs.device())?)
}

fn targets_error(expected: String, found: &Values) -> Error {
    Error::Targets {
        expected,
        found: found.describe(),
    }
}

/// `id2label`, `label2id` and `num_labels`.
fn label_fields(problem_type: &str, names: &[String]) -> Map<String, Value> {
    let by_id = names
        .iter()
        .enumerate()
        .map(|(id, name)| (id.to_string(), Value::from(name.as_str())));
    let by_name = names
        .iter()
        .enumerate()
        .map(|(id, name)| (name.clone(), Value::from(id)));
    Map::from_iter([
        ("problem_type".to_owned(), Value::from(problem_type)),
        ("num_labels".to_owned(), Value::from(names.len())),
        ("id2label".to_owned(), Value::Object(by_id.collect())),
        ("label2id".to_owned(), Value::Object(by_name.collect())),
    ])
}

#[cfg(test)]
mod tests;
