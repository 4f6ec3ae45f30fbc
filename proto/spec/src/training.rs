//! How a job is trained: length, batch, optimizer and learning rate over time.

use serde::{Deserialize, Serialize};

/// Length, batch and optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSpec {
    /// Optimizer steps; wins over `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Passes over the training samples of all tasks together. Default 1 if `steps` is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Samples per optimizer step, over all tasks and ranks.
    pub batch_size: u32,
    /// Parts that a step's batch is computed in, one after another, to save memory.
    pub accumulation: u32,
    /// The optimizer.
    pub optimizer: OptimizerSpec,
    /// The learning rate over time.
    pub schedule: ScheduleSpec,
    /// Largest global L2 norm of the gradient; larger ones are scaled down to it. 0 turns it off.
    pub clip_norm: f64,
}

impl Default for TrainingSpec {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: None,
            batch_size: 32,
            accumulation: 1,
            optimizer: OptimizerSpec::default(),
            schedule: ScheduleSpec::default(),
            clip_norm: 1.0,
        }
    }
}

/// How owners step their numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSpec {
    /// The rule of a step.
    pub method: OptimizerMethod,
    /// Peak learning rate of the backbone.
    pub learning_rate: f64,
    /// Peak learning rate of the heads; default: ten times `learning_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_learning_rate: Option<f64>,
    /// Of `adamw`: decay of the first and second moment.
    pub betas: [f64; 2],
    /// Of `adamw`: added to the denominator.
    pub eps: f64,
    /// Of `sgd`: share of the momentum that a step keeps, at least 0 and below 1; default 0.9. 0 turns
    /// momentum off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Of `sgd`: a step looks ahead along the momentum (Nesterov), which must be above 0.
    pub nesterov: bool,
    /// Weight decay; not applied to biases and norms. With `adamw` it is decoupled from the gradient;
    /// with `sgd` it is added to it and so goes into the momentum, as in PyTorch.
    pub weight_decay: f64,
    /// Factor on the backbone's learning rate from each block to the one below it, above 0 to 1: the
    /// top block has the full rate, the embeddings the lowest (discriminative fine-tuning; Howard and
    /// Ruder 2018, arXiv 1801.06146, who take 1/2.6). 1, the default, gives all blocks one rate.
    pub block_decay: f64,
    /// Pull of the backbone's weights towards where they started, in place of their weight decay
    /// towards 0 (L2-SP; Li et al. 2018, arXiv 1802.01483): every step takes learning rate x `l2_sp`
    /// of the way back, decoupled from the gradient as AdamW's decay is (with `sgd` too). It applies to
    /// all that is trained of the backbone, biases and norms too; heads keep `weight_decay`. Costs
    /// owners 4 bytes more for each number that they step. 0, the default, turns it off.
    pub l2_sp: f64,
}

impl OptimizerSpec {
    /// Peak learning rate of a block of the backbone: the top one is 0 `below` itself.
    #[must_use]
    pub fn block_rate(&self, below: usize) -> f64 {
        let below = i32::try_from(below).unwrap_or(i32::MAX);
        self.learning_rate * self.block_decay.powi(below)
    }

    /// Peak learning rate of the heads.
    #[must_use]
    pub fn head_rate(&self) -> f64 {
        self.head_learning_rate.unwrap_or(self.learning_rate * 10.0)
    }

    /// Share of the momentum that a step of `sgd` keeps.
    #[must_use]
    pub fn momentum(&self) -> f64 {
        self.momentum.unwrap_or(0.9)
    }
}

impl Default for OptimizerSpec {
    fn default() -> Self {
        Self {
            method: OptimizerMethod::Adamw,
            learning_rate: 5e-5,
            head_learning_rate: None,
            betas: [0.9, 0.999],
            eps: 1e-8,
            momentum: None,
            nesterov: false,
            weight_decay: 0.01,
            block_decay: 1.0,
            l2_sp: 0.0,
        }
    }
}

/// The rule of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OptimizerMethod {
    /// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).
    #[default]
    Adamw,
    /// Stochastic gradient descent with momentum, as `torch.optim.SGD` has it (without dampening).
    Sgd,
}

/// The learning rate over time: linear warm-up, then `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSpec {
    /// Shape after the warm-up.
    pub kind: ScheduleKind,
    /// Share of the peak that `linear` and `cosine` fall to, 0 to 1.
    pub final_ratio: f64,
    /// Of `inverse`: how far the rate falls; default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// Of `inverse`: how fast it falls; default 0.75.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// Share of all steps spent on the warm-up, 0 to 1.
    pub warmup_ratio: f64,
    /// Steps of warm-up; wins over `warmup_ratio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
}

impl Default for ScheduleSpec {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Linear,
            final_ratio: 0.0,
            gamma: None,
            power: None,
            warmup_ratio: 0.06,
            warmup_steps: None,
        }
    }
}

impl ScheduleSpec {
    /// Factor on the share p of the steps in `inverse`.
    #[must_use]
    pub fn gamma(&self) -> f64 {
        self.gamma.unwrap_or(10.0)
    }

    /// The power of `inverse`.
    #[must_use]
    pub fn power(&self) -> f64 {
        self.power.unwrap_or(0.75)
    }
}

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Falls in a straight line to `final_ratio` at the last step.
    #[default]
    Linear,
    /// Falls along half a cosine to `final_ratio` at the last step.
    Cosine,
    /// Stays.
    Constant,
    /// Falls as (1 + `gamma` p)^-`power`, where p, 0 to 1, is the share of the steps after the warm-up
    /// that are done (Ganin et al. 2016, arXiv 1505.07818, section 5.2.2, without a warm-up).
    Inverse,
}
