//! Low-rank updates by themselves, as PEFT loads them: `adapter_config.json` and
//! `adapter_model.safetensors` (`PeftModel.from_pretrained(base, dir)`).

use super::export::write_json;
use super::{Error, write_tensors};
use espalier_spec::job::LoraSpec;
use serde_json::json;
use std::path::Path;
use tch::Tensor;

/// PEFT's prefix of the base model's parameter names.
const PREFIX: &str = "base_model.model.";

/// Updates of a backbone: how they were made, and A and B of every layer by name.
#[derive(Debug)]
pub struct Adapter<'a> {
    /// Rank, scale, targets.
    pub lora: &'a LoraSpec,
    /// `<layer>.lora_A.weight` [r, in] and `<layer>.lora_B.weight` [out, r].
    pub updates: Vec<(String, Tensor)>,
    /// The model stores its matrices as [in, out].
    pub fan_in_fan_out: bool,
}

/// Writes an adapter of the model in directory `base` into the existing directory `dir`.
///
/// # Errors
/// [`Error::DiskFull`], [`Error::Io`].
pub fn write_adapter(dir: &Path, base: &Path, adapter: Adapter<'_>) -> Result<(), Error> {
    let lora = adapter.lora;
    let config = json!({
        "peft_type": "LORA", "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": base.display().to_string(),
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout,
        "target_modules": lora.targets, "bias": "none", "fan_in_fan_out": adapter.fan_in_fan_out,
        "inference_mode": true, "init_lora_weights": true, "modules_to_save": null,
    });
    write_json(&dir.join("adapter_config.json"), &config)?;
    let named = adapter.updates.into_iter();
    let named: Vec<_> = named
        .map(|(name, t)| (format!("{PREFIX}{name}"), t))
        .collect();
    let format = [("format".to_owned(), "pt".to_owned())].into();
    write_tensors(&dir.join("adapter_model.safetensors"), &named, Some(format))?;
    Ok(())
}
