//! What of a backbone is trained.

use super::block::Role;
use super::{Error, ParamSpec, bottleneck, lora};
use espalier_spec::job::{LoraSpec, Tuning};
use std::path::Path;

/// Whether block `index` of `count` is trained; the table and embeddings count as block 0.
pub(super) fn is_trained(tuning: &Tuning, index: usize, count: usize) -> bool {
    match tuning {
        // Of the last five only parameters that say so.
        Tuning::All
        | Tuning::Gradual(_)
        | Tuning::Biases
        | Tuning::Lora(_)
        | Tuning::Adapter(_)
        | Tuning::Prompt(_)
        | Tuning::Prefix(_) => true,
        Tuning::Heads => false,
        Tuning::LastBlocks(last) => index + *last as usize >= count,
    }
}

/// Whether a table of rows in front of block 0 is trained.
pub(super) fn is_table_trained(tuning: &Tuning, count: usize) -> bool {
    match tuning {
        Tuning::Biases
        | Tuning::Lora(_)
        | Tuning::Adapter(_)
        | Tuning::Prompt(_)
        | Tuning::Prefix(_) => false,
        other => is_trained(other, 0, count),
    }
}

/// Adds the parameters of adapters and low-rank updates to those of all blocks, `blocks`, which have those of
/// virtual tokens already, and sets what of them is trained. Adapters that the model of directory `dir` has
/// already are part of it in every job.
///
/// # Errors
/// [`Error::NoTarget`] if a target of low-rank updates matches no layer, [`Error::NoPlace`] if the model has
/// no place for adapters, [`Error::OtherAdapters`] if it has others already; or what is wrong with those.
pub(super) fn tune(
    tuning: &Tuning,
    dir: &Path,
    blocks: &mut [Vec<ParamSpec>],
) -> Result<(), Error> {
    let present = bottleneck::adapters_of(dir)?;
    let wanted = match tuning {
        Tuning::Adapter(wanted) => Some(*wanted),
        _ => None,
    };
    if let (Some(found), Some(wanted)) = (present, wanted)
        && found != wanted
    {
        return Err(Error::OtherAdapters {
            dir: dir.to_owned(),
            found: format!("{:?} of size {}", found.kind, found.size).to_lowercase(),
        });
    }
    if let Some(adapter) = present.or(wanted) {
        bottleneck::add(blocks, adapter, dir)?;
    }
    match tuning {
        Tuning::All | Tuning::Gradual(_) | Tuning::Heads | Tuning::LastBlocks(_) => {}
        Tuning::Biases => {
            for spec in blocks.iter_mut().flatten() {
                spec.trained = spec.name.ends_with(".bias");
            }
            if !blocks.iter().flatten().any(|spec| spec.trained) {
                return Err(Error::Content {
                    dir: dir.to_owned(),
                    file: "config.json".to_owned(),
                    message: "tuning is `biases`, but this model has none: use all, heads, \
                              last_blocks or lora"
                        .to_owned(),
                });
            }
        }
        Tuning::Adapter(_) => {
            for spec in blocks.iter_mut().flatten() {
                spec.trained = spec.role.is_adapter();
            }
        }
        Tuning::Prompt(_) => train_only(blocks, dir, "prompt", |role| role == Role::Prompt)?,
        Tuning::Prefix(_) => {
            train_only(blocks, dir, "prefix", |role| {
                matches!(role, Role::Prefix(_))
            })?;
        }
        Tuning::Lora(lora) => {
            let layers: Vec<String> = blocks.iter().flat_map(|b| lora::layers(b)).collect();
            for target in &lora.targets {
                let one = LoraSpec {
                    targets: vec![target.clone()],
                    ..lora.clone()
                };
                if !layers.iter().any(|layer| one.targets(layer)) {
                    return Err(Error::NoTarget {
                        target: target.clone(),
                        dir: dir.to_owned(),
                        layers: known(&layers),
                    });
                }
            }
            blocks.iter_mut().for_each(|specs| lora::add(specs, lora));
        }
    }
    Ok(())
}

/// Trains the virtual tokens of one kind alone.
fn train_only(
    blocks: &mut [Vec<ParamSpec>],
    dir: &Path,
    kind: &str,
    is_own: impl Fn(Role) -> bool,
) -> Result<(), Error> {
    for spec in blocks.iter_mut().flatten() {
        spec.trained = is_own(spec.role);
    }
    if blocks.iter().flatten().any(|spec| spec.trained) {
        return Ok(());
    }
    Err(Error::Content {
        dir: dir.to_owned(),
        file: "config.json".to_owned(),
        message: format!(
            "tuning is `{kind}`, which stands before the tokens of texts, and this model reads none: use \
             another tuning"
        ),
    })
}

/// Linear layers for people: those of all blocks under one name.
fn known(layers: &[String]) -> String {
    let mut ends: Vec<String> = Vec::new();
    for layer in layers {
        let parts: Vec<&str> = layer.split('.').collect();
        let number = parts.iter().rposition(|part| part.parse::<u64>().is_ok());
        let end = parts[number.map_or(0, |at| at + 1)..].join(".");
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    match ends.is_empty() {
        true => "it has none".to_owned(),
        false => format!("there are {}", ends.join(", ")),
    }
}
