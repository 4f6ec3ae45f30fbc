//! What can be wrong with a model.

use std::path::PathBuf;
use tch::TchError;

/// What can be wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of a model directory cannot be read.
    #[error("model directory {dir}: cannot read {file}: {source}")]
    File {
        /// The directory.
        dir: PathBuf,
        /// The file in it.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file of a model directory is not what it should be.
    #[error("model directory {dir}: {file}: {message}")]
    Content {
        /// The directory.
        dir: PathBuf,
        /// The file in it.
        file: String,
        /// What was found and expected.
        message: String,
    },
    /// Nobody here knows this kind of model.
    #[error(
        "model directory {dir}: unsupported architecture {found:?} (model_type in config.json); supported: {supported}"
    )]
    Architecture {
        /// The directory.
        dir: PathBuf,
        /// Its `model_type`.
        found: String,
        /// What could be used instead.
        supported: &'static str,
    },
    /// It is a program, and this worker runs none of jobs.
    #[error("model directory {dir}: {why}")]
    Forbidden {
        /// The directory.
        dir: PathBuf,
        /// What it is, and what would let it in.
        why: &'static str,
    },
    /// A low-rank update is wanted where there is nothing to add it to.
    #[error(
        "tuning.lora.targets: `{target}` matches no linear layer of model directory {dir}: {layers}"
    )]
    NoTarget {
        /// The target.
        target: String,
        /// The model's directory.
        dir: PathBuf,
        /// What there is.
        layers: String,
    },
    /// Adapters are wanted in a model that has no place for them.
    #[error(
        "tuning.adapter: the model of directory {dir} has no layers of attention and feed-forward parts \
         to put adapters in: use another tuning"
    )]
    NoPlace {
        /// The model's directory.
        dir: PathBuf,
    },
    /// A model has adapters already, and others are wanted.
    #[error(
        "tuning.adapter: the model of directory {dir} has adapters already ({found}): ask for these to \
         train them on, or take adapters.json out of the directory to begin anew"
    )]
    OtherAdapters {
        /// The model's directory.
        dir: PathBuf,
        /// What it has.
        found: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} has shape {found:?}, expected {expected:?} by config.json")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape by the configuration.
        expected: Vec<i64>,
        /// Shape in the file.
        found: Vec<i64>,
    },
    /// A parameter of this name does not exist.
    #[error("there is no parameter {name}")]
    UnknownParameter {
        /// The name asked for.
        name: String,
    },
    /// All rows of a table are asked for, and some are elsewhere.
    #[error(
        "{name}: {here} of {rows} rows are here: all of them have to be brought together first"
    )]
    NotWhole {
        /// Name of the table.
        name: String,
        /// Rows in memory.
        here: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// An input that the model cannot take.
    #[error("{0}")]
    Input(String),
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}
