//! What can go wrong with an exported model.

use crate::{data, engine, generate, heads, model};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory is no export.
    #[error(
        "{dir} is no exported model: {message}; expected the directory that `espalier export` names"
    )]
    NoExport {
        /// The directory.
        dir: String,
        /// What is missing or wrong.
        message: String,
    },
    /// A task that the export does not have.
    #[error("no task {found:?}; this model has {known}")]
    UnknownTask {
        /// What was asked for.
        found: String,
        /// What there is.
        known: String,
    },
    /// Classes that were named at prediction.
    #[error("{0}")]
    ZeroShot(String),
    /// A mask that cannot be written.
    #[error("{file}: cannot write the mask: {message}")]
    Mask {
        /// The file.
        file: String,
        /// Why not.
        message: String,
    },
    /// The model or an input.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// Text that cannot be gone on with.
    #[error(transparent)]
    Generate(#[from] generate::Error),
    /// The heads' file.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::Error),
}

impl From<model::Error> for Error {
    fn from(error: model::Error) -> Self {
        Error::Engine(error.into())
    }
}
impl From<data::Error> for Error {
    fn from(error: data::Error) -> Self {
        Error::Engine(error.into())
    }
}
impl From<heads::Error> for Error {
    fn from(error: heads::Error) -> Self {
        Error::Engine(error.into())
    }
}
impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Error::Engine(error.into())
    }
}
