//! What sentence-transformers reads beside a model: `modules.json`, the modules that a text goes through, and
//! `1_Pooling/config.json`, how vectors of tokens become one.
//!
//! An export has them only where they say what the job trained. Without them sentence-transformers says that the
//! directory is none of its own, which is better than other vectors than those trained.

use super::Error;
use super::export::{create, read_json, write_json};
use espalier_spec::job::Pooling;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

const MODULES: &str = "modules.json";
const POOLING_DIR: &str = "1_Pooling";
/// What the names of all ways of pooling begin with.
const MODE: &str = "pooling_mode";
/// Ways that every version knows. They are written even if false, since the mean is on where nothing is said of it.
const COMMON: [&str; 3] = [
    "pooling_mode_cls_token",
    "pooling_mode_mean_tokens",
    "pooling_mode_max_tokens",
];

/// One module of `modules.json`.
#[derive(Debug, Deserialize)]
struct Module {
    /// Its directory.
    #[serde(default)]
    path: String,
    /// Its class in Python.
    #[serde(rename = "type")]
    class: String,
}

/// Writes them into the existing directory `target` of an export, where the model in directory `source` has them
/// and they hold of the export, too. `is_whole` says that all that was trained of the backbone is in its weights.
///
/// # Errors
/// [`Error::DiskFull`], [`Error::Io`].
pub(super) fn write(
    source: &Path,
    target: &Path,
    pooling: Pooling,
    is_whole: bool,
) -> Result<(), Error> {
    let modules = source.join(MODULES);
    if !modules.is_file() {
        return Ok(());
    }
    let config = match pooling_config(source, pooling, is_whole) {
        Ok(config) => config,
        Err(reason) => {
            // The rest of the export is good without it.
            tracing::warn!(file = %modules.display(), %reason, "left out of the export");
            return Ok(());
        }
    };
    let dir = target.join(POOLING_DIR);
    create(&dir)?;
    write_json(&dir.join("config.json"), &Value::Object(config))?;
    let to = target.join(MODULES);
    fs::copy(&modules, &to).map_err(|e| Error::io("copy", &to, e))?;
    Ok(())
}

/// The source's configuration of pooling, with the job's way of it; or why there cannot be one.
fn pooling_config(
    source: &Path,
    pooling: Pooling,
    is_whole: bool,
) -> Result<Map<String, Value>, String> {
    if !is_whole {
        return Err("adapters and virtual tokens stand beside the backbone's weights".to_owned());
    }
    let mode = match pooling {
        Pooling::Mean => "pooling_mode_mean_tokens",
        Pooling::Cls => "pooling_mode_cls_token",
        Pooling::Max => "pooling_mode_max_tokens",
        Pooling::Last => "pooling_mode_lasttoken",
        Pooling::Pooler => {
            return Err(
                "sentence-transformers cannot pool as backbone.pooling pooler does".to_owned(),
            );
        }
    };
    let path = source.join(MODULES);
    let text = fs::read(&path).map_err(|e| e.to_string())?;
    let modules: Vec<Module> = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if modules.len() < 2 {
        return Err("it names no pooling".to_owned());
    }
    for (index, Module { path, class }) in modules.iter().enumerate() {
        let name = class.strip_prefix("sentence_transformers.");
        let fits = match name.and_then(|name| name.rsplit('.').next()) {
            Some("Transformer") => index == 0 && path.is_empty(),
            Some("Pooling") => index == 1 && path == POOLING_DIR,
            Some("Normalize") => index > 1,
            _ => false,
        };
        if !fits {
            return Err(format!(
                "module {index} is {class} in {path:?}, expected Transformer in \"\", Pooling in \
                 {POOLING_DIR:?} and Normalize"
            ));
        }
    }
    let path = source.join(POOLING_DIR).join("config.json");
    let mut config = read_json(&path).map_err(|e| e.to_string())?;
    for name in COMMON {
        config.insert(name.to_owned(), Value::Bool(false));
    }
    // Some versions name the way in one field.
    config.remove(MODE);
    for (name, value) in &mut config {
        if name.starts_with(MODE) {
            *value = Value::Bool(false);
        }
    }
    config.insert(mode.to_owned(), Value::Bool(true));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A model's directory with the modules of these classes and directories, which pools by the mean.
    fn model(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let module = |(class, path): &(&str, &str)| {
            let class = format!("sentence_transformers.models.{class}");
            json!({"path": path, "type": class})
        };
        let modules: Vec<Value> = modules.iter().map(module).collect();
        write_json(&dir.path().join(MODULES), &json!(modules)).unwrap();
        create(&dir.path().join(POOLING_DIR)).unwrap();
        let pooling = json!({
            "word_embedding_dimension": 8, "pooling_mode_cls_token": false,
            "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false,
            "pooling_mode_mean_sqrt_len_tokens": false,
        });
        write_json(&dir.path().join(POOLING_DIR).join("config.json"), &pooling).unwrap();
        dir
    }

    /// What an export of the model says of pooling, if it has `modules.json`.
    fn exported(source: &Path, pooling: Pooling, is_whole: bool) -> Option<Map<String, Value>> {
        let target = tempfile::tempdir().unwrap();
        write(source, target.path(), pooling, is_whole).unwrap();
        let config = target.path().join(POOLING_DIR).join("config.json");
        assert_eq!(target.path().join(MODULES).exists(), config.exists());
        config.exists().then(|| read_json(&config).unwrap())
    }

    const USUAL: [(&str, &str); 3] = [
        ("Transformer", ""),
        ("Pooling", POOLING_DIR),
        ("Normalize", "2_Normalize"),
    ];

    // Promise: sentence-transformers pools an export as the job did, whatever its source did.
    #[test]
    fn exports_pool_as_the_job_did() {
        let dir = model(&USUAL);
        for (pooling, mode) in [
            (Pooling::Mean, "pooling_mode_mean_tokens"),
            (Pooling::Cls, "pooling_mode_cls_token"),
            (Pooling::Max, "pooling_mode_max_tokens"),
            (Pooling::Last, "pooling_mode_lasttoken"),
        ] {
            let config = exported(dir.path(), pooling, true).unwrap();
            assert_eq!(config["word_embedding_dimension"], 8);
            let on = config
                .iter()
                .filter(|(_, value)| value.as_bool() == Some(true));
            let on: Vec<&str> = on.map(|(name, _)| name.as_str()).collect();
            assert_eq!(on, [mode]);
            assert_eq!(config["pooling_mode_mean_tokens"], pooling == Pooling::Mean);
        }
    }

    // Promise: what would give other vectors than those trained is left out, and the export goes on.
    #[test]
    fn what_does_not_hold_of_the_export_is_left_out() {
        let dir = model(&USUAL);
        assert!(exported(dir.path(), Pooling::Pooler, true).is_none());
        assert!(exported(dir.path(), Pooling::Mean, false).is_none());
        let [transformer, pooling, _] = USUAL;
        let dense = model(&[transformer, pooling, ("Dense", "2_Dense")]);
        assert!(exported(dense.path(), Pooling::Mean, true).is_none());
        let elsewhere = model(&[("Transformer", "0_Transformer"), pooling]);
        assert!(exported(elsewhere.path(), Pooling::Mean, true).is_none());
        fs::write(dense.path().join(MODULES), "[{").unwrap();
        assert!(exported(dense.path(), Pooling::Mean, true).is_none());
        let plain = tempfile::tempdir().unwrap();
        assert!(exported(plain.path(), Pooling::Mean, true).is_none());
    }
}
