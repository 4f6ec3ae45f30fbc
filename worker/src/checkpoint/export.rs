//! Exports: a Hugging Face directory of the backbone, and one per classification task beside it.
//!
//! ```text
//! export/
//!   config.json model.safetensors tokenizer.json ...   the backbone: AutoModel loads it
//!   modules.json 1_Pooling/                            as the job pooled, where sentence-transformers can
//!   espalier.json heads.safetensors                    tasks, labels, heads: `espalier predict`
//!   tasks/<task>/                                      AutoModelForSequenceClassification loads it (or
//!                                                      …TokenClassification, …QuestionAnswering)
//!   adapter/                                           low-rank updates alone: PEFT loads it
//!   adapters.json adapters.safetensors                 bottleneck adapters, which only espalier loads
//!   model.pt                                           of a TorchScript backbone: torch.jit.load
//!   prompt/ prefix/                                    virtual tokens: PEFT loads them, on this backbone
//! ```
//!
//! A task's directory holds only its head; the backbone in it is a hard link. With bottleneck adapters or
//! virtual tokens there is none, and none of a task with an adapter of its own: stock transformers classes
//! would leave these out. A task that predicts the next token has none: the root is then what
//! AutoModelForCausalLM loads, with the (first) task's matrix as `lm_head.weight` and `tie_word_embeddings`
//! false.

use super::adapter::Adapter;
use super::durable::sync;
use super::{Error, sentences, write_tensors};
use crate::heads::ADAPTER;
use crate::model::{LM_HEAD, TORCHSCRIPT, write_script};
use espalier_spec::job::{HeadKind, Pooling};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Name of the file that describes an export.
pub const META_FILE: &str = "espalier.json";
/// Name of the file with all heads: `heads.<task>.weight` `[C, H]` (`[1, H]` for ordered classes) and
/// `heads.<task>.bias` `[C]`; of a task with an adapter of its own also `heads.<task>.adapter_down.weight`
/// `[S, H]`, `.bias` `[S]`, `heads.<task>.adapter_up.weight` `[H, S]`, `.bias` `[H]`. Of a task that ranks texts it is
/// `heads.<task>.factor` `[1]` alone, what cosines were multiplied by.
pub const HEADS_FILE: &str = "heads.safetensors";

/// Name of the directory with low-rank updates alone, where a job trained some.
pub const ADAPTER_DIR: &str = "adapter";

const MODELING: &str = include_str!("modeling_espalier.py");
const BACKBONE_FILES: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "added_tokens.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "preprocessor_config.json",
];

/// What an export says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// Version of this layout.
    pub format: u32,
    /// Name of the job.
    pub job: String,
    /// Steps trained.
    pub step: u64,
    /// How token vectors become one vector.
    pub pooling: Pooling,
    /// Longest input in tokens.
    pub max_tokens: u32,
    /// Tasks in the order of the job.
    pub tasks: Vec<ExportedTask>,
}

/// One task of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportedTask {
    /// Name of the task.
    pub name: String,
    /// What its head predicts.
    pub head: HeadKind,
    /// Classes in order; empty for regression.
    pub labels: Vec<String>,
    /// What the classes are, where the head knows them by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<ExportedClasses>,
    /// Longest answer in tokens, where the head finds answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_answer_tokens: Option<u32>,
    /// Whether it was trained on texts that came as lists of words; older exports do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<bool>,
}

/// Classes that are known by what they are. Their head is `heads.<task>.scale` `[1]`, the logarithm of
/// what cosines are multiplied by, and `heads.<task>.calibration` `[1]`, what is taken from those of classes
/// that were trained on. Where they are known by vectors, these are `heads.<task>.vectors` `[C, d]`, and
/// `heads.<task>.weight` `[d, H]` maps features to them; then there are no templates and texts. Where each is
/// read together with a text, the head is a linear layer of one output, `heads.<task>.weight` `[1, H]` and
/// `heads.<task>.bias` `[1]`, and the calibration is taken from its outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportedClasses {
    /// Sentences around a description, which stands at `{}`.
    pub templates: Vec<String>,
    /// Description of each class.
    pub texts: Vec<String>,
    /// Whether each class was trained on.
    pub seen: Vec<bool>,
}

/// Writes an export to `target`, replacing an older one only when the new one is whole.
///
/// `backbone` are the backbone's tensors with Hugging Face names (without model prefix), `heads` are
/// `heads.<task>.{weight,bias}`, `source` is the directory that the backbone came from, `adapters` what
/// was trained beside the backbone, if anything.
///
/// # Errors
/// [`Error::DiskFull`], [`Error::Io`]; then `target` is as it was.
pub fn write_export(
    target: &Path,
    source: &Path,
    meta: &Export,
    backbone: Vec<(String, Tensor)>,
    heads: &[(String, Tensor)],
    adapters: &[Adapter<'_>],
) -> Result<(), Error> {
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.tmp"));
    remove(&temporary)?;
    create(&temporary)?;

    let mut config = read_json(&source.join("config.json"))?;
    let kind = config.get("model_type").and_then(Value::as_str);
    let is_bert = kind == Some("bert");
    let is_script = kind == Some(TORCHSCRIPT);
    let language = Language::of(kind, meta, heads);
    for field in ["torch_dtype", "dtype"] {
        if let Some(kind) = config.get_mut(field) {
            // What the files hold now. Whoever loads them as the source's kind would round what was trained.
            *kind = json!("float32");
        }
    }
    let tables = ["wte.weight", "embed_tokens.weight"];
    let mut decoders = backbone.iter();
    let mut is_extended = false;
    if let Some((_, table)) = decoders.find(|(name, _)| tables.contains(&name.as_str())) {
        // It may have more rows than that of the model which it came from.
        let rows = json!(table.size().first().copied().unwrap_or_default());
        let before = config.insert("vocab_size".into(), rows.clone());
        is_extended = before.is_some_and(|before| before != rows);
    }
    let prefix = match &language {
        Some(language) => language.prefix,
        None if is_bert => "bert.",
        None => "",
    };
    let named = backbone.into_iter().filter(|(name, _)| {
        // The task's own takes its place.
        language.is_none() || name != LM_HEAD
    });
    let mut named: Vec<(String, Tensor)> = named
        .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
        .collect();
    if let Some(language) = &language {
        config.insert("architectures".into(), json!([language.class]));
        config.insert("tie_word_embeddings".into(), json!(false));
        named.push((LM_HEAD.to_owned(), language.matrix.shallow_clone()));
    }
    let model = temporary.join("model.safetensors");
    write_tensors(
        &model,
        &named,
        Some([("format".to_owned(), "pt".to_owned())].into()),
    )?;
    write_json(
        &temporary.join("config.json"),
        &Value::Object(config.clone()),
    )?;
    if is_script {
        write_script(source, &temporary, &config, &named).map_err(|cause| Error::Script {
            path: temporary.clone(),
            source: cause,
        })?;
    }
    copy_beside(source, &temporary)?;
    // A base model with fewer words has no room for this one's matrix.
    let language = language.filter(|_| !is_extended);
    let is_whole = adapters.iter().all(Adapter::is_merged);
    sentences::write(source, &temporary, meta.pooling, is_whole)?;
    write_tensors(&temporary.join(HEADS_FILE), heads, None)?;
    for adapter in adapters {
        adapter.write(&temporary, source, language.as_ref())?;
    }
    let value = serde_json::to_value(meta).map_err(|e| Error::Damaged {
        path: temporary.join(META_FILE),
        message: e.to_string(),
    })?;
    write_json(&temporary.join(META_FILE), &value)?;

    if is_bert && is_whole {
        let keys: Vec<String> = named.iter().map(|(name, _)| name.clone()).collect();
        let has_class = |task: &&ExportedTask| has_class(task.head) && !has_adapter(task, heads);
        for task in meta.tasks.iter().filter(has_class) {
            let dir = temporary.join("tasks").join(&task.name);
            write_task(&dir, (&temporary, meta), task, (&config, &keys), heads)?;
        }
    }

    sync_all(&temporary)?;
    let old = parent.join(format!(".{name}.old"));
    remove(&old)?;
    if target.exists() {
        fs::rename(target, &old).map_err(|e| Error::io("replace", target, e))?;
    }
    fs::rename(&temporary, target).map_err(|e| Error::io("rename", target, e))?;
    sync(parent)?;
    if let Err(error) = remove(&old) {
        tracing::warn!(%error, "the export is whole; what it took the place of stays");
    }
    Ok(())
}

/// Makes all files of a directory durable, and the directory.
fn sync_all(dir: &Path) -> Result<(), Error> {
    let listed = fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?;
    for entry in listed {
        let path = entry.map_err(|e| Error::io("read", dir, e))?.path();
        match path.is_dir() {
            true => sync_all(&path)?,
            false => sync(&path)?,
        }
    }
    sync(dir)
}

/// Whether a class of transformers has such a head.
fn has_class(head: HeadKind) -> bool {
    !matches!(
        head,
        HeadKind::Regression
            | HeadKind::Ordinal
            | HeadKind::LabelEmbedding
            | HeadKind::CausalLm
            | HeadKind::Ctc
            | HeadKind::Entailment
            | HeadKind::Segmentation
            | HeadKind::Ranking
    )
}

/// Whether something stands between backbone and head that no class of transformers has.
fn has_adapter(task: &ExportedTask, heads: &[(String, Tensor)]) -> bool {
    let wanted = format!("heads.{}.{}.weight", task.name, ADAPTER[0]);
    heads.iter().any(|(name, _)| *name == wanted)
}

/// What makes a backbone a language model in transformers.
pub(super) struct Language {
    class: &'static str,
    /// What names of the backbone's weights begin with.
    pub(super) prefix: &'static str,
    /// [`LM_HEAD`], f32 `[words, h]`.
    pub(super) matrix: Tensor,
}

impl Language {
    /// By the first task that predicts the next token, if there is one.
    fn of(kind: Option<&str>, meta: &Export, heads: &[(String, Tensor)]) -> Option<Self> {
        let (class, prefix) = match kind? {
            "gpt2" => ("GPT2LMHeadModel", "transformer."),
            "llama" => ("LlamaForCausalLM", "model."),
            _ => return None,
        };
        let task = meta.tasks.iter().find(|t| t.head == HeadKind::CausalLm)?;
        let wanted = format!("heads.{}.weight", task.name);
        let (_, matrix) = heads.iter().find(|(name, _)| *name == wanted)?;
        let matrix = matrix.shallow_clone();
        Some(Self {
            class,
            prefix,
            matrix,
        })
    }
}

/// A directory that `AutoModelForSequenceClassification` (`AutoModelForTokenClassification`, where words
/// have tags; `AutoModelForQuestionAnswering`, where answers are found) loads.
fn write_task(
    dir: &Path,
    (export, meta): (&Path, &Export),
    task: &ExportedTask,
    (config, backbone_keys): (&Map<String, Value>, &[String]),
    heads: &[(String, Tensor)],
) -> Result<(), Error> {
    create(dir)?;
    let shared = dir.join("backbone.safetensors");
    let model = export.join("model.safetensors");
    if fs::hard_link(&model, &shared).is_err() {
        fs::copy(&model, &shared).map_err(|e| Error::io("copy", &shared, e))?;
    }
    let mut own = Vec::new();
    let mut index = Map::new();
    for key in backbone_keys {
        index.insert(key.clone(), json!("backbone.safetensors"));
    }
    for part in ["weight", "bias"] {
        let wanted = format!("heads.{}.{part}", task.name);
        if let Some((_, tensor)) = heads.iter().find(|(name, _)| *name == wanted) {
            let name = match task.head {
                HeadKind::Span => format!("qa_outputs.{part}"),
                _ => format!("classifier.{part}"),
            };
            own.push((name.clone(), tensor.shallow_clone()));
            index.insert(name, json!("head.safetensors"));
        }
    }
    let head_path = dir.join("head.safetensors");
    write_tensors(
        &head_path,
        &own,
        Some([("format".to_owned(), "pt".to_owned())].into()),
    )?;
    let total = fs::metadata(&shared).map(|m| m.len()).unwrap_or(0)
        + fs::metadata(&head_path).map(|m| m.len()).unwrap_or(0);
    let index = json!({"metadata": {"total_size": total}, "weight_map": index});
    write_json(&dir.join("model.safetensors.index.json"), &index)?;

    let mut config = config.clone();
    let by_id: Map<String, Value> = task
        .labels
        .iter()
        .enumerate()
        .map(|(i, l)| (i.to_string(), json!(l)))
        .collect();
    let by_label: Map<String, Value> = task
        .labels
        .iter()
        .enumerate()
        .map(|(i, l)| (l.clone(), json!(i)))
        .collect();
    let problem = match task.head {
        HeadKind::MultiLabel => Some("multi_label_classification"),
        HeadKind::SingleLabel => Some("single_label_classification"),
        // transformers knows kinds of problems for whole texts only.
        HeadKind::Tags
        | HeadKind::Regression
        | HeadKind::Ordinal
        | HeadKind::LabelEmbedding
        | HeadKind::CausalLm
        | HeadKind::Ctc
        | HeadKind::Entailment
        | HeadKind::Segmentation
        | HeadKind::Span
        | HeadKind::Ranking => None,
    };
    config.insert("id2label".into(), Value::Object(by_id));
    config.insert("label2id".into(), Value::Object(by_label));
    if let Some(problem) = problem {
        config.insert("problem_type".into(), json!(problem));
    }
    if task.head == HeadKind::Span {
        // Its outputs are two as long as the file names no classes.
        for name in ["id2label", "label2id", "num_labels"] {
            config.remove(name);
        }
        let stock = json!(["BertForQuestionAnswering"]);
        config.insert("architectures".into(), stock);
    } else if task.head == HeadKind::Tags {
        let stock = json!(["BertForTokenClassification"]);
        config.insert("architectures".into(), stock);
    } else if meta.pooling == Pooling::Pooler {
        config.insert(
            "architectures".into(),
            json!(["BertForSequenceClassification"]),
        );
    } else {
        // No stock class pools like this: the directory brings its own, loaded with
        // `trust_remote_code=True`.
        let class = "modeling_espalier.EspalierForSequenceClassification";
        config.insert(
            "architectures".into(),
            json!(["EspalierForSequenceClassification"]),
        );
        config.insert(
            "auto_map".into(),
            json!({"AutoModelForSequenceClassification": class}),
        );
        config.insert("espalier_pooling".into(), json!(meta.pooling));
        let path = dir.join("modeling_espalier.py");
        fs::write(&path, MODELING).map_err(|e| Error::io("write", &path, e))?;
    }
    write_json(&dir.join("config.json"), &Value::Object(config))?;
    for name in BACKBONE_FILES
        .iter()
        .filter(|name| name.starts_with("token") || name.contains("vocab"))
    {
        let from = export.join(name);
        if from.exists() {
            let to = dir.join(name);
            fs::copy(&from, &to).map_err(|e| Error::io("copy", &to, e))?;
        }
    }
    Ok(())
}

fn copy_beside(source: &Path, target: &Path) -> Result<(), Error> {
    for name in BACKBONE_FILES {
        let from = source.join(name);
        if !from.is_file() {
            continue;
        }
        let to = target.join(name);
        fs::copy(&from, &to).map_err(|e| Error::io("copy", &to, e))?;
    }
    Ok(())
}

pub(super) fn read_json(path: &Path) -> Result<Map<String, Value>, Error> {
    let text = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_slice(&text).map_err(|e| Error::Damaged {
        path: path.into(),
        message: e.to_string(),
    })
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), Error> {
    fs::write(path, format!("{value:#}\n")).map_err(|e| Error::io("write", path, e))
}

pub(super) fn create(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))
}

fn remove(dir: &PathBuf) -> Result<(), Error> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(|e| Error::io("remove", dir, e))?;
    }
    Ok(())
}
