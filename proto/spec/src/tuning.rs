//! Which part of the backbone is trained.

use serde::{Deserialize, Serialize};

/// Which part of the backbone is trained. Heads always are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Tuning {
    /// The whole backbone.
    #[default]
    All,
    /// Nothing of the backbone: it is frozen.
    Heads,
    /// The last n blocks; the rest is frozen.
    LastBlocks(u32),
    /// At first the heads alone, then one block more at a time, from the top to the embeddings.
    Gradual(GradualSpec),
    /// The biases alone (BitFit; Ben Zaken et al. 2022, arXiv 2106.10199).
    Biases,
    /// Low-rank updates of linear layers; the backbone itself is frozen (LoRA; Hu et al. 2022, arXiv
    /// 2106.09685).
    Lora(LoraSpec),
    /// Small networks put into the layers; the backbone itself is frozen (Houlsby et al. 2019, arXiv
    /// 1902.00751). The export has them beside the unchanged backbone; a later job whose
    /// `backbone.path` is such an export has them, too.
    Adapter(AdapterSpec),
    /// Learned vectors before the word vectors of each text; the backbone itself is frozen (prompt tuning;
    /// Lester et al. 2021, arXiv 2104.08691). The export has them beside the unchanged backbone, as
    /// adapters are.
    Prompt(PromptSpec),
    /// Learned keys and values before those of each text, in every layer; the backbone itself is frozen
    /// (prefix tuning; Li and Liang 2021, arXiv 2101.00190). The export has them beside the unchanged
    /// backbone, as adapters are.
    Prefix(PrefixSpec),
}

/// A task's own adapter: its head reads x + GELU(x·Dᵀ + d)·Uᵀ + u in place of the backbone's features (or
/// words' vectors) x, with D [size, h] and U [h, size]. U and the biases start at 0, so that it changes
/// nothing at first. It is trained with the head, at the heads' rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TaskAdapterSpec {
    /// Width of the bottleneck.
    pub size: u32,
}

impl Default for TaskAdapterSpec {
    fn default() -> Self {
        Self { size: 16 }
    }
}

/// A learned prompt: so many vectors stand before the word vectors of each text and take positions like
/// tokens; features and heads do not read them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PromptSpec {
    /// Vectors.
    pub tokens: u32,
    /// Where they start.
    pub init: PromptInit,
}

impl Default for PromptSpec {
    fn default() -> Self {
        Self {
            tokens: 20,
            init: PromptInit::default(),
        }
    }
}

/// Where a learned prompt starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PromptInit {
    /// At the word vectors of tokens drawn from the whole vocabulary by the job's seed.
    #[default]
    Random,
    /// At the word vectors of a text, again and again until all have one.
    Text(String),
}

/// A learned prefix: so many keys and values stand before those of each text in every layer's attention.
/// They start normal with standard deviation 0.02; nothing else computes them (in the paper a network does
/// while they are trained).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PrefixSpec {
    /// Keys and values of each layer.
    pub tokens: u32,
}

impl Default for PrefixSpec {
    fn default() -> Self {
        Self { tokens: 10 }
    }
}

/// Gradual unfreezing (ULMFiT; Howard and Ruder 2018, arXiv 1801.06146, section 3.3): after every so many
/// steps the highest block that is still frozen is trained, too. What is frozen costs no backward pass,
/// no exchange and drops nothing; the optimizer's state of a block begins with its first step. Without
/// `every_steps` and `every_epochs` it is one epoch, as in the paper.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct GradualSpec {
    /// Steps from one block to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    /// Passes over the training samples of all tasks together from one block to the next; in place of
    /// `every_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_epochs: Option<f64>,
    /// Blocks that are trained from the first step on; default 0, the heads alone.
    pub start: u32,
}

/// Bottleneck adapters: what a part of a layer gives, y, becomes y + f(y·Dᵀ + d)·Uᵀ + u, with D [size, h]
/// and U [h, size], before dropout and the residual. D starts uniform in ±1/√h; U and the biases start at
/// 0, so that adapters change nothing at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AdapterSpec {
    /// Width of the bottleneck.
    pub size: u32,
    /// Where adapters stand.
    pub kind: AdapterKind,
}

impl Default for AdapterSpec {
    fn default() -> Self {
        Self {
            size: 64,
            kind: AdapterKind::default(),
        }
    }
}

/// Where adapters stand in a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AdapterKind {
    /// Behind the feed-forward part alone, with `ReLU` (the place that Pfeiffer et al. 2021, arXiv
    /// 2005.00247, found best).
    #[default]
    Pfeiffer,
    /// Behind attention and behind the feed-forward part, with GELU (Houlsby et al. 2019).
    Houlsby,
}

/// Low-rank updates: a linear layer of weight W computes x·Wᵀ + alpha/rank · x·Aᵀ·Bᵀ, and only A
/// [rank, in] and B [out, rank] are trained. A starts uniform in ±1/√in, B at 0 (as in PEFT).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LoraSpec {
    /// Rank of the updates.
    pub rank: u32,
    /// Scale: updates count alpha/rank.
    pub alpha: f64,
    /// Dropout rate of the input of A.
    pub dropout: f64,
    /// The linear layers, by Hugging Face name or by how it ends: `query` means the query layers of
    /// all blocks. `*` stands for any part of a name: `layer.1*.query`; `all-linear` means all of them.
    pub targets: Vec<String>,
}

impl Default for LoraSpec {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: vec!["query".to_owned(), "value".to_owned()],
        }
    }
}

impl LoraSpec {
    /// The target that means every linear layer, as in PEFT.
    pub const ALL: &str = "all-linear";

    /// Whether a linear layer of this Hugging Face name (without `.weight`) is meant: by whole names
    /// between dots, as PEFT's `target_modules` are.
    #[must_use]
    pub fn targets(&self, layer: &str) -> bool {
        let ends = layer.match_indices('.').map(|(dot, _)| &layer[dot + 1..]);
        let mut ends = std::iter::once(layer).chain(ends);
        ends.any(|end| self.targets.iter().any(|target| fits(target, end)))
            || self.targets.iter().any(|target| target == Self::ALL)
    }

    /// Whether every target is a name that PEFT understands the same way in a list.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let plain = |target: &String| !target.contains('*') && target != Self::ALL;
        self.targets.iter().all(plain)
    }
}

/// Whether `name` is `pattern`, in which `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    let mut places = (0..=name.len()).filter(|place| name.is_char_boundary(*place));
    places.any(|place| fits(rest, &name[place..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_whole_names() {
        // Promise: a target means the layers that PEFT would take for it.
        let lora = LoraSpec {
            targets: vec!["query".into(), "output.dense".into()],
            ..LoraSpec::default()
        };
        assert!(lora.targets("encoder.layer.0.attention.self.query"));
        assert!(lora.targets("encoder.layer.0.attention.output.dense"));
        assert!(lora.targets("encoder.layer.0.output.dense"));
        assert!(!lora.targets("encoder.layer.0.intermediate.dense"));
        assert!(!lora.targets("encoder.layer.0.subquery"));
        assert!(lora.is_plain());
    }

    #[test]
    fn stars_stand_for_parts_of_names() {
        // Promise: a star stands for any text, dots too; what is around it is matched whole.
        let of = |target: &str| LoraSpec {
            targets: vec![target.into()],
            ..LoraSpec::default()
        };
        let (first, tenth) = (
            "encoder.layer.1.output.dense",
            "encoder.layer.10.output.dense",
        );
        assert!(of("layer.1.*").targets(first) && !of("layer.1.*").targets(tenth));
        assert!(of("layer.1*.dense").targets(first) && of("layer.1*.dense").targets(tenth));
        assert!(of("*").targets(first) && of("all-linear").targets(first));
        assert!(!of("ayer.*").targets(first) && !of("*.dens").targets(first));
        assert!(!of("*").is_plain() && !of("all-linear").is_plain());
    }
}
