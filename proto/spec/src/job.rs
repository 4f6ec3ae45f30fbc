//! The job file as types: one shared backbone, its tasks, and how to train them.
//!
//! Every optional field has its default here and nowhere else. `check` holds the rules that
//! connect fields.

pub use crate::adaptation::{Adapt, AdaptationSpec, Sources, TargetSpec};
pub use crate::adaptive::{AdaptiveBy, AdaptiveSpec};
pub use crate::augment::{Augment, OnBadSample, OnMissingLabel, TooLong};
pub use crate::balancer::{BalancerSpec, Method, Normalize, OnNonFinite};
pub use crate::evaluation::{EvaluationSpec, SelectBy, TaskEvaluationSpec};
pub use crate::exchange::{Affinity, ExchangeSpec, ExchangeType, Sharding, SyncKind};
pub use crate::head::{HeadKind, Metric};
pub use crate::join::Join;
pub use crate::loss::{ClassWeights, ContrastiveKind, ContrastiveSpec, LossSpec};
pub use crate::recovery::{RecoverySpec, WorkerRange};
pub use crate::resources::{Device, Resources};
pub use crate::segmentation::SegmentationSpec;
pub use crate::span::SpanSpec;
pub use crate::training::{
    OptimizerMethod, OptimizerSpec, ScheduleKind, ScheduleSpec, TrainingSpec,
};
pub use crate::tuning::{
    AdapterKind, AdapterSpec, GradualSpec, LoraSpec, PrefixSpec, PromptInit, PromptSpec,
    TaskAdapterSpec, Tuning,
};
pub use crate::zero_shot::{Descriptions, ZeroShotSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One training job, as written in a job file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Name of the job: lower-case letters, digits and `-`, at most 63 characters, starting with
    /// a letter. Unique in the cluster.
    pub name: String,
    /// Whose job it is: what somebody may see and steer can be limited to some namespaces. Names of jobs
    /// are unique across namespaces.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Seed of everything random: initial heads, order of data, dropout. Same spec and seed give
    /// the same bits.
    #[serde(default)]
    pub seed: u64,
    /// Jobs with a higher priority leave the queue first; equal ones in order of submission.
    #[serde(default)]
    pub priority: i32,
    /// The pretrained model that all tasks share.
    pub backbone: BackboneSpec,
    /// Which part of the backbone is trained.
    #[serde(default)]
    pub tuning: Tuning,
    /// What is learned on top of the backbone; at least one.
    pub tasks: Vec<TaskSpec>,
    /// How often each task's samples are drawn.
    #[serde(default)]
    pub sampler: Sampler,
    /// How the gradients of the tasks become one update: the name of a method, or a mapping with
    /// `method` and what is done around it. Default: the plain mean over the batch.
    #[serde(default, deserialize_with = "crate::balancer::short_or_long")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::balancer::Form"))]
    pub balancer: BalancerSpec,
    /// Length, batch and optimizer.
    #[serde(default)]
    pub training: TrainingSpec,
    /// How gradients reach the owners of the slices, and what is kept where.
    #[serde(default)]
    pub exchange: ExchangeSpec,
    /// When tasks are evaluated, which checkpoint is best, when to stop early.
    #[serde(default)]
    pub evaluation: EvaluationSpec,
    /// Durable recovery points.
    #[serde(default)]
    pub checkpoint: CheckpointSpec,
    /// How the job guards itself against losses.
    #[serde(default)]
    pub recovery: RecoverySpec,
    /// What the job asks of the cluster.
    #[serde(default)]
    pub resources: Resources,
    /// Directory that the exported model is written to; default: `export` in the job's directory
    /// on the workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// The namespace of jobs that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

/// The shared model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BackboneSpec {
    /// Hugging Face directory with `config.json`, `model.safetensors` and, for text,
    /// `tokenizer.json`; also `file:///…` or `s3://BUCKET/PREFIX`.
    pub path: String,
    /// Where the weights start: from the directory, or at random from its `config.json`.
    #[serde(default)]
    pub init: Init,
    /// Longest input in tokens; longer ones are cut and counted. Default 128, never above the
    /// model's own limit.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: u32,
    /// How a sample's token vectors become one vector.
    #[serde(default)]
    pub pooling: Pooling,
    /// Dropout rate in the backbone, and of what heads read (not in front of a vocabulary or of masks); default:
    /// the rates of its `config.json`, and 0.1 in front of heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Where the whole backbone is frozen (`tuning: heads`), compute the features of every sample once,
    /// before the first step, if the run sees about all of them; later epochs and evaluations then run
    /// the heads alone (not with heads that read more than pooled features). Where its lowest blocks are (`last_blocks`), compute
    /// what these make of every sample once. Not with `augment`.
    #[serde(default = "yes")]
    pub cache_features: bool,
    /// Give a decoder rows for the tokens that its `tokenizer.json` has beyond its vocabulary: new rows of
    /// the word table and of the vocabulary matrix begin as the mean of the old ones. Needs a tuning that
    /// trains the word table (`all` or `gradual`). Default: tokens without a row are an error.
    #[serde(default)]
    pub extend_vocabulary: bool,
}

/// Where a backbone's weights start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// From `model.safetensors`.
    #[default]
    Pretrained,
    /// At random, from the job's seed; only `config.json` is read.
    Random,
}

/// How a sample's token vectors become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Mean over the sample's tokens.
    #[default]
    Mean,
    /// The first token (`[CLS]`).
    Cls,
    /// Maximum over the sample's tokens.
    Max,
    /// The last token: the one that has seen all others in a decoder.
    Last,
    /// The model's own pooler: the first token through a dense layer and tanh (BERT). Exports for
    /// classification then load as stock transformers classes.
    Pooler,
}

/// One task: data, head, loss and metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Name of the task, unique in the job: letters, digits, `-` and `_`.
    pub name: String,
    /// What is predicted.
    pub head: HeadKind,
    /// Where the samples are.
    pub data: DataSpec,
    /// Tasks that name the same group label the same inputs: their training files, input column,
    /// `max_train_samples`, `on_bad_sample`, `too_long` and `augment` are the same. Every sample that is drawn is
    /// one for all of them, and one forward pass serves them all (with full sharding each has its own where
    /// gradients are kept apart). Default: inputs of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_group: Option<String>,
    /// Factor on the task's loss, with the balancers `mean` and `fixed`; all others find their
    /// weights themselves.
    #[serde(default = "one")]
    pub weight: f64,
    /// Details of the loss.
    #[serde(default)]
    pub loss: LossSpec,
    /// What the classes are; for the head `label_embedding`, which needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShotSpec>,
    /// How answers are searched; for the head `span`. Default: answers of at most 30 tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<SpanSpec>,
    /// Metric that selects the best checkpoint; default: accuracy for `single_label` and
    /// `label_embedding`, macro F1 for `multi_label`, Pearson for `regression`, span F1 for `tags`, quadratic
    /// kappa for `ordinal`, perplexity for `causal_lm`, character error rate for `ctc`, mean IoU for
    /// `segmentation`, F1 of answers for `span`, mean reciprocal rank for `ranking`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// When the task is evaluated, if not at every evaluation. Default: at every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<TaskEvaluationSpec>,
    /// Unlabelled samples of another domain that the task learns from as well. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptation: Option<AdaptationSpec>,
    /// A small network of the task's own between the shared backbone and its head. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<TaskAdapterSpec>,
    /// How masks are read; `segmentation` only. Default: 255 stands for no class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segmentation: Option<SegmentationSpec>,
}

/// Where a task's samples are: paths or glob-free lists of files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Training files, read one after another. `.parquet`, `.jsonl` or `.csv`. A relative path is
    /// taken from the job file's directory. `s3://BUCKET/KEY`, `http://…` and `https://…` are
    /// fetched by the workers; `file:///…` is a path of theirs.
    pub train: Files,
    /// Files for evaluation during training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Files>,
    /// Files for the final evaluation of the selected model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Files>,
    /// Which columns hold what.
    #[serde(default)]
    pub columns: Columns,
    /// The classes, in order; default: those of the training files, sorted. For the head `ctc`, which learns
    /// texts, they are single characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Use at most this many training samples (the first ones).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_train_samples: Option<u64>,
    /// Use so many training samples of each class, drawn by the job's seed (few-shot learning);
    /// `single_label` only. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_class: Option<u32>,
    /// How texts become samples; `causal_lm` only.
    #[serde(default)]
    pub join: Join,
    /// What happens when an image, a sound or a mask cannot be decoded, a label of the head `ctc` does not
    /// fit into it, an answer does not stand where it should, or tags are not one for each word or go on with a
    /// span that has not begun.
    #[serde(default)]
    pub on_bad_sample: OnBadSample,
    /// What happens when a text has more tokens than `backbone.max_tokens`, or a sound more frames than the
    /// backbone takes; not where texts are joined.
    #[serde(default)]
    pub too_long: TooLong,
    /// What happens when a row has no label: its cell is null, empty or not a number (NaN).
    #[serde(default)]
    pub on_missing_label: OnMissingLabel,
    /// Random changes of the training samples; images and sounds only.
    #[serde(default)]
    pub augment: Augment,
}

/// One path or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Files {
    /// One file.
    One(String),
    /// Several files, in order.
    Many(Vec<String>),
}

impl Files {
    /// The paths, in order.
    #[must_use]
    pub fn paths(&self) -> &[String] {
        match self {
            Files::One(path) => std::slice::from_ref(path),
            Files::Many(paths) => paths,
        }
    }
}

/// Names of a data file's columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Column of the input; default `text` (`tokens` for the head `tags`, `question` for `span`), `image` or
    /// `audio`, by what the backbone takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Column of a second text, for tasks on pairs of texts: both are tokenised as one input, with the
    /// model's separator between them. Default none (`context` for the head `span`; `positive` for `ranking`,
    /// which reads each text by itself).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    /// Column of a text that does not belong to the input, to be told apart from the one that does; `ranking`
    /// only. Default none: texts of other samples are what is told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative: Option<String>,
    /// Column of the label; default `label` (`tags` for the head `tags`, `mask` for `segmentation`, `answers`
    /// for `span`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// How often each task's samples are drawn: p_k, the share of task k in a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sampler {
    /// p_k ∝ n_k, the number of training samples.
    #[default]
    Proportional,
    /// p_k = 1/K.
    Uniform,
    /// p_k ∝ n_k^(1/T); T = 1 is proportional, T → ∞ uniform (Raffel et al. 2020, section 3.5.2).
    Temperature(f64),
    /// p_k ∝ min(n_k, cap)^(1/T): what is beyond `cap` samples does not count.
    Capped {
        /// Samples of a task that count at most.
        cap: u64,
        /// T; default 1.
        #[serde(default = "one")]
        temperature: f64,
    },
    /// p_k ∝ n_k^a, where a goes from `from` to `to` over the run, in 32 stages at most (Stickland and
    /// Murray 2019, arXiv 1902.02671, section 4.1, by epochs there).
    Annealed {
        /// a at the start; default 1, proportional.
        #[serde(default = "one")]
        from: f64,
        /// a at the end; default 0.2, nearly uniform.
        #[serde(default = "fifth")]
        to: f64,
    },
    /// p_k follows how fast each task's loss falls, or how much its gradient agrees with the others'.
    Adaptive(AdaptiveSpec),
    /// p_k as given for every task; what they add up to does not matter.
    Probabilities(BTreeMap<String, f64>),
}

impl JobSpec {
    /// Whether some of so many ranks may compute their part of a step in several passes.
    #[must_use]
    pub fn computes_in_parts(&self, ranks: usize) -> bool {
        let shards = self.resources.shards;
        self.training.accumulation > 1 || shards.is_some_and(|shards| shards as usize > ranks)
    }
}

/// Durable recovery points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSpec {
    /// Write a checkpoint every so many steps. A pause and the end write one in any case.
    /// 0 turns periodic checkpoints off.
    pub every_steps: u64,
    /// Newest checkpoints that are kept, besides the best one.
    pub keep: u32,
    /// Where every checkpoint is copied to once it is durable, and taken from where it is gone:
    /// `s3://BUCKET/PREFIX`, or `file:///DIRECTORY` of the machine of rank 0. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self {
            every_steps: 500,
            keep: 2,
            upload: None,
        }
    }
}

fn default_max_tokens() -> u32 {
    128
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

fn fifth() -> f64 {
    0.2
}
