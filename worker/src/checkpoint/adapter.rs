//! What was trained beside a backbone, by itself: low-rank updates as PEFT loads them
//! (`adapter_config.json` and `adapter_model.safetensors`, for `PeftModel.from_pretrained(base, dir)`; `base` is
//! an `AutoModelForCausalLM` where the job learned the next token, else an `AutoModel`), and bottleneck adapters and
//! virtual tokens as `espalier` loads them beside the backbone's weights, the latter laid out as PEFT has them.

use super::export::{Language, create, write_json};
use super::{ADAPTER_DIR, Error, write_tensors};
use crate::model::{
    ADAPTERS_FILE, ADAPTERS_META, EMBEDDINGS, LM_HEAD, PEFT_FILE, PEFT_META, PREFIX_DIR,
    PROMPT_DIR, Prefix,
};
use espalier_spec::job::{AdapterSpec, LoraSpec};
use serde_json::{Value, json};
use std::path::Path;
use tch::Tensor;

/// PEFT's prefix of the base model's parameter names.
const PREFIX: &str = "base_model.model.";

/// What was trained beside a backbone: how it was made, and its tensors by name.
#[derive(Debug)]
pub enum Adapter<'a> {
    /// Low-rank updates, merged into the backbone that is exported.
    LowRank(LowRank<'a>),
    /// Bottleneck adapters, which the backbone does not work without: `<layer>.adapter_down.weight`
    /// [size, h] and so on.
    Bottleneck(AdapterSpec, Vec<(String, Tensor)>),
    /// Learned vectors before those of each text, f32 [n, h].
    Prompt(Tensor),
    /// Learned keys and values before those of each text.
    Prefix(Prefix),
}

/// Low-rank updates.
#[derive(Debug)]
pub struct LowRank<'a> {
    /// Rank, scale, targets.
    pub lora: &'a LoraSpec,
    /// `<layer>.lora_A.weight` [r, in] and `<layer>.lora_B.weight` [out, r].
    pub updates: Vec<(String, Tensor)>,
    /// The model stores its matrices as [in, out].
    pub fan_in_fan_out: bool,
}

impl Adapter<'_> {
    /// Whether the exported backbone has it in its own weights.
    pub(super) fn is_merged(&self) -> bool {
        matches!(self, Self::LowRank(..))
    }

    /// Writes it into the existing directory of an export of the model in directory `base`; `language` is what
    /// makes both a language model, if anything does.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`].
    pub(super) fn write(
        &self,
        export: &Path,
        base: &Path,
        language: Option<&Language>,
    ) -> Result<(), Error> {
        match self {
            Self::LowRank(own) => {
                let dir = export.join(ADAPTER_DIR);
                create(&dir)?;
                write_low_rank(&dir, base, own, language)
            }
            Self::Bottleneck(adapter, tensors) => {
                let meta = json!(adapter);
                write_json(&export.join(ADAPTERS_META), &meta)?;
                write_tensors(&export.join(ADAPTERS_FILE), tensors, None)?;
                Ok(())
            }
            Self::Prompt(values) => {
                let own = json!({
                    "peft_type": "PROMPT_TUNING", "token_dim": values.size()[1],
                    "prompt_tuning_init": "RANDOM",
                });
                write_virtual(&export.join(PROMPT_DIR), base, values, own)
            }
            Self::Prefix(prefix) => {
                let parts = 2 * prefix.layers.max(1) as i64;
                let width = prefix.values.size()[1] / parts;
                let own = json!({
                    "peft_type": "PREFIX_TUNING", "token_dim": width, "encoder_hidden_size": width,
                    "num_layers": prefix.layers, "num_attention_heads": prefix.heads,
                    "prefix_projection": false,
                });
                write_virtual(&export.join(PREFIX_DIR), base, &prefix.values, own)
            }
        }
    }
}

/// Writes virtual tokens [n, ...] into a folder of their own; `own` is what PEFT must know of this kind.
fn write_virtual(dir: &Path, base: &Path, values: &Tensor, own: Value) -> Result<(), Error> {
    create(dir)?;
    let mut config = json!({
        "task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": base.display().to_string(),
        "num_virtual_tokens": values.size()[0], "num_transformer_submodules": 1, "inference_mode": true,
    });
    if let (Some(config), Value::Object(own)) = (config.as_object_mut(), own) {
        config.extend(own);
    }
    write_json(&dir.join(PEFT_META), &config)?;
    let named = [(EMBEDDINGS.to_owned(), values.shallow_clone())];
    let format = [("format".to_owned(), "pt".to_owned())].into();
    write_tensors(&dir.join(PEFT_FILE), &named, Some(format))?;
    Ok(())
}

fn write_low_rank(
    dir: &Path,
    base: &Path,
    own: &LowRank<'_>,
    language: Option<&Language>,
) -> Result<(), Error> {
    let (lora, updates) = (own.lora, &own.updates);
    // What names begin with in the model that holds the backbone.
    let inner = language.map_or("", |language| language.prefix);
    // Patterns of ours are written out: PEFT's lists know names and their ends alone.
    let layers = updates
        .iter()
        .filter_map(|(name, _)| name.strip_suffix(".lora_A.weight"));
    let targets = match lora.is_plain() {
        true => lora.targets.clone(),
        false => layers.map(|name| format!("{inner}{name}")).collect(),
    };
    // The head learned with the updates and is no part of the base model.
    let (task, whole) = match language {
        Some(_) => ("CAUSAL_LM", json!(["lm_head"])),
        None => ("FEATURE_EXTRACTION", Value::Null),
    };
    let config = json!({
        "peft_type": "LORA", "task_type": task,
        "base_model_name_or_path": base.display().to_string(),
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout,
        "target_modules": targets, "bias": "none", "fan_in_fan_out": own.fan_in_fan_out,
        "inference_mode": true, "init_lora_weights": true, "modules_to_save": whole,
    });
    write_json(&dir.join(PEFT_META), &config)?;
    let named = updates.iter();
    let mut named: Vec<_> = named
        .map(|(name, tensor)| (format!("{PREFIX}{inner}{name}"), tensor.shallow_clone()))
        .collect();
    if let Some(language) = language {
        let matrix = language.matrix.shallow_clone();
        named.push((format!("{PREFIX}{LM_HEAD}"), matrix));
    }
    let format = [("format".to_owned(), "pt".to_owned())].into();
    write_tensors(&dir.join(PEFT_FILE), &named, Some(format))?;
    Ok(())
}
